/* SPDX-License-Identifier: Apache-2.0 */
#include "control/store_id.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include "digest.h"

enum { TEMP_MAX = 64 };

void store_id_text(const uint8_t id[NODE_STORE_BYTES], char out[STORE_ID_TEXT + 1])
{
    for (unsigned i = 0; i < NODE_STORE_BYTES; i++)
        snprintf(out + (size_t)(2 * i), 3, "%02x", id[i]);
}

bool store_id_parse(const char *text, size_t len, uint8_t id[NODE_STORE_BYTES])
{
    uint8_t any = 0;
    if (len != STORE_ID_TEXT)
        return false;
    for (unsigned i = 0; i < NODE_STORE_BYTES; i++) {
        int high = digest_hex_value(text[2 * i]), low = digest_hex_value(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        id[i] = (uint8_t)(high << 4 | low);
        any |= id[i];
    }
    return any != 0;
}

/* ------------------------------------------------------------------ the store's file */

static int write_all(int at, const char *name, const char *text, size_t len)
{
    int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, len);
    int rc = n == (ssize_t)len ? 0 : n < 0 ? -errno : -ENOSPC;
    if (rc == 0 && fsync(fd))
        rc = -errno;
    close(fd);
    return rc;
}

/* Whole or not at all, and of several that do so at a time one counts: a link does not replace. */
static int make(int blobs_fd)
{
    uint8_t id[NODE_STORE_BYTES];
    uint64_t chance;
    char text[STORE_ID_TEXT + 2], temp[TEMP_MAX];
    if (getrandom(id, sizeof(id), 0) != sizeof(id) || getrandom(&chance, sizeof(chance), 0) != sizeof(chance))
        return -EIO;
    store_id_text(id, text);
    memcpy(text + STORE_ID_TEXT, "\n", 2);
    snprintf(temp, sizeof(temp), STORE_FILE ".%016llx", (unsigned long long)chance);
    int rc = write_all(blobs_fd, temp, text, STORE_ID_TEXT + 1);
    if (rc == 0 && linkat(blobs_fd, temp, blobs_fd, STORE_FILE, 0) && errno != EEXIST)
        rc = -errno;
    (void)unlinkat(blobs_fd, temp, 0);
    return rc == 0 && fsync(blobs_fd) ? -errno : rc;
}

/* For reading: a file that is open for writing keeps its file system from being made read only. */
static int open_file(int blobs_fd)
{
    int fd = openat(blobs_fd, STORE_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int read_id(int fd, uint8_t id[NODE_STORE_BYTES])
{
    char text[STORE_ID_TEXT];
    ssize_t n = pread(fd, text, sizeof(text), 0);
    if (n < 0)
        return -errno;
    return store_id_parse(text, (size_t)n, id) ? 0 : -EUCLEAN;
}

static int open_store(int blobs_fd, bool may_make, struct store_id *out, const char **what)
{
    *what = "the file blobs/" STORE_FILE " of the store cannot be made";
    int fd = open_file(blobs_fd);
    if (fd == -ENOENT && !may_make)
        return 0;
    int rc = fd == -ENOENT ? make(blobs_fd) : fd < 0 ? fd : 0;
    if (rc == 0 && fd < 0)
        rc = fd = open_file(blobs_fd);
    if (rc < 0)
        return rc;
    *what = "the file blobs/" STORE_FILE " of the store has no id in it; is it another program's folder?";
    rc = read_id(fd, out->id);
    if (rc) {
        close(fd);
        return rc;
    }
    out->lock_fd = fd;
    out->known = true;
    return 0;
}

/* ------------------------------------------------------------------ what the node remembers */

static bool has(int state_fd, const char *name)
{
    return faccessat(state_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A disk that does not take it costs that the next start takes it for a change. */
void store_id_remember(const struct folders *folders, const struct store_id *s)
{
    if (!s->turned)
        return;
    if (s->shared)
        (void)write_all(folders->state_fd, STORE_SHARED_FILE, "1\n", 2);
    else
        (void)unlinkat(folders->state_fd, STORE_SHARED_FILE, 0);
}

/* ------------------------------------------------------------------ the lock */

/* Where there are no locks a store of one node's own does without. */
static int lock(struct store_id *s, int blobs_fd, char *err, size_t err_len)
{
    int how = (s->shared ? LOCK_SH : LOCK_EX) | LOCK_NB;
    if (flock(s->lock_fd, how) == 0)
        return 0;
    if (errno == EBADF) { /* NFS: to have it alone it has to be open for writing */
        int fd = openat(blobs_fd, STORE_FILE, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0)
            close(s->lock_fd);
        s->lock_fd = fd >= 0 ? fd : s->lock_fd;
        if (flock(s->lock_fd, how) == 0)
            return 0;
    }
    int rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
    if (rc == -EBUSY && s->shared)
        snprintf(err, err_len,
                 "the store is in use by a node that does not share it; write 'store: {shared: true}' into "
                 "that node's configuration, too, and start it again");
    else if (rc == -EBUSY)
        snprintf(err, err_len,
                 "the store is in use by another node; if both are to have it, write 'store: {shared: true}' "
                 "into the configuration of each, else give this one a store of its own");
    else if (s->shared)
        snprintf(err, err_len,
                 "the file system of the store has no locks (flock): %s; a store can be shared on NFS "
                 "version 4.1 or newer, or CephFS",
                 strerror(-rc));
    else
        return 0;
    return rc;
}

int store_id_renew(const struct folders *folders, struct store_id *s, char *err, size_t err_len)
{
    const char *what;
    bool shared = s->shared;
    store_id_close(s);
    *s = (struct store_id){.lock_fd = -1, .shared = shared};
    int rc = open_store(folders->blobs_fd, !has(folders->state_fd, STORE_KNOWN_FILE), s, &what);
    if (rc && !shared)
        return 0;
    if (rc) {
        snprintf(err, err_len, "%s: %s", what, strerror(-rc));
        return rc;
    }
    rc = s->lock_fd < 0 ? 0 : lock(s, folders->blobs_fd, err, err_len);
    if (rc)
        store_id_close(s);
    return rc;
}

int store_id_open(const struct folders *folders, bool shared, struct store_id *out, char *err, size_t err_len)
{
    *out = (struct store_id){.lock_fd = -1, .shared = shared};
    int rc = store_id_renew(folders, out, err, err_len);
    out->turned = rc == 0 && has(folders->state_fd, STORE_SHARED_FILE) != shared;
    return rc;
}

void store_id_close(struct store_id *s)
{
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    s->lock_fd = -1;
}
