/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/coalesce.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/pool.h"
#include "dataplane/ring.h"

enum { WINDOW_LEAST = 64 << 10 };

struct flight {
    struct coalesce *c;
    struct flight *next, **prev; /* of all that can be found */
    struct flight_key key;
    struct follower *followers;
    uint8_t *window;
    uint64_t head, length; /* bytes added so far; of the body */
    uint32_t answer_len;
    bool listed, open, ended, complete, spoilt;
    char answer[FLIGHT_HEAD_MAX];
    char authority[FLIGHT_AUTHORITY_MAX], backend[PLAN_NAME_MAX];
};

struct coalesce {
    struct ring *ring;
    struct pool flights, followers, windows;
    uint64_t window_bytes;
    struct flight *list;
};

int coalesce_new(struct ring *ring, struct coalesce **out)
{
    struct coalesce *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->ring = ring;
    c->window_bytes = ring_setting(ring, SET_PROXY_COALESCE_BYTES) / FLIGHTS_MAX;
    if (c->window_bytes < WINDOW_LEAST)
        c->window_bytes = WINDOW_LEAST;
    int err = pool_init(&c->flights, sizeof(struct flight), FLIGHTS_MAX);
    if (err)
        goto err_flights;
    err = pool_init(&c->followers, sizeof(struct follower), FOLLOWERS_MAX);
    if (err)
        goto err_followers;
    err = pool_init(&c->windows, c->window_bytes, FLIGHTS_MAX);
    if (err)
        goto err_windows;
    *out = c;
    return 0;
err_windows:
    pool_fini(&c->followers);
err_followers:
    pool_fini(&c->flights);
err_flights:
    free(c);
    return err;
}

void coalesce_free(struct coalesce *c)
{
    pool_fini(&c->windows);
    pool_fini(&c->followers);
    pool_fini(&c->flights);
    free(c);
}

void coalesce_tick(struct coalesce *c)
{
    pool_trim(&c->windows, FLIGHTS_MAX);
}

/* ------------------------------------------------------------------ flights */

static void unlist(struct flight *f)
{
    if (!f->listed)
        return;
    f->listed = false;
    *f->prev = f->next;
    if (f->next)
        f->next->prev = f->prev;
}

static void free_unused(struct flight *f)
{
    if (!f->ended || f->followers)
        return;
    unlist(f);
    pool_give(&f->c->windows, f->window);
    pool_give(&f->c->flights, f);
}

static struct flight *find(struct coalesce *c, const struct flight_key *key)
{
    struct flight *f = c->list;
    while (f && memcmp(&f->key, key, sizeof(*key)) != 0)
        f = f->next;
    return f;
}

struct flight *coalesce_lead(struct coalesce *c, const struct flight_key *key)
{
    if (find(c, key))
        return NULL;
    struct flight *f = pool_take(&c->flights);
    uint8_t *window = f ? pool_take(&c->windows) : NULL;
    if (!window) {
        if (f)
            pool_give(&c->flights, f);
        return NULL;
    }
    memset(f, 0, offsetof(struct flight, answer));
    f->c = c;
    f->key = *key;
    f->window = window;
    f->next = c->list;
    f->prev = &c->list;
    if (f->next)
        f->next->prev = &f->next;
    c->list = f;
    f->listed = true;
    return f;
}

/* How far followers may read. */
static uint64_t visible(const struct flight *f)
{
    uint64_t end = f->length > FLIGHT_HOLD_BACK ? f->length - FLIGHT_HOLD_BACK : 0;
    return f->complete || f->head < end ? f->head : end;
}

/* The first byte that is still in the window. */
static uint64_t tail(const struct flight *f)
{
    return f->head > f->c->window_bytes ? f->head - f->c->window_bytes : 0;
}

static void wake(struct follower *r)
{
    if (!r->op || r->post.queued)
        return;
    struct op *op = r->op;
    r->op = NULL;
    loop_post(r->flight->c->ring->loop, &r->post, op, POLLIN);
}

static void wake_all(struct flight *f)
{
    for (struct follower *r = f->followers; r; r = r->next)
        wake(r);
}

static void tell(struct follower *r)
{
    if (r->told_op.inflight)
        return;
    loop_op_begin(&r->told_op);
    loop_post(r->flight->c->ring->loop, &r->told, &r->told_op, 0);
}

void flight_open(struct flight *f, struct view head, const char *authority, const char *backend,
                 uint64_t length)
{
    CHECK(!f->open && head.len <= FLIGHT_HEAD_MAX);
    memcpy(f->answer, head.p, head.len);
    f->answer_len = (uint32_t)head.len;
    strncpy(f->authority, authority, sizeof(f->authority) - 1);
    strncpy(f->backend, backend, sizeof(f->backend) - 1);
    f->authority[sizeof(f->authority) - 1] = f->backend[sizeof(f->backend) - 1] = '\0';
    f->length = length;
    f->open = true;
    for (struct follower *r = f->followers; r; r = r->next)
        tell(r);
}

