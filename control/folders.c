/* SPDX-License-Identifier: Apache-2.0 */
#include "control/folders.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "limits.h"

int dataplane_user_find(const char *name, struct dataplane_user *out, char *err, size_t err_len)
{
    memset(out, 0, sizeof(*out));
    out->change = geteuid() == 0;
    const struct passwd *entry;
    if (!out->change) {
        out->uid = geteuid();
        out->gid = getegid();
        entry = getpwuid(out->uid);
    } else if (name) {
        entry = getpwnam(name);
    } else {
        entry = getpwnam("fairlead");
        entry = entry ? entry : getpwnam("nobody");
    }
    if (!entry && out->change) {
        snprintf(err, err_len,
                 "there is no user '%s' for the data plane; make it (useradd --system %s) or name "
                 "another as dataplane.user",
                 name ? name : "fairlead", name ? name : "fairlead");
        return -ENOENT;
    }
    if (entry && out->change) {
        out->uid = entry->pw_uid;
        out->gid = entry->pw_gid;
    }
    snprintf(out->name, sizeof(out->name), "%s", entry ? entry->pw_name : "this user");
    return 0;
}

int dataplane_user_groups(struct dataplane_user *user, char *const *names, size_t count, char *err,
                          size_t err_len)
{
    for (size_t i = 0; i < count && user->change; i++) {
        const struct group *group = getgrnam(names[i]);
        if (!group || user->group_count == DATAPLANE_GROUPS_MAX) {
            snprintf(err, err_len,
                     "there is no group '%s' for the data plane; make it, or take it out of "
                     "dataplane.groups",
                     names[i]);
            return -ENOENT;
        }
        user->group[user->group_count++] = group->gr_gid;
    }
    return 0;
}

/* mkdir -p; the last part gets the mode. */
static int make_path(const char *path, mode_t mode)
{
    char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    int err = 0;
    for (char *slash = strchr(copy + 1, '/'); slash && !err; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0755) && errno != EEXIST)
            err = -errno;
        *slash = '/';
    }
    if (!err && mkdir(copy, mode) && errno != EEXIST)
        err = -errno;
    free(copy);
    return err;
}

/* Whether a folder is still as a start left it that was cut off between making it and giving it away. */
static bool left_behind(int fd)
{
    struct stat st;
    if (fstat(fd, &st) || st.st_uid != geteuid())
        return false;
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);
    bool empty = dir != NULL;
    for (const struct dirent *e; empty && (e = readdir(dir));)
        empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    if (dir)
        closedir(dir);
    else if (copy >= 0)
        close(copy);
    return empty;
}

/* A folder below `at`, made if it is missing; a new one is given to the user. Returns a descriptor or -errno.
 */
