/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three system calls are made here on a ring instead of being orders, because they read memory only: fstat of
 * an open file (its inode is in memory; through the ring it would always go to another thread), fstatvfs
 * once a second by one ring (a local file system keeps its counters in memory), getrandom.
 */
#include "dataplane/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "dataplane/store/store_private.h"

/* ------------------------------------------------------------------ tasks */

static void task_done(struct op *op, const struct event *ev)
{
    struct task *t = container_of(op, struct task, op);
    t->res = ev->res;
    CHECK(t->ring->orders > 0);
    t->ring->orders--;
    t->step(t);
}

struct op *task_order(struct task *t)
{
    t->op.done = task_done;
    t->ring->orders++;
    return &t->op;
}

/* A file server may be asked for what fstat tells. */
static bool may_be_removed(const struct store_ring *r, int fd)
{
    struct stat st;
    return r->store->shared || fstat(fd, &st) || st.st_nlink == 0;
}

void task_order_close(struct task *t, int fd)
{
    if (may_be_removed(t->ring, fd))
        loop_close_removed(t->ring->loop, task_order(t), fd);
    else
        loop_close(t->ring->loop, task_order(t), fd);
}

static void errand_done(struct task *t)
{
    pool_give(&t->ring->errands, t);
}

void store_close(struct store_ring *r, int fd)
{
    struct task *t = pool_take(&r->errands);
    if (!t) {
        close(fd);
        return;
    }
    task_init(t, r, errand_done);
    task_order_close(t, fd);
}

void store_write_back(struct store_ring *r, int fd, uint64_t offset, size_t len)
{
    struct task *t = pool_take(&r->errands);
    if (!t)
        return;
    task_init(t, r, errand_done);
    loop_sync_range(r->loop, task_order(t), fd, offset, len);
}

int store_error(struct store_ring *r, int err)
{
    if (err == -ENOSPC || err == -EDQUOT) {
        store_count(r, CTR_STORE_FULL);
        return -ENOSPC;
    }
    store_count(r, CTR_STORE_ERRORS);
    atomic_store_explicit(&r->counters->store_errno, (uint64_t)-err, memory_order_relaxed);
    return err == -EMFILE || err == -ENFILE ? -EMFILE : -EIO;
}

/* ------------------------------------------------------------------ hashes */

uint64_t hash_repo(const char *repo, size_t len)
{
    struct digest d;
    uint64_t hash;
    store_digest(DIGEST_SHA256, repo, len, &d);
    memcpy(&hash, d.bytes, sizeof(hash));
    return hash;
}

void store_digest(uint8_t alg, const void *bytes, size_t len, struct digest *out)
{
    struct hash hash;
    hash_begin(&hash, alg);
    hash_add(&hash, bytes, len);
    hash_end(&hash, out);
}

/* ------------------------------------------------------------------ free space */

static void free_space_look(struct store *s)
{
    struct statvfs st;
    if (fstatvfs(s->uploads_dirfd, &st))
        return; /* the last figure stands; a disk that is full says so itself */
    uint64_t bytes = (uint64_t)st.f_bavail * st.f_frsize;
    atomic_store_explicit(&s->free_bytes, bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes,
                          memory_order_relaxed);
}

bool store_is_full(const struct store *s)
{
    int64_t room = atomic_load_explicit(&s->free_bytes, memory_order_relaxed);
    uint64_t reserve = atomic_load_explicit(&s->reserve, memory_order_relaxed);
    return room < 0 || (uint64_t)room < reserve;
}

int store_room_take(struct store_ring *r, uint64_t len)
{
    struct store *s = r->store;
    if (store_is_full(s)) {
        store_count(r, CTR_STORE_FULL);
        return -ENOSPC;
    }
    if (len)
        atomic_fetch_sub_explicit(&s->free_bytes, (int64_t)len, memory_order_relaxed);
    return 0;
}

/* ------------------------------------------------------------------ the process's part */

/* 0, 1 if it was made, or -errno. */
static int folder_make(int dirfd, const char *path)
{
    if (mkdirat(dirfd, path, 0750) == 0)
        return 1;
    return errno == EEXIST ? 0 : -errno;
}

