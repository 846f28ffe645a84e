/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nodes of the cluster as they are applied here, and what this node keeps true in the state about itself:
 * its first row (a node that has never been part of a cluster makes one of itself), the cluster version that
 * its program knows, its addresses; and, if it leads, the cluster version that all of them know.
 */
#ifndef FL_CONTROL_NODES_H
#define FL_CONTROL_NODES_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "control/cluster.h"
#include "control/journal.h"
#include "control/state/node.h"

struct nodes;

enum {
    NODES_SETTLE_MS = 5,  /* changes that come together are told together */
    NODES_KEEP_MS = 1000, /* how often it is looked whether the state says the right things */
};

/* What this node says of itself. Addresses with port 0: not said; the state keeps what it has. */
struct nodes_self {
    char name[NODE_NAME_MAX + 1]; /* for its first row */
    struct svc_address mesh, data;
    bool has_store; /* its store has an id */
    uint8_t store[NODE_STORE_BYTES];
    bool shares;         /* store.shared */
    uint8_t store_state; /* enum node_store_state */
};

struct nodes_config {
    uv_loop_t *loop;
    struct journal *journal;
    struct cluster *cluster;
    struct nodes_self self;
    /* The table has changed. May be NULL. */
    void (*changed)(void *arg);
    void *arg;
};

/* Reads the state. */
struct nodes *nodes_new(const struct nodes_config *config);

/* Close before the cluster closes, free when the loop has ended. */
void nodes_close(struct nodes *nodes);
void nodes_free(struct nodes *nodes);

/* An entry was applied. */
void nodes_event(struct nodes *nodes, const struct state_event *event);

/* The whole state is another one: a snapshot was put in its place. */
void nodes_reload(struct nodes *nodes);

/* Other addresses from now on. */
void nodes_set_self(struct nodes *nodes, const struct nodes_self *self);

/* As the state is now; valid until the next turn of the loop. */
const struct node_table *nodes_table(struct nodes *nodes);

/* This host's name as a node's: what cannot be in one is replaced. */
void nodes_name_of_host(char out[NODE_NAME_MAX + 1]);

#endif
