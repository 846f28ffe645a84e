/* SPDX-License-Identifier: Apache-2.0 */
/* Commands about nodes, tokens, the cluster and its CA, encoded: each from malloc, with its length in *len.
 */
#ifndef FL_CONTROL_NODE_COMMANDS_H
#define FL_CONTROL_NODE_COMMANDS_H

#include "control/state/ca.h"
#include "control/state/node.h"

/* Who asks, for the audit record. */
struct node_asker {
    const char *actor, *source;
};

void *node_cmd_init(struct node_asker who, const struct node *first, const struct node_cluster *cluster,
                    size_t *len);
void *node_cmd_add(struct node_asker who, const struct node_join *join, size_t *len);
void *node_cmd_set(struct node_asker who, const struct node_change *change, size_t *len);
void *node_cmd_rm(struct node_asker who, const struct node_removal *removal, size_t *len);
void *node_cmd_token_set(struct node_asker who, const struct node_token *token, bool rotate, size_t *len);
void *node_cmd_token_rm(struct node_asker who, const uint8_t hash[NODE_HASH_BYTES], size_t *len);
void *node_cmd_cluster_set(struct node_asker who, const struct node_cluster_change *change, size_t *len);

void *node_cmd_ca_rotate(struct node_asker who, bool force, size_t *len);
void *node_cmd_ca_step(struct node_asker who, const struct ca_step *step, size_t *len);
void *node_cmd_ca_node(struct node_asker who, const struct ca_node *said, size_t *len);

/* The detail of a CMD_NODE_ADD that succeeded: the node's id; 0 if it is none. */
uint64_t node_cmd_added_id(const void *detail, size_t len);

#endif
