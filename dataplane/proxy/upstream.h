/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to backends of one ring: connecting (TCP or Unix socket, then PROXY header, then TLS), kept
 * idle for the next request within bounds, watched while idle so that one which the backend closes is not
 * used again.
 */
#ifndef FL_PROXY_UPSTREAM_H
#define FL_PROXY_UPSTREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "plan.h"
#include "dataplane/loop.h"
#include "dataplane/timer.h"
#include "dataplane/wire.h"
#include "dataplane/proxy/balance.h"

struct ring;
struct upstreams;
struct upstream;

struct upstream {
    struct wire wire;
    struct op in, out; /* the user's, from got to release */
    struct target *target;
    bool reused; /* it has carried a request before: a failure may be that the backend closed it meanwhile */
    uint32_t requests;
    /* the rest is upstream.c's */
    struct upstream *next, **prev;
    struct timer timer;
    uint64_t idle_since_ms;
    uint8_t state;
    uint8_t tls, http; /* what is spoken */
    uint32_t service_index;
    void (*got)(struct upstream *u, int err, void *arg);
    void *arg;
    struct ring *ring;
    void *priv[8];
};

int upstreams_new(struct ring *ring, struct upstreams **out);
void upstreams_free(struct upstreams *us);

/* Who the client is, for a PROXY header towards the backend (then the connection is this client's alone). */
struct upstream_client {
    uint8_t family; /* AF_INET, AF_INET6; 0: not known */
    uint8_t peer[16], local[16];
    uint16_t peer_port, local_port;
};

/*
 * A connection to that target: an idle one at once, or a new one. got(u, 0, arg) hands it over, got(NULL,
 * -errno, arg) says that there is none; never from within this call. fresh: no idle one. Returns a handle for
 * upstream_forget, NULL: no memory (got does not come).
 */
struct upstream *upstream_take(struct upstreams *us, struct target *t, const struct plan_service *service,
                               uint32_t service_index, const struct upstream_client *client, bool fresh,
                               void (*got)(struct upstream *u, int err, void *arg), void *arg);

/* The taker has lost interest before got: got does not come. */
void upstream_forget(struct upstream *u);

/* Back: keep says that the last exchange on it ended cleanly and its framing is at a message's boundary. No
 * order on it may be under way. */
void upstream_give(struct upstream *u, bool keep);

/* Once a batch or so: closes idle ones of targets that are down, draining, gone or over their bound. */
void upstreams_tick(struct upstreams *us, uint64_t now_ms);

#endif
