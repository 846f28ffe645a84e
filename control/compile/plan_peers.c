/* SPDX-License-Identifier: Apache-2.0 */
#include "control/compile/plan_peers.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "placement.h"
#include "control/state/stores.h"

/* A replica that cannot be reached is passed over in a moment: others may have the blob. */
static const struct plan_proxy way = {
    .kind = PROXY_HTTP,
    .policy = PROXY_LEAST,
    .all_down = 1,
    .backend_tls = 1,
    .backend_verify = 1,
    .backend_http = 1,
    .host_of_backend = 1,
    .connections_max = 256,
    .queue_max = 1024,
    .queue_timeout_ms = 5000,
    .connect_timeout_ms = 1000,
    .response_timeout_ms = 10000,
    .retries = 3,
    .retry_budget = 100,
    .eject_failures = 5,
    .eject_ms = 2000,
    .stall_ms = 5000,
    .resumes_max = 8,
    .backend_ca = PLAN_PEERS_CA,
    .backend_certificate = PLAN_PEERS_CERTIFICATE,
};

static bool is_peer(const struct node *n, uint64_t self)
{
    return n->id != self && n->replica && n->data.port;
}

static void add(struct plan_peers *p, const struct node *n)
{
    struct plan_backend *b = &p->backend[p->proxied.service.backend_count++];
    *b = (struct plan_backend){.id = plan_peer_id(n->id),
                               .generation = 1,
                               .weight = 1,
                               .draining = n->availability == NODE_DRAIN || n->store_state,
                               .port = n->data.port,
                               .node = n->id,
                               .holder = stores_holder(n)};
    memcpy(b->ip, n->data.ip, sizeof(b->ip));
    memcpy(b->name, n->name, strnlen(n->name, sizeof(b->name) - 1));
}

struct plan_peers *plan_peers_compile(const struct node_table *nodes, uint64_t self)
{
    size_t count = 0;
    for (size_t i = 0; i < nodes->count; i++)
        count += is_peer(&nodes->node[i], self);
    if (!count)
        return NULL;
    count = count < PLAN_SERVICE_BACKENDS_MAX ? count : PLAN_SERVICE_BACKENDS_MAX;
    struct plan_peers *p = calloc(1, sizeof(*p));
    CHECK(p);
    p->backend = calloc(count, sizeof(*p->backend));
    CHECK(p->backend);
    p->proxied = (struct plan_proxied){.place = PLAN_PLACE_PEERS,
                                       .service = {.kind = SERVICE_PROXY,
                                                   .policy = POLICY_ALLOW_ALL,
                                                   .incarnation = 1,
                                                   .name = "peers",
                                                   .proxy = way},
                                       .backend = p->backend};
    for (size_t i = 0; i < nodes->count && p->proxied.service.backend_count < count; i++)
        if (is_peer(&nodes->node[i], self))
            add(p, &nodes->node[i]);
    p->source = (struct plan_source){.kind = PLAN_SOURCE_PEERS, .service = PLAN_PLACE_PEERS};
    return p;
}

uint64_t *plan_members_compile(const struct node_table *nodes, size_t *count)
{
    uint64_t *member = calloc(nodes->count + 1, sizeof(*member));
    CHECK(member);
    *count = 0;
    for (size_t i = 0; i < nodes->count && *count < PLAN_MEMBERS_MAX; i++)
        if (node_counts(nodes, &nodes->node[i]))
            member[(*count)++] = nodes->node[i].id;
    return member;
}

/* What is pushed to a drained node, or to one whose store is failing, has to be elsewhere as often as is
 * wanted, as long as there is somebody who could have it. A store stays if another one that has it does. */
static bool own_counts(const struct node_table *nodes, const struct node *self)
{
    bool could = false;
    if (!self || !self->replica)
        return false;
    if (self->availability != NODE_DRAIN && self->store_state != NODE_STORE_FAILING)
        return true;
    for (size_t i = 0; i < nodes->count; i++) {
        const struct node *n = &nodes->node[i];
        if (!n->replica || n->availability == NODE_DRAIN || n->store_state != NODE_STORE_WELL)
            continue;
        if (stores_holder(n) == stores_holder(self))
            return true;
        could = true;
    }
    return !could;
}

struct plan_copies plan_copies_compile(const struct node_table *nodes, uint64_t self)
{
    const struct node_cluster *c = &nodes->cluster;
    const struct node *row = node_find(nodes, self);
    uint32_t wanted = placement_wanted(c->copies, stores_count(nodes));
    uint32_t least = c->copies_min ? c->copies_min : 1;
    return (struct plan_copies){.told = c->version >= CLUSTER_VERSION_HOLDERS,
                                .keeps = row && row->replica,
                                .counts = own_counts(nodes, row),
                                .wanted = (uint8_t)wanted,
                                .least = (uint8_t)(least < wanted ? least : wanted),
                                .holder = row ? stores_holder(row) : self};
}

void plan_peers_free(struct plan_peers *peers)
{
    if (peers)
        free(peers->backend);
    free(peers);
}
