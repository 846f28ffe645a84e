/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A body that stops goes on from another backend. Embedded in an exchange, whose response's pump it watches
 * and feeds anew; the client sees one response.
 *
 * Without verification the rest is asked for by Range and goes on as it was moved before. With it (decided by
 * the service, for bodies with a digest that the client gets as a whole) the new backend is asked for all of
 * it: what the client has is hashed and dropped, the rest is hashed as it passes, and the last bytes wait
 * until the digest is right. A body that is hashed when it stops is hashed on where it stopped, and asked for
 * by Range: whose part was wrong, the digest is.
 *
 * A part of a blob (the client's own Range) cannot be verified: it is joined by Range, like a body without a
 * digest, by length, entity tag and what the backend says its digest is.
 */
#ifndef FL_PROXY_RESUME_H
#define FL_PROXY_RESUME_H

#include <stdbool.h>
#include <stdint.h>

#include "plan.h"
#include "shared.h"
#include "dataplane/hash.h"
#include "dataplane/timer.h"
#include "dataplane/http/http1.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/move/pump.h"
#include "dataplane/proxy/ask.h"
#include "dataplane/proxy/balance.h"
#include "dataplane/proxy/continuation.h"

struct flight;
struct resume;

enum {
    RESUME_TRIED_MAX = 4,
    RESUME_HOLD_BACK = 64, /* last bytes that wait for the digest */
};

/* What it needs of the exchange. */
struct resume_owner {
    /* The head of the request as that target shall see it, with these fields in place of the client's Range
     * and conditions (if_range absent: without it). Bytes, or -errno. */
    ssize_t (*request)(struct resume *r, const struct target *t, struct view range, struct view if_range,
                       char *buf, size_t cap);
    /* For whom, where the service tells backends so; false: it does not. */
    bool (*client)(struct resume *r, struct proxy_header *out);
    /* Another connection is the source now; the pump goes on when this returns. keep: it is good for another
     * request after the body. */
    void (*joined)(struct resume *r, struct target *t, struct upstream *u, bool keep);
    /* Nobody can go on: the client's connection has to be broken. */
    void (*lost)(struct resume *r, enum close_reason why);
};

struct resume {
    const struct resume_owner *owner;
    struct ring *ring;
    struct balance *balance;
    struct asks *asks;
    struct pump *pump;
    struct target *target; /* whose body it is, or was; resume holds it for itself, too; NULL: a flight's */
    uint32_t service_index, incarnation;
    uint64_t before;       /* content bytes that went to the client before the pump's */
    struct view key;       /* of the choice (balance_ask) */
    struct flight *flight; /* that shares this body; NULL: none. Set after resume_begin; ends with the body's
                              last byte */
    /* private */
    struct continuation body;
    bool possible; /* another backend can be asked */
    bool verified; /* with what comes from another one, the digest is checked */
    bool hashing, mismatch, joined;
    uint8_t state;
    struct ask *ask;
    struct target *held;
    struct timer timer;
    uint32_t times;                   /* that it went on */
    uint64_t since_ms;                /* of this stop */
    uint64_t window_ms, window_bytes; /* of the stall */
    uint64_t slow_since_ms;           /* 0: it is not */
    uint64_t joined_at;
    struct target *tried[RESUME_TRIED_MAX]; /* in this stop; each is held */
    unsigned tried_count;
    uint64_t tapped, tap_from; /* content of this source that the tap has seen; where in the body it began */
    /* The digest of what the client gets; or, of a body that was not looked at from its beginning, of what
     * the one that goes on with it says all of it is. */
    struct hash hash;
    uint64_t hash_at;   /* bytes of the body that it has seen; the last lag_len of them are still outside */
    uint64_t hash_skip; /* of this source: they are in it already */
    uint8_t lag_len, lag[RESUME_HOLD_BACK];
    bool strict; /* what is not looked at from its beginning to its end does not end well */
};

/* The client's request has been answered: what this body is. The public part is filled in. */
void resume_begin(struct resume *r, const struct http_request *req, const struct http_answer *answer);

/* Whether all of it has to pass through the pump's tap, from its first byte on. */
bool resume_checks(const struct resume *r);

/* Completes tap, hold_back and arg of the pump's configuration, which is then started. */
void resume_pump(struct resume *r, struct pump_config *config);

/*
 * The pump is done with one of the PUMP_SOURCE_ results, and the exchange has given the backend back. True:
 * joined or lost comes. False: the body cannot go on; *why says how the client's connection ends.
 */
bool resume_stopped(struct resume *r, enum pump_end end, int err, enum close_reason *why);

/* The client is gone while another backend is being asked: lost comes soon. */
void resume_abandon(struct resume *r);

/* No body any more, however it ended: nothing of it is under way. Harmless if there was none. */
void resume_end(struct resume *r);

#endif
