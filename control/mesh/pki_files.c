/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/pki_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

enum { ROW_KEY = 2 };

/* Which file is where in struct pki_files. */
static const struct file_row {
    const char *name;
    size_t at, max;
    mode_t mode;
    bool needed;
} rows[] = {
    {PKI_FILE_CA, offsetof(struct pki_files, ca), PKI_PEM_BYTES_MAX, 0644, true},
    {PKI_FILE_CERT, offsetof(struct pki_files, cert), PKI_PEM_BYTES_MAX, 0644, true},
    {PKI_FILE_KEY, offsetof(struct pki_files, key), PKI_PEM_BYTES_MAX, 0600, true},
    {PKI_FILE_CA_KEY, offsetof(struct pki_files, ca_key), PKI_PEM_BYTES_MAX, 0600, false},
    {PKI_FILE_PEERS, offsetof(struct pki_files, peers), PKI_PEERS_BYTES_MAX, 0644, false},
    {PKI_FILE_NEXT_CA, offsetof(struct pki_files, next_ca), PKI_PEM_BYTES_MAX, 0644, false},
    {PKI_FILE_NEXT_KEY, offsetof(struct pki_files, next_key), PKI_PEM_BYTES_MAX, 0600, false},
};

static struct pki_text *text_of(const struct pki_files *files, const struct file_row *row)
{
    return (struct pki_text *)((uintptr_t)files + row->at);
}

void pki_files_fini(struct pki_files *files)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        pki_text_free(text_of(files, &rows[i]));
}

/* Whether somebody else than this user could have read it, or written it. */
static int check_mode(int fd, const char *folder, const char *name, mode_t allowed, char err[PKI_ERR_MAX])
{
    struct stat st;
    if (fstat(fd, &st))
        return -errno;
    if (st.st_uid != geteuid() && st.st_uid != 0) {
        snprintf(err, PKI_ERR_MAX, "%s/%s belongs to user %u; chown it to user %u", folder, name, st.st_uid,
                 geteuid());
        return -EPERM;
    }
    if (st.st_mode & 07777 & ~(allowed | S_ISGID)) {
        snprintf(err, PKI_ERR_MAX, "%s/%s has mode %04o, which lets others at it; chmod it to %04o", folder,
                 name, st.st_mode & 07777, allowed);
        return -EPERM;
    }
    return 0;
}

static int read_all(int fd, size_t max, struct pki_text *out)
{
    out->data = malloc(max + 1);
    if (!out->data)
        return -ENOMEM;
    out->len = 0;
    for (;;) {
        ssize_t n = read(fd, out->data + out->len, max + 1 - out->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        out->len += (size_t)n;
        if (out->len > max)
            return -EFBIG;
    }
    out->data[out->len] = '\0';
    return 0;
}

static int read_row(int fd, const char *folder, const struct file_row *row, struct pki_files *out,
                    char err[PKI_ERR_MAX])
{
    int file = openat(fd, row->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0 && errno == ENOENT && !row->needed)
        return 0;
    int rc = file < 0 ? -errno : check_mode(file, folder, row->name, row->mode, err);
    if (rc == 0)
        rc = read_all(file, row->max, text_of(out, row));
    if (file >= 0)
        close(file);
    if (rc && !err[0])
        snprintf(err, PKI_ERR_MAX, "%s/%s cannot be read: %s", folder, row->name, strerror(-rc));
    return rc == -ENOENT ? -EINVAL : rc;
}

static int open_folder(int parent_fd, const char *folder, char err[PKI_ERR_MAX])
{
    err[0] = '\0';
    int fd = openat(parent_fd, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int rc = fd < 0 ? -errno : check_mode(fd, folder, ".", 0700, err);
    if (rc && !err[0])
        snprintf(err, PKI_ERR_MAX, "%s cannot be opened: %s", folder, strerror(-rc));
    if (rc && fd >= 0)
        close(fd);
    return rc ? rc : fd;
}

int pki_files_read_key(int parent_fd, const char *folder, struct pki_text *out, char err[PKI_ERR_MAX])
{
    struct pki_files files = {0};
    int fd = open_folder(parent_fd, folder, err);
    if (fd < 0)
        return fd;
    int rc = read_row(fd, folder, &rows[ROW_KEY], &files, err);
    close(fd);
    *out = files.key;
    if (rc)
        pki_text_free(out);
    return rc;
}

int pki_files_read(int parent_fd, const char *folder, struct pki_files *out, char err[PKI_ERR_MAX])
{
    *out = (struct pki_files){0};
    int fd = open_folder(parent_fd, folder, err);
    if (fd < 0)
        return fd;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(rows); i++)
        rc = read_row(fd, folder, &rows[i], out, err);
    close(fd);
    if (rc)
        pki_files_fini(out);
    return rc;
}

static int write_new(int fd, const char *name, mode_t mode, const struct pki_text *text)
{
    unlinkat(fd, name, 0);
    int file = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0)
        return -errno;
    int rc = fchmod(file, mode) ? -errno : 0;
    for (size_t at = 0; rc == 0 && at < text->len;) {
        ssize_t n = write(file, text->data + at, text->len - at);
        if (n < 0 && errno != EINTR)
            rc = -errno;
        at += n > 0 ? (size_t)n : 0;
    }
    if (rc == 0 && fsync(file))
        rc = -errno;
    if (close(file) && rc == 0)
        rc = -errno;
    return rc;
}

