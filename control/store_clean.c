/* SPDX-License-Identifier: Apache-2.0 */
#include "control/store_clean.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "digest.h"
#include "control/damage.h"
#include "control/folders.h"
#include "control/state/by_id.h"

static DIR *open_dir(int at, const char *name)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (fd >= 0 && !dir)
        close(fd);
    return dir;
}

static int64_t age_ms(const struct stat *st)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return ((int64_t)now.tv_sec - (int64_t)st->st_mtim.tv_sec) * 1000 +
           (now.tv_nsec - st->st_mtim.tv_nsec) / 1000000;
}

/* Of the folder, too: files have come and gone. */
static bool is_old(DIR *dir, uint64_t grace_ms)
{
    struct stat st;
    const struct dirent *e;
    bool old = fstat(dirfd(dir), &st) == 0 && age_ms(&st) >= (int64_t)grace_ms;
    while (old && (e = readdir(dir)))
        old = e->d_name[0] == '.' || (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                                      age_ms(&st) >= (int64_t)grace_ms);
    return old;
}

static void empty(DIR *dir)
{
    const struct dirent *e;
    rewinddir(dir);
    while ((e = readdir(dir)))
        if (e->d_name[0] != '.')
            (void)unlinkat(dirfd(dir), e->d_name, 0);
}

static bool clean_one(const struct store_clean *c, const char *name)
{
    uint64_t node;
    if (!folders_uploads_parse(name, c->cluster_id, &node) || by_id(c->id, c->count, sizeof(*c->id), node))
        return false;
    DIR *dir = open_dir(c->all_uploads_fd, name);
    bool old = dir && is_old(dir, c->grace_ms);
    if (old)
        empty(dir);
    if (dir)
        closedir(dir);
    return old && unlinkat(c->all_uploads_fd, name, AT_REMOVEDIR) == 0;
}

size_t store_clean_uploads(const struct store_clean *c)
{
    const struct dirent *e;
    size_t removed = 0;
    DIR *dir = open_dir(c->all_uploads_fd, ".");
    while (dir && (e = readdir(dir)))
        removed += clean_one(c, e->d_name);
    if (dir)
        closedir(dir);
    return removed;
}

/* "sha256-HEX.gone" */
static bool gone_parse(const char *name, struct digest *out)
{
    static const char end[] = ".gone";
    char text[DIGEST_TEXT_MAX + sizeof(end)];
    size_t len = strlen(name);
    if (len >= sizeof(text) || len < sizeof("sha256-.gone") || strcmp(name + len - strlen(end), end) != 0)
        return false;
    memcpy(text, name, len + 1);
    text[6] = ':';
    return name[6] == '-' && digest_parse(text, len - strlen(end), out) == 0;
}

static bool put_back(int blobs_fd, int damaged_fd, const char *name)
{
    struct digest d;
    char path[DAMAGE_PATH_BYTES];
    if (!gone_parse(name, &d))
        return false;
    damage_blob_path(&d, path);
    if (linkat(damaged_fd, name, blobs_fd, path, 0) && errno != EEXIST)
        return false;
    return unlinkat(damaged_fd, name, 0) == 0;
}

size_t store_clean_gone(int blobs_fd, int damaged_fd)
{
    const struct dirent *e;
    size_t back = 0;
    DIR *dir = open_dir(damaged_fd, ".");
    while (dir && (e = readdir(dir)))
        back += put_back(blobs_fd, damaged_fd, e->d_name);
    if (dir)
        closedir(dir);
    return back;
}