static int open_folder(int at, const char *name, mode_t mode, const struct dataplane_user *user)
{
    bool made = mkdirat(at, name, mode) == 0;
    if (!made && errno != EEXIST)
        return -errno;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    bool give = user && user->change && (made || left_behind(fd));
    if (give && fchown(fd, user->uid, user->gid)) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

static int make_shards(int blobs_fd, const char *algorithm, const struct dataplane_user *user)
{
    int folder = open_folder(blobs_fd, algorithm, 0750, user);
    if (folder < 0)
        return folder;
    int err = 0;
    for (unsigned i = 0; i < 256 && !err; i++) {
        char name[3];
        snprintf(name, sizeof(name), "%02x", (uint8_t)i);
        int shard = open_folder(folder, name, 0750, user);
        if (shard < 0)
            err = shard;
        else
            close(shard);
    }
    if (!err && fsync(folder))
        err = -errno;
    close(folder);
    return err;
}

static int open_store(struct folders *folders, const struct dataplane_user *user)
{
    folders->store_made = faccessat(folders->state_fd, "store", F_OK, AT_SYMLINK_NOFOLLOW) != 0;
    int store = open_folder(folders->state_fd, "store", 0750, user);
    if (store < 0)
        return store;
    int err = folders->blobs_fd = open_folder(store, "blobs", 0750, user);
    if (err < 0)
        goto out;
    err = make_shards(folders->blobs_fd, "sha256", user);
    if (!err)
        err = make_shards(folders->blobs_fd, "sha512", user);
    if (err)
        goto err_blobs;
    err = folders->uploads_fd = open_folder(store, "uploads", 0750, user);
    if (err < 0)
        goto err_blobs;
    err = folders->damaged_fd = open_folder(store, "damaged", 0750, user);
    if (err < 0)
        goto err_uploads;
    err = fsync(folders->blobs_fd) || fsync(store) || fsync(folders->state_fd) ? -errno : 0;
    if (!err)
        goto out;
    close(folders->damaged_fd);
err_uploads:
    close(folders->uploads_fd);
err_blobs:
    close(folders->blobs_fd);
out:
    close(store);
    return err;
}

/* A store that was written by another user cannot be read by this one. */
static int check_owner(const struct folders *folders, const char *state_dir,
                       const struct dataplane_user *user, char *err, size_t err_len)
{
    struct stat st;
    if (fstat(folders->blobs_fd, &st))
        return -errno;
    if (!user->change || st.st_uid == user->uid)
        return 0;
    snprintf(err, err_len,
             "%s/store belongs to user %u but the data plane runs as %s (%u); chown -R %s %s/store, or "
             "set dataplane.user",
             state_dir, st.st_uid, user->name, user->uid, user->name, state_dir);
    return -EPERM;
}

int folders_lock(struct folders *folders, const char *state_dir, char *err, size_t err_len)
{
    int fd = openat(folders->state_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return -errno;
    char text[32] = "";
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        int result = errno == EWOULDBLOCK ? -EBUSY : -errno;
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
        snprintf(err, err_len,
                 "%s is in use by another fairleadd (pid %ld); stop it, or give this one another state "
                 "folder",
                 state_dir, n > 0 ? atol(text) : 0);
        close(fd);
        return result;
    }
    int len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) || pwrite(fd, text, (size_t)len, 0) != len) {
        int result = errno ? -errno : -ENOSPC;
        close(fd);
        return result;
    }
    folders->lock_fd = fd;
    return 0;
}

static int open_state(struct folders *folders, const char *state_dir, const char *run_dir, char *err,
                      size_t err_len)
{
    int result = make_path(state_dir, 0750);
    if (!result)
        result = make_path(run_dir, 0755);
    if (result)
        return result;
    folders->state_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folders->state_fd < 0)
        return -errno;
    result = folders_lock(folders, state_dir, err, err_len);
    if (result)
        close(folders->state_fd);
    return result;
}

int folders_open(struct folders *folders, const char *state_dir, const char *run_dir,
                 const struct dataplane_user *user, char *err, size_t err_len)
{
    err[0] = '\0';
    int result = open_state(folders, state_dir, run_dir, err, err_len);
    if (result)
        goto out;
    result = open_store(folders, user);
    if (result)
        goto err_state;
    folders->all_uploads_fd = -1;
    folders->shared = false;
    result = check_owner(folders, state_dir, user, err, err_len);
    if (!result)
        return 0;
    close(folders->blobs_fd);
    close(folders->uploads_fd);
    close(folders->damaged_fd);
err_state:
    close(folders->lock_fd);
    close(folders->state_fd);
out:
    if (!err[0])
        snprintf(err, err_len, "cannot set up %s: %s; it must be a folder that fairleadd may write",
                 state_dir, strerror(-result));
    return result;
}

