/* SPDX-License-Identifier: Apache-2.0 */
#include "control/node_view.h"

#include <stdlib.h>
#include <string.h>

#include "placement.h"
#include "control/daemon.h"
#include "control/nodes.h"
#include "control/peer_view.h"
#include "control/state/stores.h"

/* The heartbeat of the peer that the configuration file has under the node's name. */
static uint8_t heartbeat_of(struct daemon *d, const char *name)
{
    struct peer_view peer;
    for (uint32_t i = 0; peer_view(d, i, &peer); i++) {
        if (strcmp(peer.config->name, name) != 0 || peer.self || !peer.begun)
            continue;
        return strcmp(peer_state_name(&peer), "up") == 0 ? NODE_HEARTBEAT_UP : NODE_HEARTBEAT_DOWN;
    }
    return NODE_HEARTBEAT_NONE;
}

void node_view(struct daemon *d, const struct node *n, struct node_view *out)
{
    cluster_node_seen(d->cluster, n, &out->seen);
    out->seen.heartbeat = heartbeat_of(d, n->name);
    node_judge(n, &out->seen, journal_now_ms(), &out->verdict);
}

static bool node_lives(struct daemon *d, const struct node *n)
{
    struct node_view view;
    node_view(d, n, &view);
    return view.verdict.state != NODE_STATE_DOWN && view.verdict.state != NODE_STATE_UNREACHABLE &&
           n->store_state != NODE_STORE_LOST;
}

/* A copy on a replica that does not answer, or that has lost its store, is no copy until it does; nor is one
 * in a store of which no replica does. */
static uint64_t holder_living(void *arg, uint64_t id)
{
    struct daemon *d = arg;
    const struct node_table *t = nodes_table(d->nodes);
    uint64_t holder = stores_fold(t, id);
    const struct node *own = node_find(t, holder);
    if (own)
        return own->replica && node_lives(d, own) ? holder : 0;
    for (size_t i = 0; holder & STORES_NUMBER && i < t->count; i++)
        if (t->node[i].replica && stores_holder(&t->node[i]) == holder && node_lives(d, &t->node[i]))
            return holder;
    return 0;
}

int node_view_held(struct daemon *d, struct state_held *out)
{
    const struct node_table *t = nodes_table(d->nodes);
    uint32_t wanted = placement_wanted(t->cluster.copies, stores_count(t));
    return cluster_held(d->cluster, wanted, holder_living, d, out);
}

void node_view_down(struct daemon *d, struct node_down *out)
{
    const struct node_table *t = nodes_table(d->nodes);
    out->count = 0;
    for (size_t i = 0; i < t->count && out->count < NODE_MANAGERS_MAX; i++) {
        struct node_view view;
        if (t->node[i].role != NODE_MANAGER)
            continue;
        node_view(d, &t->node[i], &view);
        if (node_state_is_down(view.verdict.state))
            out->id[out->count++] = t->node[i].id;
    }
}

const struct node *node_view_find(struct daemon *d, const char *text)
{
    const struct node_table *t = nodes_table(d->nodes);
    const struct node *n = node_find_name(t, text);
    char *end;
    if (n || *text < '1' || *text > '9')
        return n;
    unsigned long long id = strtoull(text, &end, 10);
    return *end ? NULL : node_find(t, id);
}
