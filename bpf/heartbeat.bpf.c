/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Heartbeats between nodes: asynchronous BFD (RFC 5880), over one hop (RFC 5881) and several (RFC 5883).
 *
 *   bfd_rx    tc ingress of the devices, ABI_TC_HEARTBEAT: packets of sessions; arms the session's timer
 *   bfd_tick  tc ingress of the clock's device, ABI_TC_HEARTBEAT: sends what is due, by way of `fan`
 *   timer     a detection time without a packet ends the session
 *
 * A session that was up and ends changes the verdicts on the backends of that node; probes settle them.
 * Echo and authentication are not offered. A link-local address cannot be a peer's: a session has no device.
 */
#include "common.h"
#include "maps.h"
#include "verdict.h"
#include "clock.h"
#include "bfd_machine.h"

char LICENSE[] SEC("license") = "GPL";

enum {
    CLOCK_MONOTONIC = 1,
    INDEX_MASK = 0xffff,    /* of a discriminator */
    SENDS_A_TICK = 512,     /* the out device's queue is short: who has no room is first in the next tick */
    WALK_ALL_TICKS = 32,    /* between two looks at all peers; else those up to the last one in use */
    CLOCK_MARGIN_PARTS = 4, /* the clock may be late by a quarter of its period: jiffies */
    MEMBERS_MAX = 131072,   /* ABI_BACKENDS_MAX */
};

struct bfd_session {
    struct bpf_timer timer;
    struct bpf_spin_lock lock; /* of this peer's peer_state */
};

/* Pinned, as timers live as long as their map. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, ABI_PEERS_MAX);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct bfd_session);
} bfd_sessions SEC(".maps");

struct bfd_pair {
    struct abi_addr peer, local;
    __u32 multihop;
};

/* From addresses to a peer's index, for packets that do not know our discriminator yet. Entered with each
 * packet we send while a session is not up, so that it heals by itself. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4 * ABI_PEERS_MAX);
    __type(key, struct bfd_pair);
    __type(value, __u32);
} bfd_pairs SEC(".maps");

struct bfd_walk {
    __u64 ticks;
    __u32 used;  /* indices in use are below */
    __u32 first; /* to be served */
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct bfd_walk);
} bfd_walk SEC(".maps");

/* --- the backends of a peer ---------------------------------------------------------------------------- */

struct member_change {
    __u32 first;
    __u32 peer; /* index + 1 */
    __u32 event;
    __u32 node_probes;
};

INLINE void member_want_probe(__u32 id, const struct abi_backend *b)
{
    __u32 service = b->service;
    struct abi_check *check = bpf_map_lookup_elem(&checks, &service);
    struct abi_probe_state *probe = bpf_map_lookup_elem(&probe_state, &id);
    if (probe)
        probe->wanted = check && check->kind == ABI_CHECK_HTTP ? ABI_WANTED_HTTP : ABI_WANTED_PROBE;
}

/* What heartbeats took away comes back when they do, or when it is another session that has them now: by a
 * probe, if this node sends any. */
INLINE void member_restore(__u32 id, const struct abi_backend *b, bool node_probes)
{
    __u64 *word = bpf_map_lookup_elem(&verdicts, &id);
    if (!word || ABI_VERDICT_REASON(*word) != ABI_HEARTBEAT || verdict_state(*word, b) == ABI_UNKNOWN)
        return;
    if (b->flags & ABI_BACKEND_UNCHECKED)
        verdict_set(id, b, ABI_UP, ABI_UNCHECKED, 0);
    else if (node_probes)
        member_want_probe(id, b);
    else
        verdict_set(id, b, ABI_UNKNOWN, ABI_NONE, 0);
}

static long member_step(__u32 i, struct member_change *c)
{
    __u32 slot = c->first + i;
    __u32 *listed = bpf_map_lookup_elem(&peer_members, &slot);
    if (!listed)
        return 1;
    __u32 id = *listed;
    struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    if (!b || b->peer != c->peer || b->admin == ABI_ADMIN_NONE)
        return 0; /* the list is being written */
    if (c->event == BFD_EVENT_UP || c->event == BFD_EVENT_BEGUN) {
        member_restore(id, b, c->node_probes);
        return 0;
    }
    verdict_set(id, b, c->event == BFD_EVENT_SILENT ? ABI_DOWN : ABI_SUSPECT, ABI_HEARTBEAT, 0);
    if (c->node_probes)
        member_want_probe(id, b);
    return 0;
}

