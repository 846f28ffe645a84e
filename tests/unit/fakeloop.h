/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A loop for tests: the orders for files of loop.h, carried out on real files, one after the other, in an
 * order that a seed decides, and late: between the order and its execution any number of turns may pass. The
 * n-th execution can be made to fail. Include it in one file of a program; it takes the place of
 * dataplane/loop.c there.
 *
 * It also keeps the books of durability: which inodes have bytes, which folders have names that no fsync has
 * seen.
 */
#ifndef FL_TEST_FAKELOOP_H
#define FL_TEST_FAKELOOP_H

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "dataplane/loop.h"

enum fake_kind {
    FAKE_OPENAT,
    FAKE_CLOSE,
    FAKE_READ,
    FAKE_WRITE,
    FAKE_FSYNC,
    FAKE_RENAMEAT,
    FAKE_UNLINKAT,
    FAKE_SYNC_RANGE,
    FAKE_STATX,
    FAKE_KINDS,
};

/* What the chosen execution does instead. */
enum fake_fault {
    FAULT_NONE,
    FAULT_EIO,    /* nothing, and -EIO */
    FAULT_ENOSPC, /* nothing, and -ENOSPC; only what needs room: openat with O_CREAT, write, fsync, renameat
                   */
    FAULT_EMFILE, /* openat alone */
    FAULT_SHORT,  /* read, write: half of it */
    FAULT_LIE,    /* all of it, and -EIO (but openat: nothing) */
    FAULTS,
};

enum { FAKE_PENDING_MAX = 8192, FAKE_BOOKS_MAX = 4096 };

struct fake_order {
    struct op *op;
    enum fake_kind kind;
    int fd, fd2, flags;
    mode_t mode;
    const char *path, *path2;
    void *buf;
    size_t len;
    uint64_t offset;
};

struct loop {
    uint64_t seed, now_ms;
    struct fake_order pending[FAKE_PENDING_MAX];
    unsigned pending_count;
    uint64_t executed, count[FAKE_KINDS];
    enum fake_fault fault;
    uint64_t fault_at; /* which execution from now, 1: the next; 0: none */
    bool fault_hit;
    bool hold[FAKE_KINDS]; /* orders of this kind are not carried out now */
    int broken_fsync;      /* every fsync fails with it */
    ino_t unsynced[FAKE_BOOKS_MAX];
    unsigned unsynced_count;
    unsigned renamed_unsynced; /* files that were renamed with bytes that no fsync has seen */
    unsigned fds_open;
    unsigned removed_closed; /* descriptors, by loop_close_removed */
    _Atomic unsigned woken;  /* by other threads */
};

static inline struct loop *fake_new(uint64_t seed)
{
    struct loop *l = calloc(1, sizeof(*l));
    CHECK(l);
    l->seed = seed * 2 + 1;
    l->now_ms = loop_clock_us() / 1000;
    return l;
}

static inline uint32_t fake_random(struct loop *l)
{
    l->seed ^= l->seed << 13;
    l->seed ^= l->seed >> 7;
    l->seed ^= l->seed << 17;
    return (uint32_t)(l->seed >> 16);
}

static inline void fake_fault(struct loop *l, enum fake_fault fault, uint64_t at)
{
    l->fault = fault;
    l->fault_at = at;
    l->fault_hit = false;
}

/* From now on all goes well; whether the fault was hit is remembered. */
static inline void fake_fault_end(struct loop *l)
{
    l->fault = FAULT_NONE;
    l->fault_at = 0;
}

/* ------------------------------------------------------------------ books of durability */

static inline ino_t fake_inode(int fd)
{
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    return st.st_ino;
}

static inline void fake_dirty(struct loop *l, ino_t ino)
{
    for (unsigned i = 0; i < l->unsynced_count; i++)
        if (l->unsynced[i] == ino)
            return;
    CHECK(l->unsynced_count < FAKE_BOOKS_MAX);
    l->unsynced[l->unsynced_count++] = ino;
}

static inline bool fake_clean(struct loop *l, ino_t ino)
{
    for (unsigned i = 0; i < l->unsynced_count; i++) {
        if (l->unsynced[i] == ino) {
            l->unsynced[i] = l->unsynced[--l->unsynced_count];
            return true;
        }
    }
    return false;
}

