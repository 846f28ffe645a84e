/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to backends of one ring: connecting (TCP or Unix socket, then PROXY header, then TLS), kept
 * idle for the next request within bounds, watched while idle so that one which the backend closes is not
 * used again. An idle connection costs struct upstream and no buffer.
 *
 *   CONNECT -> PREFACE (PROXY header) -> TLS -> USED <-> IDLE -> CLOSING
 *
 * The watch over an idle connection is a poll for reading on `in`. It stays under way when the connection is
 * taken: the taker then waits with it for its answer.
 */
#ifndef FL_PROXY_UPSTREAM_H
#define FL_PROXY_UPSTREAM_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

#include "plan.h"
#include "dataplane/loop.h"
#include "dataplane/timer.h"
#include "dataplane/wire.h"
#include "dataplane/http/proxy_header.h"
#include "dataplane/proxy/balance.h"

struct h2_session;
struct ring;
struct tls;
struct upstreams;
struct upstream;

/*
 * Towards a backend that speaks HTTP/2 a connection is of one of two kinds: a carrier, which is
 * upstream_h2.c's alone and has the session, or a stream on it, which a user takes, and which is closed when
 * it is given back.
 */
enum upstream_kind { UPSTREAM_PLAIN, UPSTREAM_CARRIER, UPSTREAM_STREAM };

/*
 * Hands a connection over, or says that there is none: NULL and -errno. -EBUSY: as many requests are with the
 * backend as its connections carry; it is waited for (target.full).
 */
typedef void upstream_got(struct upstream *u, int err, void *arg);

/*
 * What such an error says about the backend: nothing (BALANCE_CANCELLED), where this node ran out of
 * descriptors, local ports, memory or processor time, or has no certificate to show.
 */
enum balance_outcome upstream_blame(int err);

enum upstream_state {
    UPSTREAM_FREE,
    UPSTREAM_CONNECT,
    UPSTREAM_PREFACE, /* the PROXY header goes out */
    UPSTREAM_TLS,     /* the handshake */
    UPSTREAM_USED,
    UPSTREAM_IDLE,
    UPSTREAM_CLOSING,
};

struct upstream {
    struct wire wire;
    /* The user's, from got to give: it sets done. `in` may be under way then: a poll for POLLIN. */
    struct op in, out;
    void *user; /* the user's, too */
    struct target *target;
    bool reused; /* it has carried a request before: a failure may be that the backend closed it meanwhile */
    uint32_t requests;
    /* The rest is upstream.c's. */
    uint8_t kind;  /* enum upstream_kind */
    uint8_t state; /* enum upstream_state */
    bool closed;   /* the descriptor is given back, or about to be */
    bool listed;   /* among the idle ones */
    bool alone;    /* carries one client's requests only */
    bool http1;    /* whatever the service says */
    int error;
    uint32_t service_index;
    struct upstreams *us;
    struct upstream *next, **prev;           /* the target's idle ones, the last one first */
    struct upstream *next_idle, **prev_idle; /* all idle ones */
    struct timer timer;
    struct loop_post post;
    struct tls *tls;            /* a handshake is under way */
    struct h2_session *session; /* of a carrier, once it is connected */
    struct upstream *waiting;   /* streams that wait for that */
    upstream_got *got;
    void *arg;
    struct proxy_header client;
    uint8_t proxy_protocol;
    uint8_t preface_at, preface_len;
    union {
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        uint8_t preface[PROXY_HEADER_WRITE_MAX];
    } to;
};

int upstreams_new(struct ring *ring, struct balance *balance, struct upstreams **out);
void upstreams_free(struct upstreams *us);

/* An idle connection to the target, at once; NULL: there is none. http1: one that speaks HTTP/1.1, also where
 * backends get HTTP/2: nothing else can be upgraded. */
struct upstream *upstream_idle(struct upstreams *us, struct target *t, const struct plan_service *service,
                               bool http1);

/*
 * A new connection. client: who it is for, if the service tells backends by a PROXY header; may be NULL.
 * http1: as above. got comes once, never from within this call. Returns a handle for upstream_forget, NULL:
 * no memory (got does not come then).
 */
struct upstream *upstream_take(struct upstreams *us, struct target *t, const struct plan_service *service,
                               uint32_t service_index, const struct proxy_header *client, bool http1,
                               upstream_got *got, void *arg);

/* The taker has lost interest before got: got does not come. */
void upstream_forget(struct upstream *u);

/* Back: keep says that the last exchange on it ended cleanly and its framing is at a message's boundary.
 * Nothing but a poll on `in` may be under way. */
void upstream_give(struct upstream *u, bool keep);

/* Whether the backend has closed a connection that waits for its next request, or has said something. */
bool upstream_stale(struct upstream *u);

/* Once a batch or so: closes idle ones of targets that are down, draining, or gone. */
void upstreams_tick(struct upstreams *us);

#endif
