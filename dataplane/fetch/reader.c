/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Readers of growing files. What was just written is in the page cache and is read at once; what has left it
 * is read by the loop first, so that the ring never waits for the disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/private.h"
#include "dataplane/move/file.h"

/* ------------------------------------------------------------------ waiting */

static void unlink_waiting(struct fetch_reader *r)
{
    if (!r->prev)
        return;
    *r->prev = r->next;
    if (r->next)
        r->next->prev = r->prev;
    r->prev = NULL;
}

static void link_waiting(struct fetch_reader *r)
{
    struct fetches *all = r->all;
    if (r->prev)
        return;
    r->next = all->waiting;
    r->prev = &all->waiting;
    if (r->next)
        r->next->prev = &r->next;
    all->waiting = r;
}

/* A small one is news when its bytes are known to be right: what is wrong is then still an error with a
 * status. */
static bool is_ready(const struct fetch_reader *r)
{
    const struct fetch_entry *e = r->entry;
    uint8_t state = atomic_load(&e->state);
    if (r->keep)
        return state == FETCH_FAILED || atomic_load(&e->kept) != FETCH_KEPT_UNKNOWN;
    if (r->news)
        return state == FETCH_FAILED || state == FETCH_WHOLE ||
               (state == FETCH_OPEN && atomic_load(&e->size) > FETCH_HOLD_BACK);
    return state == FETCH_FAILED || r->at < fetch_entry_visible(e);
}

static void answer_poll(struct fetch_reader *r, int res)
{
    struct op *op = r->op;
    r->op = NULL;
    loop_post(r->all->ring->loop, &r->post, op, res);
}

static void tell(struct fetch_reader *r)
{
    void (*news)(struct fetch_reader *) = r->news;
    r->news = NULL;
    if (r->end == FETCH_SIZE_UNKNOWN)
        r->end = atomic_load(&r->entry->size);
    news(r);
}

/* In line, unless there is news already. */
static void wait_for_news(struct fetch_reader *r)
{
    link_waiting(r);
    atomic_fetch_or(&r->entry->waiting, 1ull << r->all->ring->index);
}

/* Those that still wait stand in a new line then. */
void fetches_run(struct fetches *all)
{
    struct fetch_reader *list = all->waiting, *r;
    all->waiting = NULL;
    if (list)
        list->prev = &list;
    while ((r = list) != NULL) {
        unlink_waiting(r);
        if (!is_ready(r))
            wait_for_news(r);
        if (!is_ready(r))
            continue;
        unlink_waiting(r);
        if (r->news)
            tell(r);
        else
            answer_poll(r, POLLIN);
    }
}

/* ------------------------------------------------------------------ the wire */

static struct fetch_reader *reader_of(struct wire *w)
{
    return container_of(w, struct fetch_reader, wire);
}

static ssize_t take_cold(struct fetch_reader *r, void *buf, size_t len)
{
    size_t n = len < r->cold_len ? len : r->cold_len;
    memcpy(buf, r->cold + r->cold_at, n);
    r->cold_at += (uint32_t)n;
    r->cold_len -= (uint32_t)n;
    r->at += n;
    return (ssize_t)n;
}

/* How many of len bytes can be read now; 0: the end; -EAGAIN, or the reader's error. */
static ssize_t readable(struct fetch_reader *r, size_t len)
{
    uint64_t end = fetch_entry_visible(r->entry);
    if (r->error)
        return r->error;
    if (atomic_load(&r->entry->state) == FETCH_FAILED || r->at == r->end)
        return 0;
    end = end < r->end ? end : r->end;
    if (r->at >= end || r->needs_read)
        return -EAGAIN;
    return (ssize_t)(len < end - r->at ? len : end - r->at);
}

/* The result of a read at the reader's place: -errno as an error, 0 where there should be bytes. */
static ssize_t was_read(struct fetch_reader *r, ssize_t n)
{
    if (n == -EAGAIN || n == -EOPNOTSUPP) {
        r->needs_read = true;
        return -EAGAIN;
    }
    if (n == 0)
        return -EIO;
    r->at += n > 0 ? (uint64_t)n : 0;
    return n;
}

static ssize_t reader_recv_now(struct wire *w, void *buf, size_t len)
{
    struct fetch_reader *r = reader_of(w);
    if (r->cold_len && !r->error)
        return take_cold(r, buf, len);
    ssize_t n = readable(r, len);
    return n > 0 ? was_read(r, file_read_now(r->entry->fd, r->at, buf, (size_t)n)) : n;
}

