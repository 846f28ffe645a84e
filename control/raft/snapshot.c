/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "crc32c.h"
#include "snapshot_copy.h"
#include "wire.h"

enum {
    SNAPSHOT_MAGIC = 0x31534e46, /* "FNS1" */
    SNAPSHOT_VERSION = 1,
    COPY_BYTES = 1 << 20,
    META_FIXED_BYTES = 4 + 4 + 16 + 4 * 8 + 4 + DB_FILES * (8 + 32) + 4,
};

static const char work_name[] = "snapshot.new";

void snapshot_meta_free(struct snapshot_meta *meta)
{
    free(meta->configuration);
    meta->configuration = NULL;
}

void snapshot_name(uint64_t index, char *out)
{
    snprintf(out, SNAPSHOT_NAME_BYTES, "snapshot-%016" PRIx64, index);
}

/* --- the file "meta" --- */

static uint32_t checksum(const uint8_t *data, size_t len)
{
    struct crc32c c;
    crc32c_init(&c);
    return crc32c(&c, 0, data, len);
}

int snapshot_meta_encode(const struct snapshot_meta *meta, void **out, size_t *len)
{
    struct wire_writer w = {.cap = META_FIXED_BYTES + meta->configuration_len};
    if (meta->configuration_len > SNAPSHOT_CONFIGURATION_MAX)
        return -EOVERFLOW;
    w.buf = malloc(w.cap);
    if (!w.buf)
        return -ENOMEM;
    wire_put_u32(&w, SNAPSHOT_MAGIC);
    wire_put_u32(&w, SNAPSHOT_VERSION);
    wire_put(&w, meta->cluster_id, sizeof(meta->cluster_id));
    wire_put_u64(&w, meta->node_id);
    wire_put_u64(&w, meta->index);
    wire_put_u64(&w, meta->term);
    wire_put_u64(&w, meta->configuration_index);
    wire_put_bytes(&w, meta->configuration, meta->configuration_len);
    for (int i = 0; i < DB_FILES; i++) {
        wire_put_u64(&w, meta->bytes[i]);
        wire_put(&w, meta->sha256[i], sizeof(meta->sha256[i]));
    }
    wire_put_u32(&w, checksum(w.buf, w.len));
    CHECK(!w.failed);
    *out = w.buf;
    *len = w.len;
    return 0;
}

int snapshot_meta_write(const struct file_ops *ops, int dir_fd, const struct snapshot_meta *meta)
{
    void *data;
    size_t len;
    int rc = snapshot_meta_encode(meta, &data, &len);
    if (rc)
        return rc;
    rc = file_replace(ops, dir_fd, "meta", data, len);
    free(data);
    return rc;
}

int snapshot_meta_decode(const void *data, size_t len, struct snapshot_meta *meta)
{
    memset(meta, 0, sizeof(*meta));
    struct wire_reader r = {.buf = data, .len = len};
    uint32_t magic = wire_get_u32(&r), version = wire_get_u32(&r);
    const uint8_t *cluster_id = wire_get(&r, sizeof(meta->cluster_id));
    meta->node_id = wire_get_u64(&r);
    meta->index = wire_get_u64(&r);
    meta->term = wire_get_u64(&r);
    meta->configuration_index = wire_get_u64(&r);
    const uint8_t *configuration = wire_get_bytes(&r, &meta->configuration_len);
    for (int i = 0; i < DB_FILES; i++) {
        meta->bytes[i] = wire_get_u64(&r);
        const uint8_t *hash = wire_get(&r, sizeof(meta->sha256[i]));
        if (hash)
            memcpy(meta->sha256[i], hash, sizeof(meta->sha256[i]));
    }
    size_t summed = r.pos;
    uint32_t sum = wire_get_u32(&r);
    if (len >= 8 && magic == SNAPSHOT_MAGIC && version != SNAPSHOT_VERSION)
        return -EPROTO;
    if (!wire_at_end(&r) || magic != SNAPSHOT_MAGIC || sum != checksum(data, summed) ||
        meta->configuration_len > SNAPSHOT_CONFIGURATION_MAX)
        return -EUCLEAN;
    memcpy(meta->cluster_id, cluster_id, sizeof(meta->cluster_id));
    meta->configuration = malloc(meta->configuration_len + 1);
    if (!meta->configuration)
        return -ENOMEM;
    memcpy(meta->configuration, configuration, meta->configuration_len);
    return 0;
}

