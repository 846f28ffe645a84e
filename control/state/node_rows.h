/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of nodes in PRIVATE_DATA. ID are 8 bytes, big-endian, ADDRESS is the 16 bytes of the address and the
 * port, HASH 32 bytes.
 *
 *   "cluster"            -> node_cluster_row_put
 *   "node:ID"            -> node_row_put
 *   "node-name:NAME"     -> ID: a name belongs to one node
 *   "node-at:ADDRESS"    -> ID: an address in the mesh belongs to one node
 *   "token:HASH"         -> node_token_row_put
 */
#ifndef FL_STATE_NODE_ROWS_H
#define FL_STATE_NODE_ROWS_H

#include "control/state/node.h"
#include "state_internal.h"

/* The bytes of rows: what the state gives, too. */
void node_row_put(struct wire_writer *w, const struct node *n);
void node_row_get(struct wire_reader *r, struct node *n);
void node_cluster_row_put(struct wire_writer *w, const struct node_cluster *c);
void node_cluster_row_get(struct wire_reader *r, struct node_cluster *c);
void node_token_row_put(struct wire_writer *w, const struct node_token *t);
void node_token_row_get(struct wire_reader *r, struct node_token *t);

/* -ENOENT if the cluster was not made yet: then *out is that of no row. */
int state_cluster_get(struct kv *kv, struct node_cluster *out);
int state_cluster_put(struct kv *kv, const struct node_cluster *c);

int state_node_put(struct kv *kv, const struct node *n);
int state_node_del(struct kv *kv, uint64_t id);
/* The first node behind the id (0: the first). -ENOENT behind the last. */
int state_node_next(struct kv *kv, uint64_t id, struct node *out);

/* The node of a name, of an address. -ENOENT if there is none. */
int state_node_of_name(struct kv *kv, const char *name, uint64_t *id);
int state_node_of_address(struct kv *kv, const struct svc_address *a, uint64_t *id);
/* Moves a node's rows of the kind from one name or address to another one; an empty one has no row. */
int state_node_name_move(struct kv *kv, uint64_t id, const char *from, const char *to);
int state_node_address_move(struct kv *kv, uint64_t id, const struct svc_address *from,
                            const struct svc_address *to);

int state_token_get(struct kv *kv, const uint8_t hash[NODE_HASH_BYTES], struct node_token *out);
int state_token_put(struct kv *kv, const struct node_token *t);
int state_token_del(struct kv *kv, const uint8_t hash[NODE_HASH_BYTES]);
/* The first token behind the hash (NULL: the first). -ENOENT behind the last. */
int state_token_next(struct kv *kv, const uint8_t *hash, struct node_token *out);

#endif
