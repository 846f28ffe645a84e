/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a new connection passes before it is a connection: a PROXY header, TLS, the choice of what is spoken.
 * Where a service asks for none of it the socket goes straight on, and costs nothing here.
 *
 *   accepted --> PROXY header --> TLS: its ClientHello is looked at where several services share the address,
 *                            |    to choose one by the name that the client says
 *                            |--> TLS: terminated ------> HTTP/1.1 (conn), or HTTP/2 (http2.h), by ALPN
 *                            |--> TLS: passed through --> a tunnel, when the ClientHello is sound
 *                            '--> in clear -------------> conn, or a tunnel
 *
 * All of it has http.header_timeout, together.
 */
#ifndef FL_DOOR_H
#define FL_DOOR_H

#include <stdbool.h>
#include <stdint.h>

struct door_ring;
struct plan;
struct ring;
struct tls_helpers;
struct tls_ring;
struct tls_table;

/* Of one ring. -ENOMEM. */
int door_ring_new(struct ring *ring, struct tls_helpers *helpers, const struct tls_table *table,
                  struct door_ring **out);
void door_ring_free(struct door_ring *dr);

/* A new descriptor (taken), for that service, by that listening address: places in the plan. */
void door_accepted(struct ring *ring, int fd, uint16_t service, uint16_t listener, uint16_t port);

/* Between two batches: what helpers have done; a new plan with its table (NULL: the same); the node stops. */
void door_turn(struct ring *ring);
void door_plan(struct ring *ring, const struct plan *old, const struct tls_table *table);
void door_drain(struct ring *ring);
void door_tick(struct ring *ring);
bool door_idle(const struct ring *ring); /* nobody is in it */

/* For whoever begins TLS of its own, towards backends. */
struct tls_ring *door_tls(const struct ring *ring);
const struct tls_table *door_table(const struct ring *ring);

#endif