static int replace(int fd, const struct file_row *row, const struct pki_text *text)
{
    char temporary[64];
    snprintf(temporary, sizeof(temporary), "%s.new", row->name);
    int rc = write_new(fd, temporary, row->mode, text);
    if (rc == 0 && renameat(fd, temporary, fd, row->name))
        rc = -errno;
    if (rc)
        unlinkat(fd, temporary, 0);
    return rc ? rc : fsync(fd) ? -errno : 0;
}

int pki_files_put(int parent_fd, const char *folder, const char *name, const struct pki_text *text)
{
    int fd = openat(parent_fd, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = -EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (strcmp(rows[i].name, name) == 0)
            rc = replace(fd, &rows[i], text);
    close(fd);
    return rc;
}

int pki_files_drop(int parent_fd, const char *folder, const char *name)
{
    int fd = openat(parent_fd, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = unlinkat(fd, name, 0) && errno != ENOENT ? -errno : 0;
    close(fd);
    return rc;
}

int pki_files_remove(int parent_fd, const char *folder)
{
    int fd = openat(parent_fd, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char temporary[64];
        snprintf(temporary, sizeof(temporary), "%s.new", rows[i].name);
        unlinkat(fd, rows[i].name, 0);
        unlinkat(fd, temporary, 0);
    }
    close(fd);
    return unlinkat(parent_fd, folder, AT_REMOVEDIR) && errno != ENOENT ? -errno : 0;
}

int pki_files_make(int parent_fd, const char *folder, const struct pki_files *files)
{
    char aside[64];
    snprintf(aside, sizeof(aside), "%s.new", folder);
    int rc = pki_files_remove(parent_fd, aside), fd = -1;
    if (rc == 0 && mkdirat(parent_fd, aside, 0700))
        rc = -errno;
    if (rc == 0) {
        fd = openat(parent_fd, aside, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        rc = fd < 0 ? -errno : 0;
    }
    for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(rows); i++)
        if (text_of(files, &rows[i])->data)
            rc = write_new(fd, rows[i].name, rows[i].mode, text_of(files, &rows[i]));
    if (rc == 0 && fsync(fd))
        rc = -errno;
    if (fd >= 0)
        close(fd);
    if (rc == 0 && renameat2(parent_fd, aside, parent_fd, folder, RENAME_NOREPLACE))
        rc = -errno;
    return rc ? rc : fsync(parent_fd) ? -errno : 0;
}

int pki_files_first(const struct pki_subject *subject, struct pki_files *out, char err[PKI_ERR_MAX])
{
    struct pki_text request = {0};
    *out = (struct pki_files){0};
    snprintf(err, PKI_ERR_MAX, "no certificates could be made: %s", strerror(ENOMEM));
    int rc = pki_ca_make(subject->name.cluster_id, &out->ca, &out->ca_key);
    if (rc == 0)
        rc = pki_request_make(&out->key, &request);
    if (rc == 0)
        rc = pki_sign(out->ca.data, out->ca.len, out->ca_key.data, out->ca_key.len, request.data, request.len,
                      subject, &out->cert, err);
    pki_text_free(&request);
    if (rc)
        pki_files_fini(out);
    return rc;
}
