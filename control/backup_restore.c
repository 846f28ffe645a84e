/* SPDX-License-Identifier: Apache-2.0 */
/* A backup is put back: read as a whole first, then into a folder beside, which gets its name when it is
 * whole. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "control/backup.h"
#include "control/backup_file.h"
#include "control/journal.h"
#include "control/raft/restore.h"
#include "wire.h"

enum {
    COPY_BYTES = 256 << 10,
    WORK_PATH_MAX = BACKUP_PATH_MAX + 16,
    FILE_PATH_MAX = WORK_PATH_MAX + BACKUP_NAME_MAX + 16
};

struct restoring {
    const struct restore_request *request;
    struct restore_result *out;
    struct backup_head head;
    struct backup_reader *reader;
    char work[WORK_PATH_MAX]; /* the folder beside; "": nothing is written */
    uint8_t *buffer;
    char *err;
};

__attribute__((format(printf, 3, 4))) static int fail(struct restoring *r, int rc, const char *format, ...)
{
    va_list args;
    if (r->err[0])
        return rc;
    va_start(args, format);
    vsnprintf(r->err, BACKUP_ERROR_MAX, format, args);
    va_end(args);
    return rc;
}

static int damaged(struct restoring *r, int rc)
{
    return fail(r, rc, "%s: %s", r->request->path, backup_error_text(rc));
}

/* blobs/ALGORITHM/2 HEX/HEX; nothing that leads out of the folder. */
static bool blob_name_valid(const char *name)
{
    size_t parts = 1;
    if (strncmp(name, "blobs/", 6) != 0)
        return false;
    for (const char *p = name; *p; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9');
        if (!letter && (*p != '/' || p[1] == '/' || p[1] == '\0'))
            return false;
        parts += *p == '/';
    }
    return parts == 4;
}

static bool name_valid(const char *name)
{
    return strcmp(name, "names.mdb") == 0 || strcmp(name, "private.mdb") == 0 || blob_name_valid(name);
}

/* Makes the folders that lead to a blob, which belong to whom the blobs belong to. */
static int make_folders(struct restoring *r, char *path, size_t from)
{
    const struct restore_request *q = r->request;
    for (char *slash = strchr(path + from, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int made = mkdir(path, 0750);
        int rc = made && errno != EEXIST ? -errno : 0;
        if (made == 0 && q->change_owner && chown(path, q->uid, q->gid))
            rc = -errno;
        *slash = '/';
        if (rc)
            return rc;
    }
    return 0;
}

static int open_target(struct restoring *r, const char *name, int *fd)
{
    const struct restore_request *q = r->request;
    char path[FILE_PATH_MAX];
    bool blob = blob_name_valid(name);
    *fd = -1;
    if (!r->work[0])
        return 0;
    snprintf(path, sizeof(path), "%s/%s%s", r->work, blob ? "store/" : "", name);
    int rc = make_folders(r, path, strlen(r->work) + 1);
    if (rc == 0) {
        *fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, blob ? 0640 : 0600);
        rc = *fd < 0 ? -errno : 0;
    }
    if (rc == 0 && blob && q->change_owner && fchown(*fd, q->uid, q->gid))
        rc = -errno;
    return rc ? fail(r, rc, "%s: %s", path, strerror(-rc)) : 0;
}

static int take_bytes(struct restoring *r, int fd, uint64_t size)
{
    for (uint64_t left = size; left;) {
        size_t n = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        int rc = backup_read(r->reader, r->buffer, n);
        if (rc)
            return damaged(r, rc);
        rc = fd < 0 ? 0 : backup_write_all(fd, r->buffer, n);
        if (rc)
            return fail(r, rc, "%s: %s", r->work, strerror(-rc));
        left -= n;
    }
    if (fd >= 0 && fsync(fd))
        return fail(r, -errno, "%s: %s", r->work, strerror(errno));
    return 0;
}