static int folder_sync(int dirfd, const char *path)
{
    int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = fsync(fd) ? -errno : 0;
    close(fd);
    return err;
}

/* All folders of an algorithm, so that no upload has to make one. They are durable before a blob is in them.
 */
static int folders_make_alg(int blobs_dirfd, const char *alg)
{
    char path[BLOB_FOLDER_MAX + 1];
    int made = folder_make(blobs_dirfd, alg), any = made;
    for (unsigned i = 0; i < 256 && made >= 0; i++) {
        (void)snprintf(path, sizeof(path), "%s/%02x", alg, i);
        made = folder_make(blobs_dirfd, path);
        any |= made;
    }
    if (made < 0)
        return made;
    int err = any ? folder_sync(blobs_dirfd, alg) : 0;
    return err == 0 && any ? folder_sync(blobs_dirfd, ".") : err;
}

static int folders_prepare(const struct store *s, const char **why)
{
    struct stat blobs, uploads, damaged;
    *why = "the store's folders cannot be examined";
    if (fstat(s->blobs_dirfd, &blobs) || fstat(s->uploads_dirfd, &uploads) ||
        fstat(s->damaged_dirfd, &damaged))
        return -errno;
    *why = "blobs/, uploads/ and damaged/ must be on one file system: an upload becomes a blob by a rename";
    if (blobs.st_dev != uploads.st_dev || blobs.st_dev != damaged.st_dev)
        return -EXDEV;
    *why = "the folders under blobs/ cannot be made: check owner, permissions and free space";
    int err = folders_make_alg(s->blobs_dirfd, "sha256");
    return err ? err : folders_make_alg(s->blobs_dirfd, "sha512");
}

int store_new(const struct store_folders *folders, const struct store_tuning *t, struct store **out,
              const char **why)
{
    struct store *s = calloc(1, sizeof(*s));
    *why = "no memory for the store";
    if (!s)
        return -ENOMEM;
    s->blobs_dirfd = folders->blobs;
    s->uploads_dirfd = folders->uploads;
    s->damaged_dirfd = folders->damaged;
    s->shared = t->shared;
    condemned_init(&s->condemned);
    store_tune(s, t);
    int err = pins_init(&s->pins);
    if (err)
        goto err_store;
    err = sessions_init(&s->sessions);
    if (err)
        goto err_pins;
    err = folders_prepare(s, why);
    if (!err && s->shared)
        err = store_shared_check(folders, why);
    if (err)
        goto err_sessions;
    *why = "the sessions under uploads/ cannot be read";
    err = sessions_recover(s);
    if (err)
        goto err_sessions;
    *why = "no memory for the store's threads";
    s->hashers = hashers_new(t->hashers);
    err = s->hashers ? 0 : -ENOMEM;
    if (err)
        goto err_sessions;
    free_space_look(s);
    *out = s;
    return 0;
err_sessions:
    sessions_fini(&s->sessions);
err_pins:
    pins_fini(&s->pins);
err_store:
    condemned_fini(&s->condemned);
    free(s);
    return err;
}

int store_start(struct store *s)
{
    return hashers_start(s->hashers);
}

void store_stop(struct store *s)
{
    hashers_stop(s->hashers);
}

void store_free(struct store *s)
{
    hashers_free(s->hashers);
    sessions_fini(&s->sessions);
    pins_fini(&s->pins);
    condemned_fini(&s->condemned);
    free(s);
}

void store_tune(struct store *s, const struct store_tuning *t)
{
    atomic_store_explicit(&s->node, t->node, memory_order_relaxed);
    atomic_store_explicit(&s->sync, t->sync, memory_order_relaxed);
    atomic_store_explicit(&s->reserve, t->reserve, memory_order_relaxed);
    atomic_store_explicit(&s->blob_bytes_max, t->blob_bytes_max, memory_order_relaxed);
    atomic_store_explicit(&s->uploads_max, t->uploads_max, memory_order_relaxed);
    atomic_store_explicit(&s->open_files, t->open_files, memory_order_relaxed);
    atomic_store_explicit(&s->upload_expiry_ms, t->upload_expiry_ms, memory_order_relaxed);
    atomic_store_explicit(&s->scrub_rate, t->scrub_rate, memory_order_relaxed);
}

