/* SPDX-License-Identifier: Apache-2.0 */
#include "control/store_clean.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "digest.h"
#include "control/damage.h"
#include "control/folders.h"
#include "control/state/by_id.h"

enum { TAKEN_END = 17 };

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

/* Whether it ends like the 16 digits of "sha256-HEX.gone.0123456789abcdef". */
static bool is_taken(const char *name, size_t len)
{
    if (len <= TAKEN_END || name[len - TAKEN_END] != '.')
        return false;
    for (size_t i = len - TAKEN_END + 1; i < len; i++)
        if (digest_hex_value(name[i]) < 0)
            return false;
    return true;
}

/* "sha256-HEX.gone", or with such an end. */
static bool gone_parse(const char *name, struct digest *out)
{
    static const char end[] = ".gone";
    char text[DIGEST_TEXT_MAX + sizeof(end) + TAKEN_END];
    size_t len = strlen(name);
    if (len >= sizeof(text))
        return false;
    memcpy(text, name, len + 1);
    if (is_taken(text, len))
        text[len -= TAKEN_END] = '\0';
    if (len < sizeof("sha256-.gone") || strcmp(text + len - strlen(end), end) != 0 || text[6] != '-')
        return false;
    text[6] = ':';
    return digest_parse(text, len - strlen(end), out) == 0;
}

/* What is unlinked has to be what was linked: so it gets a name that nobody else renames to, first. */
static bool put_back(int blobs_fd, int damaged_fd, const char *name)
{
    struct digest d;
    uint64_t chance;
    char path[DAMAGE_PATH_BYTES], own[DIGEST_TEXT_MAX + sizeof(".gone") + TAKEN_END];
    if (!gone_parse(name, &d) || getrandom(&chance, sizeof(chance), 0) != sizeof(chance))
        return false;
    digest_format(&d, own);
    own[6] = '-';
    snprintf(own + strlen(own), sizeof(own) - strlen(own), ".gone.%016" PRIx64, chance);
    damage_blob_path(&d, path);
    if (renameat(damaged_fd, name, damaged_fd, own))
        return false;
    if (linkat(damaged_fd, own, blobs_fd, path, 0) && errno != EEXIST)
        return false;
    return unlinkat(damaged_fd, own, 0) == 0;
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
