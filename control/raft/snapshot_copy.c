/* SPDX-License-Identifier: Apache-2.0 */
/* Two threads and a pipe between them: LMDB walks over its pages in one, the other one hashes and writes. */
#include "snapshot_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "check.h"

enum {
    PIECE_BYTES = 1 << 20,
    DIRTY_BYTES = 8 << 20, /* are given to the disk together; twice as much at most is not on it yet */
    NICENESS = 10,
};

struct copy {
    const struct file_ops *ops;
    struct db *db;
    enum db_file file;
    int fd, from, to; /* the file; the ends of the pipe */
    EVP_MD_CTX *md;
    uint8_t *buf;
    uint64_t bytes, flushing, flushed; /* written; given to the disk from .. to */
    int rc, walk_rc;
};

static void *walk(void *arg)
{
    struct copy *c = arg;
    c->walk_rc = db_copy(c->db, c->file, c->to);
    close(c->to);
    return NULL;
}

/* Waits for what was given to the disk before, and gives it what came since. No promise: sync makes it one.
 */
static void write_back(struct copy *c)
{
    const unsigned wait = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (c->bytes - c->flushed < DIRTY_BYTES)
        return;
    if (c->flushed > c->flushing)
        (void)sync_file_range(c->fd, (off_t)c->flushing, (off_t)(c->flushed - c->flushing), wait);
    (void)sync_file_range(c->fd, (off_t)c->flushed, (off_t)(c->bytes - c->flushed), SYNC_FILE_RANGE_WRITE);
    c->flushing = c->flushed;
    c->flushed = c->bytes;
}

static int take(struct copy *c, size_t len)
{
    if (EVP_DigestUpdate(c->md, c->buf, len) != 1)
        return -ENOMEM;
    int rc = file_write_all(c->ops, c->fd, c->buf, len, (off_t)c->bytes);
    c->bytes += len;
    if (rc == 0)
        write_back(c);
    return rc;
}

/* To the end, also when nothing can be written any more: LMDB is not left alone with a broken pipe. */
static int take_all(struct copy *c)
{
    int rc = 0;
    for (;;) {
        ssize_t n = read(c->from, c->buf, PIECE_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return rc ? rc : n < 0 ? -errno : 0;
        if (rc == 0)
            rc = take(c, (size_t)n);
    }
}

static int run_both(struct copy *c)
{
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, walk, c);
    if (rc) {
        close(c->to);
        close(c->from);
        return -rc;
    }
    rc = take_all(c);
    pthread_join(thread, NULL);
    close(c->from);
    return c->walk_rc ? c->walk_rc : rc;
}

/* A thread of its own, as who has become nice may not be allowed to stop being it. */
static void *run(void *arg)
{
    struct copy *c = arg;
    int ends[2];
    (void)setpriority(PRIO_PROCESS, 0, NICENESS); /* this thread, and what it starts */
    c->rc = pipe2(ends, O_CLOEXEC) ? -errno : 0;
    if (c->rc == 0) {
        c->from = ends[0];
        c->to = ends[1];
        (void)fcntl(c->from, F_SETPIPE_SZ, PIECE_BYTES);
        c->rc = run_both(c);
    }
    if (c->rc == 0)
        c->rc = c->ops->sync(c->ops->arg, c->fd);
    (void)posix_fadvise(c->fd, 0, 0, POSIX_FADV_DONTNEED);
    return NULL;
}

int snapshot_copy(const struct file_ops *ops, struct db *db, enum db_file file, int fd, uint8_t sha256[32],
                  uint64_t *bytes)
{
    struct copy c = {.ops = ops, .db = db, .file = file, .fd = fd};
    pthread_t thread;
    c.md = EVP_MD_CTX_new();
    c.buf = malloc(PIECE_BYTES);
    int rc = c.md && c.buf && EVP_DigestInit_ex(c.md, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
    if (rc == 0)
        rc = -pthread_create(&thread, NULL, run, &c);
    if (rc == 0)
        pthread_join(thread, NULL);
    if (rc == 0)
        rc = c.rc;
    if (rc == 0 && EVP_DigestFinal_ex(c.md, sha256, NULL) != 1)
        rc = -ENOMEM;
    *bytes = c.bytes;
    free(c.buf);
    EVP_MD_CTX_free(c.md);
    return rc;
}
