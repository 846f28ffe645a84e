/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What `fan` makes of the packets that come to it, and their way: over a neighbour, or to this host's stack.
 */
#ifndef FL_BPF_PROBE_FAN_H
#define FL_BPF_PROBE_FAN_H

#include "common.h"
#include "maps.h"
#include "probe_judge.h"
#include "probe_packet.h"
#include "probe_search.h"
#include "probe_send.h"

enum {
    PACKET_HOST = 0,
    FAN_ROUND = 0x10, /* in the mark above the order: backends that this packet has probed already, ... */
    FAN_ROUNDS = 63,  /* ... and how many more of its address it may: the others wait for the tick */
};

INLINE bool is_inner(const struct abi_node *n, const struct abi_addr *a)
{
    return addr_equal(a, addr_is_v4(a) ? &n->inner : &n->inner6);
}

INLINE bool route_params4(struct __sk_buff *skb, struct bpf_fib_lookup *f, struct abi_addr *source)
{
    struct iphdr ip;
    if (bpf_skb_load_bytes(skb, PARSE_L3, &ip, sizeof(ip)))
        return false;
    f->family = AF_INET;
    f->ipv4_src = ip.saddr;
    f->ipv4_dst = ip.daddr;
    addr_set_v4(source, ip.saddr);
    return true;
}

INLINE bool route_params6(struct __sk_buff *skb, struct bpf_fib_lookup *f, struct abi_addr *source)
{
    struct ipv6hdr ip;
    if (bpf_skb_load_bytes(skb, PARSE_L3, &ip, sizeof(ip)))
        return false;
    f->family = AF_INET6;
    __builtin_memcpy(f->ipv6_src, &ip.saddr, sizeof(ip.saddr));
    __builtin_memcpy(f->ipv6_dst, &ip.daddr, sizeof(ip.daddr));
    __builtin_memcpy(source, &ip.saddr, sizeof(*source));
    return true;
}

/* Sends a packet on its way by the routes of this moment. */
static __noinline int route(struct __sk_buff *skb)
{
    struct abi_node *n = node_get(&node);
    struct bpf_fib_lookup f = {};
    struct abi_addr source;
    if (!n)
        return TC_ACT_SHOT;
    if (skb->protocol == bpf_htons(ETH_P_IP) ? !route_params4(skb, &f, &source)
                                             : !route_params6(skb, &f, &source))
        return TC_ACT_SHOT;
    if (is_inner(n, &source)) {
        bpf_skb_change_type(skb, PACKET_HOST);
        return skb->ingress_ifindex == n->fan_ifindex ? TC_ACT_OK : bpf_redirect(n->out_ifindex, 0);
    }
    f.ifindex = n->fan_ifindex;
    long result = bpf_fib_lookup(skb, &f, sizeof(f), 0);
    if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
        return TC_ACT_SHOT;
    return bpf_redirect_neigh(f.ifindex, NULL, 0, 0);
}

/* A probe in the skb, which then is on its way; the HTTP check's goes round by the out device. */
static __noinline int fan_shot(struct __sk_buff *skb, struct checkup *p, __u32 is_http)
{
    struct abi_node *n = node_get(&node);
    struct segment s;
    if (!n || !p || !p->state || !p->backend || !p->clock)
        return -1;
    struct abi_probe_shot *shot = is_http ? &p->state->http : next_shot(p->state);
    if (!shot)
        return -1;
    shot_begin(p, shot, n, &s);
    __sync_fetch_and_add(is_http ? &p->state->http_probes : &p->state->probes, 1);
    if (!is_http)
        shot->used = ABI_SHOT_SERIES; /* out of turn, be it the first */
    if (segment_write(skb, &s))
        return -1;
    if (!is_http)
        return 0;
    p->state->http_sent_ns = p->now;
    skb->mark = ABI_MARK | ABI_FAN_SEND;
    return bpf_clone_redirect(skb, n->out_ifindex, 0);
}