int folders_reopen_store(struct folders *folders, const struct dataplane_user *user)
{
    struct folders next = *folders;
    if (folders->shared) /* uploads_fd is a folder in uploads/ then: the next start opens it */
        return -EOPNOTSUPP;
    int err = open_store(&next, user);
    if (err < 0)
        return err;
    next.all_uploads_fd = next.uploads_fd;
    if (folders->shared)
        next.uploads_fd = open_folder(next.all_uploads_fd, folders->uploads_name, 0750, user);
    if (next.uploads_fd < 0) {
        close(next.blobs_fd);
        close(next.all_uploads_fd);
        close(next.damaged_fd);
        return next.uploads_fd;
    }
    const int pairs[][2] = {{next.blobs_fd, folders->blobs_fd},
                            {next.uploads_fd, folders->uploads_fd},
                            {next.damaged_fd, folders->damaged_fd},
                            {next.all_uploads_fd, folders->all_uploads_fd}};
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]) - !folders->shared; i++) {
        (void)dup3(pairs[i][0], pairs[i][1], O_CLOEXEC); /* both are open: it cannot fail */
        close(pairs[i][0]);
    }
    return 0;
}

void folders_uploads_name(uint64_t node, const uint8_t cluster_id[16], char out[FOLDERS_UPLOADS_NAME])
{
    snprintf(out, FOLDERS_UPLOADS_NAME, "%llu.%02x%02x%02x%02x", (unsigned long long)node, cluster_id[0],
             cluster_id[1], cluster_id[2], cluster_id[3]);
}

bool folders_uploads_parse(const char *name, const uint8_t cluster_id[16], uint64_t *node)
{
    char again[FOLDERS_UPLOADS_NAME];
    *node = strtoull(name, NULL, 10);
    folders_uploads_name(*node, cluster_id, again);
    return *node && strcmp(name, again) == 0;
}

/* Whether a file in uploads/ is this node's: its sessions' ids end with the node's, and so do those of its
 * copies of others'. */
static bool is_upload_of(const char *name, uint64_t node)
{
    char own[UPLOAD_ID_LEN - UPLOAD_RANDOM_LEN + 1];
    snprintf(own, sizeof(own), "%016llx", (unsigned long long)node);
    return strspn(name, "0123456789abcdef") == UPLOAD_ID_LEN &&
           memcmp(name + UPLOAD_RANDOM_LEN, own, sizeof(own) - 1) == 0;
}

static int move_uploads(int from, int to, uint64_t node)
{
    int fd = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        err = -errno;
        if (fd >= 0)
            close(fd);
        return err;
    }
    const struct dirent *e;
    while (!err && (e = readdir(dir)))
        if (is_upload_of(e->d_name, node) && renameat(from, e->d_name, to, e->d_name) && errno != ENOENT)
            err = -errno;
    closedir(dir);
    return err;
}

static int use_own(struct folders *folders, int own, uint64_t node)
{
    int result = move_uploads(folders->uploads_fd, own, node);
    if (!result && fsync(folders->uploads_fd))
        result = -errno;
    if (result)
        return result;
    folders->all_uploads_fd = folders->uploads_fd;
    folders->uploads_fd = own;
    folders->shared = true;
    return 0;
}

int folders_own_uploads(struct folders *folders, const struct folders_node *node,
                        const struct dataplane_user *user, char *err, size_t err_len)
{
    char name[FOLDERS_UPLOADS_NAME];
    folders_uploads_name(node->id, node->cluster_id, name);
    memcpy(folders->uploads_name, name, sizeof(name));
    int own = node->shared
                  ? open_folder(folders->uploads_fd, name, 0750, user)
                  : openat(folders->uploads_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (own < 0 && !node->shared)
        return 0; /* there is none: the store was not shared before */
    int result = own < 0        ? own
                 : node->shared ? use_own(folders, own, node->id)
                                : move_uploads(own, folders->uploads_fd, node->id);
    if (own >= 0 && (result || !node->shared))
        close(own);
    if (result)
        snprintf(err, err_len, "the folder uploads/%s of the store cannot be set up: %s", name,
                 strerror(-result));
    return result;
}

void folders_close(struct folders *folders)
{
    if (folders->all_uploads_fd >= 0)
        close(folders->all_uploads_fd);
    close(folders->damaged_fd);
    close(folders->uploads_fd);
    close(folders->blobs_fd);
    close(folders->lock_fd);
    close(folders->state_fd);
}