/* Whether a path's inode has bytes or names that no fsync has seen. */
static inline bool fake_unsynced(const struct loop *l, int dirfd, const char *path)
{
    struct stat st;
    CHECK(fstatat(dirfd, path, &st, 0) == 0);
    for (unsigned i = 0; i < l->unsynced_count; i++)
        if (l->unsynced[i] == st.st_ino)
            return true;
    return false;
}

/* ------------------------------------------------------------------ execution */

static inline bool fake_fault_fits(const struct loop *l, const struct fake_order *o)
{
    switch (l->fault) {
    case FAULT_NONE:
    case FAULTS:
        return false;
    case FAULT_EMFILE:
        return o->kind == FAKE_OPENAT;
    case FAULT_SHORT:
        return (o->kind == FAKE_READ || o->kind == FAKE_WRITE) && o->len > 1;
    case FAULT_ENOSPC:
        return (o->kind == FAKE_OPENAT && (o->flags & O_CREAT)) || o->kind == FAKE_WRITE ||
               o->kind == FAKE_FSYNC || o->kind == FAKE_RENAMEAT;
    case FAULT_EIO:
    case FAULT_LIE:
        return true;
    }
    return false;
}

static inline int fake_renameat(struct loop *l, const struct fake_order *o)
{
    struct stat st;
    char folder[256];
    if (fstatat(o->fd, o->path, &st, 0))
        return -errno;
    if (renameat(o->fd, o->path, o->fd2, o->path2))
        return -errno;
    if (o->fd == o->fd2) /* of a file that is not to be durable yet */
        return 0;
    for (unsigned i = 0; i < l->unsynced_count; i++)
        l->renamed_unsynced += l->unsynced[i] == st.st_ino;
    (void)snprintf(folder, sizeof(folder), "./%s", o->path2);
    *strrchr(folder, '/') = '\0';
    CHECK(fstatat(o->fd2, folder, &st, 0) == 0);
    fake_dirty(l, st.st_ino);
    return 0;
}

static inline int fake_execute(struct loop *l, const struct fake_order *o)
{
    ssize_t n;
    switch (o->kind) {
    case FAKE_OPENAT:
        n = openat(o->fd, o->path, o->flags, o->mode);
        l->fds_open += n >= 0;
        return n < 0 ? -errno : (int)n;
    case FAKE_CLOSE:
        l->fds_open--;
        return close(o->fd) ? -errno : 0;
    case FAKE_READ:
        n = pread(o->fd, o->buf, o->len, (off_t)o->offset);
        return n < 0 ? -errno : (int)n;
    case FAKE_WRITE:
        n = pwrite(o->fd, o->buf, o->len, (off_t)o->offset);
        fake_dirty(l, fake_inode(o->fd));
        return n < 0 ? -errno : (int)n;
    case FAKE_FSYNC:
        if (l->broken_fsync)
            return l->broken_fsync;
        fake_clean(l, fake_inode(o->fd));
        return 0;
    case FAKE_RENAMEAT:
        return fake_renameat(l, o);
    case FAKE_UNLINKAT:
        return unlinkat(o->fd, o->path, 0) ? -errno : 0;
    case FAKE_SYNC_RANGE:
        return sync_file_range(o->fd, (off_t)o->offset, (off_t)o->len, SYNC_FILE_RANGE_WRITE) ? -errno : 0;
    case FAKE_STATX:
        return statx(o->fd, o->path, o->flags, (unsigned)o->len, o->buf) ? -errno : 0;
    case FAKE_KINDS:
        break;
    }
    return -EINVAL;
}

static inline int fake_execute_wrong(struct loop *l, struct fake_order *o)
{
    switch (l->fault) {
    case FAULT_ENOSPC:
        return -ENOSPC;
    case FAULT_EMFILE:
        return -EMFILE;
    case FAULT_SHORT:
        o->len /= 2;
        return fake_execute(l, o);
    case FAULT_LIE:
        if (o->kind != FAKE_OPENAT)
            (void)fake_execute(l, o);
        return -EIO;
    default:
        if (o->kind == FAKE_CLOSE) /* the descriptor is gone in any case */
            (void)fake_execute(l, o);
        return -EIO;
    }
}

