/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes, tokens and the cluster as bytes: in commands, and in rows. */
#include <string.h>

#include "control/state/codec.h"
#include "control/state/node.h"
#include "control/state/node_rows.h"

enum {
    NODE_CODEC_VERSION = 1,
    NODE_CODEC_STORE = 2, /* where the store is said, which nodes before CLUSTER_VERSION_STORES cannot read */
    CLUSTER_CODEC_VERSION = 1,
    TOKEN_CODEC_VERSION = 1,
    ROW_CODEC_VERSION = 1,
};

/* What a node says of itself, or what is said of it: names may be empty, and numbers zero, where a change
 * does not have them. Whether all is there is node_check's affair. */
void node_put(struct wire_writer *w, const struct node *n)
{
    bool store = node_store_said(n) || n->store_state;
    wire_put_u8(w, store ? NODE_CODEC_STORE : NODE_CODEC_VERSION);
    wire_put_u64(w, n->id);
    codec_put_text(w, n->name);
    wire_put_u8(w, n->role);
    wire_put_u8(w, n->availability);
    wire_put_u8(w, n->replica);
    codec_put_address(w, &n->mesh);
    codec_put_address(w, &n->data);
    wire_put_u32(w, n->version);
    wire_put(w, n->key, sizeof(n->key));
    wire_put(w, n->ca, sizeof(n->ca));
    if (!store)
        return;
    wire_put(w, n->store, sizeof(n->store));
    wire_put_u8(w, n->shares);
    wire_put_u8(w, n->store_state);
}

void node_get(struct wire_reader *r, struct node *n)
{
    memset(n, 0, sizeof(*n));
    uint8_t version = codec_get_version(r, NODE_CODEC_STORE);
    n->id = wire_get_u64(r);
    codec_get_text(r, n->name, sizeof(n->name));
    n->role = (uint8_t)codec_get_range(r, 1, 0, NODE_WORKER);
    n->availability = (uint8_t)codec_get_range(r, 1, 0, NODE_DRAIN);
    n->replica = codec_get_bool(r);
    codec_get_address(r, &n->mesh, 0);
    codec_get_address(r, &n->data, 0);
    n->version = wire_get_u32(r);
    codec_get_fixed(r, n->key, sizeof(n->key));
    codec_get_fixed(r, n->ca, sizeof(n->ca));
    if (version < NODE_CODEC_STORE)
        return;
    codec_get_fixed(r, n->store, sizeof(n->store));
    n->shares = codec_get_bool(r);
    n->store_state = (uint8_t)codec_get_range(r, 1, 0, NODE_STORE_FAILING);
    if (!node_store_said(n) && !n->store_state) /* there is one way to write it */
        r->failed = true;
}

static void down_put(struct wire_writer *w, const struct node_down *d)
{
    wire_put_u8(w, (uint8_t)d->count);
    for (uint32_t i = 0; i < d->count && i < NODE_MANAGERS_MAX; i++)
        wire_put_u64(w, d->id[i]);
}

static void down_get(struct wire_reader *r, struct node_down *d)
{
    d->count = codec_get_range(r, 1, 0, NODE_MANAGERS_MAX);
    for (uint32_t i = 0; i < d->count && !r->failed; i++)
        d->id[i] = wire_get_u64(r);
}

void node_join_put(struct wire_writer *w, const struct node_join *j)
{
    wire_put(w, j->token, sizeof(j->token));
    node_put(w, &j->node);
    wire_put_u8(w, j->replica_said);
    wire_put_u8(w, j->force);
    down_put(w, &j->down);
}

void node_join_get(struct wire_reader *r, struct node_join *j)
{
    memset(j, 0, sizeof(*j));
    codec_get_fixed(r, j->token, sizeof(j->token));
    node_get(r, &j->node);
    j->replica_said = codec_get_bool(r);
    j->force = codec_get_bool(r);
    down_get(r, &j->down);
}

void node_change_put(struct wire_writer *w, const struct node_change *c)
{
    wire_put_u64(w, c->revision);
    wire_put_u32(w, c->has);
    node_put(w, &c->node);
    wire_put_u8(w, c->force);
    down_put(w, &c->down);
}

void node_change_get(struct wire_reader *r, struct node_change *c)
{
    memset(c, 0, sizeof(*c));
    c->revision = wire_get_u64(r);
    c->has = codec_get_range(r, 4, 0, NODE_HAS_ALL);
    node_get(r, &c->node);
    c->force = codec_get_bool(r);
    down_get(r, &c->down);
}

void node_removal_put(struct wire_writer *w, const struct node_removal *n)
{
    wire_put_u64(w, n->id);
    wire_put_u8(w, n->force);
    down_put(w, &n->down);
}

void node_removal_get(struct wire_reader *r, struct node_removal *n)
{
    memset(n, 0, sizeof(*n));
    n->id = wire_get_u64(r);
    n->force = codec_get_bool(r);
    down_get(r, &n->down);
}

