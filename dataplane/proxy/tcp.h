/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services of kind tcp, and TLS that is passed through: a backend is chosen and connected to, another one
 * where that fails (nothing was sent yet), and from then on there is a tunnel.
 *
 *   accepted -> CHOOSE (or wait in the service's queue) -> CONNECT -> OPEN (tunnel.h) -> CLOSING
 *                  ^                                         |
 *                  '------- no connection could be made -----'
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
struct plan_service;
struct ring;
struct tcp_ring;

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

void tcp_drain_end(struct ring *ring); /* the time to finish is over */
bool tcp_idle(const struct ring *ring);
void tcp_tick(struct ring *ring);

#endif
