/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writing calls of the log, as a table, so that tests can make the n-th of them fail. All return 0 or
 * -errno; pwrite returns the bytes written, which may be fewer than asked for.
 */
#ifndef FL_RAFT_FILE_OPS_H
#define FL_RAFT_FILE_OPS_H

#include <stddef.h>
#include <sys/types.h>

struct file_ops {
    ssize_t (*pwrite)(void *arg, int fd, const void *data, size_t len, off_t at);
    int (*datasync)(void *arg, int fd);
    int (*sync)(void *arg, int fd); /* files whose size changed, and folders */
    int (*allocate)(void *arg, int fd, off_t bytes);
    int (*truncate)(void *arg, int fd, off_t bytes);
    int (*rename)(void *arg, int dir_fd, const char *from, const char *to);
    int (*exchange)(void *arg, int dir_fd, const char *one,
                    const char *other); /* renameat2(2), RENAME_EXCHANGE */
    int (*unlink)(void *arg, int dir_fd, const char *name);
    void *arg;
};

/* The system's calls. */
extern const struct file_ops file_ops_system;

/* Writes all of data at `at`. 0 or -errno. */
int file_write_all(const struct file_ops *ops, int fd, const void *data, size_t len, off_t at);

/* Replaces dir/name by data, durably: a temporary file, fsync, rename, fsync of the folder. 0 or -errno. */
int file_replace(const struct file_ops *ops, int dir_fd, const char *name, const void *data, size_t len);

/*
 * The same for a small file that has to be replaced when the disk is full, too: what it replaces stays there
 * as NAME.new, and the next one is written over it. A file system that cannot exchange names gets a plain
 * rename. 0 or -errno.
 */
int file_swap(const struct file_ops *ops, int dir_fd, const char *name, const void *data, size_t len);

/* Reads a whole file into *out (malloc, the caller frees). 0, -ENOENT, -EFBIG over max bytes, -errno. */
int file_read_all(int dir_fd, const char *name, size_t max, void **out, size_t *len);

#endif