/* What is in the page cache goes out from there. */
static ssize_t reader_splice_now(struct wire *w, int pipe, size_t len)
{
    struct fetch_reader *r = reader_of(w);
    ssize_t n = readable(r, len);
    if (r->cold_len)
        return -EINVAL;
    if (n <= 0)
        return n;
    if (!file_resident(r->entry->fd, r->at, (uint64_t)n))
        return was_read(r, -EAGAIN);
    off_t at = (off_t)r->at;
    n = splice(r->entry->fd, &at, pipe, NULL, (size_t)n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    return was_read(r, n < 0 ? -errno : n);
}

static void read_done(struct op *op, const struct event *ev)
{
    struct fetch_reader *r = container_of(op, struct fetch_reader, read);
    if (r->left) {
        struct fetch_entry *e = r->entry;
        struct store_ring *store = r->all->ring->store;
        pool_give(&r->all->readers, r);
        fetch_entry_put(e, store);
        return;
    }
    r->needs_read = false;
    r->cold_at = 0;
    r->cold_len = ev->res > 0 ? (uint32_t)ev->res : 0;
    if (ev->res <= 0)
        r->error = ev->res ? ev->res : -EIO;
    if (r->op)
        answer_poll(r, POLLIN);
}

static void read_cold(struct fetch_reader *r)
{
    uint64_t end = fetch_entry_visible(r->entry);
    end = end < r->end ? end : r->end;
    size_t n = end - r->at < sizeof(r->cold) ? (size_t)(end - r->at) : sizeof(r->cold);
    if (r->read.inflight)
        return;
    r->read.done = read_done;
    loop_read(r->all->ring->loop, &r->read, r->entry->fd, r->cold, n, r->at);
}

static void reader_poll(struct wire *w, struct op *op, short events)
{
    struct fetch_reader *r = reader_of(w);
    (void)events;
    loop_op_begin(op);
    r->op = op;
    if (r->needs_read && !r->error)
        read_cold(r);
    else if (r->cold_len || r->error || r->at == r->end || is_ready(r))
        answer_poll(r, POLLIN);
    else
        wait_for_news(r); /* fetches_run looks again, once the bit is set */
}

static void reader_cancel(struct wire *w, struct op *op)
{
    struct fetch_reader *r = reader_of(w);
    if (r->op != op)
        return;
    unlink_waiting(r);
    answer_poll(r, -ECANCELED);
}

static const struct wire_ops ops = {
    .name = "fetch",
    .recv_now = reader_recv_now,
    .poll = reader_poll,
    .cancel = reader_cancel,
    .splice_now = reader_splice_now,
};

/* ------------------------------------------------------------------ coming and going */

static struct fetch_reader *open_reader(struct fetches *all, struct fetch_entry *e,
                                        const struct fetch_wish *wish, void (*news)(struct fetch_reader *r),
                                        void *arg)
{
    struct fetch_reader *r = pool_take(&all->readers);
    if (!r)
        return NULL;
    memset(r, 0, offsetof(struct fetch_reader, cold));
    r->entry = e;
    r->at = wish->first;
    r->end = wish->end;
    r->news = news;
    r->arg = arg;
    r->all = all;
    r->keep = wish->keep;
    r->over.ops = &ops;
    r->wire = (struct wire){.loop = all->ring->loop, .over = &r->over, .fd = -1};
    atomic_fetch_add(&e->readers, 1);
    wait_for_news(r); /* if it is there already, this batch's end tells */
    return r;
}

struct fetch_reader *fetch_read(struct fetches *all, const struct fetch_wish *wish, bool start,
                                void (*news)(struct fetch_reader *r), void *arg)
{
    bool first = false;
    struct fetch_entry *e =
        start ? fetch_entry_get(wish->digest, all->ring->index, &first) : fetch_entry_find(wish->digest);
    if (!e)
        return NULL;
    struct fetch_reader *r = open_reader(all, e, wish, news, arg);
    if (!first || (r && fetch_begin(all, e, wish))) {
        if (!r)
            fetch_entry_put(e, all->ring->store);
        else if (!first)
            ring_count(all->ring, CTR_FETCH_JOINED, 1);
        return r;
    }
    /* Others may have joined it already: they go on by themselves, too. */
    fetch_entry_state(e, FETCH_FAILED, FETCH_NOT_KEPT);
    fetch_entry_unlist(e);
    if (r)
        fetch_reader_leave(r);
    else
        fetch_entry_put(e, all->ring->store);
    return NULL;
}

struct fetch_reader *fetch_watch(struct fetches *all, struct fetch_entry *e,
                                 void (*news)(struct fetch_reader *r), void *arg)
{
    struct fetch_wish wish = {.end = 0};
    struct fetch_reader *r = open_reader(all, e, &wish, news, arg);
    if (!r)
        fetch_entry_put(e, all->ring->store);
    return r;
}

void fetch_reader_leave(struct fetch_reader *r)
{
    struct fetch_entry *e = r->entry;
    CHECK(!r->op && !r->post.queued && !r->left);
    unlink_waiting(r);
    atomic_fetch_sub(&e->readers, 1);
    r->news = NULL;
    r->left = true;
    if (r->read.inflight)
        return; /* its completion frees it */
    struct store_ring *store = r->all->ring->store;
    pool_give(&r->all->readers, r);
    fetch_entry_put(e, store);
}
