/* SPDX-License-Identifier: Apache-2.0 */
/* A backup is made. */
#include "control/backup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "check.h"
#include "control/backup_file.h"
#include "control/cluster.h"
#include "control/journal.h"
#include "control/pool.h"
#include "wire.h"

enum { COPY_BYTES = 256 << 10 };

struct backup {
    uv_work_t work;
    uv_loop_t *loop;
    struct cluster *cluster;
    int state_fd, blobs_fd;
    bool running, done, blobs;
    _Atomic bool cancelled;
    _Atomic uint64_t files, bytes;
    char path[BACKUP_PATH_MAX], fresh[BACKUP_PATH_MAX + 8];
    char passphrase[BACKUP_PASSPHRASE_MAX];
    struct backup_head head;
    struct backup_writer *writer;
    uint8_t *buffer; /* COPY_BYTES */
    int rc;
    char error[BACKUP_ERROR_MAX];
    void (*stopped)(void *arg);
    void *arg;
};

struct backup *backup_new(uv_loop_t *loop, struct cluster *cluster, int state_fd, int blobs_fd)
{
    struct backup *b = calloc(1, sizeof(*b));
    CHECK(b);
    b->loop = loop;
    b->cluster = cluster;
    b->state_fd = state_fd;
    b->blobs_fd = blobs_fd;
    return b;
}

/* --- on the worker thread --- */

static int fail(struct backup *b, int rc, const char *what)
{
    if (!b->error[0])
        snprintf(b->error, sizeof(b->error), "%.400s: %s", what, strerror(-rc));
    return rc;
}

static int put_head(struct backup *b, const char *name, uint64_t size)
{
    uint8_t head[BACKUP_NAME_MAX + 16];
    struct wire_writer w = {.buf = head, .cap = sizeof(head)};
    wire_put_u8(&w, BACKUP_RECORD_FILE);
    wire_put_u16(&w, (uint16_t)strlen(name));
    wire_put(&w, name, strlen(name));
    wire_put_u64(&w, size);
    CHECK(!w.failed);
    return backup_write(b->writer, head, w.len);
}

/* A file that does not change any more. */
static int put_file(struct backup *b, const char *name, int fd)
{
    struct stat st;
    if (fstat(fd, &st))
        return fail(b, -errno, name);
    uint64_t size = (uint64_t)st.st_size, at = 0;
    int rc = put_head(b, name, size);
    while (rc == 0 && at < size) {
        uint64_t left = size - at;
        ssize_t n = pread(fd, b->buffer, left < COPY_BYTES ? (size_t)left : COPY_BYTES, (off_t)at);
        if (n <= 0)
            return fail(b, n < 0 ? -errno : -EIO, name);
        if (b->cancelled)
            return fail(b, -ECANCELED, "the daemon stops");
        rc = backup_write(b->writer, b->buffer, (size_t)n);
        at += (uint64_t)n;
        b->bytes += (uint64_t)n;
    }
    b->files += rc == 0;
    return rc ? fail(b, rc, b->path) : 0;
}

static int put_copy(struct backup *b, const char *name, int (*copy)(struct cluster *c, int fd))
{
    int fd = openat(b->state_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return fail(b, -errno, "a copy of the state cannot be made beside it");
    int rc = copy(b->cluster, fd);
    rc = rc ? fail(b, rc, "the state cannot be copied") : put_file(b, name, fd);
    close(fd);
    return rc;
}

typedef int (*entry_fn)(struct backup *b, int fd, const char *name);

/* Each entry of a folder, opened; name is the folder's and the entry's. */
static int each_entry(struct backup *b, int at, const char *name, int flags, entry_fn each)
{
    char path[BACKUP_NAME_MAX];
    int copy = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);
    struct dirent *entry;
    if (!dir)
        return fail(b, -errno, name);
    while (rc == 0 && (errno = 0, entry = readdir(dir))) {
        if (entry->d_name[0] == '.' ||
            (size_t)snprintf(path, sizeof(path), "%s/%s", name, entry->d_name) >= sizeof(path))
            continue;
        int fd = openat(at, entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | flags);
        if (fd < 0 && errno == ENOENT)
            continue; /* it was deleted meanwhile */
        rc = fd < 0 ? fail(b, -errno, path) : each(b, fd, path);
        if (fd >= 0)
            close(fd);
    }
    if (rc == 0 && errno)
        rc = fail(b, -errno, name);
    closedir(dir);
    return rc;
}

