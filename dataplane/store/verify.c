/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A blob is read from its disk and hashed, in the background: one at a time on a ring, in pieces of
 * VERIFY_PIECE, of which one is hashed in a batch of the ring, at the pace of scrub.rate for all rings
 * together. It is read past the page cache where the file system can do that: so what is on the disk is
 * looked at and not what is in memory, and nothing that others read is pushed out.
 *
 *   IN_LINE -> OPENING -> [WAITING -> READING]... -> good:    CLOSING -> done
 *                                                 -> damaged: HOLDING -> LOOKING -> MOVING ->
 * [LOOKING_AGAIN -> [RESTORING ->]] SYNCING -> CLOSING
 *
 * A damaged one is condemned (store_private.h): nobody opens it any more, who has it open lets go of it. Then
 * its file is moved to damaged/, unless another one is in its place by now: a push has repaired it. A file
 * that cannot be moved stays condemned for as long as the process lives, or until it is replaced. In a store
 * that other nodes have, too, one of them may publish between our look and our rename: what was moved is
 * looked at again, and goes back if it is another file.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "dataplane/store/store_private.h"

enum {
    VERIFY_PIECE = 64 << 10,
    HOLD_MS = 50,
};

enum verify_state {
    VERIFY_IN_LINE,
    VERIFY_OPENING,
    VERIFY_WAITING,
    VERIFY_READING,
    VERIFY_REOPENING, /* without O_DIRECT */
    VERIFY_HOLDING,   /* for those that put a file into that place */
    VERIFY_LOOKING,
    VERIFY_MOVING,
    VERIFY_LOOKING_AGAIN,
    VERIFY_RESTORING,
    VERIFY_SYNCING,
    VERIFY_CLOSING,
};

struct verify {
    struct task task;
    struct timer timer;
    struct verify *next;          /* in line */
    struct verify *older, **from; /* of all of the ring's */
    uint8_t state;                /* enum verify_state */
    bool direct, stopped, suspect;
    int fd, res;
    struct digest digest;
    uint64_t size; /* that it has to have, or BLOB_SIZE_UNKNOWN */
    verify_done *done;
    void *arg;
    uint64_t file_size, at;
    struct hash hash;
    struct statx look; /* of what is in its place */
    uint64_t device, inode;
    char path[BLOB_PATH_MAX + 1];
    char name[DIGEST_TEXT_MAX + 1]; /* in damaged/ */
};

static void step(struct task *t);
static void read_on(struct verify *v);

/* ------------------------------------------------------------------ the line, the end */

static void open_file(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    v->state = VERIFY_OPENING;
    loop_openat(r->loop, task_order(&v->task), r->store->blobs_dirfd, v->path,
                O_RDONLY | O_NOFOLLOW | O_CLOEXEC | (v->direct ? O_DIRECT : 0), 0);
}

static void begin(struct verify *v)
{
    v->task.ring->verifying = v;
    v->direct = true;
    open_file(v);
}

static void next_in_line(struct store_ring *r)
{
    struct verify *v = r->verify_first;
    r->verifying = NULL;
    if (!v)
        return;
    r->verify_first = v->next;
    if (!r->verify_first)
        r->verify_last = &r->verify_first;
    begin(v);
}

/* Nothing is under way for it any more. */
static void tell(struct verify *v, int res)
{
    struct store_ring *r = v->task.ring;
    *v->from = v->older;
    if (v->older)
        v->older->from = v->from;
    if (v->suspect && res == -EBADMSG && r->listener.damaged)
        r->listener.damaged(r->listener.arg, &v->digest, v->file_size);
    verify_done *done = v->done;
    void *arg = v->arg;
    uint64_t bytes = v->at;
    pool_give(&r->verifies, v);
    if (done)
        done(arg, res, bytes);
}

static void end(struct verify *v)
{
    next_in_line(v->task.ring);
    tell(v, v->res);
}

static void finish(struct verify *v, int res)
{
    v->res = res;
    if (v->fd < 0) {
        end(v);
        return;
    }
    v->state = VERIFY_CLOSING;
    task_order_close(&v->task, v->fd);
    v->fd = -1;
}

static void fail(struct verify *v, int err)
{
    finish(v, err == -ENOENT ? err : store_error(v->task.ring, err));
}

static struct verify *start(struct store_ring *r, const struct digest *d, uint64_t size)
{
    struct verify *v = pool_take(&r->verifies);
    if (!v)
        return NULL;
    *v = (struct verify){.digest = *d, .size = size, .fd = -1, .state = VERIFY_IN_LINE};
    task_init(&v->task, r, step);
    blob_path(d, v->path);
    digest_format(d, v->name);
    v->name[6] = '-'; /* a name without a colon can be copied everywhere */
    v->older = r->verify_list;
    v->from = &r->verify_list;
    if (v->older)
        v->older->from = &v->older;
    r->verify_list = v;
    if (r->verifying) {
        *r->verify_last = v;
        r->verify_last = &v->next;
    } else {
        begin(v);
    }
    return v;
}

