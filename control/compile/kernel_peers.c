/* SPDX-License-Identifier: Apache-2.0 */
/* Heartbeat sessions with the backends that hang on them, and which addresses are taken over where. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/compile/kernel_internal.h"
#include "control/compile/maglev.h"

enum {
    INDEX_NONE = 0xffffffff,
    SOURCE_PORT_FIRST = 49152, /* RFC 5881, 4 */
    SOURCE_PORTS = 65536 - SOURCE_PORT_FIRST,
};

/* Indices of the peers: those that are in the map already keep theirs, the others get the free ones. */
static uint32_t *place_peers(const struct kernel_input *in)
{
    const struct kernel_facts *facts = in->facts;
    uint32_t *index = kernel_room(in->peer_count, sizeof(*index));
    bool *taken = kernel_room(ABI_PEERS_MAX, sizeof(*taken));
    uint32_t now = facts->peers_now && facts->peers_now_count < ABI_PEERS_MAX ? facts->peers_now_count
                   : facts->peers_now                                         ? ABI_PEERS_MAX
                                                                              : 0;
    CHECK(in->peer_count <= ABI_PEERS_MAX);
    for (uint32_t i = 0; i < in->peer_count; i++) {
        struct abi_addr addr;
        kernel_addr_set(&addr, &in->peer[i].address);
        index[i] = INDEX_NONE;
        for (uint32_t k = 0; k < now && index[i] == INDEX_NONE; k++)
            if (facts->peers_now[k].flags & ABI_PEER_USED && !taken[k] &&
                kernel_addr_equal(&facts->peers_now[k].addr, &addr))
                index[i] = k;
        if (index[i] != INDEX_NONE)
            taken[index[i]] = true;
    }
    for (uint32_t i = 0, next = 0; i < in->peer_count; i++) {
        if (index[i] != INDEX_NONE)
            continue;
        while (taken[next])
            next++;
        taken[next] = true;
        index[i] = next;
    }
    free(taken);
    return index;
}

/* A generation belongs to one session: another peer or another kind of session at the same index is a new
 * one. */
static uint16_t generation_of(const struct kernel_facts *facts, uint32_t index, const struct abi_peer *p)
{
    if (!facts->peers_now || index >= facts->peers_now_count)
        return 1;
    const struct abi_peer *now = &facts->peers_now[index];
    bool same = now->flags == p->flags && kernel_addr_equal(&now->addr, &p->addr) &&
                now->discriminator == p->discriminator;
    uint16_t generation = (uint16_t)(now->generation + !same);
    return generation ? generation : 1;
}

/* While the route is away the session goes on as it was, and ends by its deadline. */
static struct abi_addr source_before(const struct kernel_facts *facts, uint32_t index,
                                     const struct abi_addr *addr)
{
    bool known = facts->peers_now && index < facts->peers_now_count &&
                 kernel_addr_equal(&facts->peers_now[index].addr, addr);
    return known ? facts->peers_now[index].source : (struct abi_addr){{0}};
}

static void compile_peer(const struct kernel_facts *facts, const struct kernel_peer_config *from,
                         uint32_t index, struct abi_peer *p)
{
    uint64_t hash = maglev_hash(facts->node_id, from->name, strlen(from->name));
    bool watched;
    kernel_addr_set(&p->addr, &from->address);
    p->node_id = from->node_id;
    p->flags = ABI_PEER_USED | (from->multihop ? ABI_PEER_MULTIHOP : 0);
    if (kernel_addr_is_local(facts, &p->addr))
        p->flags |= ABI_PEER_SELF;
    else if (!facts->source(facts->arg, &p->addr, &p->source, &watched))
        p->source = source_before(facts, index, &p->addr);
    p->discriminator = (uint32_t)(hash << 16) | (index + 1);
    p->tx_us = p->rx_us = from->interval_ms * 1000;
    p->multiplier = from->multiplier;
    p->draining = facts->draining;
    p->source_port = htons((uint16_t)(SOURCE_PORT_FIRST + (hash >> 32) % SOURCE_PORTS));
    p->generation = generation_of(facts, index, p);
}

static void compile_members(const struct kernel_input *in, struct kernel_entries *e, const char *name,
                            uint32_t index)
{
    const struct svc_table *t = in->services;
    struct abi_peer *p = &e->peer[index];
    p->members_first = e->member_count;
    for (size_t i = 0; i < t->backend_count; i++) {
        const struct svc_backend *b = &t->backend[i];
        if (b->id >= e->backend_count || e->backend[b->id].admin == ABI_ADMIN_NONE ||
            strcmp(b->node, name) != 0)
            continue;
        e->backend[b->id].peer = index + 1;
        e->member[e->member_count++] = b->id;
    }
    p->members_count = e->member_count - p->members_first;
}

void kernel_peers(const struct kernel_input *in, struct kernel_entries *e)
{
    uint32_t *index = place_peers(in);
    for (uint32_t i = 0; i < in->peer_count; i++)
        if (index[i] >= e->peer_count)
            e->peer_count = index[i] + 1;
    e->peer = kernel_room(e->peer_count, sizeof(*e->peer));
    e->member = kernel_room(in->services->backend_count, sizeof(*e->member));
    for (uint32_t i = 0; i < in->peer_count; i++) {
        compile_peer(in->facts, &in->peer[i], index[i], &e->peer[index[i]]);
        compile_members(in, e, in->peer[i].name, index[i]);
    }
    free(index);
}

