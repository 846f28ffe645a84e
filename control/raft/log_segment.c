/* SPDX-License-Identifier: Apache-2.0 */
#include "log_segment.h"

#include <errno.h>

#include "check.h"
#include "wire.h"

enum {
    SEGMENT_MAGIC = 0x314c4c46, /* "FLL1" */
    SEGMENT_VERSION = 1,
};

size_t log_entry_bytes(size_t len)
{
    return (RECORD_HEAD_BYTES + len + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
}

void segment_head_put(const struct crc32c *c, const struct segment_head *head, uint8_t *out)
{
    struct wire_writer w = {.buf = out, .cap = SEGMENT_HEAD_BYTES};
    memset(out, 0, SEGMENT_HEAD_BYTES);
    wire_put_u32(&w, SEGMENT_MAGIC);
    wire_put_u32(&w, SEGMENT_VERSION);
    wire_put(&w, head->cluster_id, sizeof(head->cluster_id));
    wire_put_u64(&w, head->node_id);
    wire_put_u64(&w, head->salt);
    wire_put_u32(&w, crc32c(c, 0, out, w.len));
    CHECK(!w.failed);
}

int segment_head_get(const struct crc32c *c, const uint8_t *in, size_t len, struct segment_head *head)
{
    struct wire_reader r = {.buf = in, .len = len};
    uint32_t magic = wire_get_u32(&r), version = wire_get_u32(&r);
    const uint8_t *cluster_id = wire_get(&r, sizeof(head->cluster_id));
    head->node_id = wire_get_u64(&r);
    head->salt = wire_get_u64(&r);
    size_t summed = r.pos;
    uint32_t sum = wire_get_u32(&r);
    if (len < SEGMENT_HEAD_BYTES || magic != SEGMENT_MAGIC)
        return -EUCLEAN;
    if (version != SEGMENT_VERSION)
        return -EPROTO;
    if (sum != crc32c(c, 0, in, summed))
        return -EUCLEAN;
    memcpy(head->cluster_id, cluster_id, sizeof(head->cluster_id));
    return 0;
}

static uint32_t salt_seed(const struct crc32c *c, uint64_t salt)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(salt >> (8 * i));
    return crc32c(c, 0, bytes, sizeof(bytes));
}

void record_put(const struct crc32c *c, uint64_t salt, const struct log_entry *entry, uint64_t batch_first,
                uint8_t *out)
{
    uint32_t seed = salt_seed(c, salt);
    size_t bytes = log_entry_bytes(entry->len);
    struct wire_writer w = {.buf = out, .cap = RECORD_HEAD_BYTES, .len = 4};
    memset(out + bytes - RECORD_ALIGN, 0, RECORD_ALIGN);
    wire_put_u32(&w, crc32c(c, seed, entry->data, entry->len));
    wire_put_u32(&w, (uint32_t)entry->len);
    wire_put_u16(&w, entry->type);
    wire_put_u16(&w, 0);
    wire_put_u64(&w, entry->index);
    wire_put_u64(&w, entry->term);
    wire_put_u64(&w, batch_first);
    CHECK(w.len == RECORD_HEAD_BYTES && !w.failed);
    w.len = 0;
    wire_put_u32(&w, crc32c(c, seed, out + 4, RECORD_HEAD_BYTES - 4));
    if (entry->len)
        memcpy(out + RECORD_HEAD_BYTES, entry->data, entry->len);
}

static bool all_zero(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i])
            return false;
    return true;
}

/* Reads the head alone; true if its own checksum holds. */
static bool head_get(const struct crc32c *c, uint32_t seed, const uint8_t *in, struct record_head *head)
{
    struct wire_reader r = {.buf = in, .len = RECORD_HEAD_BYTES};
    uint32_t sum = wire_get_u32(&r);
    head->data_sum = wire_get_u32(&r);
    head->len = wire_get_u32(&r);
    head->type = wire_get_u16(&r);
    wire_get_u16(&r);
    head->index = wire_get_u64(&r);
    head->term = wire_get_u64(&r);
    head->batch_first = wire_get_u64(&r);
    return sum == crc32c(c, seed, in + 4, RECORD_HEAD_BYTES - 4);
}

enum record_state record_get(const struct crc32c *c, uint64_t salt, const uint8_t *segment, size_t len,
                             size_t at, struct record_head *head)
{
    uint32_t seed = salt_seed(c, salt);
    if (at > len || len - at < RECORD_HEAD_BYTES || all_zero(segment + at, RECORD_HEAD_BYTES))
        return RECORD_NONE;
    if (!head_get(c, seed, segment + at, head) || head->len > len - at - RECORD_HEAD_BYTES)
        return RECORD_BAD;
    if (head->data_sum != crc32c(c, seed, segment + at + RECORD_HEAD_BYTES, head->len))
        return RECORD_BAD;
    return RECORD_GOOD;
}

bool record_find_later(const struct crc32c *c, uint64_t salt, const uint8_t *segment, size_t len, size_t at,
                       uint64_t index, struct record_head *head)
{
    for (; at + RECORD_HEAD_BYTES <= len; at += RECORD_ALIGN) {
        /* A record's first word holds two checksums: skipping zeros makes the usual, empty rest quick. */
        if (all_zero(segment + at, RECORD_ALIGN))
            continue;
        if (record_get(c, salt, segment, len, at, head) == RECORD_GOOD && head->batch_first > index)
            return true;
    }
    return false;
}
