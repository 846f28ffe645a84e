/* SPDX-License-Identifier: Apache-2.0 */
/* A kind of job is a line in kinds[]: how it begins, and how it is given up. */
#include "dataplane/jobs.h"

#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/link.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/fetch.h"
#include "dataplane/store/names.h"
#include "dataplane/store/store.h"

struct job {
    struct jobs *all;
    struct job *next, **prev;
    uint64_t id;
    struct frame_job frame;
    struct digest digest;
    bool orphan; /* nobody waits for the answer */
    /* Of its kind. */
    struct waiter waiter;
    struct blob *blob;
    struct verify *verify;
    struct fetch_reader *reader;
    struct blob_removal removal;
};

struct jobs {
    struct ring *ring;
    struct pool pool;
    struct job *list;
};

/* Of controls that went there may be some left, which end soon. */
enum { JOBS_MAX = 4 * JOBS_UNDERWAY_MAX };

/* Answers, and frees it. */
static void finish(struct job *j, enum job_result result, uint64_t detail)
{
    struct jobs *all = j->all;
    if (!j->orphan)
        channel_job_done(all->ring->channel, j->id, result, detail);
    *j->prev = j->next;
    if (j->next)
        j->next->prev = j->prev;
    ring_count(all->ring, CTR_JOBS_NOW, (uint64_t)-1);
    pool_give(&all->pool, j);
}

static void finish_error(struct job *j, int err)
{
    if (err == -ENOSPC)
        finish(j, JOB_NO_SPACE, 0);
    else if (err == -ENOMEM || err == -EMFILE || err == -EAGAIN)
        finish(j, JOB_BUSY, 0);
    else
        finish(j, JOB_ERROR, (uint64_t)-err);
}

/* ------------------------------------------------------------------ verify */

static void verified(void *arg, int res, uint64_t bytes)
{
    struct job *j = arg;
    j->verify = NULL;
    switch (res) {
    case 0:
        finish(j, JOB_OK, bytes);
        break;
    case -EBADMSG:
        finish(j, JOB_DAMAGED, bytes);
        break;
    case -ENOENT:
        finish(j, JOB_MISSING, 0);
        break;
    case -ECANCELED:
        finish(j, JOB_CANCELLED, 0);
        break;
    default:
        finish_error(j, res);
        break;
    }
}

static void verify_begin(struct job *j)
{
    int err = blob_verify(j->all->ring->store, &j->digest, j->frame.arg, verified, j, &j->verify);
    if (err)
        finish_error(j, err);
}

static void verify_give_up(struct job *j)
{
    if (j->verify)
        verify_stop(j->verify);
}

/* ------------------------------------------------------------------ keep */

static enum job_result keep_result(const struct fetch_entry *e)
{
    if (atomic_load(&e->kept) == FETCH_KEPT)
        return JOB_OK;
    if (atomic_load(&e->state) != FETCH_FAILED || atomic_load(&e->fault) == FETCH_NOT_KEPT)
        return JOB_NO_SPACE;
    return atomic_load(&e->fault) == FETCH_GIVEN_UP ? JOB_BUSY : JOB_NO_SOURCE;
}

static void kept(struct fetch_reader *r)
{
    struct job *j = r->arg;
    enum job_result result = keep_result(r->entry);
    uint64_t size = atomic_load(&r->entry->size);
    fetch_reader_leave(r);
    j->reader = NULL;
    if (result == JOB_OK && (j->frame.flags & JOB_REPLACE))
        blob_replaced(j->all->ring->store_shared, &j->digest);
    if (result == JOB_NO_SPACE && !store_is_full(j->all->ring->store_shared))
        finish(j, JOB_ERROR, EIO);
    else
        finish(j, result, result == JOB_OK ? size : 0);
}

static void fetch(struct job *j)
{
    struct ring *ring = j->all->ring;
    struct fetch_sources sources;
    fetch_sources_find(ring->plan, view_of("", 0), false, &j->digest, &sources);
    if (!sources.count) {
        finish(j, JOB_NO_SOURCE, 0);
        return;
    }
    const struct fetch_wish wish = {.digest = &j->digest,
                                    .size = j->frame.arg,
                                    .repo = view_of("", 0),
                                    .sources = &sources,
                                    .keep = true,
                                    .end = j->frame.arg};
    if (j->frame.flags & JOB_REPLACE)
        fetch_entry_forget(&j->digest); /* what was fetched a moment ago is what is to be replaced */
    j->reader = fetch_read(ring->fetches, &wish, true, kept, j);
    if (!j->reader)
        finish(j, ring->draining ? JOB_CANCELLED : JOB_BUSY, 0);
}

static void settled(struct job *j, int res)
{
    if (res)
        finish_error(j, res);
    else
        finish(j, JOB_OK, 0);
}

static void settle_woken(struct waiter *w, int res)
{
    settled(container_of(w, struct job, waiter), res);
}

static void looked(struct job *j, int res)
{
    struct store_ring *store = j->all->ring->store;
    if (res == 0) {
        blob_put(store, j->blob);
        j->waiter.wake = settle_woken;
        res = blob_settle(store, &j->digest, &j->waiter);
        if (res != -EINPROGRESS)
            settled(j, res);
    } else if (res == -ENOENT || res == -EBADMSG) {
        fetch(j);
    } else {
        finish_error(j, res);
    }
}

static void woken(struct waiter *w, int res)
{
    looked(container_of(w, struct job, waiter), res);
}

