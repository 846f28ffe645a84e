/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot_receive.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

struct snapshot_receive {
    const struct file_ops *ops;
    const struct snapshot_meta *meta;
    int dir_fd, folder_fd, fd;
    unsigned file; /* the one that pieces come of; DB_FILES: all are complete */
    uint64_t offset;
    EVP_MD_CTX *md;
    bool ended;
};

static const char work_name[] = "snapshot.in";

static int room_check(int dir_fd, const struct snapshot_meta *meta, uint64_t reserve_bytes)
{
    struct statvfs st;
    uint64_t needed = reserve_bytes;
    if (fstatvfs(dir_fd, &st))
        return -errno;
    for (int i = 0; i < DB_FILES; i++) {
        if (meta->bytes[i] == 0 || meta->bytes[i] > INT64_MAX / 4)
            return -EFBIG;
        needed += meta->bytes[i];
    }
    return (uint64_t)st.f_bavail * st.f_frsize < needed ? -ENOSPC : 0;
}

static int file_begin(struct snapshot_receive *r)
{
    r->offset = 0;
    r->fd = openat(r->folder_fd, db_file_name(r->file), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    if (r->fd < 0)
        return -errno;
    return EVP_DigestInit_ex(r->md, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

static int file_end(struct snapshot_receive *r)
{
    uint8_t hash[32];
    unsigned len = sizeof(hash);
    if (EVP_DigestFinal_ex(r->md, hash, &len) != 1)
        return -ENOMEM;
    int rc =
        memcmp(hash, r->meta->sha256[r->file], sizeof(hash)) ? -EUCLEAN : r->ops->sync(r->ops->arg, r->fd);
    close(r->fd);
    r->fd = -1;
    r->file++;
    return rc || r->file == DB_FILES ? rc : file_begin(r);
}

int snapshot_receive_begin(const struct file_ops *ops, int dir_fd, const struct snapshot_meta *meta,
                           uint64_t reserve_bytes, struct snapshot_receive **out)
{
    struct snapshot_receive *r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    *r = (struct snapshot_receive){
        .ops = ops, .meta = meta, .dir_fd = dir_fd, .folder_fd = -1, .fd = -1, .md = EVP_MD_CTX_new()};
    snapshot_folder_remove(ops, dir_fd, work_name);
    int rc = r->md ? room_check(dir_fd, meta, reserve_bytes) : -ENOMEM;
    if (rc == 0 && mkdirat(dir_fd, work_name, 0700))
        rc = -errno;
    if (rc == 0) {
        r->folder_fd = openat(dir_fd, work_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        rc = r->folder_fd < 0 ? -errno : file_begin(r);
    }
    if (rc) {
        snapshot_receive_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

int snapshot_receive_piece(struct snapshot_receive *r, enum db_file file, uint64_t offset, const void *data,
                           size_t len)
{
    if (r->file >= DB_FILES || file != r->file || offset != r->offset || len == 0 ||
        len > r->meta->bytes[file] - r->offset)
        return -EINVAL;
    int rc = file_write_all(r->ops, r->fd, data, len, (off_t)offset);
    if (rc)
        return rc;
    if (EVP_DigestUpdate(r->md, data, len) != 1)
        return -ENOMEM;
    r->offset += len;
    return r->offset == r->meta->bytes[file] ? file_end(r) : 0;
}

int snapshot_receive_end(struct snapshot_receive *r)
{
    char name[SNAPSHOT_NAME_BYTES];
    if (r->file < DB_FILES)
        return -EUCLEAN;
    snapshot_name(r->meta->index, name);
    int rc = snapshot_meta_write(r->ops, r->folder_fd, r->meta);
    if (rc)
        return rc;
    /* One of the same index would be from here, and nothing that is needed any more. */
    snapshot_folder_remove(r->ops, r->dir_fd, name);
    rc = r->ops->rename(r->ops->arg, r->dir_fd, work_name, name);
    r->ended = rc == 0;
    return rc ? rc : r->ops->sync(r->ops->arg, r->dir_fd);
}

void snapshot_receive_free(struct snapshot_receive *r)
{
    if (r->fd >= 0)
        close(r->fd);
    if (r->folder_fd >= 0)
        close(r->folder_fd);
    if (!r->ended)
        snapshot_folder_remove(r->ops, r->dir_fd, work_name);
    EVP_MD_CTX_free(r->md);
    free(r);
}
