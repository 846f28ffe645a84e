/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pump moves the bytes of one direction from one wire to another: a body of known length, a chunked one, or
 * whatever comes until the source ends (tunnels). How is chosen at run time in one place (technique.c):
 * splice(2) on readiness through a pipe of the pool, where both wires carry content as it is and nobody has
 * to look at it; else a buffer. A slow sink slows its source and nobody else: at most one pipe or buffer is
 * full at a time, and a pump in which nothing moves holds neither.
 *
 * Framing is taken off on one side and put on on the other: chunk headers, ends and trailers are read and
 * written by the pump, so in and out may differ. A chunk that is large enough is spliced, small ones are
 * copied.
 *
 * The source can be exchanged in the middle (pump_resume): what the sink has seen so far stays as it is.
 */
#ifndef FL_MOVE_PUMP_H
#define FL_MOVE_PUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/loop.h"
#include "dataplane/wire.h"
#include "dataplane/http/chunked.h"
#include "dataplane/http/view.h"

struct ring;
struct pipe_pair;
struct pump;

enum pump_framing {
    PUMP_RAW,     /* until the source ends; as a sink: nothing is added, the end is the owner's affair */
    PUMP_LENGTH,  /* so many bytes */
    PUMP_CHUNKED, /* RFC 9112, 7.1 */
};

enum pump_technique { PUMP_TECHNIQUE_AUTO, PUMP_TECHNIQUE_SPLICE, PUMP_TECHNIQUE_COPY };

enum pump_end {
    PUMP_DONE,         /* the whole body is with the sink, and its end */
    PUMP_SOURCE_ENDED, /* too early: all that came before is with the sink */
    PUMP_SOURCE_ERROR, /* reset, timed out; the same */
    PUMP_SOURCE_BAD,   /* broken framing; the same */
    PUMP_SINK_ERROR,   /* the sink takes no more; err says why */
    PUMP_STOPPED,      /* pump_stop */
    PUMP_NO_MEMORY,    /* the tap refused: what it was given does not match */
};

struct pump_config {
    struct ring *ring;
    struct wire *from, *to; /* both borrowed until the end */
    enum pump_framing in, out;
    uint64_t length;   /* PUMP_LENGTH: bytes to come */
    struct view early; /* of the source, received already, before anything else; borrowed until the pump has
                          moved them (pump_early_left), framed as the source */
    enum pump_technique technique;
    bool trailers; /* PUMP_CHUNKED on both sides: trailers are passed on (else dropped) */
    /* Sees all content in its order, before the sink does (hashing): everything is copied then. Non-zero: the
     * pump ends with PUMP_SOURCE_BAD and err, these bytes are not sent. NULL: nobody looks. */
    int (*tap)(void *arg, const uint8_t *bytes, size_t len);
    uint64_t hold_back; /* so many last bytes of a body of known length wait for pump_release */
    uint64_t skip;      /* so many first bytes of content are dropped (after the tap has seen them) */
    /* Once, never from within a call of the owner's. Nothing of the pump is under way then. */
    void (*done)(struct pump *p, enum pump_end end, int err);
    void *arg;
};

struct pump {
    struct pump_config c;
    struct op in, out;         /* one order each */
    struct pipe_pair *pipe;    /* while it holds bytes; never given back dirty */
    uint8_t *buffer;           /* of the ring's body or small buffers, while it holds bytes */
    uint64_t left;             /* PUMP_LENGTH in: content still to come from the source */
    uint64_t moved;            /* content bytes that the sink has taken, over all sources */
    uint64_t received;         /* content bytes that came from the sources */
    uint64_t spliced;          /* of moved: without a copy to user space */
    uint64_t progress_ms;      /* CLOCK_MONOTONIC of the last byte in, */
    uint64_t sink_progress_ms; /* and out */
    struct http_chunked chunked;
    uint32_t buffer_at, buffer_len, buffer_cap, pipe_len;
    uint8_t state, end; /* private */
    bool source_open;   /* the source may give more */
    bool waiting_sink;  /* has bytes that the sink does not take */
    bool waiting_source;
    uint64_t priv[12]; /* pump.c's own */
};

/* Takes the configuration and begins; the pump is embedded in its owner and unmoved until done. */
void pump_start(struct pump *p, const struct pump_config *config);

/*
 * After done with one of the PUMP_SOURCE_ results: goes on from another source, whose framing is `in`, of
 * which length content bytes (PUMP_LENGTH) are to come and skip of them are dropped. tap and hold_back may
 * change.
 */
void pump_resume(struct pump *p, const struct pump_config *config);

/* The held back bytes may go, or must not (then the pump ends with PUMP_STOPPED). Valid once `received` says
 * that all of the body has come. */
void pump_release(struct pump *p, bool good);

/* Ends it: done comes with PUMP_STOPPED when nothing is under way any more. Harmless after done. */
void pump_stop(struct pump *p);

/* The same for the source's part alone, as if it had failed: what has come goes to the sink, then done comes
 * with PUMP_SOURCE_ERROR and -ETIMEDOUT. */
void pump_fail_source(struct pump *p);

/* After done, of what the source sent behind the end of its body (only if it was received with it): bytes
 * that belong to the next message. Valid until the pump's memory is used again. */
struct view pump_rest(const struct pump *p);

/* "splice", "copy" or "mixed": for the log. */
const char *pump_technique_name(const struct pump *p);

/* Whether an order of it is under way, or done has still to come. */
bool pump_active(const struct pump *p);

#endif