static inline void fake_complete(struct loop *l, unsigned at)
{
    struct fake_order o = l->pending[at];
    l->pending[at] = l->pending[--l->pending_count];
    l->executed++;
    l->count[o.kind]++;
    bool wrong = l->fault_at && fake_fault_fits(l, &o) && --l->fault_at == 0;
    l->fault_hit |= wrong;
    struct event ev = {.now_ms = l->now_ms, .res = wrong ? fake_execute_wrong(l, &o) : fake_execute(l, &o)};
    o.op->inflight = false;
    o.op->done(o.op, &ev);
}

static inline void fake_order(struct loop *l, struct fake_order o)
{
    CHECK(l->pending_count < FAKE_PENDING_MAX && !o.op->inflight);
    o.op->inflight = true;
    l->pending[l->pending_count++] = o;
}

/* Carries out some of what is ordered, in any order. Returns how many; 0: there is nothing, or it is held. */
static inline int fake_turn(struct loop *l)
{
    unsigned tries = 1 + fake_random(l) % 4;
    int done = 0;
    for (unsigned i = 0; i < tries && l->pending_count; i++) {
        unsigned at = fake_random(l) % l->pending_count, left = l->pending_count;
        while (left-- && l->hold[l->pending[at].kind])
            at = (at + 1) % l->pending_count;
        if (l->hold[l->pending[at].kind])
            break;
        fake_complete(l, at);
        done++;
    }
    return done;
}

static inline void fake_run(struct loop *l)
{
    while (fake_turn(l))
        ;
}

/* ------------------------------------------------------------------ loop.h */

uint64_t loop_clock_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t loop_now_ms(const struct loop *loop)
{
    return loop->now_ms;
}

void loop_wake(struct loop *loop)
{
    atomic_fetch_add(&loop->woken, 1);
}

void loop_openat(struct loop *loop, struct op *op, int dirfd, const char *path, int flags, mode_t mode)
{
    CHECK((flags & O_CLOEXEC) && (flags & O_NOFOLLOW));
    fake_order(loop,
               (struct fake_order){
                   .op = op, .kind = FAKE_OPENAT, .fd = dirfd, .path = path, .flags = flags, .mode = mode});
}

void loop_close(struct loop *loop, struct op *op, int fd)
{
    fake_order(loop, (struct fake_order){.op = op, .kind = FAKE_CLOSE, .fd = fd});
}

void loop_close_removed(struct loop *loop, struct op *op, int fd)
{
    loop->removed_closed++;
    loop_close(loop, op, fd);
}

void loop_read(struct loop *loop, struct op *op, int fd, void *buf, size_t len, uint64_t offset)
{
    fake_order(loop, (struct fake_order){
                         .op = op, .kind = FAKE_READ, .fd = fd, .buf = buf, .len = len, .offset = offset});
}

void loop_write(struct loop *loop, struct op *op, int fd, const void *buf, size_t len, uint64_t offset)
{
    fake_order(loop, (struct fake_order){.op = op,
                                         .kind = FAKE_WRITE,
                                         .fd = fd,
                                         .buf = (void *)(uintptr_t)buf,
                                         .len = len,
                                         .offset = offset});
}

void loop_fsync(struct loop *loop, struct op *op, int fd)
{
    fake_order(loop, (struct fake_order){.op = op, .kind = FAKE_FSYNC, .fd = fd});
}

void loop_sync_range(struct loop *loop, struct op *op, int fd, uint64_t offset, size_t len)
{
    fake_order(
        loop, (struct fake_order){.op = op, .kind = FAKE_SYNC_RANGE, .fd = fd, .len = len, .offset = offset});
}

void loop_renameat(struct loop *loop, struct op *op, int from_dirfd, const char *from, int to_dirfd,
                   const char *to)
{
    fake_order(
        loop,
        (struct fake_order){
            .op = op, .kind = FAKE_RENAMEAT, .fd = from_dirfd, .path = from, .fd2 = to_dirfd, .path2 = to});
}

void loop_unlinkat(struct loop *loop, struct op *op, int dirfd, const char *path)
{
    fake_order(loop, (struct fake_order){.op = op, .kind = FAKE_UNLINKAT, .fd = dirfd, .path = path});
}

void loop_statx(struct loop *loop, struct op *op, int dirfd, const char *path, int flags, unsigned mask,
                struct statx *out)
{
    fake_order(loop, (struct fake_order){.op = op,
                                         .kind = FAKE_STATX,
                                         .fd = dirfd,
                                         .path = path,
                                         .flags = flags,
                                         .len = mask,
                                         .buf = out});
}

#endif
