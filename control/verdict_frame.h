/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verdicts that a manager tells the workers that follow it: frames of them, and what a worker keeps of it.
 * Pure.
 *
 * A list begins anew (VERDICT_BEGINS) and ends (VERDICT_ENDS), in as many frames as it takes; behind it come
 * changes, each frame with VERDICT_ENDS alone. A frame without rows says that nothing has changed.
 */
#ifndef FL_CONTROL_VERDICT_FRAME_H
#define FL_CONTROL_VERDICT_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    VERDICT_BEGINS = 1 << 0,
    VERDICT_ENDS = 1 << 1,
    VERDICT_HEAD_BYTES = 2 + 1 + 4,
    VERDICT_ROW_BYTES = 4 + 2 + 1,
    VERDICT_ROWS_MAX = 8192, /* of a frame */
    VERDICT_FRAME_MAX = VERDICT_HEAD_BYTES + VERDICT_ROWS_MAX * VERDICT_ROW_BYTES,
};

struct verdict_row {
    uint32_t id; /* of a backend */
    uint16_t generation;
    uint8_t state; /* ABI_UP, ABI_DOWN; ABI_UNKNOWN: the manager does not know */
};

struct verdict_frame {
    uint8_t flags;
    size_t count;
    const uint8_t *rows;
};

/* count is at most VERDICT_ROWS_MAX. Returns the length. */
size_t verdict_frame_put(uint8_t flags, const struct verdict_row *row, size_t count,
                         uint8_t out[VERDICT_FRAME_MAX]);

/* 0; -EPROTO for what is no such frame. It points into body. */
int verdict_frame_get(const void *body, size_t len, struct verdict_frame *out);
void verdict_frame_row(const struct verdict_frame *frame, size_t i, struct verdict_row *out);

/* By id; what nothing was said of is ABI_UNKNOWN. */
struct verdict_table {
    struct {
        uint16_t generation;
        uint8_t state;
        bool fresh; /* to be told to the kernel */
    } * row;
    uint32_t count, cap;
    bool open;  /* a list has begun and not ended */
    bool whole; /* there is one */
};

/* Takes in a frame of whoever is followed. True: the table is whole now, and says what holds. A change before
 * a list, or one in the middle of it, is dropped; rows beyond ids_max are. */
bool verdict_table_take(struct verdict_table *t, const struct verdict_frame *frame, uint32_t ids_max);

/* Nothing was said. */
void verdict_table_fini(struct verdict_table *t);

#endif