int blob_verify(struct store_ring *r, const struct digest *d, uint64_t size, verify_done *done, void *arg,
                struct verify **out)
{
    struct verify *v = start(r, d, size);
    if (!v)
        return -EAGAIN;
    v->done = done;
    v->arg = arg;
    *out = v;
    return 0;
}

static void tell_others(struct store_ring *r, const struct digest *d)
{
    if (r->listener.condemned)
        r->listener.condemned(d);
}

/* Who found it looks elsewhere for it at once: before the verification has begun. */
void store_suspect(struct store_ring *r, const struct digest *d)
{
    tell_others(r, d);
    for (struct verify *v = r->verify_list; v; v = v->older)
        if (digest_equal(&v->digest, d))
            return;
    struct verify *v = start(r, d, BLOB_SIZE_UNKNOWN);
    if (v) /* else the next reader finds it, too */
        v->suspect = true;
}

static void leave_line(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    struct verify **at = &r->verify_first;
    while (*at != v)
        at = &(*at)->next;
    *at = v->next;
    if (!v->next)
        r->verify_last = at;
}

void verify_stop(struct verify *v)
{
    v->stopped = true;
    if (v->state == VERIFY_IN_LINE) {
        leave_line(v);
        tell(v, -ECANCELED);
    } else if (v->state == VERIFY_WAITING) {
        timer_clear(&v->timer);
        finish(v, -ECANCELED);
    }
}

/* ------------------------------------------------------------------ damaged */

static void hold(struct verify *v);

static void held(struct timer *t, uint64_t now_ms)
{
    (void)now_ms;
    hold(container_of(t, struct verify, timer));
}

static void order_look(struct verify *v, enum verify_state state)
{
    struct store_ring *r = v->task.ring;
    int flags = AT_SYMLINK_NOFOLLOW | (r->store->shared ? AT_STATX_FORCE_SYNC : 0);
    v->state = (uint8_t)state;
    if (state == VERIFY_LOOKING)
        loop_statx(r->loop, task_order(&v->task), r->store->blobs_dirfd, v->path, flags, STATX_INO, &v->look);
    else
        loop_statx(r->loop, task_order(&v->task), r->store->damaged_dirfd, v->name, flags, STATX_INO,
                   &v->look);
}

/* From here on nobody puts a file into its place until it was moved. */
static void hold(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    v->state = VERIFY_HOLDING;
    if (!place_close(r->store, &v->digest)) {
        v->timer.fire = held;
        timer_set(r->wheel, &v->timer, loop_now_ms(r->loop) + HOLD_MS);
        return;
    }
    order_look(v, VERIFY_LOOKING);
}

static void damaged(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    store_condemn(r->store, &v->digest);
    tell_others(r, &v->digest);
    store_count(r, CTR_BLOBS_DAMAGED);
    hold(v);
}

/* Whether what was looked at is the file that was read. */
static bool is_same(const struct verify *v)
{
    return v->task.res == 0 && v->look.stx_ino == v->inode &&
           makedev(v->look.stx_dev_major, v->look.stx_dev_minor) == v->device;
}

static void looked(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    if (is_same(v)) {
        v->state = VERIFY_MOVING;
        loop_renameat(r->loop, task_order(&v->task), r->store->blobs_dirfd, v->path, r->store->damaged_dirfd,
                      v->name);
        return;
    }
    place_open(r->store, &v->digest);
    if (v->task.res == 0 || v->task.res == -ENOENT)
        store_pardon(r->store, &v->digest);
    finish(v, v->task.res == 0 ? 0 : v->task.res == -ENOENT ? -ENOENT : -EBADMSG);
}

static void put_away(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    place_open(r->store, &v->digest);
    store_pardon(r->store, &v->digest);
    v->state = VERIFY_SYNCING;
    loop_fsync(r->loop, task_order(&v->task), r->store->damaged_dirfd);
}

static void moved(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    int res = v->task.res;
    if (res == 0 && r->store->shared) {
        order_look(v, VERIFY_LOOKING_AGAIN);
    } else if (res == 0) {
        put_away(v);
    } else {
        place_open(r->store, &v->digest);
        (void)store_error(r, res);
        finish(v, -EBADMSG);
    }
}

static void looked_again(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    /* Who cannot look leaves it away: what is in its place now may be a good one. */
    if (v->task.res < 0 || is_same(v)) {
        put_away(v);
        return;
    }
    v->state = VERIFY_RESTORING;
    loop_renameat(r->loop, task_order(&v->task), r->store->damaged_dirfd, v->name, r->store->blobs_dirfd,
                  v->path);
}

