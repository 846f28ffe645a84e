/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services of kind tcp, and TLS that is passed through: a backend is chosen and connected to, another one
 * where that fails (nothing was sent yet), and from then on there is a tunnel. What an upgraded request
 * becomes is one, too: both connections are there then.
 *
 *   accepted -> CHOOSE (or wait in the service's queue) -> CONNECT -> OPEN (tunnel.h) -> CLOSING
 *                  ^                                         |         ^
 *                  '------- no connection could be made -----'         '---- RESERVED <- upgraded
 *
 * An open one holds its structure and that of its upstream connection, and no buffer while nothing moves.
 */
#ifndef FL_PROXY_TCP_H
#define FL_PROXY_TCP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/wire.h"

struct conn_peer;
struct plan_proxy;
struct plan_service;
struct proxy_header;
struct ring;
struct target;
struct tcp;
struct tcp_ring;
struct upstream;

/* Of one ring: proxy.tunnels_max of them. -ENOMEM. */
int tcp_ring_new(struct ring *ring, struct tcp_ring **out);
void tcp_ring_free(struct tcp_ring *tr);

/* Whether a connection to that service is a tunnel from its first byte on. */
bool tcp_serves(const struct plan_service *s);

/*
 * A client's connection (the wire is taken). peer: whose it is; NULL if it is the socket's. early: what was
 * received already, copied; at most SMALL_BUFFER_BYTES. False: no memory for one more; the wire is still the
 * caller's.
 */
bool tcp_accepted(struct ring *ring, const struct wire *wire, uint16_t service, const struct conn_peer *peer,
                  const void *early, size_t early_len);

/* One for a request that is about to be upgraded; NULL: no memory for one more. Before tcp_upgraded it may be
 * given back. */
struct tcp *tcp_reserve(struct ring *ring);
void tcp_unreserve(struct tcp *t);

/* Memory in it for what the client has sent already and nobody has passed on; NULL: there is none for that
 * much. Once, before tcp_upgraded. */
uint8_t *tcp_early(struct tcp *t, size_t len);

struct tcp_upgrade {
    struct wire client;        /* taken; nothing is under way on it, nor on the other */
    struct upstream *upstream; /* taken: a used one */
    struct target *target;     /* with the request of ours that it counts */
    const struct plan_proxy *p;
    const struct proxy_header *addresses;
    const char *service, *backend; /* names, for the log */
    uint64_t id;                   /* of the request, the same */
    uint32_t idle_timeout_ms;      /* 0: never */
};

/* The tunnel begins. */
void tcp_upgraded(struct tcp *t, const struct tcp_upgrade *u);

void tcp_drain_end(struct ring *ring); /* the time to finish is over */
bool tcp_idle(const struct ring *ring);
void tcp_tick(struct ring *ring);

#endif