static int take_file(struct restoring *r)
{
    char name[BACKUP_NAME_MAX];
    uint8_t head[8];
    int fd, rc = backup_read(r->reader, head, 2);
    size_t len = (size_t)head[0] | (size_t)head[1] << 8;
    if (rc == 0 && (len == 0 || len >= sizeof(name)))
        rc = -EBADMSG;
    if (rc == 0)
        rc = backup_read(r->reader, name, len);
    name[rc ? 0 : len] = '\0';
    if (rc == 0)
        rc = strlen(name) == len && name_valid(name) ? backup_read(r->reader, head, 8) : -EBADMSG;
    if (rc)
        return damaged(r, rc);
    struct wire_reader size = {.buf = head, .len = 8};
    uint64_t bytes = wire_get_u64(&size);
    rc = open_target(r, name, &fd);
    if (rc)
        return rc;
    rc = take_bytes(r, fd, bytes);
    if (fd >= 0)
        close(fd);
    r->out->files++;
    r->out->blobs += blob_name_valid(name);
    r->out->bytes += bytes;
    return rc;
}

/* Reads the file to its end, and writes what is in it if there is a folder to write to. */
static int take_all(struct restoring *r)
{
    int fd = open(r->request->path, O_RDONLY | O_CLOEXEC), rc = 0;
    if (fd < 0)
        return fail(r, -errno, "%s: %s", r->request->path, strerror(errno));
    const char *passphrase = r->request->passphrase;
    rc = backup_reader_new(fd, passphrase, strlen(passphrase), &r->head, &r->reader);
    if (rc) {
        close(fd);
        return damaged(r, rc);
    }
    r->out->files = r->out->bytes = r->out->blobs = 0;
    for (uint8_t kind = BACKUP_RECORD_FILE; rc == 0;) {
        rc = backup_read(r->reader, &kind, 1);
        if (rc == 0 && kind == BACKUP_RECORD_END)
            rc = backup_reader_end(r->reader);
        else if (rc == 0)
            rc = kind == BACKUP_RECORD_FILE ? take_file(r) : -EBADMSG;
        if (kind == BACKUP_RECORD_END)
            break;
    }
    backup_reader_free(r->reader);
    close(fd);
    return rc ? damaged(r, rc) : 0;
}

/* The folder may be there if nothing is in it. */
static int target_check(struct restoring *r)
{
    const char *state = r->request->state;
    size_t entries = 0;
    DIR *dir = opendir(state);
    if (!dir && errno == ENOENT)
        return 0;
    if (!dir)
        return fail(r, -errno, "%s: %s", state, strerror(errno));
    while (readdir(dir))
        entries++;
    closedir(dir);
    if (entries <= 2) /* itself and the one above */
        return 0;
    return fail(r, -ENOTEMPTY,
                "%s is not empty; a backup is put back into a folder that is empty or not there", state);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int place(struct restoring *r)
{
    const struct restore_from from = {
        .node_id = r->head.node_id, .index = r->head.index, .term = r->head.term};
    struct restore_from whole = from;
    memcpy(whole.cluster_id, r->head.cluster_id, sizeof(whole.cluster_id));
    int rc = restore_make(r->work, &whole, r->err, BACKUP_ERROR_MAX);
    if (rc)
        return rc;
    int fd = open(r->work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || syncfs(fd))
        rc = fail(r, -errno, "%s: %s", r->work, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (rc == 0 && rename(r->work, r->request->state))
        rc = fail(r, -errno, "%s: %s", r->request->state, strerror(errno));
    return rc;
}

static int write_it(struct restoring *r)
{
    int rc = target_check(r);
    if (rc)
        return rc;
    snprintf(r->work, sizeof(r->work), "%s.restoring", r->request->state);
    nftw(r->work, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (mkdir(r->work, 0750))
        return fail(r, -errno, "%s: %s", r->work, strerror(errno));
    rc = take_all(r);
    if (rc == 0)
        rc = place(r);
    if (rc)
        nftw(r->work, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return rc;
}

int backup_restore(const struct restore_request *request, struct restore_result *out,
                   char err[BACKUP_ERROR_MAX])
{
    struct restoring r = {.request = request, .out = out, .err = err};
    char time_text[TIME_TEXT_MAX];
    err[0] = '\0';
    *out = (struct restore_result){.files = 0};
    r.buffer = malloc(COPY_BYTES);
    CHECK(r.buffer);
    /* All of it is read before anything is written. */
    int rc = take_all(&r);
    if (rc == 0 && request->state)
        rc = write_it(&r);
    free(r.buffer);
    out->node_id = r.head.node_id;
    out->index = r.head.index;
    snprintf(out->created, sizeof(out->created), "%s", journal_time_text(r.head.created_ms, time_text));
    for (size_t i = 0; i < sizeof(r.head.cluster_id); i++)
        snprintf(out->cluster + 2 * i, 3, "%02x", r.head.cluster_id[i]);
    return rc;
}
