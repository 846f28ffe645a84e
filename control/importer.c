/* SPDX-License-Identifier: Apache-2.0 */
#include "importer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <openssl/evp.h>

#include "check.h"
#include "control/folders.h"
#include "control/pool.h"

enum { PIECE_BYTES = 1 << 20, NAME_BYTES = DIGEST_TEXT_MAX + 8, PROC_NAME_BYTES = 32 };

struct importer {
    uv_loop_t *loop;
    const struct folders *folders;
    const struct dataplane_user *user;
    bool running,
        cancelled; /* cancelled is set by the loop, read by the thread: a stale look costs a piece */
    uv_work_t work;
    struct digest digest;
    char path[IMPORT_PATH_MAX];
    struct import_result result;
    import_done done;
    void *done_arg;
    void (*stopped)(void *arg);
    void *stopped_arg;
};

/* One blob on its way in. */
struct import {
    const struct folders *folders;
    const struct dataplane_user *user;
    const struct digest *digest;
    const char *path;
    const bool *cancelled;
    struct stat st;
    int fd;
    char name[NAME_BYTES];  /* under blobs/ */
    char fresh[NAME_BYTES]; /* under uploads/ */
    struct import_result *out;
};

static int fail(struct import *in, int rc, const char *what)
{
    in->out->rc = rc;
    snprintf(in->out->error, sizeof(in->out->error), "%.300s: %s", what, strerror(-rc));
    return rc;
}

static bool is_cancelled(const struct import *in)
{
    return in->cancelled && __atomic_load_n(in->cancelled, __ATOMIC_RELAXED);
}

/* Hashes what `from` has, and writes it to `copy`, if that is not -1. */
static int pass(struct import *in, EVP_MD_CTX *ctx, int from, int copy, uint8_t *buffer)
{
    uint64_t at = 0;
    ssize_t n;
    while ((n = pread(from, buffer, PIECE_BYTES, (off_t)at)) > 0) {
        if (!EVP_DigestUpdate(ctx, buffer, (size_t)n))
            return -EIO;
        for (ssize_t put = 0, w; copy >= 0 && put < n; put += w)
            if ((w = pwrite(copy, buffer + put, (size_t)(n - put), (off_t)at + put)) <= 0)
                return w < 0 ? -errno : -EIO;
        at += (uint64_t)n;
        if (is_cancelled(in))
            return -ECANCELED;
    }
    in->out->size = at;
    return n < 0 ? -errno : 0;
}

static int hash(struct import *in, int from, int copy)
{
    uint8_t bytes[EVP_MAX_MD_SIZE], *buffer = malloc(PIECE_BYTES);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    CHECK(buffer && ctx);
    int rc = EVP_DigestInit_ex(ctx, in->digest->alg == DIGEST_SHA512 ? EVP_sha512() : EVP_sha256(), NULL)
                 ? 0
                 : -EIO;
    if (rc == 0)
        rc = pass(in, ctx, from, copy, buffer);
    if (rc == 0 && !EVP_DigestFinal_ex(ctx, bytes, NULL))
        rc = -EIO;
    if (rc == 0 && memcmp(bytes, in->digest->bytes, digest_size(in->digest->alg)) != 0)
        rc = -EBADMSG;
    EVP_MD_CTX_free(ctx);
    free(buffer);
    if (rc)
        fail(in, rc, in->path);
    if (rc == -EBADMSG)
        snprintf(in->out->error, sizeof(in->out->error),
                 "%.300s is damaged: its bytes are not those of its digest", in->path);
    return rc;
}

