/* SPDX-License-Identifier: Apache-2.0 */
#include "control/compile/kernel_managers.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/compile/kernel_internal.h"

void kernel_managers_of(const struct node_table *nodes, uint64_t self, struct kernel_managers *out)
{
    *out = (struct kernel_managers){.self = self};
    for (size_t i = 0; i < nodes->count && out->count < NODE_MANAGERS_MAX; i++) {
        const struct node *n = &nodes->node[i]; /* by id */
        if (n->role != NODE_MANAGER)
            continue;
        struct kernel_manager *m = &out->manager[out->count++];
        m->id = n->id;
        memcpy(m->name, n->name, sizeof(m->name));
        m->mesh = n->mesh;
        m->data = n->data;
    }
}

/* Whether it is on a segment of this host: on any. */
static bool is_near(const struct kernel_facts *facts, const struct svc_address *a)
{
    struct abi_addr addr;
    kernel_addr_set(&addr, a);
    for (size_t i = 0; a->port && i < facts->local_count; i++)
        if (kernel_addr_is_on(facts, facts->local[i].ifindex, &addr))
            return true;
    return false;
}

static int find_peer(const struct kernel_candidates *c, const struct svc_address *a)
{
    for (uint32_t i = 0; i < c->peer_count; i++)
        if (memcmp(c->peer[i].address.ip, a->ip, sizeof(a->ip)) == 0)
            return (int)i;
    return -2;
}

/* Its index among the peers, made one of them if need be; -2: it is on no segment of this host. */
static int peer_of(struct kernel_candidates *c, const struct kernel_facts *facts,
                   const struct kernel_manager *m)
{
    const struct svc_address *at = is_near(facts, &m->mesh) ? &m->mesh : &m->data;
    int known = find_peer(c, at);
    if (!is_near(facts, at))
        return -2;
    if (known != -2 || c->peer_count == ABI_PEERS_MAX)
        return known;
    struct kernel_peer_config *p = &c->peer[c->peer_count];
    *p = (struct kernel_peer_config){.address = *at,
                                     .node_id = m->id,
                                     .interval_ms = KERNEL_PEER_INTERVAL_MS,
                                     .multiplier = KERNEL_PEER_MULTIPLIER};
    memcpy(p->name, m->name, sizeof(p->name));
    return (int)c->peer_count++;
}

void kernel_candidates_make(const struct kernel_managers *managers, const struct kernel_facts *facts,
                            const struct kernel_peer_config *peer, uint32_t peer_count,
                            struct kernel_candidates *out)
{
    struct kernel_takeover_config *t = &out->takeover;
    *out = (struct kernel_candidates){.peer = kernel_room(peer_count + NODE_MANAGERS_MAX, sizeof(*peer)),
                                      .peer_count = peer_count};
    if (peer_count)
        memcpy(out->peer, peer, peer_count * sizeof(*peer));
    t->by_segment = true;
    t->none = managers->count > 0; /* a worker answers for nothing */
    for (uint32_t i = 0; i < managers->count; i++)
        t->none &= managers->manager[i].id != managers->self;
    for (uint32_t i = 0; !t->none && i < managers->count && t->count < ABI_ADDRESS_MANAGERS_MAX; i++) {
        const struct kernel_manager *m = &managers->manager[i];
        int index = m->id == managers->self ? KERNEL_SELF : peer_of(out, facts, m);
        if (index != -2)
            t->candidate[t->count++] = index;
    }
}

void kernel_candidates_fini(struct kernel_candidates *c)
{
    free(c->peer);
    *c = (struct kernel_candidates){0};
}
