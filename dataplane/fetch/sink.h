/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An upload session as a wire to which a pump writes: every piece is appended to it, one after the other. The
 * pump's buffers are taken over (wire.h), a few at a time, so that it receives while the session writes: a
 * write is another thread's work, and what the ring does meanwhile costs no time. Embedded in its owner, and
 * unmoved while something is under way.
 *
 * Pieces end where the file's whole buffers do: what is written within the bounds of large pages is kept in
 * the page cache as such, and costs less to send than many small ones.
 */
#ifndef FL_FETCH_SINK_H
#define FL_FETCH_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/loop.h"
#include "dataplane/waiter.h"
#include "dataplane/wire.h"

struct ring;
struct upload;

enum { SINK_PIECES = 4 }; /* that it holds at a time, where the ring has many buffers */

struct sink {
    struct wire wire;
    struct ring *ring;
    struct upload *upload;
    void (*wrote)(struct sink *s, size_t bytes); /* they are in the session; may be NULL */
    bool writing;                                /* the first piece is under way */
    uint64_t writing_since_ms;
    /* private */
    struct sink_piece {
        uint8_t *buffer;
        const uint8_t *bytes;
        size_t len;
    } piece[SINK_PIECES]; /* the first one is the oldest */
    unsigned count;
    uint64_t end; /* of the file, with all that was taken */
    int error;    /* it takes no more */
    struct op *op;
    bool settles; /* op waits for all of it, not for room */
    struct wire_over over;
    struct loop_post post;
    struct waiter written;
};

void sink_open(struct sink *s, struct ring *ring, struct upload *upload,
               void (*wrote)(struct sink *s, size_t bytes));

#endif
