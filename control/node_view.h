/* SPDX-License-Identifier: Apache-2.0 */
/* What this node knows of the nodes of the cluster, for people, and for those who propose changes of them. */
#ifndef FL_CONTROL_NODE_VIEW_H
#define FL_CONTROL_NODE_VIEW_H

#include "control/state/node_state.h"
#include "control/state/state.h"

struct daemon;

struct node_view {
    struct node_seen seen;
    struct node_verdict verdict;
};

void node_view(struct daemon *d, const struct node *n, struct node_view *out);

/* How much of what is pushed is on how many replicas that live. 0 or -errno. */
int node_view_held(struct daemon *d, struct state_held *out);

/* The managers that do not answer: what a change of the managers is proposed with. */
void node_view_down(struct daemon *d, struct node_down *out);

/* The node of a text: a name, or an id. NULL if there is none. Valid as nodes_table() is. */
const struct node *node_view_find(struct daemon *d, const char *text);

#endif
