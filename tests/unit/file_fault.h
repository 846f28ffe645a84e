/* SPDX-License-Identifier: Apache-2.0 */
/* file_ops that fail on demand: the n-th call from now of the chosen kinds gives `error`. */
#ifndef FL_FILE_FAULT_H
#define FL_FILE_FAULT_H

#include <errno.h>

#include "control/raft/file_ops.h"

enum fault_kind {
    FAULT_WRITE = 1,
    FAULT_DATASYNC = 2,
    FAULT_SYNC = 4,
    FAULT_ALLOCATE = 8,
    FAULT_TRUNCATE = 16,
    FAULT_RENAME = 32,
    FAULT_UNLINK = 64,
    FAULT_EXCHANGE = 128,
    FAULT_ANY = 255
};

struct file_fault {
    struct file_ops ops;
    unsigned kinds;
    int countdown;  /* fails when it reaches 0; -1: never */
    bool for_ever;  /* every later call of the kinds fails too */
    int error;      /* -errno; 0 for a short write */
    unsigned calls; /* of the chosen kinds */
};

static inline bool fault_now(struct file_fault *f, enum fault_kind kind)
{
    if (!(f->kinds & kind))
        return false;
    f->calls++;
    if (f->countdown < 0)
        return false;
    if (f->countdown == 0)
        return f->for_ever || (f->countdown = -1);
    f->countdown--;
    return false;
}

static inline ssize_t fault_pwrite(void *arg, int fd, const void *data, size_t len, off_t at)
{
    struct file_fault *f = arg;
    if (!fault_now(f, FAULT_WRITE))
        return file_ops_system.pwrite(NULL, fd, data, len, at);
    /* Half of it reaches the file, as a real disk does it. */
    ssize_t n = file_ops_system.pwrite(NULL, fd, data, (len + 1) / 2, at);
    return f->error ? f->error : n;
}

static inline int fault_datasync(void *arg, int fd)
{
    struct file_fault *f = arg;
    return fault_now(f, FAULT_DATASYNC) ? f->error : file_ops_system.datasync(NULL, fd);
}

static inline int fault_sync(void *arg, int fd)
{
    struct file_fault *f = arg;
    return fault_now(f, FAULT_SYNC) ? f->error : file_ops_system.sync(NULL, fd);
}

static inline int fault_allocate(void *arg, int fd, off_t bytes)
{
    struct file_fault *f = arg;
    return fault_now(f, FAULT_ALLOCATE) ? f->error : file_ops_system.allocate(NULL, fd, bytes);
}

static inline int fault_truncate(void *arg, int fd, off_t bytes)
{
    struct file_fault *f = arg;
    return fault_now(f, FAULT_TRUNCATE) ? f->error : file_ops_system.truncate(NULL, fd, bytes);
}

static inline int fault_rename(void *arg, int dir_fd, const char *from, const char *to)
{
    struct file_fault *f = arg;
    return fault_now(f, FAULT_RENAME) ? f->error : file_ops_system.rename(NULL, dir_fd, from, to);
}

static inline int fault_exchange(void *arg, int dir_fd, const char *one, const char *other)
{
    struct file_fault *f = arg;
    return fault_now(f, FAULT_EXCHANGE) ? f->error : file_ops_system.exchange(NULL, dir_fd, one, other);
}

static inline int fault_unlink(void *arg, int dir_fd, const char *name)
{
    struct file_fault *f = arg;
    return fault_now(f, FAULT_UNLINK) ? f->error : file_ops_system.unlink(NULL, dir_fd, name);
}

static inline void file_fault_init(struct file_fault *f)
{
    *f = (struct file_fault){.ops = {fault_pwrite, fault_datasync, fault_sync, fault_allocate, fault_truncate,
                                     fault_rename, fault_exchange, fault_unlink, f},
                             .countdown = -1};
}

static inline void file_fault_arm(struct file_fault *f, unsigned kinds, int nth, int error, bool for_ever)
{
    f->kinds = kinds;
    f->countdown = nth;
    f->error = error;
    f->for_ever = for_ever;
    f->calls = 0;
}

#endif
