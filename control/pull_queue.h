/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pulls that wait on this node's disk until one webhook was told of them: a folder with segments, to the last
 * of which is added, and a cursor, behind which is what waits. What was added is durable; a cursor that is
 * lost, or was not written yet, repeats. Beyond a number of bytes the oldest segment goes, with what waits in
 * it.
 *
 * A record is u32 length, u32 CRC-32C of the body, body. Calls block, and are one thread's at a time.
 */
#ifndef FL_CONTROL_PULL_QUEUE_H
#define FL_CONTROL_PULL_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PULL_RECORD_HEAD = 8,
    PULL_RECORD_MAX = 4096,       /* bytes of a body */
    PULL_SEGMENT_BYTES = 1 << 20, /* one with so many is not added to */
    PULL_APPEND_MAX = 1 << 20,    /* bytes of one append */
    PULL_QUEUE_NAME_MAX = 96,
};

struct pull_queue;

/* Where a record begins. */
struct pull_place {
    uint64_t segment;
    uint32_t offset;
    uint32_t number; /* of records before it in its segment */
};

/* Makes the folder if it is missing, and forgets a record that was not written to its end. 0 or -errno. */
int pull_queue_open(int dir_fd, const char *name, struct pull_queue **out);
void pull_queue_close(struct pull_queue *q);

/* Removes a queue that is not open. */
void pull_queue_remove(int dir_fd, const char *name);

/* Puts a record at the end of `to`, which has room for PULL_RECORD_HEAD more than len. Returns its bytes. */
size_t pull_record_put(uint8_t *to, const void *body, size_t len);

/* The record at *at of records that are whole: its body, and *at behind it. NULL at the end, or where there
 * is none.
 */
const uint8_t *pull_record_next(const uint8_t *records, size_t len, size_t *at, size_t *body_len);

/* Adds records, whole ones, all or none of them: durable on return. 0 or -errno. Then what is over bytes_max
 * goes. */
int pull_queue_append(struct pull_queue *q, const void *records, size_t len, uint64_t bytes_max);

/* What waits, from the cursor on: records of at most `cap` bytes (two of the largest or more) and at most
 * `most`. Returns the bytes, 0: nothing waits, -errno. *after: behind them. */
int64_t pull_queue_read(struct pull_queue *q, uint8_t *out, size_t cap, unsigned most,
                        struct pull_place *after);

/* Everything before a place of pull_queue_read was told. */
void pull_queue_advance(struct pull_queue *q, const struct pull_place *to);

struct pull_figures {
    uint64_t waiting; /* records */
    uint64_t dropped; /* that had to make room */
    uint64_t bytes;   /* on the disk */
};
struct pull_figures pull_queue_figures(const struct pull_queue *q);

#endif
