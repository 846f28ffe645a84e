/* SPDX-License-Identifier: Apache-2.0 */
#include "control/store_place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "digest.h"

#define STORE_FILE      "blobs/.store"
#define REMEMBERED_FILE "store.known" /* of the state */

static int id_read(int at, const char *name, char id[STORE_ID_LEN + 1])
{
    int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    id[0] = '\0';
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, id, STORE_ID_LEN);
    int err = n < 0 ? -errno : n < STORE_ID_LEN ? -EINVAL : 0;
    close(fd);
    for (unsigned i = 0; i < STORE_ID_LEN && !err; i++)
        if (digest_hex_value(id[i]) < 0)
            err = -EINVAL;
    id[err ? 0 : STORE_ID_LEN] = '\0';
    return err;
}

/* It is there whole or not at all. */
static int id_write(int at, const char *name, const char *id)
{
    char fresh[32], text[STORE_ID_LEN + 2];
    snprintf(fresh, sizeof(fresh), "%s.new", name);
    snprintf(text, sizeof(text), "%s\n", id);
    int fd = openat(at, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, STORE_ID_LEN + 1);
    int err = n < 0 ? -errno : n < STORE_ID_LEN + 1 ? -ENOSPC : fsync(fd) ? -errno : 0;
    close(fd);
    if (!err && renameat(at, fresh, at, name))
        err = -errno;
    if (err)
        (void)unlinkat(at, fresh, 0);
    return err;
}

static int sync_folder(int at, const char *name)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = fsync(fd) ? -errno : 0;
    close(fd);
    return err;
}

int store_place_read(int store_fd, char id[STORE_ID_LEN + 1])
{
    return id_read(store_fd, STORE_FILE, id);
}

static int id_make(char id[STORE_ID_LEN + 1])
{
    uint8_t chance[STORE_ID_LEN / 2];
    if (getrandom(chance, sizeof(chance), 0) != (ssize_t)sizeof(chance))
        return -EIO;
    for (unsigned i = 0; i < sizeof(chance); i++)
        snprintf(id + (size_t)(2 * i), 3, "%02x", chance[i]);
    return 0;
}

/* ------------------------------------------------------------------ whether there is anything in it */

static bool folder_has_files(int store_fd, const char *path)
{
    int fd = openat(store_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *e = NULL;
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    while ((e = readdir(dir)) && e->d_name[0] == '.')
        continue;
    bool has = e != NULL;
    closedir(dir);
    return has;
}

static bool has_blobs(int store_fd)
{
    static const uint8_t algorithms[] = {DIGEST_SHA256, DIGEST_SHA512};
    char path[32];
    for (unsigned i = 0; i < 512; i++) {
        snprintf(path, sizeof(path), "blobs/%s/%02x", digest_alg_name(algorithms[i / 256]), i % 256);
        if (folder_has_files(store_fd, path))
            return true;
    }
    return false;
}

/* ------------------------------------------------------------------ whose it is */

enum store_identity store_place_check(int state_fd, int store_fd, bool holds, char id[STORE_ID_LEN + 1])
{
    char here[STORE_ID_LEN + 1];
    int err = store_place_read(store_fd, here);
    if (id_read(state_fd, REMEMBERED_FILE, id)) {
        id[0] = '\0';
        if (holds && (err == 0 || err == -ENOENT) && !has_blobs(store_fd))
            return STORE_EMPTY;
        memcpy(id, here, sizeof(here));
        return STORE_OURS;
    }
    if (err == 0 && strcmp(id, here) == 0)
        return STORE_OURS;
    if (err == 0 || err == -ENOENT)
        return has_blobs(store_fd) ? STORE_OTHER : STORE_EMPTY;
    return STORE_OURS;
}

int store_place_take(int state_fd, int store_fd, char id[STORE_ID_LEN + 1])
{
    int err = store_place_read(store_fd, id);
    if (err == -ENOENT || err == -EINVAL) {
        err = id_make(id);
        if (!err)
            err = id_write(store_fd, STORE_FILE, id);
    }
    if (!err)
        err = sync_folder(store_fd, "blobs");
    if (!err)
        err = id_write(state_fd, REMEMBERED_FILE, id);
    return err ? err : sync_folder(state_fd, ".");
}
