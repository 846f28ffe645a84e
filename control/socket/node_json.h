/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes, tokens and the cluster as JSON. New objects. */
#ifndef FL_CONTROL_NODE_JSON_H
#define FL_CONTROL_NODE_JSON_H

#include <jansson.h>

#include "control/node_view.h"
#include "control/state/node.h"

json_t *node_json(const struct node *n, const struct node_view *view);
json_t *node_cluster_json(const struct node_cluster *c);
json_t *node_token_json(const struct node_token *t);

/* What an operator should know of these managers: an array of texts. */
json_t *node_warnings_json(const struct node_cluster *c);

/* Hexadecimal; NULL if all are zero: a new object. */
json_t *node_hash_json(const uint8_t hash[NODE_HASH_BYTES]);

#endif
