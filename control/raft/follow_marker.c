/* SPDX-License-Identifier: Apache-2.0 */
#include "follow_marker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "crc32c.h"
#include "snapshot.h"
#include "wire.h"

enum {
    MARKER_MAGIC = 0x31464c46, /* "FLF1" */
    MARKER_VERSION = 1,
    MARKER_HEAD_BYTES = 4 + 4 + 8 + 8 + 4,
    MARKER_BYTES_MAX = MARKER_HEAD_BYTES + SNAPSHOT_CONFIGURATION_MAX + 4,
};

static const char file_name[] = "follow";

static uint32_t checksum(const uint8_t *data, size_t len)
{
    struct crc32c c;
    crc32c_init(&c);
    return crc32c(&c, 0, data, len);
}

void follow_marker_free(struct follow_marker *marker)
{
    free(marker->configuration);
    *marker = (struct follow_marker){.install = 0};
}

void follow_marker_configure(struct follow_marker *marker, uint64_t index, const void *data, size_t len)
{
    void *copy = malloc(len + 1);
    CHECK(copy);
    if (len)
        memcpy(copy, data, len);
    free(marker->configuration);
    marker->configuration = copy;
    marker->configuration_len = len;
    marker->configuration_index = index;
}

int follow_marker_write(const struct file_ops *ops, int dir_fd, const struct follow_marker *marker)
{
    struct wire_writer w = {.cap = MARKER_HEAD_BYTES + marker->configuration_len + 4};
    w.buf = malloc(w.cap);
    CHECK(w.buf);
    wire_put_u32(&w, MARKER_MAGIC);
    wire_put_u32(&w, MARKER_VERSION);
    wire_put_u64(&w, marker->install);
    wire_put_u64(&w, marker->configuration_index);
    wire_put_bytes(&w, marker->configuration, marker->configuration_len);
    wire_put_u32(&w, checksum(w.buf, w.len));
    int rc = file_replace(ops, dir_fd, file_name, w.buf, w.len);
    free(w.buf);
    return rc;
}

static int decode(const uint8_t *data, size_t len, struct follow_marker *marker)
{
    struct wire_reader r = {.buf = data, .len = len};
    size_t configuration_len;
    uint32_t magic = wire_get_u32(&r), version = wire_get_u32(&r);
    *marker = (struct follow_marker){.install = wire_get_u64(&r)};
    uint64_t index = wire_get_u64(&r);
    const uint8_t *configuration = wire_get_bytes(&r, &configuration_len);
    size_t summed = r.pos;
    uint32_t sum = wire_get_u32(&r);
    if (len >= 8 && magic == MARKER_MAGIC && version != MARKER_VERSION)
        return -EPROTO;
    if (!wire_at_end(&r) || magic != MARKER_MAGIC || sum != checksum(data, summed))
        return -EUCLEAN;
    if (configuration_len)
        follow_marker_configure(marker, index, configuration, configuration_len);
    return 0;
}

int follow_marker_read(int dir_fd, struct follow_marker *marker)
{
    void *data;
    size_t len;
    int rc = file_read_all(dir_fd, file_name, MARKER_BYTES_MAX, &data, &len);
    if (rc)
        return rc == -EFBIG ? -EUCLEAN : rc;
    rc = decode(data, len, marker);
    free(data);
    return rc;
}

int follow_marker_remove(const struct file_ops *ops, int dir_fd)
{
    int rc = ops->unlink(ops->arg, dir_fd, file_name);
    return rc && rc != -ENOENT ? rc : ops->sync(ops->arg, dir_fd);
}
