/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One question to one backend, in one piece, beside the exchange that it belongs to: the rest of a body that
 * stopped, or the second one of a hedged request. It ends with the head of an answer and the connection that
 * its content comes on, or with an error; then the backend has been told off already.
 *
 * Asks come from a pool of the ring; running out is an ordinary answer.
 */
#ifndef FL_PROXY_ASK_H
#define FL_PROXY_ASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plan.h"
#include "dataplane/loop.h"
#include "dataplane/timer.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/proxy/balance.h"
#include "dataplane/proxy/upstream.h"

struct ring;
struct asks;

enum {
    ASK_BYTES = 16 << 10, /* the request's head, then the answer's with what came behind it */
    ASKS_MAX = 2048,      /* of a ring, at a time */
};

struct ask {
    struct target *target;     /* at work there, until ask_release */
    struct upstream *upstream; /* done without an error: the connection */
    struct http_answer answer; /* valid until done returns */
    struct view early;         /* content that came with the head; valid as long as the ask */
    struct view all;           /* the answer's head and what came behind it; valid as long as the ask */
    uint64_t latency_us;
    void (*done)(struct ask *a, int err);
    void *arg;
    /* private */
    struct asks *asks;
    struct timer timer;
    uint64_t began_us;
    size_t len, at, last_len, request_bytes;
    uint32_t service_index, incarnation;
    enum http_method method;
    uint8_t state;
    bool dropped, repeated, got_any, for_client;
    struct proxy_header client; /* of whom a new connection tells, if for_client */
    uint8_t buffer[ASK_BYTES];
};

int asks_new(struct ring *ring, struct balance *balance, struct upstreams *upstreams, struct asks **out);
void asks_free(struct asks *asks);
void asks_tick(struct asks *asks); /* gives memory that a burst has touched back */

/* With room for the request's head in `buffer`. NULL: all are in use. */
struct ask *ask_take(struct asks *asks);

struct ask_config {
    struct target *target; /* from balance_choose; the ask finishes it, unless it is released */
    const struct plan_service *service;
    uint32_t service_index;
    const struct proxy_header *client; /* who it is for; may be NULL */
    enum http_method method;           /* of a request that may be sent twice */
    size_t request_bytes;              /* its head, and the body, if it has one */
    uint64_t timeout_ms;               /* until the head of the answer */
    void (*done)(struct ask *a, int err);
    void *arg;
};

/* done comes once, never from within. With an error the target was finished (failed) and the connection
 * closed; what is left to do is ask_drop. */
void ask_start(struct ask *a, const struct ask_config *config);

/* After done without an error: connection and target are the caller's now; the ask lives on for the sake of
 * `early`. */
void ask_release(struct ask *a);

/* After done without an error: the answer is of no use; the target is finished so. */
void ask_refuse(struct ask *a, enum balance_outcome outcome);

/* At any time, in done too: done does not come any more, what is not released is given back. */
void ask_drop(struct ask *a);

#endif
