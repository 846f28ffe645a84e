/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faultfs: a pass-through FUSE file system over a folder, for tests of what happens to a store when disks
 * fail.
 *
 *   faultfs --source DIR --mount DIR --control SOCKET [--journal FILE]
 *
 * It runs in the foreground until SIGTERM or unmount. Two services:
 *
 * 1. The journal. Each change (write, truncate, create, rename, unlink, ...) and each fsync is appended to
 * FILE, in the order in which it took effect: a mutex makes "change and log it" one step. replay.py builds
 * from it the trees that a power cut at any point may leave. fsync is only logged: the tests never cut real
 * power.
 *
 * 2. Faults, by lines on the control socket, each answered by one line:
 *      fault OP GLOB FIRST COUNT ACTION
 *                    OP is a name in op_names (faults.c). GLOB is matched against the path from the mount
 *                    point, without leading slash; a file keeps the path it was opened by. From the FIRST-th
 *                    matching call on (1 = the next one), COUNT times (0 = until cleared). ACTION is an errno
 *                    by name, short (half a write), or delay:MS.
 *      clear         forgets the faults and the counts
 *      calls OP      how many calls of OP since the last clear
 *      fired         how many calls a fault met since the last clear
 *
 * The page cache stays on (no direct_io), so that files can be mapped, and what is written is seen in the
 * maps.
 */
#define FUSE_USE_VERSION 35

#include "faults.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { JOURNAL_MAGIC = 0x314a4c46 }; /* "FLJ1" */

struct record {
    uint32_t magic;
    uint32_t op;
    uint64_t inode;
    uint64_t offset;
    uint64_t size_bytes;
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    uint32_t path_bytes;
    uint32_t path2_bytes;
    uint32_t data_bytes;
};

struct handle {
    int fd;
    bool durable; /* opened with O_SYNC or O_DSYNC: a write is durable when it returns */
    char path[];
};

static struct {
    char *source;
    char *mount;
    char *control;
    char *journal;
    int root_fd;
    int journal_fd;
    pthread_mutex_t order; /* change and journal record are one step */
} fs = {.root_fd = -1, .journal_fd = -1, .order = PTHREAD_MUTEX_INITIALIZER};

/* --- journal --- */

/* Caller holds fs.order. A journal that cannot be written makes every later check worthless: end at once. */
static void journal_append(struct record record, const char *path, const char *path2, const void *data)
{
    record.magic = JOURNAL_MAGIC;
    record.path_bytes = path ? (uint32_t)strlen(path) : 0;
    record.path2_bytes = path2 ? (uint32_t)strlen(path2) : 0;

    struct iovec parts[4] = {{&record, sizeof(record)},
                             {(char *)path, record.path_bytes},
                             {(char *)path2, record.path2_bytes},
                             {(void *)data, record.data_bytes}};
    size_t total = sizeof(record) + record.path_bytes + record.path2_bytes + record.data_bytes;

    if (fs.journal_fd >= 0 && writev(fs.journal_fd, parts, 4) != (ssize_t)total) {
        perror("faultfs: journal");
        abort();
    }
}

/* The end of a change: journals it if it succeeded, gives the order back; result is 0, or -1 with errno. */
static int change_end(int result, struct record record, const char *path, const char *path2)
{
    int error = result < 0 ? -errno : 0;

    if (!error)
        journal_append(record, path, path2, NULL);
    pthread_mutex_unlock(&fs.order);
    return error;
}

/* --- operations --- */

static const char *relative(const char *path)
{
    return path[1] ? path + 1 : ".";
}

static struct handle *handle_of(const struct fuse_file_info *info)
{
    return (struct handle *)(uintptr_t)info->fh;
}

static int handle_new(int fd, const char *path, struct fuse_file_info *info)
{
    struct handle *handle = malloc(sizeof(*handle) + strlen(path) + 1);

    if (!handle) {
        close(fd);
        return -ENOMEM;
    }
    handle->fd = fd;
    handle->durable = (info->flags & O_DSYNC) != 0;
    strcpy(handle->path, path);
    info->fh = (uintptr_t)handle;
    return 0;
}

static uint64_t inode_of(int fd)
{
    struct stat status;

    return fstat(fd, &status) < 0 ? 0 : status.st_ino;
}