/* The index of the peer that has this address; INDEX_NONE: none. */
static uint32_t peer_index(const struct kernel_entries *e, const struct abi_addr *addr)
{
    for (uint32_t i = 0; i < e->peer_count; i++)
        if (e->peer[i].flags & ABI_PEER_USED && kernel_addr_equal(&e->peer[i].addr, addr))
            return i;
    return INDEX_NONE;
}

/* Whether the address is on the network that this interface is connected to. */
static bool is_connected(const struct kernel_local *l, const struct abi_addr *a)
{
    const uint8_t *one = (const uint8_t *)l->addr.word, *other = (const uint8_t *)a->word;
    static const uint8_t no_mac[6];
    uint32_t whole = l->prefix / 8, rest = l->prefix % 8;
    if (memcmp(l->mac, no_mac, sizeof(no_mac)) == 0 || l->prefix > 128 || memcmp(one, other, whole) != 0)
        return false;
    return rest == 0 || (one[whole] ^ other[whole]) >> (8 - rest) == 0;
}

bool kernel_addr_is_on(const struct kernel_facts *facts, uint32_t ifindex, const struct abi_addr *a)
{
    for (size_t i = 0; i < facts->local_count; i++)
        if (facts->local[i].ifindex == ifindex && is_connected(&facts->local[i], a))
            return true;
    return false;
}

/*
 * By what the kernel knows another candidate here. It is local to this node, as claims carry positions: so it
 * comes from the candidate's address, which no two have, and not from its node id, which may not be known,
 * and which two hosts that are no cluster have in common.
 */
static uint64_t candidate_id(const struct abi_addr *addr)
{
    return maglev_hash(0, addr, sizeof(*addr)) | 1ull << 63;
}

/* Where no order is given this node is the only candidate. */
static void compile_address(const struct kernel_input *in, struct kernel_entries *e,
                            const struct kernel_local *l, const struct abi_addr *addr)
{
    static const struct kernel_takeover_config alone = {.candidate = {KERNEL_SELF}, .count = 1};
    const struct kernel_takeover_config *order = in->takeover && in->takeover->count ? in->takeover : &alone;
    struct kernel_address *out = &e->address[e->address_count++];
    struct abi_address *v = &out->value;
    out->key = (struct abi_address_key){.addr = *addr, .ifindex = l->ifindex};
    memcpy(v->own_mac, l->mac, sizeof(l->mac));
    for (uint32_t i = 0; i < order->count; i++) {
        struct abi_addr peer_addr;
        uint32_t at = v->managers;
        if (order->candidate[i] == KERNEL_SELF) {
            v->self = at;
            v->node_id[at] = in->facts->node_id;
            memcpy(v->mac[at], l->mac, sizeof(l->mac));
            v->managers++;
            continue;
        }
        kernel_addr_set(&peer_addr, &in->peer[order->candidate[i]].address);
        if (order->by_segment && !kernel_addr_is_on(in->facts, l->ifindex, &peer_addr))
            continue;
        v->peer[at] = peer_index(e, &peer_addr) + 1;
        v->node_id[at] = candidate_id(&peer_addr);
        in->facts->neighbour(in->facts->arg, l->ifindex, &peer_addr, v->mac[at]);
        v->managers++;
    }
}

static int compare_addresses(const void *a, const void *b)
{
    return memcmp(&((const struct kernel_address *)a)->key, &((const struct kernel_address *)b)->key,
                  sizeof(struct abi_address_key));
}

static bool is_listed(const struct kernel_entries *e, const struct abi_addr *addr, uint32_t ifindex)
{
    for (uint32_t i = 0; i < e->address_count; i++)
        if (e->address[i].key.ifindex == ifindex && kernel_addr_equal(&e->address[i].key.addr, addr))
            return true;
    return false;
}

/* A proxied service's address is this host's by a route, on every node alike: without takeover nobody is the
 * one who answers for it, and the stack must not. Of IPv6 it answers for addresses of interfaces alone. */
static bool is_quiet(const struct kernel_facts *facts, const struct svc *s, const struct abi_addr *addr)
{
    return s->route == SVC_PROXY && svc_address_is_v4(&s->address) && !kernel_addr_is_local(facts, addr);
}

static void compile_quiet(struct kernel_entries *e, const struct kernel_local *l, const struct abi_addr *addr)
{
    e->address[e->address_count++] = (struct kernel_address){.key = {.addr = *addr, .ifindex = l->ifindex}};
}

/* On each network that the address is of. */
static void compile_addresses(const struct kernel_input *in, struct kernel_entries *e, const struct svc *s)
{
    struct abi_addr addr;
    kernel_addr_set(&addr, &s->address);
    for (size_t k = 0; k < in->facts->local_count; k++) {
        const struct kernel_local *l = &in->facts->local[k];
        if (!is_connected(l, &addr) || is_listed(e, &addr, l->ifindex))
            continue;
        if (s->takeover && !(in->takeover && in->takeover->none))
            compile_address(in, e, l, &addr);
        else if (is_quiet(in->facts, s, &addr))
            compile_quiet(e, l, &addr);
    }
}

void kernel_addresses(const struct kernel_input *in, struct kernel_entries *e)
{
    const struct svc_table *t = in->services;
    e->address = kernel_room(t->count * in->facts->local_count, sizeof(*e->address));
    for (int takeover = 1; takeover >= 0; takeover--) /* one address may be of several services */
        for (size_t i = 0; i < t->count; i++)
            if (t->service[i].takeover == (takeover != 0))
                compile_addresses(in, e, &t->service[i]);
    qsort(e->address, e->address_count, sizeof(*e->address), compare_addresses);
}