static void keep_begin(struct job *j)
{
    int held = blob_hold(j->all->ring->store, &j->digest);
    if (j->frame.flags & JOB_REPLACE || j->frame.arg == BLOB_SIZE_UNKNOWN) {
        fetch(j);
        return;
    }
    if (held) { /* what is there goes */
        finish(j, JOB_BUSY, 0);
        return;
    }
    j->waiter.wake = woken;
    int res = blob_open(j->all->ring->store, &j->digest, j->frame.arg, false, &j->blob, &j->waiter);
    if (res != -EINPROGRESS)
        looked(j, res);
}

static void keep_give_up(struct job *j)
{
    if (!j->reader)
        return;
    fetch_reader_leave(j->reader);
    j->reader = NULL;
    finish(j, JOB_CANCELLED, 0);
}

/* ------------------------------------------------------------------ remove */

/* Of enough others it is said that they hold it, and of this node it is not. */
static bool is_spare(const struct job *j, const struct names_blob *blob)
{
    const struct plan *plan = j->all->ring->plan;
    if (!(j->frame.flags & JOB_SPARE) || !plan->copies.told || !blob->version ||
        blob->holder_count < plan->copies.wanted)
        return false;
    for (unsigned i = 0; i < blob->holder_count; i++)
        if (fetch_holder_of(plan, blob->holder[i]) == plan->copies.holder)
            return false;
    return blob->holder_count > 0;
}

/* Whether the names say that it may go. Only as long as they are known to be what was committed: a node that
 * is behind may not know yet that somebody relies on it. */
static int is_free(void *arg, const struct digest *d)
{
    const struct job *j = arg;
    struct names *n = j->all->ring->names;
    struct names_blob blob;
    struct names_mark mark;
    if (!names_is_said_fresh(n) || names_begin(n))
        return -EBUSY;
    int row = names_blob_get(n, d, &blob), marked = row ? -ENOENT : names_mark_blob_get(n, d, &mark);
    names_end(n);
    if (row == -ENOENT || (marked == 0 && mark.step == NAMES_MARK_DELETING) ||
        (row == 0 && is_spare(j, &blob)))
        return 0;
    return row || (marked && marked != -ENOENT) ? -EBUSY : -EEXIST;
}

static void removed(struct waiter *w, int res)
{
    struct job *j = container_of(w, struct job, waiter);
    if (res == -EBUSY)
        finish(j, JOB_BUSY, 0);
    else if (res)
        finish_error(j, res);
    else
        finish(j, JOB_OK, j->removal.bytes);
}

static void remove_begin(struct job *j)
{
    j->removal =
        (struct blob_removal){.digest = j->digest, .age_ms = j->frame.arg, .is_free = is_free, .arg = j};
    j->waiter.wake = removed;
    int err = blob_remove(j->all->ring->store, &j->removal, &j->waiter);
    if (err == -EEXIST) /* it stays */
        finish(j, JOB_OK, 0);
    else if (err)
        finish(j, JOB_BUSY, 0);
}

/* It has ended in a moment. */
static void remove_give_up(struct job *j)
{
    (void)j;
}

/* ------------------------------------------------------------------ all kinds */

static const struct {
    void (*begin)(struct job *j);
    void (*give_up)(struct job *j); /* it ends soon */
} kinds[JOB_KIND_COUNT] = {
    [JOB_KEEP] = {keep_begin, keep_give_up},
    [JOB_VERIFY] = {verify_begin, verify_give_up},
    [JOB_REMOVE] = {remove_begin, remove_give_up},
};

static void on_job(void *arg, uint64_t id, const struct frame_job *frame)
{
    struct jobs *all = arg;
    struct job *j = all->ring->draining ? NULL : pool_take(&all->pool);
    if (!j) {
        channel_job_done(all->ring->channel, id, all->ring->draining ? JOB_CANCELLED : JOB_BUSY, 0);
        return;
    }
    *j = (struct job){.all = all, .id = id, .frame = *frame, .next = all->list, .prev = &all->list};
    if (j->next)
        j->next->prev = &j->next;
    all->list = j;
    ring_count(all->ring, CTR_JOBS_NOW, 1);
    if (frame->kind < JOB_KIND_COUNT && kinds[frame->kind].begin &&
        digest_unpack(frame->digest, sizeof(frame->digest), &j->digest))
        kinds[frame->kind].begin(j);
    else
        finish(j, JOB_ERROR, EINVAL);
}

static void give_up_all(struct jobs *all)
{
    for (struct job *j = all->list, *next; j; j = next) {
        next = j->next;
        kinds[j->frame.kind].give_up(j);
    }
}

static void on_lost(void *arg)
{
    struct jobs *all = arg;
    for (struct job *j = all->list; j; j = j->next)
        j->orphan = true;
    give_up_all(all);
}

void jobs_stop(struct jobs *all)
{
    give_up_all(all);
}

bool jobs_idle(const struct jobs *all)
{
    return !all->list;
}

static void on_damaged(void *arg, const struct digest *d, uint64_t bytes)
{
    struct jobs *all = arg;
    channel_damaged(all->ring->channel, d, bytes);
}

int jobs_new(struct ring *ring, struct jobs **out)
{
    struct jobs *all = calloc(1, sizeof(*all));
    if (!all)
        return -ENOMEM;
    int err = pool_init(&all->pool, sizeof(struct job), JOBS_MAX);
    if (err) {
        free(all);
        return err;
    }
    all->ring = ring;
    channel_set_jobs(ring->channel, &(struct channel_jobs){on_job, on_lost, all});
    store_ring_attach(ring->store, &ring->wheel,
                      &(struct store_listener){on_damaged, all, fetch_entry_forget});
    *out = all;
    return 0;
}

void jobs_free(struct jobs *all)
{
    pool_fini(&all->pool);
    free(all);
}
