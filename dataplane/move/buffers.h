/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the pumps of a ring move bytes with: pipes, small buffers of their own, and a share of the ring's body
 * buffers. A slow sink holds what its pump has filled; there is a small buffer for each pump that can be, so
 * that slow ones never take the last from everybody else.
 */
#ifndef FL_MOVE_BUFFERS_H
#define FL_MOVE_BUFFERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/pool.h"

struct pipes;
struct pump;
struct ring;

enum { SMALL_BUFFER_BYTES = 16 << 10 };

struct buffers {
    struct pool smalls;
    struct pool *bodies; /* the ring's, shared with uploads */
    struct pipes *pipes;
    struct pump *hungry, **hungry_tail; /* found no buffer, in order of arrival */
    uint32_t pumps;                     /* at work */
};

/* smalls: how many pumps there can be; rings: in the process. -ENOMEM. */
int buffers_init(struct buffers *b, struct pool *bodies, uint32_t smalls, unsigned rings);
void buffers_fini(struct buffers *b);

/* One for `want` bytes, if they are many a body buffer, else, or if these are rare, a small one. NULL: none
 * left. */
uint8_t *buffers_take(struct ring *ring, uint64_t want, uint32_t *capacity);
void buffers_give(struct ring *ring, uint8_t *buffer);

/* Whether one who holds this one may take another: it is none of the small ones, and most are free. */
bool buffers_plenty(const struct ring *ring, const uint8_t *buffer);

/* In line for a buffer: pump_fed is called once there is one. Whoever was fed and has taken its step calls
 * buffers_feed: it may have done without, and the next in line is told of what is left. */
void buffers_wait(struct ring *ring, struct pump *p);
void buffers_feed(struct ring *ring);
void buffers_leave(struct ring *ring, struct pump *p);

#endif
