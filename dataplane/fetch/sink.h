/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An upload session as a wire to which a pump writes: every piece is appended to it. Embedded in its owner,
 * and unmoved while something is under way.
 */
#ifndef FL_FETCH_SINK_H
#define FL_FETCH_SINK_H

#include <stddef.h>
#include <stdint.h>

#include "dataplane/loop.h"
#include "dataplane/waiter.h"
#include "dataplane/wire.h"

struct ring;
struct upload;

struct sink {
    struct wire wire;
    struct ring *ring;
    struct upload *upload;
    void (*wrote)(struct sink *s, size_t bytes); /* they are in the session; may be NULL */
    struct op *writing;                          /* NULL: no piece is under way */
    uint64_t writing_since_ms;
    /* private */
    size_t writing_bytes;
    struct wire_over over;
    struct loop_post post;
    struct waiter written;
};

void sink_open(struct sink *s, struct ring *ring, struct upload *upload,
               void (*wrote)(struct sink *s, size_t bytes));

#endif
