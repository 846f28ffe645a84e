/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Answers for service addresses on the hosts' own LAN: ARP (RFC 826, 5227) and neighbour discovery (RFC
 * 4861).
 *
 *   takeover    tc ingress of the devices, ABI_TC_TAKEOVER: questions and others' claims
 *   takeover_tick  tc ingress of the clock's device, ABI_TC_TAKEOVER, the last there: who owns what, claims
 *
 * Exactly one of the managers that see each other owns an address (takeover_machine.h); the others keep their
 * own stack from answering for it, too. Questions in a VLAN that the device has not taken off are not ours.
 */
#include "common.h"
#include "maps.h"
#include "takeover_machine.h"
#include "takeover_packet.h"

char LICENSE[] SEC("license") = "GPL";

enum {
    CLAIMS_A_TICK = 64, /* more wait for the next */
    SWEEP_TICKS = 512,  /* between two looks for states that nothing is configured for any more */
    POSITION_MASK = ABI_ADDRESS_MANAGERS_MAX - 1,
};

_Static_assert((ABI_ADDRESS_MANAGERS_MAX & POSITION_MASK) == 0, "a power of two");

/* What is gathered over the candidates; a loop by helper, as Linux 6.1 would follow every path of another. */
struct takeover_survey {
    struct takeover_view view;
    const struct abi_address *address;
    const struct abi_address_state *state;
    __u32 owner; /* position of the owner's node now */
};

static long takeover_survey_step(__u32 i, struct takeover_survey *y)
{
    const struct abi_address *a = y->address;
    const struct abi_address_state *s = y->state;
    if (i >= ABI_ADDRESS_MANAGERS_MAX)
        return 1;
    __u64 node_id = a->node_id[i];
    __u32 index = a->peer[i] - 1;
    bool owner = node_id && node_id == s->owner_node;
    if (owner)
        y->owner = i;
    struct abi_peer_state *p = bpf_map_lookup_elem(&peer_state, &index);
    if (i == a->self || !p || !(p->generation & ABI_PEER_BEGUN))
        return 0;
    __u64 changed_ns = p->changed_ns;
    if (p->state != ABI_BFD_UP) { /* but a session that this node ended itself says nothing */
        y->view.owner_ended |= owner && p->state != ABI_BFD_ADMIN_DOWN && p->ended_ns > s->heard_ns;
        return 0;
    }
    y->view.up++;
    y->view.before += i < a->self && !owner && node_id != s->last_owner_node;
    if (changed_ns > y->view.newest_ns)
        y->view.newest_ns = changed_ns;
    return 0;
}

INLINE __u64 takeover_stale_ns(const struct abi_node *n)
{
    return n && n->stale_ns ? n->stale_ns : ~0ull;
}

/* Sees the other candidates. Positions may have moved with the configuration: the owner is known by its node.
 */
INLINE void takeover_see(const struct abi_address *a, struct abi_address_state *s, struct takeover_survey *y)
{
    struct abi_node *n = node_get(&node);
    y->address = a;
    y->state = s;
    y->owner = ABI_NO_OWNER;
    y->view.now = bpf_ktime_get_ns();
    y->view.stale_ns = takeover_stale_ns(n);
    y->view.draining = n && (n->flags & ABI_NODE_DRAINING);
    bpf_loop(a->managers, takeover_survey_step, y, 0);
    takeover_follow(s, y->owner, y->view.now);
}

static __noinline struct abi_address_state *takeover_state(struct abi_address_key *key)
{
    struct abi_address_state fresh = {.owner = ABI_NO_OWNER, .listening = 1};
    struct abi_address_state *s = bpf_map_lookup_elem(&address_state, key);
    if (s)
        return s;
    fresh.since_ns = bpf_ktime_get_ns();
    bpf_map_update_elem(&address_state, key, &fresh, BPF_NOEXIST);
    return bpf_map_lookup_elem(&address_state, key);
}

/* --- packets ------------------------------------------------------------------------------------------- */

/* Whether this node is the one to answer. */
INLINE bool takeover_answers(const struct abi_address *a, struct abi_address_state *s)
{
    struct takeover_survey y = {};
    takeover_see(a, s, &y);
    takeover_look(a, s, &y.view);
    if (s->owner != a->self)
        return false;
    __sync_fetch_and_add(&s->answers, 1);
    return true;
}

/* Somebody says that the address is his. `claim` 0: not one of us. */
INLINE void takeover_heard(const struct abi_address *a, struct abi_address_state *s, const __u8 *mac,
                           __u64 claim)
{
    struct abi_node *n = node_get(&node);
    __u32 position = claim_position(claim) & POSITION_MASK;
    __u64 now = bpf_ktime_get_ns();
    if (mac_equal(mac, a->own_mac))
        return; /* our own, sent back by the network */
    bool candidate = claim && position < a->managers && position != a->self && a->node_id[position] &&
                     (!mac_known(a->mac[position]) || mac_equal(a->mac[position], mac));
    if (candidate) {
        takeover_weaken(a, s, takeover_stale_ns(n), now);
        takeover_hear(a, s, claim, n && (n->flags & ABI_NODE_DRAINING), now);
        return;
    }
    s->foreign++;
    if (s->owner == a->self && !s->announce && takeover_after(now, s->unrest_ns, TAKEOVER_DEFEND_MS)) {
        s->unrest_ns = now;
        s->announce = 1;
    }
}