static int open_source(struct import *in)
{
    in->fd = open(in->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (in->fd < 0 || fstat(in->fd, &in->st))
        return fail(in, -errno, in->path);
    if (!S_ISREG(in->st.st_mode))
        return fail(in, -EINVAL, in->path);
    return 0;
}

/* Whether the data plane can read it as it is, and nobody but its owner change it. */
static bool may_be_linked(const struct import *in)
{
    const struct dataplane_user *user = in->user;
    bool readable = !user->change || (in->st.st_mode & S_IROTH) ||
                    (in->st.st_uid == user->uid && in->st.st_mode & S_IRUSR);
    return readable && !(in->st.st_mode & (S_IWGRP | S_IWOTH));
}

/* A file of the store's own under uploads/: a clone, or else (and only if may_copy) a copy. */
static int make_own(struct import *in, bool may_copy)
{
    int fd = openat(in->folders->uploads_fd, in->fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd < 0)
        return fail(in, -errno, "a file in the store");
    bool cloned = ioctl(fd, FICLONE, in->fd) == 0;
    in->out->way = cloned ? IMPORT_CLONE : IMPORT_COPY;
    int rc = cloned ? hash(in, fd, -1) : may_copy ? hash(in, in->fd, fd) : -EOPNOTSUPP;
    if (rc == 0 && ((in->user->change && fchown(fd, in->user->uid, in->user->gid)) || fsync(fd)))
        rc = fail(in, -errno, "the store");
    close(fd);
    if (rc == -EOPNOTSUPP)
        unlinkat(in->folders->uploads_fd, in->fresh, 0);
    return rc;
}

/* The source's own inode under uploads/. -EOPNOTSUPP: not this file, for whatever reason (other mounts of one
 * file system, too many links, protected_hardlinks). Whoever wrote it may not have synced it. */
static int make_link(struct import *in)
{
    char proc[PROC_NAME_BYTES];
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", in->fd);
    if (linkat(AT_FDCWD, proc, in->folders->uploads_fd, in->fresh, AT_SYMLINK_FOLLOW))
        return -EOPNOTSUPP;
    in->out->way = IMPORT_LINK;
    int rc = hash(in, in->fd, -1);
    if (rc == 0 && fsync(in->fd))
        rc = fail(in, -errno, in->path);
    return rc;
}

/* uploads/import.X becomes blobs/..., in the place of what is damaged there. */
static int publish(struct import *in)
{
    int blobs = in->folders->blobs_fd;
    if (renameat(in->folders->uploads_fd, in->fresh, blobs, in->name))
        return fail(in, -errno, "the store");
    char folder[NAME_BYTES];
    snprintf(folder, sizeof(folder), "%s", in->name);
    *strrchr(folder, '/') = '\0';
    int fd = openat(blobs, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return rc ? fail(in, rc, "the store's folder") : 0;
}

static void names_make(struct import *in)
{
    char hex[2 * DIGEST_BYTES_MAX + 1];
    digest_hex(in->digest, hex);
    snprintf(in->name, sizeof(in->name), "%s/%.2s/%s", digest_alg_name(in->digest->alg), hex, hex);
    snprintf(in->fresh, sizeof(in->fresh), "import.%.32s", hex);
}

/* What is in the store already under this name is good if it has the size; the scrub looks at its bytes. */
static bool is_there(const struct import *in)
{
    struct stat st;
    return fstatat(in->folders->blobs_fd, in->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           st.st_size == in->st.st_size;
}

static int take(struct import *in)
{
    int rc = open_source(in);
    if (rc)
        return rc;
    in->out->size = (uint64_t)in->st.st_size;
    if (!in->folders->shared && is_there(in)) { /* else another node may be removing it: store/remove.c */
        /* Its inode has changed: so the garbage collection leaves it alone until it is linked. */
        static const struct timespec now[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
        in->out->way = IMPORT_THERE;
        return utimensat(in->folders->blobs_fd, in->name, now, AT_SYMLINK_NOFOLLOW)
                   ? fail(in, -errno, "the store")
                   : 0;
    }
    unlinkat(in->folders->uploads_fd, in->fresh, 0); /* of one that was cut off */
    rc = make_own(in, false);
    if (rc == -EOPNOTSUPP && may_be_linked(in))
        rc = make_link(in);
    if (rc == -EOPNOTSUPP)
        rc = make_own(in, true);
    return rc ? rc : publish(in);
}

void import_blob(const struct folders *folders, const struct dataplane_user *user,
                 const struct digest *digest, const char *path, const bool *cancelled,
                 struct import_result *out)
{
    struct import in = {.folders = folders,
                        .user = user,
                        .digest = digest,
                        .path = path,
                        .cancelled = cancelled,
                        .fd = -1,
                        .out = out};
    memset(out, 0, sizeof(*out));
    names_make(&in);
    out->rc = take(&in);
    unlinkat(folders->uploads_fd, in.fresh, 0); /* what was not needed in the end */
    if (in.fd >= 0)
        close(in.fd);
}

/* --- on the loop --- */

static void work(uv_work_t *w)
{
    struct importer *i = w->data;
    import_blob(i->folders, i->user, &i->digest, i->path, &i->cancelled, &i->result);
}

static void after(uv_work_t *w, int status)
{
    struct importer *i = w->data;
    (void)status;
    i->running = false;
    i->done(i->done_arg, &i->result);
    if (!i->stopped)
        return;
    i->stopped(i->stopped_arg);
    free(i);
}

struct importer *importer_new(uv_loop_t *loop, const struct folders *folders,
                              const struct dataplane_user *user)
{
    struct importer *i = calloc(1, sizeof(*i));
    CHECK(i);
    *i = (struct importer){.loop = loop, .folders = folders, .user = user};
    return i;
}

int importer_start(struct importer *i, const struct digest *digest, const char *path, import_done done,
                   void *arg)
{
    if (i->running)
        return -EBUSY;
    i->running = true;
    i->digest = *digest;
    snprintf(i->path, sizeof(i->path), "%s", path);
    i->done = done;
    i->done_arg = arg;
    i->work.data = i;
    CHECK(pool_queue(i->loop, &i->work, "an import", work, after) == 0);
    return 0;
}

bool importer_takes(const struct importer *i, const struct digest *digest)
{
    return i->running && digest_equal(&i->digest, digest);
}

const char *import_way_name(enum import_way way)
{
    static const char *const names[] = {"there", "clone", "link", "copy"};
    return names[way];
}

void importer_stop(struct importer *i, void (*stopped)(void *arg), void *arg)
{
    __atomic_store_n(&i->cancelled, true, __ATOMIC_RELAXED);
    i->stopped = stopped;
    i->stopped_arg = arg;
    if (i->running)
        return;
    stopped(arg);
    free(i);
}
