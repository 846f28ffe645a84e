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
 * A sink that takes buffers (wire.h) gets what has come with its buffer, and does with it what it does while
 * the pump receives on; all of that has come to its end before the pump does.
 *
 * The source can be exchanged in the middle (pump_resume): what the sink has seen so far stays as it is.
 *
 * While a pump is active it is the one that receives from its source and sends to its sink. Sockets are
 * non-blocking ones.
 */
#ifndef FL_MOVE_PUMP_H
#define FL_MOVE_PUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "dataplane/loop.h"
#include "dataplane/wire.h"
#include "dataplane/http/chunked.h"
#include "dataplane/http/reject.h"
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
    PUMP_SOURCE_BAD,   /* broken framing, more than was announced, or the tap refused it; what was good before
                          is with the sink */
    PUMP_SINK_ERROR,   /* the sink takes no more; err says why */
    PUMP_STOPPED,      /* pump_stop */
};

enum {
    PUMP_HOLD_BACK_MAX = 8 << 10,
    PUMP_SEGMENTS = 5, /* of one sending order: head, chunk header, content, chunk's end, trailers */
    PUMP_FRAME_BYTES = 2 + HTTP_CHUNK_HEADER_MAX,
    PUMP_TAIL_BYTES = 8,
};

struct pump_config {
    struct ring *ring;
    struct wire *from, *to; /* both borrowed until the end */
    enum pump_framing in, out;
    uint64_t length; /* PUMP_LENGTH in: content bytes to come (with those in early) */
    uint64_t
        total; /* PUMP_LENGTH out: content bytes that the sink was promised, over all sources; 0, and
                  PUMP_LENGTH in: length - skip. Not more than that goes out, and fewer are no PUMP_DONE */
    struct view
        head;          /* goes to the sink before everything else, in one step with the first content where
                          that is there; not counted as moved. Borrowed until the first byte is moved, or done */
    struct view early; /* of the source, received already, before anything else; framed as the source.
                          Borrowed until pump_early_left says 0, or done */
    enum pump_technique technique;
    bool trailers; /* PUMP_CHUNKED on both sides: trailers are passed on (else dropped) */
    /* Sees all content in its order, before the sink does (hashing): everything is copied then. Once more
     * with len 0 when the whole body has come. Non-zero: the pump ends with PUMP_SOURCE_BAD and err; these
     * bytes, or those that are held back, are not sent. NULL: nobody looks. It may call pump_release and
     * pump_stop. */
    int (*tap)(void *arg, const uint8_t *bytes, size_t len);
    uint64_t hold_back; /* so many last bytes (at most PUMP_HOLD_BACK_MAX) wait for pump_release */
    uint64_t skip;      /* so many first bytes of content are dropped (after the tap has seen them) */
    /* Once, never from within a call of the owner's. Nothing of the pump is under way then. */
    void (*done)(struct pump *p, enum pump_end end, int err);
    void *arg;
};

/* What is public is read by the owner at any time; the rest is the pump's own. */
struct pump {
    struct pump_config c;
    uint64_t moved;            /* content bytes that the sink has taken, over all sources */
    uint64_t received;         /* content bytes that came from the sources; at done: as moved */
    uint64_t spliced;          /* of moved: without a copy to user space */
    uint64_t progress_ms;      /* CLOCK_MONOTONIC of the last byte in, */
    uint64_t sink_progress_ms; /* and out; both begin with the pump */
    struct http_reject reject; /* PUMP_SOURCE_BAD by broken chunks: what was wrong */

    /* private */
    struct op in, out;      /* at most one of them is under way at a time */
    struct loop_post turn;  /* the next step, or done, in the next batch */
    struct pipe_pair *pipe; /* while it holds bytes; never given back dirty */
    uint8_t *buffer;        /* while it holds bytes: content at buffer_at, buffer_len */
    uint8_t *trailers;      /* a small buffer, from the first trailer on */
    struct pump *next_hungry;
    struct http_chunked chunked;
    struct iovec segment[PUMP_SEGMENTS]; /* what is being sent, without what was */
    struct msghdr msg;
    struct view rest;
    size_t early_left;
    uint64_t left; /* PUMP_LENGTH in: content still to come from this source */
    uint64_t skip_left;
    uint64_t total;           /* content of the whole body, UINT64_MAX: not known */
    uint64_t received_copied; /* content received into memory by the pump itself */
    uint32_t buffer_at, buffer_len, buffer_cap, pipe_len, window;
    int64_t budget; /* bytes that may still move in this batch */
    int source_err, sink_err, err;
    uint8_t source, end, refused; /* enum source_state, enum pump_end; splices refused in a row */
    char frame[PUMP_FRAME_BYTES], tail[PUMP_TAIL_BYTES];
    bool active, finished, stepping, called, posted, hungry, fed, polling, sending, stopping, released;
    bool drained;    /* the source gave less than it could have: wait before the next try */
    bool bulk;       /* the last time a lot came at once */
    bool peek;       /* a large chunk has ended: its successor's header is read alone */
    bool chunk_open; /* the sink has a chunk's content but not its end */
    bool end_queued, corked;
    bool lent;  /* the sink has buffers of ours */
    bool least; /* the source is waited for until there is much of it */
};

/* Takes the configuration and begins; the pump is embedded in its owner and unmoved until done. */
void pump_start(struct pump *p, const struct pump_config *config);

/*
 * After done with one of the PUMP_SOURCE_ results: goes on behind content byte `moved` from another source,
 * whose framing is `in`, of which length content bytes (PUMP_LENGTH) are to come and skip of them are
 * dropped. Bytes that were held back have been dropped; the sink's part of the configuration stays as it was.
 * In done itself, or later.
 */
void pump_resume(struct pump *p, const struct pump_config *config);

/* The held back bytes may go, or must not (then the pump ends with PUMP_STOPPED). From when the tap has seen
 * all of the body. */
void pump_release(struct pump *p, bool good);

/* Ends it: done comes with PUMP_STOPPED when nothing is under way any more. Harmless after done. */
void pump_stop(struct pump *p);

/* The same for the source's part alone, as if it had failed: what has come goes to the sink, then done comes
 * with PUMP_SOURCE_ERROR and -ETIMEDOUT. */
void pump_fail_source(struct pump *p);

/* To be called a few times a second where the sink takes buffers: a source that gave much at a time and has
 * become slow is heard at its first byte again, and what has come goes on. */
void pump_look(struct pump *p);

/* In done: what came behind the end of the body together with it (of early, or received): bytes of the next
 * message. Valid until done returns; where the sink takes buffers, only how many there are. */
struct view pump_rest(const struct pump *p);

/* How much of the configuration's early bytes are still needed. */
static inline size_t pump_early_left(const struct pump *p)
{
    return p->early_left;
}

/* "splice", "copy" or "mixed": for the log. What others had received before does not count. */
const char *pump_technique_name(const struct pump *p);

/* Whether an order of it is under way, or done has still to come. */
static inline bool pump_active(const struct pump *p)
{
    return p->active;
}

/* Whether it has bytes that the sink does not take; whether it waits for the source. */
static inline bool pump_waits_for_sink(const struct pump *p)
{
    return p->out.inflight;
}

static inline bool pump_waits_for_source(const struct pump *p)
{
    return p->in.inflight && p->polling;
}

#endif