static void *fs_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->use_ino = 1;
    config->hard_remove = 1;
    config->nullpath_ok = 1;
    config->kernel_cache = 1;
    if (faults_serve() != 0)
        abort();
    return NULL;
}

static int fs_getattr(const char *path, struct stat *status, struct fuse_file_info *info)
{
    int result = info ? fstat(handle_of(info)->fd, status)
                      : fstatat(fs.root_fd, relative(path), status, AT_SYMLINK_NOFOLLOW);

    return result < 0 ? -errno : 0;
}

static int fs_open(const char *path, struct fuse_file_info *info)
{
    int error = fault_check(OP_OPEN, path + 1, NULL);
    int fd;

    if (error)
        return error;
    pthread_mutex_lock(&fs.order);
    fd = openat(fs.root_fd, relative(path), (info->flags & ~(O_DIRECT | O_NOFOLLOW | O_APPEND)) | O_CLOEXEC);
    if (fd >= 0 && (info->flags & O_TRUNC))
        journal_append((struct record){.op = OP_TRUNCATE, .inode = inode_of(fd)}, NULL, NULL, NULL);
    error = fd < 0 ? -errno : 0;
    pthread_mutex_unlock(&fs.order);
    return error ? error : handle_new(fd, path + 1, info);
}

static int fs_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    struct fuse_context *caller = fuse_get_context();
    int error = fault_check(OP_CREATE, path + 1, NULL);
    int fd;

    if (error)
        return error;
    pthread_mutex_lock(&fs.order);
    fd = openat(fs.root_fd, relative(path), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd >= 0 && fchown(fd, caller->uid, caller->gid) < 0)
        perror("faultfs: fchown");
    error = change_end(fd,
                       (struct record){.op = OP_CREATE,
                                       .inode = fd < 0 ? 0 : inode_of(fd),
                                       .mode = mode,
                                       .uid = caller->uid,
                                       .gid = caller->gid},
                       path, NULL);
    return error ? error : handle_new(fd, path + 1, info);
}