void flight_add(struct flight *f, uint64_t at, const uint8_t *bytes, size_t len)
{
    uint64_t room = f->c->window_bytes, before = visible(f);
    if (at + len <= f->head || at > f->head)
        return; /* known already; a gap cannot be */
    bytes += f->head - at;
    len -= (size_t)(f->head - at);
    while (len) {
        size_t place = (size_t)(f->head % room), n = len < room - place ? len : (size_t)(room - place);
        memcpy(f->window + place, bytes, n);
        f->head += n;
        bytes += n;
        len -= n;
    }
    if (visible(f) > before)
        wake_all(f);
}

void flight_rewind(struct flight *f, uint64_t at)
{
    if (at < f->head && at >= visible(f))
        f->head = at;
}

void flight_end(struct flight *f, enum flight_end how)
{
    f->ended = true;
    f->complete = how == FLIGHT_COMPLETE && f->head == f->length;
    f->spoilt = how == FLIGHT_SPOILT;
    unlist(f);
    for (struct follower *r = f->followers; r; r = r->next) {
        if (!f->open)
            tell(r);
        wake(r);
    }
    free_unused(f);
}

/* ------------------------------------------------------------------ followers */

static struct follower *follower_of(struct wire *w)
{
    return container_of(w, struct follower, wire);
}

/* What is there; 0 (as if a backend had closed) where it has to go on alone. */
static ssize_t follower_recv_now(struct wire *w, void *buf, size_t len)
{
    struct follower *r = follower_of(w);
    const struct flight *f = r->flight;
    uint64_t end = visible(f), room = f->c->window_bytes;
    if (f->spoilt || r->at < tail(f))
        return 0;
    if (r->at == end)
        return f->ended ? 0 : -EAGAIN;
    size_t place = (size_t)(r->at % room), n = len;
    n = n < end - r->at ? n : (size_t)(end - r->at);
    n = n < room - place ? n : (size_t)(room - place);
    memcpy(buf, f->window + place, n);
    r->at += n;
    return (ssize_t)n;
}

static void follower_poll(struct wire *w, struct op *op, short events)
{
    struct follower *r = follower_of(w);
    const struct flight *f = r->flight;
    (void)events;
    loop_op_begin(op);
    r->op = op;
    if (f->ended || r->at < visible(f) || r->at < tail(f))
        wake(r);
}

static void follower_cancel(struct wire *w, struct op *op)
{
    struct follower *r = follower_of(w);
    if (r->op != op)
        return;
    r->op = NULL;
    loop_post(r->flight->c->ring->loop, &r->post, op, -ECANCELED);
}

static int follower_fd(const struct wire *w)
{
    (void)w;
    return -1;
}

static const struct wire_ops follower_ops = {
    .name = "flight",
    .recv_now = follower_recv_now,
    .poll = follower_poll,
    .cancel = follower_cancel,
    .fd_to = follower_fd,
};

static void unlink_follower(struct follower *r)
{
    *r->prev = r->next;
    if (r->next)
        r->next->prev = r->prev;
}

static void free_follower(struct follower *r)
{
    struct flight *f = r->flight;
    pool_give(&f->c->followers, r);
    free_unused(f);
}

static void told(struct op *op, const struct event *ev)
{
    struct follower *r = container_of(op, struct follower, told_op);
    (void)ev;
    if (!r->news) { /* it has left */
        unlink_follower(r);
        free_follower(r);
        return;
    }
    void (*news)(struct follower *, enum flight_news) = r->news;
    news(r, r->flight->open && !r->flight->spoilt ? FLIGHT_OPEN : FLIGHT_GONE);
}

struct follower *coalesce_follow(struct coalesce *c, const struct flight_key *key,
                                 void (*news)(struct follower *f, enum flight_news news), void *arg)
{
    struct flight *f = find(c, key);
    if (!f || tail(f) > 0)
        return NULL;
    struct follower *r = pool_take(&c->followers);
    if (!r)
        return NULL;
    *r = (struct follower){
        .news = news, .arg = arg, .over.ops = &follower_ops, .flight = f, .next = f->followers};
    r->wire = (struct wire){.loop = c->ring->loop, .over = &r->over, .fd = -1};
    r->told_op.done = told;
    r->prev = &f->followers;
    if (r->next)
        r->next->prev = &r->next;
    f->followers = r;
    if (f->open)
        tell(r);
    return r;
}

void coalesce_leave(struct follower *r)
{
    CHECK(!r->op && !r->post.queued);
    r->news = NULL;
    if (r->told_op.inflight)
        return; /* its delivery frees it */
    unlink_follower(r);
    free_follower(r);
}

struct view follower_head(const struct follower *r)
{
    return view_of(r->flight->answer, r->flight->answer_len);
}

const char *follower_authority(const struct follower *r)
{
    return r->flight->authority;
}

const char *follower_backend(const struct follower *r)
{
    return r->flight->backend;
}

bool follower_spoilt(const struct follower *r)
{
    return r->flight->spoilt;
}
