/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of the CA in PRIVATE_DATA. ID are 8 bytes, big-endian.
 *
 *   "ca"           -> ca_row_put; none as long as there never was a rotation
 *   "ca-node:ID"   -> ca_node_put, as the node said it last
 */
#ifndef FL_STATE_CA_ROWS_H
#define FL_STATE_CA_ROWS_H

#include "control/state/ca.h"
#include "state_internal.h"

enum { CA_ROW_BYTES_MAX = 2 * CA_PEM_MAX + 256, CA_NODE_BYTES_MAX = 64 };

void ca_cert_set(struct ca_cert *c, const struct ca_pem *p);
void ca_row_put(struct wire_writer *w, const struct ca_row *row);
void ca_row_get(struct wire_reader *r, struct ca_row *row);

/* What a node has said goes with it; all of it goes where the state becomes a new cluster's. */
int state_ca_node_del(struct kv *kv, uint64_t id);
int state_ca_drop(struct kv *kv);

#endif
