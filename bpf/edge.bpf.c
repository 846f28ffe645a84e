/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The edge: packets to a service's address are balanced over its backends.
 *
 * `edge` is on the ingress of each device, `edge_out` on the egress where backends of this host answer. A
 * packet of an established flow needs one lookup in flows: its element says in either direction what is to
 * be changed and where it goes. All else takes the slow functions.
 *
 * Left to the stack (and so to who has the address): other protocols than TCP, echo requests, what is for no
 * service, tagged frames (they come again at their VLAN's device), frames for other hosts.
 */
#include "common.h"
#include "edge_maps.h"
#include "parse.h"
#include "choose.h"
#include "edge_flow.h"
#include "edge_send.h"
#include "edge_reset.h"
#include "edge_icmp.h"

char LICENSE[] SEC("license") = "GPL";

INLINE struct abi_service *service_of(const struct packet *p)
{
    struct abi_endpoint key = {.addr = p->key.target, .port = p->key.target_port};
    struct abi_service *s = bpf_map_lookup_elem(&services, &key);
    return s && s->edge != ABI_EDGE_OFF ? s : NULL;
}

/* What a flow's row goes by: the same on every node, so that what another node began goes on here. */
INLINE __u32 edge_hash(const struct packet *p, const struct abi_service *s)
{
    return flow_hash(&p->key, s->seed, s->policy == ABI_POLICY_MAGLEV ? 0 : p->key.source_port);
}

static __noinline __u32 edge_row(const struct abi_service *s, __u32 hash, __u32 families)
{
    return s ? choose_by_row(s, hash, families) : ABI_NO_BACKEND;
}

/* The backend of a new flow. A second row counts only where connections are (ABI_POLICY_LEAST) and for one
 * that begins: another node does not know what this one counted, but it knows the first row. */
INLINE __u32 edge_choose(const struct packet *p, const struct abi_service *s)
{
    __u32 hash = edge_hash(p, s), families = p->v4 ? CHOOSE_V4 : CHOOSE_V6;
    __u32 first = edge_row(s, hash, families);
    if (s->policy != ABI_POLICY_LEAST || s->edge == ABI_EDGE_DSR || !(p->flags & TCP_SYN) ||
        first == ABI_NO_BACKEND)
        return first;
    __u32 second = edge_row(s, choose_second_hash(hash), families);
    return choose_less_loaded(first, second, families, load_of(first), load_of(second));
}

/* A flow whose element was pushed out while its way back was not: it goes on with the backend that it has,
 * whatever would be chosen now. The new element, or NULL: `id` is not that backend. */
static __noinline struct abi_flow *edge_again(struct packet *p, const struct abi_service *s, __u32 id)
{
    struct edge_work *w = edge_work();
    if (!w || !p || !s || id == ABI_NO_BACKEND || !flow_fill(w, p, s, id) || w->flow.mode != ABI_EDGE_NAT)
        return NULL;
    flow_complete(&w->key, &w->flow);
    flow_mirror(&w->key, &w->flow, &w->mirror_key, &w->mirror);
    const struct abi_flow *back = bpf_map_lookup_elem(&flows, &w->mirror_key);
    if (!back || !flow_is_own(w, back) || back->generation != w->flow.generation)
        return NULL;
    w->flow.flags = ABI_FLOW_ESTABLISHED;
    w->flow.closing = back->closing;
    if (bpf_map_update_elem(&flows, &w->key, &w->flow, BPF_ANY) != 0)
        return NULL;
    return bpf_map_lookup_elem(&flows, &w->key);
}

/* Looks for a packet's flow where its rows lead. */
static __noinline struct abi_flow *edge_goes_on(struct packet *p, const struct abi_service *s)
{
    if (!p || !s || s->edge == ABI_EDGE_DSR)
        return NULL;
    __u32 hash = edge_hash(p, s), families = p->v4 ? CHOOSE_V4 : CHOOSE_V6;
    struct abi_flow *f = edge_again(p, s, edge_row(s, hash, families));
    if (f || s->policy != ABI_POLICY_LEAST)
        return f;
    return edge_again(p, s, edge_row(s, choose_second_hash(hash), families));
}

/* The first packet of a flow, or the first that this host sees of it: then another host began it, and with
 * ABI_EDGE_FULL_NAT nobody knows its port any more. */
INLINE int edge_begin(struct __sk_buff *skb, struct packet *p, const struct abi_service *s)
{
    struct edge_work *w = edge_work();
    if (!w)
        return TC_ACT_SHOT;
    struct abi_flow *f = p->flags & TCP_SYN ? NULL : edge_goes_on(p, s);
    if (f && p->flags & (TCP_FIN | TCP_RST))
        flow_note_closing(p, f);
    if (f)
        return send_checked(skb, p, f);
    if (p->flags & TCP_RST || (p->flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
        return TC_ACT_SHOT;
    if (s->edge == ABI_EDGE_FULL_NAT && !(p->flags & TCP_SYN))
        return reset_client(skb, p, s->id);
    __u32 id = edge_choose(p, s);
    if (id == ABI_NO_BACKEND || !flow_fill(w, p, s, id)) {
        EDGE_COUNT(s->id, no_backend);
        return reset_client(skb, p, s->id);
    }
    if (!flow_reserve(w, s->seed))
        return TC_ACT_SHOT;
    flow_hears(p, &w->flow);
    int verdict = send_checked(skb, p, &w->flow);
    if (verdict == TC_ACT_SHOT || bpf_map_update_elem(&half_open, &w->key, &w->flow, BPF_ANY) != 0)
        return TC_ACT_SHOT;
    EDGE_COUNT(s->id, flows);
    return verdict;
}

/* Whether a service that fails open has nothing better than the backend that is down. */
INLINE bool edge_open(const struct packet *p, const struct abi_flow *f)
{
    const struct abi_service *s = service_of(p);
    if (!s || s->all_down != ABI_ALL_DOWN_OPEN)
        return false;
    __u32 id = edge_row(s, edge_hash(p, s), p->v4 ? CHOOSE_V4 : CHOOSE_V6);
    return id != ABI_NO_BACKEND && choose_rank(id, CHOOSE_ANY) == ABI_DOWN;
}

/* Nothing more of this flow gets through: its backend is down. */
INLINE bool edge_lost(const struct packet *p, const struct abi_flow *f)
{
    return !(f->flags & ABI_FLOW_BACK) && flow_backend_down(f) && !edge_open(p, f);
}

INLINE int edge_half_open(struct __sk_buff *skb, struct packet *p, struct abi_flow *f)
{
    if (edge_lost(p, f)) {
        if (p->flags & TCP_SYN) {
            flow_forget(p, f);
            return TC_ACT_OK; /* begun again by the caller */
        }
        return reset_client(skb, p, f->service);
    }
    if (flow_hears(p, f)) {
        struct abi_flow *established = flow_establish(p, f);
        f = established ? established : f;
    }
    return send_checked(skb, p, f);
}

/* A packet that is in no element of flows. */
static __noinline int edge_unknown(struct __sk_buff *skb, struct packet *p)
{
    struct abi_flow *f = bpf_map_lookup_elem(&half_open, &p->key);
    if (f) {
        int verdict = edge_half_open(skb, p, f);
        if (verdict != TC_ACT_OK)
            return verdict;
    }
    struct abi_service *s = service_of(p);
    if (!s)
        return TC_ACT_UNSPEC;
    if (p->tcp_bytes < PARSE_TCP_MIN) {
        EDGE_COUNT(s->id, malformed);
        return TC_ACT_SHOT;
    }
    return edge_begin(skb, p, s);
}

/* A SYN on the ports of a known flow: that flow's own again, or a new connection. It must not move a flow
 * that goes on: a SYN is easily forged. */
INLINE bool edge_keeps(const struct abi_flow *f)
{
    if (flow_backend_down(f))
        return false;
    if (!flow_closed(f))
        return true;
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &f->backend);
    const __u64 *verdict = bpf_map_lookup_elem(&verdicts, &f->backend);
    return b && verdict && b->generation == f->generation && verdict_usable(*verdict, b, false);
}

/* A packet of an established flow that needs more than sending. */
static __noinline int edge_known(struct __sk_buff *skb, struct packet *p, struct abi_flow *f)
{
    bool first = !(f->flags & ABI_FLOW_BACK) && (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
    if (first && !edge_keeps(f)) {
        EDGE_COUNT(f->service, moved);
        flow_forget(p, f);
        return edge_unknown(skb, p);
    }
    if (edge_lost(p, f))
        return reset_client(skb, p, f->service);
    if (first && flow_closed(f))
        flow_begin_again(f);
    if (p->flags & (TCP_FIN | TCP_RST))
        flow_note_closing(p, f);
    return send_checked(skb, p, f);
}

/* Nothing about the packet or its flow needs a second look. */
INLINE bool edge_plain(struct __sk_buff *skb, const struct packet *p, const struct abi_flow *f)
{
    return !(p->flags & (TCP_SYN | TCP_FIN | TCP_RST)) && !p->fragment && p->ttl > 1 && !flow_path_old(f) &&
           !send_too_big(skb, p, f) && (f->flags & ABI_FLOW_BACK || !flow_backend_down(f));
}

INLINE int edge_fragment(struct __sk_buff *skb, struct packet *p)
{
    struct abi_fragment_key key = {p->key.source, p->key.target, p->fragment_id, 0};
    struct abi_flow *f = bpf_map_lookup_elem(&fragments, &key);
    if (!f)
        return TC_ACT_UNSPEC;
    EDGE_COUNT(f->service, fragments);
    return send_checked(skb, p, f);
}

INLINE int edge_other(struct __sk_buff *skb, struct packet *p)
{
    if (p->protocol == PARSE_TCP)
        return edge_fragment(skb, p);
    if (p->protocol == (p->v4 ? PARSE_ICMP : PARSE_ICMP6) && !p->fragment)
        return icmp_error(skb, p);
    return TC_ACT_UNSPEC;
}

SEC("tc")
int edge(struct __sk_buff *skb)
{
    struct packet p;
    if (skb->vlan_present || skb->pkt_type == PACKET_OTHERHOST || !parse_packet(skb, &p))
        return TC_ACT_UNSPEC;
    if (p.protocol != PARSE_TCP || p.fragment == FRAGMENT_LATER)
        return edge_other(skb, &p);
    struct abi_flow *f = bpf_map_lookup_elem(&flows, &p.key);
    if (!f)
        return edge_unknown(skb, &p);
    if (edge_plain(skb, &p, f))
        return send_packet(skb, &p, f);
    return edge_known(skb, &p, f);
}

/* Answers of backends of this host on their way out: their route and time to live are the stack's. */
SEC("tc")
int edge_out(struct __sk_buff *skb)
{
    struct packet p;
    if (!parse_packet(skb, &p) || p.protocol != PARSE_TCP || p.fragment == FRAGMENT_LATER)
        return TC_ACT_UNSPEC;
    struct abi_flow *f = bpf_map_lookup_elem(&flows, &p.key);
    if (!f) {
        f = bpf_map_lookup_elem(&half_open, &p.key);
        if (!f)
            return TC_ACT_UNSPEC;
        flow_hears(&p, f);
    }
    if (!(f->flags & ABI_FLOW_BACK))
        return TC_ACT_UNSPEC;
    if (p.flags & (TCP_FIN | TCP_RST))
        flow_note_closing(&p, f);
    edge_count_packet(f, skb->len);
    if (!send_tcp_check(skb, &p, f) || !send_ports(skb, &p, f))
        return TC_ACT_SHOT;
    bool done = p.v4 ? send_rewrite4(skb, f, 0) : send_rewrite6(skb, &p, f, 0);
    return done ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
