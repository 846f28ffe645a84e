/* SPDX-License-Identifier: Apache-2.0 */
#include "control/source_found.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "control/raft/crc32c.h"
#include "control/state/source.h"

/* u32 magic, u32 count, for each host: bytes name, u8 addresses, 16 bytes each; u32 CRC32C of all that. */
enum {
    MAGIC = 0x31464c46, /* "FLF1", with the version */
    HOSTS_MAX = SOURCES_OWN_MAX * SOURCE_BACKENDS_MAX,
    CRC_BYTES = 4,
    HOST_BYTES_MAX = 4 + RESOLVE_NAME_MAX + 1 + RESOLVE_ADDRESSES_MAX * 16,
    FILE_BYTES_MAX = 4 + 4 + HOSTS_MAX * HOST_BYTES_MAX + CRC_BYTES,
};

#define FRESH_FILE SOURCE_FOUND_FILE ".new"

static uint32_t sum_of(const void *data, size_t len)
{
    struct crc32c table;
    crc32c_init(&table);
    return crc32c(&table, 0, data, len);
}

/* ------------------------------------------------------------------ the table */

const struct source_found_host *source_found_find(const struct source_found *f, const char *name)
{
    for (size_t i = 0; i < f->count; i++)
        if (strcmp(f->list[i].name, name) == 0)
            return &f->list[i];
    return NULL;
}

void source_found_add(struct source_found *f, const char *name, unsigned count, const uint8_t (*ip)[16])
{
    if (f->count >= HOSTS_MAX || count == 0 || count > RESOLVE_ADDRESSES_MAX || source_found_find(f, name))
        return;
    if (!f->list)
        f->list = calloc(HOSTS_MAX, sizeof(*f->list));
    CHECK(f->list);
    struct source_found_host *host = &f->list[f->count++];
    snprintf(host->name, sizeof(host->name), "%s", name);
    host->count = count;
    memcpy(host->ip, ip, count * sizeof(ip[0]));
}

void source_found_fini(struct source_found *f)
{
    free(f->list);
    *f = (struct source_found){.count = 0};
}

/* ------------------------------------------------------------------ the file */

static bool host_get(struct wire_reader *r, struct source_found *out)
{
    uint8_t ip[RESOLVE_ADDRESSES_MAX][16];
    char name[RESOLVE_NAME_MAX + 1];
    size_t len;
    const uint8_t *text = wire_get_bytes(r, &len);
    unsigned count = wire_get_u8(r);
    if (r->failed || len == 0 || len > RESOLVE_NAME_MAX || count == 0 || count > RESOLVE_ADDRESSES_MAX)
        return false;
    memcpy(name, text, len);
    name[len] = '\0';
    const uint8_t *addresses = wire_get(r, count * sizeof(ip[0]));
    if (!addresses)
        return false;
    memcpy(ip, addresses, count * sizeof(ip[0]));
    source_found_add(out, name, count, (const uint8_t(*)[16])ip);
    return true;
}

static bool parse(const uint8_t *data, size_t len, struct source_found *out)
{
    struct wire_reader r = {.buf = data, .len = len - CRC_BYTES};
    struct wire_reader sum = {.buf = data + r.len, .len = CRC_BYTES};
    if (wire_get_u32(&sum) != sum_of(data, r.len) || wire_get_u32(&r) != MAGIC)
        return false;
    uint32_t count = wire_get_u32(&r);
    for (uint32_t i = 0; i < count; i++)
        if (!host_get(&r, out))
            return false;
    return wire_at_end(&r);
}

void source_found_read(int dir_fd, struct source_found *out)
{
    struct stat st;
    *out = (struct source_found){.count = 0};
    int fd = openat(dir_fd, SOURCE_FOUND_FILE, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return;
    bool fits =
        fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > CRC_BYTES && st.st_size <= FILE_BYTES_MAX;
    uint8_t *data = fits ? malloc((size_t)st.st_size) : NULL;
    CHECK(data || !fits);
    if (!fits || read(fd, data, (size_t)st.st_size) != st.st_size || !parse(data, (size_t)st.st_size, out))
        source_found_fini(out);
    free(data);
    close(fd);
}

/* Without a sync: who loses it with the power has lost the data plane, too, and begins with nothing anyway.
 */
static int write_file(int dir_fd, const uint8_t *data, size_t len)
{
    int fd = openat(dir_fd, FRESH_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, data, len);
    int err = n < 0 ? -errno : (size_t)n < len ? -ENOSPC : 0;
    close(fd);
    if (!err && renameat(dir_fd, FRESH_FILE, dir_fd, SOURCE_FOUND_FILE))
        err = -errno;
    if (err)
        (void)unlinkat(dir_fd, FRESH_FILE, 0);
    return err;
}

int source_found_write(int dir_fd, const struct source_found *f)
{
    struct wire_writer w = {.buf = malloc(FILE_BYTES_MAX), .cap = FILE_BYTES_MAX};
    CHECK(w.buf);
    wire_put_u32(&w, MAGIC);
    wire_put_u32(&w, (uint32_t)f->count);
    for (size_t i = 0; i < f->count; i++) {
        const struct source_found_host *host = &f->list[i];
        wire_put_bytes(&w, host->name, strlen(host->name));
        wire_put_u8(&w, (uint8_t)host->count);
        wire_put(&w, host->ip, host->count * sizeof(host->ip[0]));
    }
    wire_put_u32(&w, sum_of(w.buf, w.len));
    CHECK(!w.failed);
    int rc = write_file(dir_fd, w.buf, w.len);
    free(w.buf);
    return rc;
}
