/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the log share. */
#ifndef FL_RAFT_LOG_INTERNAL_H
#define FL_RAFT_LOG_INTERNAL_H

#include "log_segment.h"

enum { SEGMENT_NAME_BYTES = 32 };

struct segment {
    uint64_t sequence;
    uint64_t salt;
    uint64_t first;    /* index of its first entry; 0: it has none */
    uint32_t count;    /* entries */
    uint32_t used;     /* bytes up to the end of the last record */
    uint32_t bytes;    /* of the file, all allocated */
    uint32_t *offsets; /* where each entry's record begins */
    uint32_t offsets_cap;
};

/* The segments in order. Entries are in segment[0 .. tail]; behind the tail stands at most one spare, which
 * is empty. Without any segment, tail is meaningless and count is 0. */
struct log {
    struct log_config config;
    struct crc32c crc;
    struct segment *segment;
    size_t count, cap, tail;
    uint64_t last;   /* index of the last entry */
    int tail_fd;     /* -1: not open */
    int broken;      /* -errno that ended this log's life, or 0 */
    bool tail_dirty; /* a failed append may have left bytes behind the last record */
};

void segment_name(uint64_t sequence, char *out);

/* Grows the table and adds a segment at its end. NULL without memory. */
struct segment *log_segment_add(struct log *log);
/* Forgets the segment at `at`; its file is the caller's. */
void log_segment_forget(struct log *log, size_t at);

/* Notes where the next record of a segment lies. 0 or -ENOMEM. */
int segment_note(struct segment *s, uint32_t offset);

#endif
