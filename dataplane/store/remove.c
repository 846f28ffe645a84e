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
 *
 * Where other nodes have the store, too, places and pins say nothing of what they do. One of them removes
 * (control/daemon_store.h), whatever the others push meanwhile. So a file is not unlinked where it lies, but
 * renamed to damaged/ first, and looked at there:
 *
 *   LOOKING -> MOVING -> LOOKING_AGAIN -> TAKING -> LOOKING_LAST -> UNLINKING
 *                             or RESTORING    or RESTORING_TAKEN
 *
 * A push always publishes a file of its own, by a rename, and never relies on one that was there before it
 * (keep.c, importer.c). It comes before our rename: then it is the one that we have moved, which is seen by
 * its inode and the time of its last write, and it goes back to its place, over what may be there by then:
 * the same bytes. Or it comes after that, and we never touch it. A file that is in its place and not linked
 * yet is safe by its age, as the file system's own clock tells it: our rename has stamped the inode just now.
 * Control asks for an age that is longer than a push waits for its copies and its commit. But a look may hang
 * for longer than that, and what it finds was pushed meanwhile, has been linked, and is old: so the names are
 * asked again behind it.
 *
 * Two nodes may both think that it is theirs to remove. The name in damaged/ is the same for both, and what
 * lies there may be another file a moment later. So the file is unlinked under a name that nobody else
 * renames to (TAKING), after a last look at it there. Until then readers that do not find the blob in its
 * place look in damaged/ (blob.c); under that last name they do not find it, which they need not, unless it
 * is the other node's: then a read fails that comes before it is back. What a crash leaves in damaged/ goes
 * back to its place (control/store_clean.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/random.h>
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

enum remove_state {
    REMOVE_LOOKING,
    REMOVE_MOVING,
    REMOVE_LOOKING_AGAIN,
    REMOVE_RESTORING,
    REMOVE_TAKING,
    REMOVE_LOOKING_LAST,
    REMOVE_RESTORING_TAKEN,
    REMOVE_UNLINKING,
};

struct remove_job {
    struct task task;
    enum remove_state state;
    struct blob_removal *removal;
    struct waiter *waiter;
    struct statx stat, moved;
    char path[BLOB_PATH_MAX + 1];
    /* Shared: */
    char gone[GONE_NAME_MAX + 1];
    char taken[TAKEN_NAME_MAX + 1];
};

static void step(struct task *t);

void gone_name(const struct digest *d, char name[GONE_NAME_MAX + 1])
{
    char text[DIGEST_TEXT_MAX + 1];
    digest_format(d, text);
    *strchr(text, ':') = '-';
    (void)snprintf(name, GONE_NAME_MAX + 1, "%s.gone", text);
}

/* One that no other node has: by chance, not by a counter that a restart begins anew. */
static int taken_name(struct remove_job *job)
{
    uint64_t chance;
    if (getrandom(&chance, sizeof(chance), 0) != sizeof(chance))
        return -EIO;
    (void)snprintf(job->taken, sizeof(job->taken), "%s.%016" PRIx64, job->gone, chance);
    return 0;
}

int removals_init(struct store_ring *r)
{
    return pool_init(&r->removals, sizeof(struct remove_job), REMOVALS_MAX);
}

static void order_look(struct remove_job *job, int dirfd, const char *path, struct statx *out)
{
    struct store_ring *r = job->task.ring;
    int flags = AT_SYMLINK_NOFOLLOW | (r->store->shared ? AT_STATX_FORCE_SYNC : 0);
    loop_statx(r->loop, task_order(&job->task), dirfd, path, flags,
               STATX_SIZE | STATX_CTIME | STATX_MTIME | STATX_INO | STATX_NLINK, out);
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
    gone_name(&removal->digest, job->gone);
    order_look(job, r->store->blobs_dirfd, job->path, &job->stat);
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
static bool is_young(const struct remove_job *job, int64_t clock_ms)
{
    int64_t changed = stamp_ms(&job->stat.stx_ctime), written = stamp_ms(&job->stat.stx_mtime);
    int64_t age_ms = clock_ms - (changed > written ? changed : written);
    return age_ms < 0 || (uint64_t)age_ms < job->removal->age_ms;
}

static void order_rename(struct remove_job *job, enum remove_state state)
{
    struct store_ring *r = job->task.ring;
    int blobs = r->store->blobs_dirfd, damaged = r->store->damaged_dirfd;
    job->state = state;
    if (state == REMOVE_MOVING)
        loop_renameat(r->loop, task_order(&job->task), blobs, job->path, damaged, job->gone);
    else if (state == REMOVE_TAKING)
        loop_renameat(r->loop, task_order(&job->task), damaged, job->gone, damaged, job->taken);
    else
        loop_renameat(r->loop, task_order(&job->task), damaged,
                      state == REMOVE_RESTORING ? job->gone : job->taken, blobs, job->path);
}

static void looked(struct remove_job *job)
{
    struct store_ring *r = job->task.ring;
    int res = job->task.res;
    if (res < 0)
        end(job, res == -ENOENT ? 0 : store_error(r, res));
    else if (is_young(job, (int64_t)now_ms(CLOCK_REALTIME) + atomic_load(&r->store->clock_ahead_ms)))
        end(job, -EBUSY);
    else if (r->store->shared)
        order_rename(job, REMOVE_MOVING);
    else {
        job->state = REMOVE_UNLINKING;
        loop_unlinkat(r->loop, task_order(&job->task), r->store->blobs_dirfd, job->path);
    }
}

static void moved(struct remove_job *job)
{
    struct store_ring *r = job->task.ring;
    int res = job->task.res;
    if (res < 0) {
        end(job, res == -ENOENT ? 0 : store_error(r, res));
        return;
    }
    job->state = REMOVE_LOOKING_AGAIN;
    order_look(job, r->store->damaged_dirfd, job->gone, &job->moved);
}

static bool same_time(const struct statx_timestamp *a, const struct statx_timestamp *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* A file system that does not stamp what is renamed leaves this node's clock, which has been asked. */
static bool is_the_one(const struct remove_job *job)
{
    const struct statx *was = &job->stat, *is = &job->moved;
    bool stamped = !same_time(&was->stx_ctime, &is->stx_ctime);
    return was->stx_ino == is->stx_ino && was->stx_size == is->stx_size &&
           same_time(&was->stx_mtime, &is->stx_mtime) && is->stx_nlink <= was->stx_nlink &&
           !(stamped && is_young(job, stamp_ms(&is->stx_ctime)));
}

static void looked_again(struct remove_job *job)
{
    struct store *s = job->task.ring->store;
    const struct blob_removal *removal = job->removal;
    if (job->task.res == 0 && !same_time(&job->stat.stx_ctime, &job->moved.stx_ctime))
        atomic_store(&s->clock_ahead_ms, stamp_ms(&job->moved.stx_ctime) - (int64_t)now_ms(CLOCK_REALTIME));
    bool goes = job->task.res == 0 && is_the_one(job) && !removal->is_free(removal->arg, &removal->digest) &&
                !taken_name(job);
    order_rename(job, goes ? REMOVE_TAKING : REMOVE_RESTORING);
}

/* ENOENT: another node has put it back, or has taken it. */
static void taken(struct remove_job *job)
{
    struct store_ring *r = job->task.ring;
    int res = job->task.res;
    if (res < 0) {
        end(job, res == -ENOENT ? -EBUSY : store_error(r, res));
        return;
    }
    job->state = REMOVE_LOOKING_LAST;
    order_look(job, r->store->damaged_dirfd, job->taken, &job->moved);
}

static void looked_last(struct remove_job *job)
{
    struct store_ring *r = job->task.ring;
    if (job->task.res < 0 || !is_the_one(job)) {
        order_rename(job, REMOVE_RESTORING_TAKEN);
        return;
    }
    job->state = REMOVE_UNLINKING;
    loop_unlinkat(r->loop, task_order(&job->task), r->store->damaged_dirfd, job->taken);
}

/* ENOENT: another node has put it back. */
static void restored(struct remove_job *job)
{
    struct store_ring *r = job->task.ring;
    int res = job->task.res;
    end(job, res < 0 && res != -ENOENT ? store_error(r, res) : -EBUSY);
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
    static void (*const of[])(struct remove_job *) = {
        [REMOVE_LOOKING] = looked,
        [REMOVE_MOVING] = moved,
        [REMOVE_LOOKING_AGAIN] = looked_again,
        [REMOVE_RESTORING] = restored,
        [REMOVE_TAKING] = taken,
        [REMOVE_LOOKING_LAST] = looked_last,
        [REMOVE_RESTORING_TAKEN] = restored,
        [REMOVE_UNLINKING] = unlinked,
    };
    struct remove_job *job = container_of(t, struct remove_job, task);
    of[job->state](job);
}