/* Sockets and pipes: passed through; they hold no data, so the journal ignores them. */
static int fs_mknod(const char *path, mode_t mode, dev_t device)
{
    struct fuse_context *caller = fuse_get_context();

    if (S_ISREG(mode))
        return -EOPNOTSUPP;
    if (mknodat(fs.root_fd, relative(path), mode, device) < 0)
        return -errno;
    return fchownat(fs.root_fd, relative(path), caller->uid, caller->gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno
                                                                                                   : 0;
}

static int fs_mkdir(const char *path, mode_t mode)
{
    struct fuse_context *caller = fuse_get_context();
    struct stat status = {0};
    int error = fault_check(OP_MKDIR, path + 1, NULL);
    int result;

    if (error)
        return error;
    pthread_mutex_lock(&fs.order);
    result = mkdirat(fs.root_fd, relative(path), mode);
    if (result == 0 && (fchownat(fs.root_fd, relative(path), caller->uid, caller->gid, 0) < 0 ||
                        fstatat(fs.root_fd, relative(path), &status, 0) < 0))
        perror("faultfs: mkdir");
    return change_end(
        result,
        (struct record){
            .op = OP_MKDIR, .inode = status.st_ino, .mode = mode, .uid = caller->uid, .gid = caller->gid},
        path, NULL);
}

static int fs_read(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *info)
{
    struct handle *handle = handle_of(info);
    int error = fault_check(OP_READ, handle->path, NULL);
    ssize_t count;

    (void)path;
    if (error)
        return error;
    count = pread(handle->fd, buffer, size, offset);
    return count < 0 ? -errno : (int)count;
}

static int fs_write(const char *path, const char *data, size_t size, off_t offset,
                    struct fuse_file_info *info)
{
    struct handle *handle = handle_of(info);
    bool shortened = false;
    int error = fault_check(OP_WRITE, handle->path, &shortened);
    ssize_t count;

    (void)path;
    if (error)
        return error;
    if (shortened && size > 1)
        size /= 2;
    pthread_mutex_lock(&fs.order);
    count = pwrite(handle->fd, data, size, offset);
    error = count < 0 ? -errno : 0;
    if (count > 0) {
        struct record record = {.op = OP_WRITE,
                                .inode = inode_of(handle->fd),
                                .offset = (uint64_t)offset,
                                .data_bytes = (uint32_t)count};

        journal_append(record, NULL, NULL, data);
        if (handle->durable)
            journal_append((struct record){.op = OP_FSYNC, .inode = record.inode}, NULL, NULL, NULL);
    }
    pthread_mutex_unlock(&fs.order);
    return error ? error : (int)count;
}

static int fs_truncate(const char *path, off_t size, struct fuse_file_info *info)
{
    int fd = info ? handle_of(info)->fd : openat(fs.root_fd, relative(path), O_WRONLY | O_CLOEXEC);
    int error = fault_check(OP_TRUNCATE, info ? handle_of(info)->path : path + 1, NULL);

    if (fd < 0)
        return -errno;
    if (!error) {
        pthread_mutex_lock(&fs.order);
        error = change_end(
            ftruncate(fd, size),
            (struct record){.op = OP_TRUNCATE, .inode = inode_of(fd), .size_bytes = (uint64_t)size}, NULL,
            NULL);
    }
    if (!info)
        close(fd);
    return error;
}

static int fs_fallocate(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *info)
{
    struct handle *handle = handle_of(info);
    int error = fault_check(OP_FALLOCATE, handle->path, NULL);

    (void)path;
    if (error)
        return error;
    pthread_mutex_lock(&fs.order);
    return change_end(fallocate(handle->fd, mode, offset, length),
                      (struct record){.op = OP_FALLOCATE,
                                      .inode = inode_of(handle->fd),
                                      .mode = (uint32_t)mode,
                                      .offset = (uint64_t)offset,
                                      .size_bytes = (uint64_t)length},
                      NULL, NULL);
}

static int fs_rename(const char *from, const char *to, unsigned flags)
{
    int error = fault_check(OP_RENAME, from + 1, NULL);

    if (error)
        return error;
    if (flags & RENAME_EXCHANGE)
        return -EINVAL;
    pthread_mutex_lock(&fs.order);
    return change_end(renameat2(fs.root_fd, relative(from), fs.root_fd, relative(to), flags),
                      (struct record){.op = OP_RENAME}, from, to);
}

static int fs_unlink(const char *path)
{
    int error = fault_check(OP_UNLINK, path + 1, NULL);

    if (error)
        return error;
    pthread_mutex_lock(&fs.order);
    return change_end(unlinkat(fs.root_fd, relative(path), 0), (struct record){.op = OP_UNLINK}, path, NULL);
}

static int fs_rmdir(const char *path)
{
    int error = fault_check(OP_RMDIR, path + 1, NULL);

    if (error)
        return error;
    pthread_mutex_lock(&fs.order);
    return change_end(unlinkat(fs.root_fd, relative(path), AT_REMOVEDIR), (struct record){.op = OP_RMDIR},
                      path, NULL);
}

static int fs_link(const char *from, const char *to)
{
    int error = fault_check(OP_LINK, to + 1, NULL);

    if (error)
        return error;
    pthread_mutex_lock(&fs.order);
    return change_end(linkat(fs.root_fd, relative(from), fs.root_fd, relative(to), 0),
                      (struct record){.op = OP_LINK}, from, to);
}

static int fs_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    struct handle *handle = handle_of(info);
    int error = fault_check(OP_FSYNC, handle->path, NULL);

    (void)path;
    if (error)
        return error;
    pthread_mutex_lock(&fs.order);
    return change_end(
        0, (struct record){.op = OP_FSYNC, .inode = inode_of(handle->fd), .mode = (uint32_t)data_only}, NULL,
        NULL);
}

static int fs_fsyncdir(const char *path, int data_only, struct fuse_file_info *info)
{
    struct handle *handle = handle_of(info);
    int error = fault_check(OP_FSYNCDIR, handle->path, NULL);

    (void)path, (void)data_only;
    if (error)
        return error;
    pthread_mutex_lock(&fs.order);
    return change_end(0, (struct record){.op = OP_FSYNCDIR, .inode = inode_of(handle->fd)}, NULL, NULL);
}