static __noinline int tell_members(__u32 index, __u32 event)
{
    struct abi_peer *peer = bpf_map_lookup_elem(&peers, &index);
    struct abi_node *n = node_get(&node);
    if (!peer || !n || event == BFD_EVENT_NONE)
        return 0;
    struct member_change c = {.first = peer->members_first,
                              .peer = index + 1,
                              .event = event,
                              .node_probes = n->flags & ABI_NODE_PROBES};
    __u32 count = peer->members_count;
    bpf_loop(count < MEMBERS_MAX ? count : MEMBERS_MAX, member_step, &c, 0);
    return 0;
}

/* --- the timer ----------------------------------------------------------------------------------------- */

/* Looks its own element up: Linux 6.1 does not let the one it is given be locked. */
static int bfd_fired(void *map, __u32 *key, void *element)
{
    __u32 index = *key;
    struct bfd_session *session = bpf_map_lookup_elem(&bfd_sessions, &index);
    struct abi_peer *peer = bpf_map_lookup_elem(&peers, &index);
    struct abi_peer_state *s = bpf_map_lookup_elem(&peer_state, &index);
    __u64 now = bpf_ktime_get_ns(), again_ns = 0;
    enum bfd_event event = BFD_EVENT_NONE;
    if (!session || !peer || !s)
        return 0;
    bpf_spin_lock(&session->lock);
    if (!(peer->flags & ABI_PEER_USED))
        bfd_forget(s);
    else if (s->generation == (peer->generation | ABI_PEER_BEGUN))
        event = bfd_expire(s, now, &again_ns);
    bpf_spin_unlock(&session->lock);
    if (again_ns)
        bpf_timer_start(&session->timer, again_ns, 0);
    tell_members(index, event);
    return 0;
}

/* Sets the callback each time: after an upgrade the timers belong to this program. */
INLINE void bfd_arm(struct bfd_session *session, __u64 ns)
{
    bpf_timer_init(&session->timer, &bfd_sessions, CLOCK_MONOTONIC);
    bpf_timer_set_callback(&session->timer, bfd_fired);
    bpf_timer_start(&session->timer, ns, 0);
}

/* --- receiving ----------------------------------------------------------------------------------------- */

/* The packet's session, by our discriminator or else by its addresses: index + 1, 0: none. */
INLINE __u32 bfd_find(const struct bfd_arrival *a)
{
    struct bfd_pair pair = {.peer = a->from, .local = a->to, .multihop = a->multihop};
    if (a->whole && a->packet.your_discriminator)
        return bpf_ntohl(a->packet.your_discriminator) & INDEX_MASK;
    __u32 *index = bpf_map_lookup_elem(&bfd_pairs, &pair);
    return index ? *index + 1 : 0;
}

INLINE bool bfd_matches(const struct abi_peer *p, const struct bfd_arrival *a)
{
    if (!(p->flags & ABI_PEER_USED) || (p->flags & ABI_PEER_SELF))
        return false;
    if (!(p->flags & ABI_PEER_MULTIHOP) != !a->multihop)
        return false;
    return addr_equal(&p->addr, &a->from) && addr_equal(&p->source, &a->to);
}

/* A packet of a session we have: whether it is to be believed. */
INLINE bool bfd_acceptable(const struct abi_peer *p, const struct bfd_arrival *a)
{
    const struct bfd_packet *k = &a->packet;
    if (!a->whole || (!a->multihop && a->hops != BFD_HOPS))
        return false;
    if (!bfd_packet_valid(k, a->payload_bytes) || (k->flags & BFD_AUTHENTICATED))
        return false;
    return !k->your_discriminator || k->your_discriminator == bpf_htonl(p->discriminator);
}

INLINE __u32 bfd_clock_us(const struct abi_node *n)
{
    return (n->tick_ns + n->tick_ns / CLOCK_MARGIN_PARTS) / 1000;
}

static __noinline int bfd_accept(__u32 index, const struct bfd_packet *packet, __u64 now)
{
    struct abi_peer *peer = bpf_map_lookup_elem(&peers, &index);
    struct abi_peer_state *s = bpf_map_lookup_elem(&peer_state, &index);
    struct bfd_session *session = bpf_map_lookup_elem(&bfd_sessions, &index);
    struct abi_node *n = node_get(&node);
    if (!packet || !peer || !s || !session || !n)
        return 0;
    struct bfd_packet k = *packet;
    __u32 clock_us = bfd_clock_us(n);
    bpf_spin_lock(&session->lock);
    bool begun = bfd_is_other(peer, s);
    bfd_configure(peer, s, clock_us, now);
    enum bfd_event event = bfd_hear(s, &k, now);
    bfd_intervals(peer, s, clock_us);
    __u64 detect_ns = s->detect_ns;
    bpf_spin_unlock(&session->lock);
    bfd_arm(session, detect_ns);
    tell_members(index, begun && event == BFD_EVENT_NONE ? BFD_EVENT_BEGUN : event);
    return 0;
}