static int meta_read(int dir_fd, const char *folder, struct snapshot_meta *meta)
{
    char path[SNAPSHOT_NAME_BYTES + 8];
    void *data;
    size_t len;
    snprintf(path, sizeof(path), "%s/meta", folder);
    int rc = file_read_all(dir_fd, path, META_FIXED_BYTES + SNAPSHOT_CONFIGURATION_MAX, &data, &len);
    if (rc)
        return rc == -ENOENT || rc == -EFBIG ? -EUCLEAN : rc;
    rc = snapshot_meta_decode(data, len, meta);
    free(data);
    return rc;
}

/* --- folders --- */

void snapshot_folder_remove(const struct file_ops *ops, int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    for (int i = 0; i < DB_FILES; i++)
        ops->unlink(ops->arg, fd, db_file_name(i));
    ops->unlink(ops->arg, fd, "meta.new");
    ops->unlink(ops->arg, fd, "meta");
    close(fd);
    unlinkat(dir_fd, name, AT_REMOVEDIR);
}

static bool name_index(const char *name, uint64_t *index)
{
    char again[SNAPSHOT_NAME_BYTES];
    if (sscanf(name, "snapshot-%16" SCNx64, index) != 1)
        return false;
    snapshot_name(*index, again);
    return strcmp(name, again) == 0;
}

/* Finds the newest snapshot and, if asked to, removes all that are older than `keep`. */
static int folder_scan(const struct file_ops *ops, int dir_fd, uint64_t keep, uint64_t *newest)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    uint64_t index;
    if (!dir)
        return -errno;
    *newest = 0;
    while ((entry = readdir(dir))) {
        if (!name_index(entry->d_name, &index))
            continue;
        if (index < keep)
            snapshot_folder_remove(ops, dir_fd, entry->d_name);
        else if (index > *newest)
            *newest = index;
    }
    closedir(dir);
    return 0;
}

/* --- bytes --- */

/* Reads all of from, hashes it and, unless to is -1, writes it to `to`. */
static int hash_copy(const struct file_ops *ops, int from, int to, uint8_t hash[32], uint64_t *bytes)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    uint8_t *buf = malloc(COPY_BYTES);
    unsigned hash_len = 32;
    int rc = md && buf && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
    *bytes = 0;
    while (rc == 0) {
        ssize_t n = pread(from, buf, COPY_BYTES, (off_t)*bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            rc = n < 0 ? -errno : 0;
            break;
        }
        if (to >= 0)
            rc = file_write_all(ops, to, buf, (size_t)n, (off_t)*bytes);
        if (EVP_DigestUpdate(md, buf, (size_t)n) != 1)
            rc = -ENOMEM;
        *bytes += (uint64_t)n;
    }
    if (rc == 0 && EVP_DigestFinal_ex(md, hash, &hash_len) != 1)
        rc = -ENOMEM;
    free(buf);
    EVP_MD_CTX_free(md);
    return rc;
}

