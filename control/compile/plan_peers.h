/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other replicas of the cluster as a plan has them: the backends of a proxied service that no client
 * sees, and a source of every repository. Pure.
 */
#ifndef FL_CONTROL_PLAN_PEERS_H
#define FL_CONTROL_PLAN_PEERS_H

#include <stddef.h>
#include <stdint.h>

#include "control/compile/plan_compile.h"
#include "control/state/node.h"

/* Names that no configuration can give: this node's certificate, the cluster's CAs (STATE/pki). */
#define PLAN_PEERS_CERTIFICATE "@node"
#define PLAN_PEERS_CA          "@cluster"

struct plan_peers {
    struct plan_proxied proxied;
    struct plan_source source;
    struct plan_backend *backend;
};

/* All replicas but `self` that say where their blobs are. NULL: there are none. The caller frees it. */
struct plan_peers *plan_peers_compile(const struct node_table *nodes, uint64_t self);
void plan_peers_free(struct plan_peers *peers);

/* The ids of the nodes whose certificates count, from malloc, and how many they are. */
uint64_t *plan_members_compile(const struct node_table *nodes, size_t *count);

/* How many copies this node has to see to when it takes a push in. */
struct plan_copies plan_copies_compile(const struct node_table *nodes, uint64_t self);

#endif
