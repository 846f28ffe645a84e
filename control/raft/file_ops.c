/* SPDX-License-Identifier: Apache-2.0 */
#include "file_ops.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_NAME_MAX = 64, FILE_MODE = 0600 };

static ssize_t system_pwrite(void *arg, int fd, const void *data, size_t len, off_t at)
{
    ssize_t n;
    (void)arg;
    do
        n = pwrite(fd, data, len, at);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static int system_datasync(void *arg, int fd)
{
    (void)arg;
    return fdatasync(fd) ? -errno : 0;
}

static int system_sync(void *arg, int fd)
{
    (void)arg;
    return fsync(fd) ? -errno : 0;
}

static int system_allocate(void *arg, int fd, off_t bytes)
{
    int rc;
    (void)arg;
    do
        rc = posix_fallocate(fd, 0, bytes);
    while (rc == EINTR);
    return -rc;
}

static int system_truncate(void *arg, int fd, off_t bytes)
{
    (void)arg;
    return ftruncate(fd, bytes) ? -errno : 0;
}

static int system_rename(void *arg, int dir_fd, const char *from, const char *to)
{
    (void)arg;
    return renameat(dir_fd, from, dir_fd, to) ? -errno : 0;
}

static int system_exchange(void *arg, int dir_fd, const char *one, const char *other)
{
    (void)arg;
    return renameat2(dir_fd, one, dir_fd, other, RENAME_EXCHANGE) ? -errno : 0;
}

static int system_unlink(void *arg, int dir_fd, const char *name)
{
    (void)arg;
    return unlinkat(dir_fd, name, 0) ? -errno : 0;
}

const struct file_ops file_ops_system = {
    .pwrite = system_pwrite,
    .datasync = system_datasync,
    .sync = system_sync,
    .allocate = system_allocate,
    .truncate = system_truncate,
    .rename = system_rename,
    .exchange = system_exchange,
    .unlink = system_unlink,
};

int file_write_all(const struct file_ops *ops, int fd, const void *data, size_t len, off_t at)
{
    const char *p = data;
    while (len) {
        ssize_t n = ops->pwrite(ops->arg, fd, p, len, at);
        if (n < 0)
            return (int)n;
        if (n == 0)
            return -EIO;
        p += n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Writes a file of its own, durable but for its name. */
static int file_write_new(const struct file_ops *ops, int dir_fd, const char *name, int flags,
                          const void *data, size_t len)
{
    int fd = openat(dir_fd, name, O_CREAT | O_WRONLY | O_CLOEXEC | flags, FILE_MODE);
    if (fd < 0)
        return -errno;
    int rc = file_write_all(ops, fd, data, len, 0);
    if (rc == 0 && !(flags & O_TRUNC))
        rc = ops->truncate(ops->arg, fd, (off_t)len);
    if (rc == 0)
        rc = ops->sync(ops->arg, fd);
    close(fd);
    return rc;
}

int file_replace(const struct file_ops *ops, int dir_fd, const char *name, const void *data, size_t len)
{
    char tmp[FILE_NAME_MAX + 8];
    snprintf(tmp, sizeof(tmp), "%s.new", name);
    int rc = file_write_new(ops, dir_fd, tmp, O_TRUNC, data, len);
    if (rc == 0)
        rc = ops->rename(ops->arg, dir_fd, tmp, name);
    if (rc) {
        unlinkat(dir_fd, tmp, 0);
        return rc;
    }
    return ops->sync(ops->arg, dir_fd);
}

int file_swap(const struct file_ops *ops, int dir_fd, const char *name, const void *data, size_t len)
{
    char tmp[FILE_NAME_MAX + 8];
    snprintf(tmp, sizeof(tmp), "%s.new", name);
    int rc = file_write_new(ops, dir_fd, tmp, 0, data, len);
    if (rc)
        return rc;
    rc = ops->exchange(ops->arg, dir_fd, tmp, name);
    bool alone = rc == -ENOENT || rc == -EINVAL || rc == -ENOSYS;
    if (alone)
        rc = ops->rename(ops->arg, dir_fd, tmp, name);
    if (rc == 0)
        rc = ops->sync(ops->arg, dir_fd);
    if (rc == 0 && alone) /* the room for the next one; without it, it is asked for then */
        (void)file_write_new(ops, dir_fd, tmp, 0, data, len);
    return rc;
}

static int read_exactly(int fd, char *out, size_t len)
{
    size_t at = 0;
    while (at < len) {
        ssize_t n = pread(fd, out + at, len - at, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        at += (size_t)n;
    }
    return 0;
}

int file_read_all(int dir_fd, const char *name, size_t max, void **out, size_t *len)
{
    struct stat st;
    int rc = 0;
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st))
        rc = -errno;
    else if (st.st_size < 0 || (uint64_t)st.st_size > max)
        rc = -EFBIG;
    if (rc)
        goto out_close;
    *len = (size_t)st.st_size;
    *out = malloc(*len ? *len : 1);
    if (!*out) {
        rc = -ENOMEM;
        goto out_close;
    }
    rc = read_exactly(fd, *out, *len);
    if (rc)
        free(*out);
out_close:
    close(fd);
    return rc;
}