SEC("tc")
int bfd_rx(struct __sk_buff *skb)
{
    struct bfd_arrival a = {};
    if (!bfd_load(skb, &a))
        return TC_ACT_UNSPEC;
    __u32 index = bfd_find(&a) - 1;
    struct abi_peer *peer = bpf_map_lookup_elem(&peers, &index);
    struct abi_peer_state *s = bpf_map_lookup_elem(&peer_state, &index);
    struct abi_node *n = node_get(&node);
    if (!peer || !s || !n || !bfd_matches(peer, &a))
        return TC_ACT_UNSPEC; /* perhaps of another speaker on this host */
    if (!bfd_acceptable(peer, &a)) {
        __sync_fetch_and_add(&s->dropped, 1);
        return TC_ACT_SHOT;
    }
    __u64 now = bpf_ktime_get_ns();
    bfd_accept(index, &a.packet, now);
    clock_kick(skb, n, now);
    return TC_ACT_SHOT;
}

/* --- sending ------------------------------------------------------------------------------------------- */

struct bfd_round {
    struct __sk_buff *skb;
    __u64 now;
    __u32 clock_us;
    __u32 out_ifindex;
    __u32 first, count; /* of the walk, which goes round */
    __u32 used;
    __u32 room; /* packets that may still be sent */
    __u32 late; /* the first one that has to wait, + 1 */
    __u32 errors;
};

INLINE void bfd_enter_pair(__u32 index, const struct abi_peer *p)
{
    struct bfd_pair pair = {
        .peer = p->addr, .local = p->source, .multihop = !!(p->flags & ABI_PEER_MULTIHOP)};
    bpf_map_update_elem(&bfd_pairs, &pair, &index, BPF_ANY);
}

INLINE void bfd_send(struct bfd_round *r, const struct abi_peer *p, const struct bfd_packet *k)
{
    long err = addr_is_v4(&p->addr) ? bfd_store_v4(r->skb, p, k) : bfd_store_v6(r->skb, p, k);
    if (err || bpf_clone_redirect(r->skb, r->out_ifindex, 0))
        r->errors++;
}

static long bfd_step(__u32 i, struct bfd_round *r)
{
    struct bfd_packet k;
    __u32 index = r->first + i < r->count ? r->first + i : r->first + i - r->count;
    struct abi_peer *peer = bpf_map_lookup_elem(&peers, &index);
    if (!peer)
        return 1;
    struct abi_peer_state *s = bpf_map_lookup_elem(&peer_state, &index);
    struct bfd_session *session = bpf_map_lookup_elem(&bfd_sessions, &index);
    if (!s || !session)
        return 1;
    if (!(peer->flags & ABI_PEER_USED) || (peer->flags & ABI_PEER_SELF)) {
        if (s->generation)
            bfd_forget(s);
        return 0;
    }
    r->used = bfd_max(r->used, index + 1);
    if (!r->room) {
        r->late = r->late ? r->late : index + 1;
        return 0;
    }
    __u32 random = bpf_get_prandom_u32();
    bpf_spin_lock(&session->lock);
    bool begun = bfd_is_other(peer, s);
    bfd_configure(peer, s, r->clock_us, r->now);
    bool speak = bfd_speak(peer, s, r->clock_us, random, r->now, &k);
    bpf_spin_unlock(&session->lock);
    if (begun)
        tell_members(index, BFD_EVENT_BEGUN);
    if (!speak)
        return 0;
    r->room--;
    if (s->state != ABI_BFD_UP)
        bfd_enter_pair(index, peer);
    bfd_send(r, peer, &k);
    return 0;
}

SEC("tc")
int bfd_tick(struct __sk_buff *skb)
{
    __u32 zero = 0;
    struct abi_node *n = node_get(&node);
    struct bfd_walk *walk = bpf_map_lookup_elem(&bfd_walk, &zero);
    struct abi_tick_state *t = bpf_map_lookup_elem(&tick_state, &zero);
    if (!n || !walk || !t || !n->out_ifindex)
        return TC_ACT_UNSPEC;
    bool all = walk->ticks++ % WALK_ALL_TICKS == 0;
    struct bfd_round r = {.skb = skb,
                          .now = bpf_ktime_get_ns(),
                          .clock_us = bfd_clock_us(n),
                          .out_ifindex = n->out_ifindex,
                          .count = all ? ABI_PEERS_MAX : walk->used,
                          .room = SENDS_A_TICK};
    r.first = walk->first < r.count ? walk->first : 0;
    skb->mark = ABI_MARK;
    bpf_loop(r.count, bfd_step, &r, 0);
    if (all)
        walk->used = r.used;
    walk->first = r.late ? r.late - 1 : 0;
    if (r.errors)
        __sync_fetch_and_add(&t->errors, r.errors);
    return TC_ACT_UNSPEC;
}
