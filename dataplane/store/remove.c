/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removing files of blobs, and what keeps them from being removed: pins.
 *
 * Whoever pushes pins the digest before its file comes into its place, and until its link is committed. A
 * removal closes the place, so that no file comes into it, and only then looks for pins and at the names. So
 * of a push and a removal of the same blob either the removal sees the pin; or the push waits (PUBLISH_HELD)
 * until the old file is gone, and brings its own; or the link is committed, and the names say so.
 *
 * Who answers another node for a file (a copy of a push there) has no end to wait for, so he holds the digest
 * for a while (blob_hold). A data plane that has just begun does not know what the one before held, and
 * removes nothing for so long.
 *
 *   LOOKING (how old is it?) -> UNLINKING -> the place is opened
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "dataplane/store/store_private.h"

struct blob_pin {
    struct blob_pin *next, **prev;
    struct digest digest;
    struct blob_pin *later; /* of those that end by themselves: the next one to do so */
    uint64_t since_ms;      /* CLOCK_MONOTONIC; 0: it ends when it is given back */
};

enum { HOLD_MS = 60000 };

/* What is counted from here is compared with what passes, not with a batch of events. */
static uint64_t now_ms(clockid_t clock)
{
    struct timespec ts;
    (void)clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ------------------------------------------------------------------ pins */

int pins_init(struct pins *p)
{
    int err = pool_init(&p->pool, sizeof(struct blob_pin), PINS_MAX);
    if (!err && (err = -pthread_mutex_init(&p->mutex, NULL)))
        pool_fini(&p->pool);
    p->held_last = &p->held;
    p->all_held_ms = now_ms(CLOCK_MONOTONIC);
    return err;
}

void pins_fini(struct pins *p)
{
    pool_fini(&p->pool);
    pthread_mutex_destroy(&p->mutex);
}

static struct blob_pin **bucket_of(struct pins *p, const struct digest *d)
{
    return &p->bucket[d->bytes[1] % PIN_BUCKETS];
}

/* With the mutex. */
static struct blob_pin *pin_take(struct pins *p, const struct digest *d)
{
    struct blob_pin *pin = pool_take(&p->pool), **bucket = bucket_of(p, d);
    if (!pin)
        return NULL;
    *pin = (struct blob_pin){.next = *bucket, .prev = bucket, .digest = *d};
    if (pin->next)
        pin->next->prev = &pin->next;
    *bucket = pin;
    return pin;
}

static void pin_give(struct pins *p, struct blob_pin *pin)
{
    *pin->prev = pin->next;
    if (pin->next)
        pin->next->prev = pin->prev;
    pool_give(&p->pool, pin);
}

struct blob_pin *blob_pin(struct store_ring *r, const struct digest *d)
{
    struct pins *p = &r->store->pins;
    pthread_mutex_lock(&p->mutex);
    struct blob_pin *pin = pin_take(p, d);
    pthread_mutex_unlock(&p->mutex);
    return pin;
}

void blob_unpin(struct store_ring *r, struct blob_pin *pin)
{
    struct pins *p = &r->store->pins;
    pthread_mutex_lock(&p->mutex);
    pin_give(p, pin);
    pthread_mutex_unlock(&p->mutex);
}

static void holds_end(struct pins *p, uint64_t now)
{
    struct blob_pin *pin;
    while ((pin = p->held) && now >= pin->since_ms + HOLD_MS) {
        p->held = pin->later;
        if (!p->held)
            p->held_last = &p->held;
        pin_give(p, pin);
    }
}

int blob_hold(struct store_ring *r, const struct digest *d)
{
    struct pins *p = &r->store->pins;
    uint64_t now = now_ms(CLOCK_MONOTONIC);
    pthread_mutex_lock(&p->mutex);
    holds_end(p, now);
    struct blob_pin *pin = pin_take(p, d);
    if (pin) {
        pin->since_ms = now;
        *p->held_last = pin;
        p->held_last = &pin->later;
    } else { /* then every blob is held */
        p->all_held_ms = now;
    }
    pthread_mutex_unlock(&p->mutex);
    if (!place_enter(r->store, d))
        return -EBUSY;
    place_leave(r->store, d);
    store_ring_turn(r); /* what was removed until now is not found any more */
    return 0;
}

/* Whether somebody relies on the file. To be asked while its place is closed. */
static bool is_pinned(struct store *s, const struct blob_removal *removal)
{
    struct pins *p = &s->pins;
    uint64_t now = now_ms(CLOCK_MONOTONIC), hold_ms = removal->age_ms < HOLD_MS ? removal->age_ms : HOLD_MS;
    bool is = false;
    pthread_mutex_lock(&p->mutex);
    holds_end(p, now);
    for (const struct blob_pin *pin = *bucket_of(p, &removal->digest); pin && !is; pin = pin->next)
        is =
            digest_equal(&pin->digest, &removal->digest) && (!pin->since_ms || now < pin->since_ms + hold_ms);
    is |= now < p->all_held_ms + hold_ms;
    pthread_mutex_unlock(&p->mutex);
    return is;
}

/* ------------------------------------------------------------------ what rings have open */

static void store_forget(struct store *s, const struct digest *d)
{
    struct pins *p = &s->pins;
    pthread_mutex_lock(&p->mutex);
    uint64_t count = atomic_load_explicit(&p->forgotten, memory_order_relaxed);
    p->list[count % FORGOTTEN] = *d;
    atomic_store_explicit(&p->forgotten, count + 1, memory_order_release);
    pthread_mutex_unlock(&p->mutex);
}

/* One that was away for too long lets go of everything. */
void store_ring_forget(struct store_ring *r)
{
    struct pins *p = &r->store->pins;
    struct digest list[FORGOTTEN];
    uint64_t from = r->forgotten;
    pthread_mutex_lock(&p->mutex);
    uint64_t count = atomic_load_explicit(&p->forgotten, memory_order_relaxed);
    bool missed = count - from > FORGOTTEN;
    for (uint64_t i = from; i < count && !missed; i++)
        list[i - from] = p->list[i % FORGOTTEN];
    pthread_mutex_unlock(&p->mutex);
    r->forgotten = count;
    if (missed)
        blobs_forget_all(r);
    for (uint64_t i = from; i < count && !missed; i++)
        blob_forget(r, &list[i - from]);
}

/* ------------------------------------------------------------------ removals */

enum remove_state { REMOVE_LOOKING, REMOVE_UNLINKING };

struct remove_job {
    struct task task;
    enum remove_state state;
    struct blob_removal *removal;
    struct waiter *waiter;
    struct statx stat;
    char path[BLOB_PATH_MAX + 1];
};

static void step(struct task *t);

int removals_init(struct store_ring *r)
{
    return pool_init(&r->removals, sizeof(struct remove_job), REMOVALS_MAX);
}

int blob_remove(struct store_ring *r, struct blob_removal *removal, struct waiter *w)
{
    struct remove_job *job = pool_take(&r->removals);
    if (!job)
        return -EAGAIN;
    removal->bytes = 0;
    if (!place_close(r->store, &removal->digest)) {
        pool_give(&r->removals, job);
        return -EBUSY;
    }
    int err = is_pinned(r->store, removal) ? -EBUSY : removal->is_free(removal->arg, &removal->digest);
    if (err) {
        place_open(r->store, &removal->digest);
        pool_give(&r->removals, job);
        return err;
    }
    job->removal = removal;
    job->waiter = w;
    job->state = REMOVE_LOOKING;
    task_init(&job->task, r, step);
    blob_path(&removal->digest, job->path);
    loop_statx(r->loop, task_order(&job->task), r->store->blobs_dirfd, job->path, AT_SYMLINK_NOFOLLOW,
               STATX_SIZE | STATX_CTIME | STATX_MTIME, &job->stat);
    return 0;
}

static void end(struct remove_job *job, int err)
{
    struct store_ring *r = job->task.ring;
    struct waiter *w = job->waiter;
    place_open(r->store, &job->removal->digest);
    pool_give(&r->removals, job);
    w->wake(w, err);
}

static int64_t stamp_ms(const struct statx_timestamp *t)
{
    return (int64_t)t->tv_sec * 1000 + t->tv_nsec / 1000000;
}

/* The rename into its place is the last change of a file's inode. One that is from the future is young, too.
 */
static bool is_young(const struct remove_job *job)
{
    int64_t changed = stamp_ms(&job->stat.stx_ctime), written = stamp_ms(&job->stat.stx_mtime);
    int64_t age_ms = (int64_t)now_ms(CLOCK_REALTIME) - (changed > written ? changed : written);
    return age_ms < 0 || (uint64_t)age_ms < job->removal->age_ms;
}

static void looked(struct remove_job *job)
{
    struct store_ring *r = job->task.ring;
    int res = job->task.res;
    if (res < 0)
        end(job, res == -ENOENT ? 0 : store_error(r, res));
    else if (is_young(job))
        end(job, -EBUSY);
    else {
        job->state = REMOVE_UNLINKING;
        loop_unlinkat(r->loop, task_order(&job->task), r->store->blobs_dirfd, job->path);
    }
}

static void unlinked(struct remove_job *job)
{
    struct store_ring *r = job->task.ring;
    if (job->task.res < 0) {
        end(job, job->task.res == -ENOENT ? 0 : store_error(r, job->task.res));
        return;
    }
    job->removal->bytes = job->stat.stx_size;
    store_forget(r->store, &job->removal->digest);
    end(job, 0);
}

static void step(struct task *t)
{
    struct remove_job *job = container_of(t, struct remove_job, task);
    if (job->state == REMOVE_LOOKING)
        looked(job);
    else
        unlinked(job);
}