uint32_t store_uploads_open(const struct store *s)
{
    return atomic_load_explicit(&s->sessions.open, memory_order_relaxed);
}

/* ------------------------------------------------------------------ a ring's part */

static int pools_init(struct store_ring *r)
{
    int err = pool_init(&r->errands, sizeof(struct task), ERRANDS);
    if (!err)
        err = pool_init(&r->pieces, PIECE_BYTES, PIECES);
    if (!err)
        err = writes_init(r);
    if (!err)
        err = verifies_init(r);
    if (!err)
        err = removals_init(r);
    return err;
}

static void pools_fini(struct store_ring *r)
{
    verifies_fini(r);
    pool_fini(&r->removals);
    pool_fini(&r->writes);
    pool_fini(&r->pieces);
    pool_fini(&r->errands);
}

int store_ring_new(struct store *s, struct loop *loop, struct ring_counters *counters, size_t cache_bytes,
                   struct store_ring **out)
{
    struct store_ring *r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->store = s;
    r->loop = loop;
    r->counters = counters;
    r->line_last = &r->line_first;
    r->back.loop = loop;
    r->verify_last = &r->verify_first;
    r->news_seen = atomic_load(&s->condemned.news);
    r->forgotten = atomic_load(&s->pins.forgotten);
    int err = pools_init(r);
    if (!err && getrandom(&r->seed, sizeof(r->seed), 0) != sizeof(r->seed))
        err = -EIO;
    if (!err)
        err = blobs_init(r, cache_bytes);
    if (err) {
        pools_fini(r);
        free(r);
        return err;
    }
    r->is_first = atomic_fetch_add(&s->rings, 1) == 0;
    *out = r;
    return 0;
}

void store_ring_attach(struct store_ring *r, struct timer_wheel *wheel, const struct store_listener *listener)
{
    r->wheel = wheel;
    r->listener = *listener;
}

void store_ring_turn(struct store_ring *r)
{
    uploads_hashed(r);
    if (atomic_load_explicit(&r->store->condemned.news, memory_order_relaxed) != r->news_seen)
        store_ring_news(r);
    if (atomic_load_explicit(&r->store->pins.forgotten, memory_order_relaxed) != r->forgotten)
        store_ring_forget(r);
}

bool store_ring_idle(const struct store_ring *r)
{
    return r->orders == 0 && !r->verify_list;
}

void store_ring_free(struct store_ring *r)
{
    blobs_fini(r);
    pools_fini(r);
    free(r);
}

/* What another node removes has its space until nobody has it open. */
static void files_let_go(struct store_ring *r, uint64_t now_ms)
{
    if (!r->store->shared || now_ms < r->forget_ms)
        return;
    r->forget_ms = now_ms + FORGET_MS;
    blobs_forget_files(r);
}

/* The first ring keeps house for the node. */
void store_ring_tick(struct store_ring *r, uint64_t now_ms)
{
    struct sweep sweep;
    files_let_go(r, now_ms);
    if (!r->is_first)
        return;
    free_space_look(r->store);
    sessions_sweep(r, (int64_t)now_ms, &sweep);
    for (uint32_t i = 0; i < sweep.fds_count; i++)
        store_close(r, sweep.fds[i]);
    for (uint32_t i = 0; i < sweep.ends_count; i++) {
        store_count(r, CTR_UPLOADS_EXPIRED);
        upload_end(sweep.ends[i], r, 0);
    }
}

void store_ring_check(const struct store_ring *r, bool idle)
{
    blobs_check(r, idle);
    if (!idle)
        return;
    CHECK(r->orders == 0 && !r->back.list);
    CHECK(r->writes.used == 0 && r->errands.used == 0 && r->pieces.used == 0);
    CHECK(!r->line_first && !r->verifying && !r->verify_first && !r->verify_list);
}