static int fs_chmod(const char *path, mode_t mode, struct fuse_file_info *info)
{
    int result;

    pthread_mutex_lock(&fs.order);
    result = info ? fchmod(handle_of(info)->fd, mode) : fchmodat(fs.root_fd, relative(path), mode, 0);
    return change_end(
        result,
        (struct record){.op = OP_CHMOD, .mode = mode, .inode = info ? inode_of(handle_of(info)->fd) : 0},
        path, NULL);
}

static int fs_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *info)
{
    int result;

    pthread_mutex_lock(&fs.order);
    result = info ? fchown(handle_of(info)->fd, uid, gid)
                  : fchownat(fs.root_fd, relative(path), uid, gid, AT_SYMLINK_NOFOLLOW);
    return change_end(
        result,
        (struct record){
            .op = OP_CHOWN, .uid = uid, .gid = gid, .inode = info ? inode_of(handle_of(info)->fd) : 0},
        path, NULL);
}

static int fs_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *info)
{
    int result = info ? futimens(handle_of(info)->fd, times)
                      : utimensat(fs.root_fd, relative(path), times, AT_SYMLINK_NOFOLLOW);

    return result < 0 ? -errno : 0;
}

static int fs_release(const char *path, struct fuse_file_info *info)
{
    (void)path;
    close(handle_of(info)->fd);
    free(handle_of(info));
    return 0;
}

static int fs_opendir(const char *path, struct fuse_file_info *info)
{
    int fd = openat(fs.root_fd, relative(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -errno : handle_new(fd, path + 1, info);
}

static int fs_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
                      struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    int fd = openat(handle_of(info)->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;

    (void)path, (void)offset, (void)flags;
    if (!directory)
        return -errno;
    while ((entry = readdir(directory))) {
        struct stat status = {.st_ino = entry->d_ino, .st_mode = (mode_t)entry->d_type << 12};

        if (fill(buffer, entry->d_name, &status, 0, 0))
            break;
    }
    closedir(directory);
    return 0;
}

static int fs_statfs(const char *path, struct statvfs *status)
{
    (void)path;
    return fstatvfs(fs.root_fd, status) < 0 ? -errno : 0;
}

static const struct fuse_operations operations = {
    .init = fs_init,
    .getattr = fs_getattr,
    .open = fs_open,
    .create = fs_create,
    .mknod = fs_mknod,
    .mkdir = fs_mkdir,
    .read = fs_read,
    .write = fs_write,
    .truncate = fs_truncate,
    .fallocate = fs_fallocate,
    .rename = fs_rename,
    .unlink = fs_unlink,
    .rmdir = fs_rmdir,
    .link = fs_link,
    .fsync = fs_fsync,
    .fsyncdir = fs_fsyncdir,
    .chmod = fs_chmod,
    .chown = fs_chown,
    .utimens = fs_utimens,
    .release = fs_release,
    .opendir = fs_opendir,
    .releasedir = fs_release,
    .readdir = fs_readdir,
    .statfs = fs_statfs,
};

static int options_parse(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        char **slot = strcmp(argv[i], "--source") == 0    ? &fs.source
                      : strcmp(argv[i], "--mount") == 0   ? &fs.mount
                      : strcmp(argv[i], "--control") == 0 ? &fs.control
                      : strcmp(argv[i], "--journal") == 0 ? &fs.journal
                                                          : NULL;
        if (!slot)
            return -EINVAL;
        *slot = argv[i + 1];
    }
    return argc % 2 && fs.source && fs.mount && fs.control ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
    if (options_parse(argc, argv) < 0) {
        fprintf(stderr, "usage: faultfs --source DIR --mount DIR --control SOCKET [--journal FILE]\n");
        return 2;
    }
    umask(0);
    fs.root_fd = open(fs.source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fs.journal)
        fs.journal_fd = open(fs.journal, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fs.root_fd < 0 || faults_listen(fs.control) < 0 || (fs.journal && fs.journal_fd < 0)) {
        perror("faultfs");
        return 1;
    }
    journal_append((struct record){.op = OP_MKDIR, .inode = inode_of(fs.root_fd), .mode = 0755}, "/", NULL,
                   NULL);

    char *arguments[] = {argv[0],      (char *)"-f",
                         (char *)"-o", (char *)"allow_other,default_permissions,fsname=faultfs",
                         fs.mount,     NULL};
    return fuse_main(5, arguments, &operations, NULL);
}
