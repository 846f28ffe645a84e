/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a file system can hold a store that several nodes share: everything that the store rests on is done
 * once, at the start, before the threads and the sandbox. What a look at one node cannot tell (that the
 * others see a name as soon as it is there) is told by the mount's options, where the file system is one
 * whose clients remember names.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dataplane/store/store_private.h"

enum { CHECK_NAME_MAX = 64, MOUNT_LINE_MAX = 8192 };

/* ------------------------------------------------------------------ the mount */

static bool has_option(const char *options, const char *option)
{
    size_t len = strlen(option);
    for (const char *at = options; (at = strstr(at, option)); at += len)
        if ((at == options || at[-1] == ',') && (at[len] == ',' || at[len] == '\0'))
            return true;
    return false;
}

const char *store_mount_fault(const char *type, const char *options)
{
    if (strcmp(type, "nfs") == 0 || (strcmp(type, "nfs4") == 0 && has_option(options, "vers=4.0")))
        return "the store is on NFS before version 4.1, where a file that another node removes is lost to "
               "those who read it; mount it with vers=4.2";
    if (strcmp(type, "nfs4") != 0)
        return NULL;
    if (!has_option(options, "hard"))
        return "the store is on NFS that gives up (soft): a write that was given up may still be carried "
               "out; "
               "mount it with 'hard'";
    if (!has_option(options, "lookupcache=pos") && !has_option(options, "lookupcache=none"))
        return "the store is on NFS that remembers which files are not there: a blob that another node has "
               "just pushed would be missing here for a while; mount it with 'lookupcache=pos'";
    return NULL;
}

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue": of the device; the last
 * one counts, as mounts may lie above each other. */
static const char *mount_fault_of(FILE *mounts, dev_t device)
{
    static char line[MOUNT_LINE_MAX];
    const char *fault = NULL;
    while (fgets(line, sizeof(line), mounts)) {
        unsigned major, minor;
        char type[64], options[MOUNT_LINE_MAX];
        const char *rest = strstr(line, " - ");
        if (!rest || sscanf(line, "%*u %*u %u:%u", &major, &minor) != 2 || makedev(major, minor) != device)
            continue;
        if (sscanf(rest, " - %63s %*s %8191s", type, options) == 2)
            fault = store_mount_fault(type, options);
    }
    return fault;
}

static int check_mount(int dirfd, const char **why)
{
    struct stat st;
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    if (!mounts)
        return 0; /* what can be done is looked at all the same */
    const char *fault = fstat(dirfd, &st) ? NULL : mount_fault_of(mounts, st.st_dev);
    (void)fclose(mounts);
    if (!fault)
        return 0;
    *why = fault;
    return -ENOTSUP;
}

/* ------------------------------------------------------------------ what is done with files */

struct check {
    int uploads, blobs;
    char one[CHECK_NAME_MAX], two[CHECK_NAME_MAX], blob[CHECK_NAME_MAX];
    int fd; /* of what is in the place first */
};

static int write_file(int at, const char *name, const char *text)
{
    int fd = openat(at, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0)
        return -errno;
    if (write(fd, text, 1) == 1 && fsync(fd) == 0)
        return fd;
    int err = errno ? -errno : -EIO;
    close(fd);
    return err;
}

static int fsync_folder(int at, const char *name)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int err = fd < 0 || fsync(fd) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return err;
}

/* Publishing: a rename into the place, and one over what is there; the inode stays what it was. */
static int check_publish(struct check *c, const char **why)
{
    struct stat before, after;
    *why = "the store's file system does not write a file and sync it";
    c->fd = write_file(c->uploads, c->one, "1");
    int second = c->fd < 0 ? c->fd : write_file(c->uploads, c->two, "2");
    if (second < 0)
        return second;
    int err = fstat(second, &before) ? -errno : 0;
    close(second);
    *why = "the store's file system does not rename a file into another folder, or over another file";
    if (!err && renameat(c->uploads, c->one, c->blobs, c->blob))
        err = -errno;
    if (!err && renameat(c->uploads, c->two, c->blobs, c->blob))
        err = -errno;
    if (err)
        return err;
    *why = "the store's file system does not sync a folder";
    err = fsync_folder(c->blobs, "sha256");
    if (err)
        return err;
    *why = "the store's file system gives a file another number or another time as it is renamed";
    if (fstatat(c->blobs, c->blob, &after, AT_SYMLINK_NOFOLLOW))
        return -errno;
    return before.st_ino == after.st_ino && after.st_nlink == 1 &&
                   before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
                   before.st_mtim.tv_nsec == after.st_mtim.tv_nsec
               ? 0
               : -ENOTSUP;
}

/* Whoever reads a blob that is replaced or removed reads on. */
static int check_reading(const struct check *c, const char **why)
{
    char byte = 0;
    int fd = openat(c->blobs, c->blob, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    *why = "the store's file system does not keep a file that was replaced or removed for those who read it";
    if (fd < 0)
        return -errno;
    bool good = unlinkat(c->blobs, c->blob, 0) == 0 && pread(fd, &byte, 1, 0) == 1 && byte == '2' &&
                pread(c->fd, &byte, 1, 0) == 1 && byte == '1';
    close(fd);
    return good ? 0 : -ENOTSUP;
}

int store_shared_check(const struct store_folders *folders, const char **why)
{
    struct check c = {.uploads = folders->uploads, .blobs = folders->blobs, .fd = -1};
    uint64_t chance;
    int err = check_mount(folders->blobs, why);
    if (err)
        return err;
    if (getrandom(&chance, sizeof(chance), 0) != sizeof(chance))
        return -EIO;
    (void)snprintf(c.one, sizeof(c.one), ".one.%016llx", (unsigned long long)chance);
    (void)snprintf(c.two, sizeof(c.two), ".two.%016llx", (unsigned long long)chance);
    (void)snprintf(c.blob, sizeof(c.blob), "sha256/.check.%016llx", (unsigned long long)chance);
    err = check_publish(&c, why);
    if (!err)
        err = check_reading(&c, why);
    if (c.fd >= 0)
        close(c.fd);
    (void)unlinkat(c.uploads, c.one, 0);
    (void)unlinkat(c.uploads, c.two, 0);
    (void)unlinkat(c.blobs, c.blob, 0);
    return err;
}