/* A TCP probe in the skb, which comes round again while the series lasts. While as many probes as can be are
 * under way, the packet goes round without. */
static __noinline int fan_follow(struct __sk_buff *skb, struct checkup *p)
{
    struct abi_node *n = node_get(&node);
    if (!n || !p || !p->state)
        return -1;
    long error = fan_shot(skb, p, 0);
    if (in_series(p) && n->pace_ifindex) {
        skb->mark = ABI_MARK | ABI_FAN_SERIES;
        bpf_clone_redirect(skb, n->pace_ifindex, 0);
    }
    return error;
}

/* The packet came from a backend's address: a probe takes its place. */
static __noinline int fan_probe(struct __sk_buff *skb)
{
    struct abi_node *n = node_get(&node);
    struct segment s;
    struct search w;
    struct checkup p;
    if (!n || !segment_read(skb, &s))
        return -1;
    __u32 first = first_backend(&s);
    if (first == ABI_NO_BACKEND)
        return -1;
    search_init(&w, &s, first);
    bpf_loop(SAME_ENDPOINT_WALK, wanted_step, &w, 0);
    if (!w.wanted || !probe_get(&p, w.wanted_id))
        return -1;
    if (w.more && (skb->mark & FAN_ROUND * FAN_ROUNDS) < FAN_ROUND * FAN_ROUNDS) {
        skb->mark += FAN_ROUND;
        bpf_clone_redirect(skb, n->out_ifindex, 0);
    }
    p.now = bpf_ktime_get_ns();
    if (p.state->generation != p.backend->generation)
        probe_renew(&p);
    if (w.wanted == ABI_WANTED_HTTP && p.check->kind == ABI_CHECK_HTTP && !p.state->http.sent_ns)
        fan_shot(skb, &p, 1);
    return fan_follow(skb, &p);
}

/* One more probe of the backend that this one went to. */
static __noinline int fan_series(struct __sk_buff *skb)
{
    struct segment s;
    struct checkup p;
    if (!segment_read(skb, &s))
        return -1;
    struct abi_endpoint at = {.addr = s.target, .port = s.target_port};
    __u32 first = backend_at(&at);
    if (first == ABI_NO_BACKEND || !probe_get(&p, first))
        return -1;
    p.now = bpf_ktime_get_ns();
    if (!in_series(&p) || p.state->generation != p.backend->generation)
        return -1;
    p.state->series--;
    return fan_follow(skb, &p);
}

/* From the segment that came to one that goes back. */
INLINE void segment_turn(struct segment *s, __u8 flags)
{
    struct abi_addr source = s->source;
    __u16 source_port = s->source_port;
    __u32 sequence = s->sequence;
    s->source = s->target;
    s->target = source;
    s->source_port = s->target_port;
    s->target_port = source_port;
    s->sequence = s->acknowledged;
    s->acknowledged = flags & TCP_ACK ? sequence + 1 : 0;
    s->flags = flags;
    s->payload_bytes = 0;
}

static __noinline int fan_reset(struct __sk_buff *skb)
{
    struct segment s;
    if (!segment_read(skb, &s) || !(s.flags & TCP_ACK))
        return -1;
    segment_turn(&s, TCP_RST);
    return segment_write(skb, &s);
}

static __noinline int fan_request(struct __sk_buff *skb)
{
    struct segment s;
    struct search w;
    struct checkup p;
    if (!segment_read(skb, &s))
        return -1;
    __u32 first = first_backend(&s);
    if (first == ABI_NO_BACKEND)
        return -1;
    search_init(&w, &s, first);
    search_run(&w, first);
    if (w.found != FOUND_HTTP || !probe_get(&p, w.id))
        return -1;
    segment_turn(&s, TCP_ACK | TCP_PSH);
    return segment_write_request(skb, &s, p.check);
}

#endif