/* Another node has put a good file into its place meanwhile. */
static void restored(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    int res = v->task.res;
    place_open(r->store, &v->digest);
    store_pardon(r->store, &v->digest);
    finish(v, res < 0 && res != -ENOENT ? store_error(r, res) : 0);
}

/* ------------------------------------------------------------------ reading */

static void opened(struct verify *v)
{
    struct stat st;
    int res = v->task.res;
    if (res == -EINVAL && v->direct) { /* a file system that cannot read past its cache */
        v->direct = false;
        open_file(v);
        return;
    }
    if (res < 0) {
        fail(v, res);
        return;
    }
    v->fd = res;
    if (fstat(v->fd, &st) || !S_ISREG(st.st_mode)) {
        fail(v, -EIO);
        return;
    }
    v->file_size = (uint64_t)st.st_size;
    v->device = st.st_dev;
    v->inode = st.st_ino;
    hash_begin(&v->hash, v->digest.alg);
    if (v->size != BLOB_SIZE_UNKNOWN && v->size != v->file_size)
        damaged(v);
    else
        read_on(v);
}

static void order_read(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    v->state = VERIFY_READING;
    loop_read(r->loop, task_order(&v->task), v->fd, r->verify_piece, VERIFY_PIECE, v->at);
}

static void waited(struct timer *t, uint64_t now_ms)
{
    (void)now_ms;
    order_read(container_of(t, struct verify, timer));
}

static void compare(struct verify *v)
{
    struct digest is;
    hash_end(&v->hash, &is);
    if (digest_equal(&is, &v->digest)) {
        store_count(v->task.ring, CTR_BLOBS_VERIFIED);
        finish(v, 0);
    } else {
        damaged(v);
    }
}

static void read_on(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    if (v->at >= v->file_size) {
        compare(v);
        return;
    }
    if (v->stopped) {
        finish(v, -ECANCELED);
        return;
    }
    uint64_t now_ms = loop_now_ms(r->loop), left = v->file_size - v->at;
    uint64_t at_ms = store_pace(r->store, left < VERIFY_PIECE ? left : VERIFY_PIECE, now_ms);
    if (at_ms <= now_ms) {
        order_read(v);
        return;
    }
    v->state = VERIFY_WAITING;
    v->timer.fire = waited;
    timer_set(r->wheel, &v->timer, at_ms);
}

static void read_some(struct verify *v)
{
    struct store_ring *r = v->task.ring;
    int res = v->task.res;
    if (res == -EINVAL && v->direct) {
        v->direct = false; /* one that says so only now: from the beginning */
        v->at = 0;
        v->state = VERIFY_REOPENING;
        task_order_close(&v->task, v->fd);
        v->fd = -1;
        return;
    }
    if (res < 0) {
        fail(v, res);
        return;
    }
    if (res == 0) { /* it has become shorter */
        damaged(v);
        return;
    }
    _Atomic uint64_t *bytes = &r->counters->counter[CTR_VERIFIED_BYTES];
    atomic_store_explicit(bytes, atomic_load_explicit(bytes, memory_order_relaxed) + (uint64_t)res,
                          memory_order_relaxed);
    hash_add(&v->hash, r->verify_piece, (size_t)res);
    v->at += (uint64_t)res;
    read_on(v);
}

static void step(struct task *t)
{
    struct verify *v = container_of(t, struct verify, task);
    switch ((enum verify_state)v->state) {
    case VERIFY_OPENING:
        opened(v);
        break;
    case VERIFY_READING:
        read_some(v);
        break;
    case VERIFY_REOPENING:
        open_file(v);
        break;
    case VERIFY_LOOKING:
        looked(v);
        break;
    case VERIFY_MOVING:
        moved(v);
        break;
    case VERIFY_LOOKING_AGAIN:
        looked_again(v);
        break;
    case VERIFY_RESTORING:
        restored(v);
        break;
    case VERIFY_SYNCING: /* not synced: after a power cut it is found again */
        finish(v, -EBADMSG);
        break;
    case VERIFY_CLOSING:
        end(v);
        break;
    case VERIFY_IN_LINE:
    case VERIFY_WAITING:
    case VERIFY_HOLDING:
        IMPOSSIBLE("a completion for a verification that ordered nothing");
    }
}

/* ------------------------------------------------------------------ a ring's part */

void store_ring_stop(struct store_ring *r)
{
    for (struct verify *v = r->verify_list, *older; v; v = older) {
        older = v->older;
        verify_stop(v);
    }
}

int verifies_init(struct store_ring *r)
{
    int err = pool_init(&r->verify_pieces, VERIFY_PIECE, 1);
    if (err)
        return err;
    r->verify_piece = pool_take(&r->verify_pieces);
    return pool_init(&r->verifies, sizeof(struct verify), VERIFIES);
}

void verifies_fini(struct store_ring *r)
{
    pool_fini(&r->verifies);
    pool_fini(&r->verify_pieces);
}
