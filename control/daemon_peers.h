/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the data plane needs for fetching blobs from the cluster's other replicas, and for giving them: this
 * node's certificate from STATE/pki, and where the others are.
 */
#ifndef FL_CONTROL_DAEMON_PEERS_H
#define FL_CONTROL_DAEMON_PEERS_H

#include <stdbool.h>
#include <stddef.h>

#include "control/compile/plan_peers.h"
#include "control/config.h"

struct daemon;
struct nodes_self;

/* Reads the configuration's certificates, and the cluster's if there are some. As certs_load. */
bool daemon_certs_load(struct daemon *d, const struct config_certificates *config, size_t *failed);

/* Once a second: a cluster may have come to be since. */
void daemon_peers_tick(struct daemon *d);

/* The files of STATE/pki have changed: they are handed to the data plane, and the cluster is told when it has
 * them; a plan was applied. */
void daemon_pki_changed(struct daemon *d, uint64_t serial);
void daemon_pki_applied(struct daemon *d, uint64_t plan);

/* What this node says of itself in the state. */
struct nodes_self daemon_self(const struct daemon *d);
/* This node's row, until the table of nodes changes; NULL: the state does not have it yet. */
const struct node *daemon_node(const struct daemon *d);

/* At a reload, before the certificates are read: a node that listened for no other ones begins to. */
void daemon_cluster_reload(struct daemon *d, const struct config *next);

/* The other replicas for a plan; NULL: none, or this node cannot show them who it is. Freed by the caller. */
struct plan_peers *daemon_peers(struct daemon *d);

/* For a plan: whose certificates count. The caller frees id. */
struct daemon_members {
    uint64_t *id; /* ascending */
    size_t count;
    uint64_t next; /* the next node's id */
};
struct daemon_members daemon_members(struct daemon *d);

/* For a plan: how many copies there are to be. */
struct plan_copies daemon_copies(struct daemon *d);

/* For a plan: the peers and the hosts where sources lead to, if there are some, sources' own, then the
 * state's proxied services. Freed by the caller. */
struct plan_proxied *daemon_proxied(const struct daemon *d, const struct plan_peers *peers, size_t *count);

#endif
