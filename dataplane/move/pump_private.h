/* SPDX-License-Identifier: Apache-2.0 */
/* Within the pump: its life is in pump.c, what it takes from the source in pump_source.c, what it gives to
 * the sink in pump_sink.c, and how bytes move is decided in technique.c. */
#ifndef FL_MOVE_PUMP_PRIVATE_H
#define FL_MOVE_PUMP_PRIVATE_H

#include "dataplane/move/pump.h"

/* What is known of the source's part of the body. */
enum source_state {
    SOURCE_OPEN,     /* more may come */
    SOURCE_COMPLETE, /* all of the body has come */
    SOURCE_ENDED,    /* PUMP_SOURCE_ENDED, */
    SOURCE_ERROR,    /* _ERROR, */
    SOURCE_BAD,      /* _BAD */
};

/* pump.c */
void pump_fed(struct pump *p); /* a buffer may be had */

/* pump_source.c. True: something has changed, and the next step can be taken; false: an order is under way,
 * or the pump is in line for a buffer. */
void pump_source_begin(struct pump *p);
void pump_source_leave(struct pump *p); /* the wire is somebody else's soon */
bool pump_pull(struct pump *p);
bool pump_fills(const struct pump *p); /* the buffer, before the sink gets it */
void pump_source_over(struct pump *p, enum source_state state, int err); /* the first one counts */

/* pump_sink.c. The same. */
bool pump_sink_pending(const struct pump *p); /* something is there for the sink now */
bool pump_push(struct pump *p);
bool pump_queue_end(struct pump *p); /* what ends the body; false: nothing (more) */
void pump_queue_chunk_end(struct pump *p);
void pump_frame_spliced(struct pump *p); /* the header of what is in the pipe */
void pump_sent(struct pump *p, const struct event *ev);
bool pump_head_waits(const struct pump *p); /* nothing but the head is there */
bool pump_settles(struct pump *p);          /* an order is under way: the sink's end with what it has taken */

/* technique.c: `next` bytes of content follow in the source without any framing (UINT64_MAX: nobody knows);
 * whether they are spliced; how many would be good to receive at once. */
bool technique_splices(const struct pump *p, uint64_t next);
uint64_t technique_copies(const struct pump *p, uint64_t next);

#endif
