/* SPDX-License-Identifier: Apache-2.0 */
/* Heartbeat sessions and addresses that are taken over: for `fairlead status` and `fairlead metrics`. */
#ifndef FL_CONTROL_PEER_STATUS_H
#define FL_CONTROL_PEER_STATUS_H

#include <stdio.h>
#include <jansson.h>

struct daemon;

enum { STATUS_ADDRESSES_MAX = 256 };

/* An object for each peer, and for each address on each of its segments (at most so many). New arrays. */
json_t *peer_status(struct daemon *d);
json_t *address_status(struct daemon *d);

/* Prometheus text of both. */
void peer_metrics(struct daemon *d, FILE *out);

#endif