static int take_file(const struct file_ops *ops, int dir_fd, struct db *db, enum db_file file,
                     struct snapshot_meta *meta)
{
    int fd = openat(dir_fd, db_file_name(file), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int rc = snapshot_copy(ops, db, file, fd, meta->sha256[file], &meta->bytes[file]);
    close(fd);
    return rc;
}

static int room_check(struct db *db, uint64_t reserve_bytes)
{
    struct db_sizes sizes;
    int rc = db_sizes(db, &sizes);
    if (rc)
        return rc;
    uint64_t needed = sizes.bytes[DB_NAMES] + sizes.bytes[DB_PRIVATE] + reserve_bytes;
    return sizes.disk_free_bytes < needed ? -ENOSPC : 0;
}

static int take_all(const struct file_ops *ops, int dir_fd, struct db *db, struct snapshot_meta *meta)
{
    if (mkdirat(dir_fd, work_name, 0700))
        return -errno;
    int fd = openat(dir_fd, work_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    if (fd < 0)
        return -errno;
    for (int i = 0; i < DB_FILES && rc == 0; i++)
        rc = take_file(ops, fd, db, i, meta);
    if (rc == 0)
        rc = snapshot_meta_write(ops, fd, meta);
    close(fd);
    return rc;
}

int snapshot_take(const struct file_ops *ops, int dir_fd, struct db *db, uint64_t reserve_bytes,
                  uint64_t keep, struct snapshot_meta *meta)
{
    char name[SNAPSHOT_NAME_BYTES];
    uint64_t newest;
    int rc = room_check(db, reserve_bytes);
    if (rc)
        return rc;
    snapshot_name(meta->index, name);
    snapshot_folder_remove(ops, dir_fd, work_name);
    rc = take_all(ops, dir_fd, db, meta);
    if (rc == 0)
        rc = ops->rename(ops->arg, dir_fd, work_name, name);
    if (rc == 0)
        rc = ops->sync(ops->arg, dir_fd);
    if (rc)
        snapshot_folder_remove(ops, dir_fd, work_name);
    return rc ? rc : folder_scan(ops, dir_fd, keep, &newest);
}

int snapshot_remove_older(const struct file_ops *ops, int dir_fd, uint64_t keep)
{
    uint64_t newest;
    return folder_scan(ops, dir_fd, keep, &newest);
}

int snapshot_file_open(int dir_fd, uint64_t index, enum db_file file)
{
    char folder[SNAPSHOT_NAME_BYTES], path[SNAPSHOT_NAME_BYTES + 16];
    snapshot_name(index, folder);
    snprintf(path, sizeof(path), "%s/%s", folder, db_file_name(file));
    int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int snapshot_find(int dir_fd, struct snapshot_meta *meta)
{
    char name[SNAPSHOT_NAME_BYTES];
    uint64_t newest = 0;
    int rc = folder_scan(&file_ops_system, dir_fd, 0, &newest);
    if (rc || newest == 0)
        return rc ? rc : -ENOENT;
    snapshot_name(newest, name);
    rc = meta_read(dir_fd, name, meta);
    if (rc == 0 && meta->index != newest) {
        snapshot_meta_free(meta);
        return -EUCLEAN;
    }
    return rc;
}

static int copy_checked(const struct file_ops *ops, const struct snapshot_meta *meta, enum db_file file,
                        int from, int to)
{
    uint8_t hash[32];
    uint64_t bytes;
    int rc = hash_copy(ops, from, to, hash, &bytes);
    if (rc)
        return rc;
    return bytes != meta->bytes[file] || memcmp(hash, meta->sha256[file], sizeof(hash)) != 0 ? -EUCLEAN : 0;
}

int snapshot_check(int dir_fd, const struct snapshot_meta *meta, enum db_file file)
{
    int fd = snapshot_file_open(dir_fd, meta->index, file);
    if (fd < 0)
        return fd;
    int rc = copy_checked(&file_ops_system, meta, file, fd, -1);
    close(fd);
    return rc;
}

static int restore_bytes(const struct file_ops *ops, const struct snapshot_meta *meta, enum db_file file,
                         int from, int to)
{
    int rc = copy_checked(ops, meta, file, from, to);
    return rc ? rc : ops->sync(ops->arg, to);
}

int snapshot_restore(const struct file_ops *ops, int dir_fd, const struct snapshot_meta *meta,
                     enum db_file file, int state_dir_fd)
{
    static const char tmp[] = "restore.new";
    int from = snapshot_file_open(dir_fd, meta->index, file);
    if (from < 0)
        return from;
    mode_t mode = file == DB_NAMES ? 0640 : 0600;
    int to = openat(state_dir_fd, tmp, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    int rc = to < 0 ? -errno : restore_bytes(ops, meta, file, from, to);
    if (rc == 0 && fchmod(to, mode))
        rc = -errno;
    close(from);
    if (to >= 0)
        close(to);
    if (rc == 0)
        rc = ops->rename(ops->arg, state_dir_fd, tmp, db_file_name(file));
    if (rc == 0)
        return ops->sync(ops->arg, state_dir_fd);
    unlinkat(state_dir_fd, tmp, 0);
    return rc;
}
