/* SPDX-License-Identifier: Apache-2.0 */
/* The format of one segment file: pure, bytes in memory only. */
#ifndef FL_RAFT_LOG_SEGMENT_H
#define FL_RAFT_LOG_SEGMENT_H

#include "crc32c.h"
#include "log.h"

enum {
    SEGMENT_HEAD_BYTES = 64,
    RECORD_HEAD_BYTES = 40,
    RECORD_ALIGN = 8,
};

struct segment_head {
    uint8_t cluster_id[16];
    uint64_t node_id;
    uint64_t salt;
};

struct record_head {
    uint32_t data_sum;
    uint32_t len; /* bytes of data */
    uint16_t type;
    uint64_t index, term;
    uint64_t batch_first; /* index of the first entry of the same append */
};

/* What stands at one place of a segment. */
enum record_state {
    RECORD_GOOD,
    RECORD_NONE, /* zeros, or the end of the segment */
    RECORD_BAD,
};

/* Room for SEGMENT_HEAD_BYTES. */
void segment_head_put(const struct crc32c *c, const struct segment_head *head, uint8_t *out);
/* 0, -EUCLEAN, -EPROTO for another version. */
int segment_head_get(const struct crc32c *c, const uint8_t *in, size_t len, struct segment_head *head);

/* Writes a record, padding included: log_entry_bytes(entry->len) bytes. */
void record_put(const struct crc32c *c, uint64_t salt, const struct log_entry *entry, uint64_t batch_first,
                uint8_t *out);
/* Reads the record at `at`; its data begins RECORD_HEAD_BYTES later. */
enum record_state record_get(const struct crc32c *c, uint64_t salt, const uint8_t *segment, size_t len,
                             size_t at, struct record_head *head);

/* The first good record at or behind `at` whose append began behind the entry `index`. False if there is
 * none. */
bool record_find_later(const struct crc32c *c, uint64_t salt, const uint8_t *segment, size_t len, size_t at,
                       uint64_t index, struct record_head *head);

#endif