void node_token_put(struct wire_writer *w, const struct node_token *t)
{
    wire_put_u8(w, TOKEN_CODEC_VERSION);
    wire_put(w, t->hash, sizeof(t->hash));
    wire_put_u8(w, t->role);
    wire_put_u8(w, t->replica);
    wire_put_u64(w, t->expires_ms);
}

void node_token_get(struct wire_reader *r, struct node_token *t)
{
    memset(t, 0, sizeof(*t));
    codec_get_version(r, TOKEN_CODEC_VERSION);
    codec_get_fixed(r, t->hash, sizeof(t->hash));
    t->role = (uint8_t)codec_get_range(r, 1, NODE_MANAGER, NODE_WORKER);
    t->replica = codec_get_bool(r);
    t->expires_ms = wire_get_u64(r);
}

void node_cluster_put(struct wire_writer *w, const struct node_cluster *c)
{
    wire_put_u8(w, CLUSTER_CODEC_VERSION);
    wire_put_u32(w, c->version);
    codec_put_text(w, c->name);
    wire_put_u8(w, c->copies);
    wire_put_u8(w, c->copies_min);
}

void node_cluster_get(struct wire_reader *r, struct node_cluster *c)
{
    memset(c, 0, sizeof(*c));
    codec_get_version(r, CLUSTER_CODEC_VERSION);
    c->version = wire_get_u32(r);
    codec_get_text(r, c->name, sizeof(c->name));
    c->copies = (uint8_t)codec_get_range(r, 1, 0, NODE_COPIES_MAX);
    c->copies_min = (uint8_t)codec_get_range(r, 1, 0, NODE_COPIES_MAX);
}

void node_cluster_change_put(struct wire_writer *w, const struct node_cluster_change *c)
{
    wire_put_u64(w, c->revision);
    wire_put_u32(w, c->has);
    node_cluster_put(w, &c->cluster);
}

void node_cluster_change_get(struct wire_reader *r, struct node_cluster_change *c)
{
    memset(c, 0, sizeof(*c));
    c->revision = wire_get_u64(r);
    c->has = codec_get_range(r, 4, 0, NODE_CLUSTER_HAS_ALL);
    node_cluster_get(r, &c->cluster);
}

void node_row_put(struct wire_writer *w, const struct node *n)
{
    wire_put_u8(w, ROW_CODEC_VERSION);
    wire_put_u64(w, n->revision);
    wire_put_u64(w, n->joined_ms);
    wire_put_u64(w, n->updated_ms);
    node_put(w, n);
}

void node_row_get(struct wire_reader *r, struct node *n)
{
    codec_get_version(r, ROW_CODEC_VERSION);
    uint64_t revision = wire_get_u64(r), joined_ms = wire_get_u64(r), updated_ms = wire_get_u64(r);
    node_get(r, n);
    n->revision = revision;
    n->joined_ms = joined_ms;
    n->updated_ms = updated_ms;
}

void node_cluster_row_put(struct wire_writer *w, const struct node_cluster *c)
{
    wire_put_u8(w, ROW_CODEC_VERSION);
    wire_put_u64(w, c->next_node);
    wire_put_u32(w, c->nodes);
    wire_put_u32(w, c->managers);
    wire_put_u32(w, c->replicas);
    wire_put_u64(w, c->revision);
    wire_put_u64(w, c->created_ms);
    wire_put_u64(w, c->updated_ms);
    node_cluster_put(w, c);
}

void node_cluster_row_get(struct wire_reader *r, struct node_cluster *c)
{
    struct node_cluster row = {.version = 0};
    codec_get_version(r, ROW_CODEC_VERSION);
    row.next_node = wire_get_u64(r);
    row.nodes = codec_get_range(r, 4, 0, NODES_MAX);
    row.managers = codec_get_range(r, 4, 0, NODE_MANAGERS_MAX);
    row.replicas = codec_get_range(r, 4, 0, NODES_MAX);
    row.revision = wire_get_u64(r);
    row.created_ms = wire_get_u64(r);
    row.updated_ms = wire_get_u64(r);
    node_cluster_get(r, c);
    c->next_node = row.next_node;
    c->nodes = row.nodes;
    c->managers = row.managers;
    c->replicas = row.replicas;
    c->revision = row.revision;
    c->created_ms = row.created_ms;
    c->updated_ms = row.updated_ms;
}

void node_token_row_put(struct wire_writer *w, const struct node_token *t)
{
    wire_put_u8(w, ROW_CODEC_VERSION);
    wire_put_u64(w, t->created_ms);
    node_token_put(w, t);
}

void node_token_row_get(struct wire_reader *r, struct node_token *t)
{
    codec_get_version(r, ROW_CODEC_VERSION);
    uint64_t created_ms = wire_get_u64(r);
    node_token_get(r, t);
    t->created_ms = created_ms;
}