INLINE int takeover_arp(struct __sk_buff *skb)
{
    struct arp_frame f;
    struct abi_address_key key = {.ifindex = skb->ifindex};
    if (!arp_load(skb, &f) || f.operation != bpf_htons(ARP_REQUEST))
        return TC_ACT_UNSPEC;
    bool claim = (f.to[0] & 1) && f.sender == f.target;
    addr_set_v4(&key.addr, claim ? f.sender : f.target);
    struct abi_address *a = bpf_map_lookup_elem(&addresses, &key);
    if (!a)
        return TC_ACT_UNSPEC;
    if (!a->managers)
        return claim ? TC_ACT_UNSPEC : TC_ACT_SHOT;
    struct abi_address_state *s = takeover_state(&key);
    if (!s)
        return TC_ACT_UNSPEC;
    if (claim) {
        __u64 said = 0;
        claim_read((struct claim_mark *)f.target_mac, &said);
        takeover_heard(a, s, f.sender_mac, said);
        return TC_ACT_UNSPEC;
    }
    if (!takeover_answers(a, s) || arp_answer(skb, &f, a->own_mac))
        return TC_ACT_SHOT;
    return bpf_redirect(skb->ifindex, 0);
}

INLINE int takeover_nd(struct __sk_buff *skb)
{
    struct nd_frame f = {};
    struct abi_address_key key = {.ifindex = skb->ifindex};
    if (!nd_load(skb, &f) || (f.nd.type != ND_SOLICITATION && f.nd.type != ND_ADVERTISEMENT))
        return TC_ACT_UNSPEC;
    key.addr = f.nd.target;
    struct abi_address *a = bpf_map_lookup_elem(&addresses, &key);
    if (!a)
        return TC_ACT_UNSPEC;
    if (!a->managers)
        return f.nd.type == ND_SOLICITATION ? TC_ACT_SHOT : TC_ACT_UNSPEC;
    struct abi_address_state *s = takeover_state(&key);
    if (!s)
        return TC_ACT_UNSPEC;
    if (f.nd.type == ND_ADVERTISEMENT) {
        __u64 said = 0;
        if (!(f.eth.h_dest[0] & 1))
            return TC_ACT_UNSPEC;
        nd_claim(skb, &said);
        takeover_heard(a, s, f.eth.h_source, said);
        return TC_ACT_UNSPEC;
    }
    if (!takeover_answers(a, s) || nd_answer(skb, &f, a->own_mac))
        return TC_ACT_SHOT;
    return bpf_redirect(skb->ifindex, 0);
}

SEC("tc")
int takeover(struct __sk_buff *skb)
{
    if (skb->vlan_present)
        return TC_ACT_UNSPEC;
    if (skb->protocol == bpf_htons(ETH_P_ARP))
        return takeover_arp(skb);
    if (skb->protocol == bpf_htons(ETH_P_IPV6))
        return takeover_nd(skb);
    return TC_ACT_UNSPEC;
}

/* --- the clock ----------------------------------------------------------------------------------------- */

struct takeover_round {
    struct __sk_buff *skb;
    __u32 budget;
    __u32 errors;
};

INLINE long takeover_say_v4(struct takeover_round *r, struct abi_address_key *key, struct abi_address *a,
                            __u64 claim)
{
    long err = arp_announcement(r->skb, ARP_REPLY, key->addr.word[3], a->own_mac, claim);
    err = err ? err : bpf_clone_redirect(r->skb, key->ifindex, 0);
    err = err ? err : arp_announcement(r->skb, ARP_REQUEST, key->addr.word[3], a->own_mac, claim);
    return err ? err : bpf_clone_redirect(r->skb, key->ifindex, 0);
}

INLINE long takeover_say_v6(struct takeover_round *r, struct abi_address_key *key, struct abi_address *a,
                            __u64 claim)
{
    long err = nd_announcement(r->skb, &key->addr, a->own_mac, claim);
    return err ? err : bpf_clone_redirect(r->skb, key->ifindex, 0);
}

static long takeover_step(void *map, struct abi_address_key *at, struct abi_address *a,
                          struct takeover_round *r)
{
    struct abi_address_key key = *at;
    struct takeover_survey y = {};
    if (!a->managers)
        return 0;
    struct abi_address_state *s = takeover_state(&key);
    if (!s || !mac_known(a->own_mac))
        return 0;
    takeover_see(a, s, &y);
    takeover_look(a, s, &y.view);
    s->looked_ns = y.view.now;
    if (s->owner != a->self || !r->budget || !takeover_speaks(s, y.view.now))
        return 0;
    r->budget--;
    __u64 claim = takeover_claim(s, y.view.draining);
    long err =
        addr_is_v4(&key.addr) ? takeover_say_v4(r, &key, a, claim) : takeover_say_v6(r, &key, a, claim);
    r->errors += !!err;
    return 0;
}

static long takeover_forget(void *map, struct abi_address_key *at, struct abi_address_state *s, void *context)
{
    struct abi_address_key key = *at;
    if (!bpf_map_lookup_elem(&addresses, &key))
        bpf_map_delete_elem(&address_state, &key);
    return 0;
}

SEC("tc")
int takeover_tick(struct __sk_buff *skb)
{
    __u32 zero = 0;
    struct takeover_round r = {.skb = skb, .budget = CLAIMS_A_TICK};
    struct abi_tick_state *t = bpf_map_lookup_elem(&tick_state, &zero);
    if (!t)
        return TC_ACT_SHOT;
    skb->mark = ABI_MARK;
    bpf_for_each_map_elem(&addresses, takeover_step, &r, 0);
    if (t->ticks % SWEEP_TICKS == 0)
        bpf_for_each_map_elem(&address_state, takeover_forget, &r, 0);
    if (r.errors)
        __sync_fetch_and_add(&t->errors, r.errors);
    return TC_ACT_SHOT;
}