static int put_blob(struct backup *b, int fd, const char *name)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? put_file(b, name, fd) : 0;
}

static int put_shard(struct backup *b, int fd, const char *name)
{
    return each_entry(b, fd, name, 0, put_blob);
}

static int put_algorithm(struct backup *b, int fd, const char *name)
{
    return each_entry(b, fd, name, O_DIRECTORY, put_shard);
}

/* The names first: every blob that they name was there when they were copied. */
static int put_all(struct backup *b)
{
    static const uint8_t end = BACKUP_RECORD_END;
    int rc = put_copy(b, "names.mdb", cluster_copy_names);
    if (rc == 0)
        rc = put_copy(b, "private.mdb", cluster_copy_private);
    if (rc == 0 && b->blobs)
        rc = each_entry(b, b->blobs_fd, "blobs", O_DIRECTORY, put_algorithm);
    if (rc == 0)
        rc = backup_write(b->writer, &end, 1);
    return rc ? rc : backup_writer_end(b->writer);
}

static int folder_sync(const char *path)
{
    char folder[BACKUP_PATH_MAX];
    snprintf(folder, sizeof(folder), "%s", path);
    *(strrchr(folder, '/') + 1) = '\0';
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* It has its name when it is whole and on the disk. */
static int publish(struct backup *b, int fd)
{
    if (fsync(fd))
        return -errno;
    if (renameat2(AT_FDCWD, b->fresh, AT_FDCWD, b->path, RENAME_NOREPLACE))
        return -errno;
    return folder_sync(b->path);
}

static int make(struct backup *b)
{
    if (access(b->path, F_OK) == 0)
        return fail(b, -EEXIST, b->path);
    unlink(b->fresh);
    int fd = open(b->fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fail(b, -errno, b->fresh);
    int rc = backup_writer_new(fd, &b->head, b->passphrase, strlen(b->passphrase), &b->writer);
    if (rc == 0) {
        rc = put_all(b);
        backup_writer_free(b->writer);
    }
    if (rc == 0)
        rc = publish(b, fd);
    close(fd);
    if (rc)
        unlink(b->fresh);
    return rc ? fail(b, rc, b->path) : 0;
}

static void work(uv_work_t *work)
{
    struct backup *b = work->data;
    b->buffer = malloc(COPY_BYTES);
    CHECK(b->buffer);
    b->rc = make(b);
    free(b->buffer);
    OPENSSL_cleanse(b->passphrase, sizeof(b->passphrase));
}

/* --- on the loop --- */

static void after(uv_work_t *work, int status)
{
    struct backup *b = work->data;
    (void)status;
    b->running = false;
    b->done = true;
    if (b->stopped) {
        b->stopped(b->arg);
        free(b);
    }
}

int backup_start(struct backup *b, const struct backup_request *request)
{
    struct cluster_status status;
    if (b->running)
        return -EBUSY;
    cluster_status(b->cluster, &status);
    b->head = (struct backup_head){.node_id = status.node_id,
                                   .index = status.applied_index,
                                   .term = status.term,
                                   .created_ms = journal_now_ms(),
                                   .log_n = BACKUP_LOG_N};
    memcpy(b->head.cluster_id, status.cluster_id, sizeof(b->head.cluster_id));
    snprintf(b->path, sizeof(b->path), "%s", request->path);
    snprintf(b->fresh, sizeof(b->fresh), "%s.new", request->path);
    snprintf(b->passphrase, sizeof(b->passphrase), "%s", request->passphrase);
    b->blobs = request->blobs;
    b->files = b->bytes = 0;
    b->error[0] = '\0';
    b->running = true;
    b->done = false;
    b->work.data = b;
    CHECK(pool_queue(b->loop, &b->work, "a backup", work, after) == 0);
    return 0;
}

bool backup_needs_blobs(const struct backup *b)
{
    return b->running && b->blobs;
}

void backup_status(struct backup *b, struct backup_status *out)
{
    *out =
        (struct backup_status){.running = b->running, .done = b->done, .files = b->files, .bytes = b->bytes};
    memcpy(out->path, b->path, sizeof(out->path));
    if (b->done)
        memcpy(out->error, b->error, sizeof(out->error));
}

void backup_stop(struct backup *b, void (*stopped)(void *arg), void *arg)
{
    b->cancelled = true;
    b->stopped = stopped;
    b->arg = arg;
    if (b->running)
        return;
    stopped(arg);
    free(b);
}
