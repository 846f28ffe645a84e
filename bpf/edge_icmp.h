/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ICMP errors (RFC 792, RFC 4443) about packets of a flow go to the side that the flow's own answer would go
 * to, as if they were about the packet that this side sent: the headers inside are changed back, then those
 * outside.
 *
 * The flow is found by what is inside, read against its direction. An error of a client's network about a
 * service's packet belongs to the client's direction; one of a backend's network to the way back.
 */
#ifndef FL_BPF_EDGE_ICMP_H
#define FL_BPF_EDGE_ICMP_H

#include "edge_flow.h"
#include "edge_send.h"

enum { ICMP_HEAD = 8, ICMP_CHECK = 2, ICMP_IP_CHECK = 10, ICMP_IP_ADDRESSES = 12, ICMP_IP6_ADDRESSES = 8 };

INLINE bool icmp_is_error(const struct packet *p, __u8 type)
{
    if (p->v4)
        return type == 3 || type == 11 || type == 12; /* unreachable, time exceeded, parameter problem */
    return type >= 1 && type <= 4;                    /* the same, and packet too big */
}

/* The addresses inside into `key`, source as source. Returns the offset of the TCP header inside, or 0. */
INLINE __u32 icmp_inside(struct __sk_buff *skb, const struct packet *p, struct abi_flow_key *key)
{
    __u32 at = p->l4 + ICMP_HEAD;
    if (p->v4) {
        struct iphdr ip;
        if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) != 0 || ip.version != 4 || ip.ihl < 5 ||
            ip.protocol != PARSE_TCP || ip.frag_off & bpf_htons(PARSE_IP_OFFSET))
            return 0;
        addr_set_v4(&key->source, ip.saddr);
        addr_set_v4(&key->target, ip.daddr);
        at += ip.ihl * 4;
    } else {
        struct ipv6hdr ip;
        if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) != 0 || ip.version != 6 || ip.nexthdr != PARSE_TCP)
            return 0;
        __builtin_memcpy(&key->source, &ip.saddr, 16);
        __builtin_memcpy(&key->target, &ip.daddr, 16);
        at += PARSE_IP6_MIN;
    }
    return bpf_skb_load_bytes(skb, at, &key->source_port, 4) == 0 ? at : 0;
}

INLINE struct abi_flow *icmp_flow(const struct abi_flow_key *inside)
{
    struct abi_flow_key key = {inside->target, inside->source, inside->target_port, inside->source_port};
    struct abi_flow *f = bpf_map_lookup_elem(&flows, &key);
    return f ? f : bpf_map_lookup_elem(&half_open, &key);
}

INLINE __u16 icmp_sum_add(__u16 check, __u32 a, __u32 b)
{
    __u32 sum = (__u16)~check + (a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/* The header of IP inside. IPv4: the changed checksum makes up for the addresses. */
INLINE bool icmp_change_ip(struct __sk_buff *skb, const struct packet *p, const struct abi_flow *inner)
{
    __u32 at = p->l4 + ICMP_HEAD;
    if (!p->v4)
        return bpf_skb_store_bytes(skb, at + ICMP_IP6_ADDRESSES, &inner->source, 32, 0) == 0 &&
               bpf_l4_csum_replace(skb, p->l4 + ICMP_CHECK, 0, inner->addr_diff, 0) == 0;
    __u32 addresses[2] = {inner->source.word[3], inner->target.word[3]};
    __u16 check;
    if (bpf_skb_load_bytes(skb, at + ICMP_IP_CHECK, &check, 2) != 0)
        return false;
    check = icmp_sum_add(check, inner->addr_diff, 0);
    return bpf_skb_store_bytes(skb, at + ICMP_IP_CHECK, &check, 2, 0) == 0 &&
           bpf_skb_store_bytes(skb, at + ICMP_IP_ADDRESSES, addresses, 8, 0) == 0;
}

/* The TCP header inside, as much of it as there is. */
INLINE bool icmp_change_tcp(struct __sk_buff *skb, const struct packet *p, __u32 at,
                            const struct edge_work *w)
{
    const struct abi_flow *inner = &w->mirror;
    __u32 port_diff = flow_port_diff(&w->key, inner);
    __u32 icmp_check = p->l4 + ICMP_CHECK;
    __u16 ports[2] = {inner->source_port, inner->target_port}, old, new;
    if (bpf_skb_store_bytes(skb, at, ports, 4, 0) != 0 ||
        bpf_l4_csum_replace(skb, icmp_check, 0, port_diff, 0) != 0)
        return false;
    if (bpf_skb_load_bytes(skb, at + SEND_TCP_CHECK, &old, 2) != 0)
        return true;
    new = icmp_sum_add(old, inner->addr_diff, port_diff);
    return bpf_skb_store_bytes(skb, at + SEND_TCP_CHECK, &new, 2, 0) == 0 &&
           bpf_l4_csum_replace(skb, icmp_check, old, new, 2) == 0;
}

INLINE bool icmp_change_outside(struct __sk_buff *skb, const struct packet *p, const struct abi_flow *outer)
{
    __u32 hop = outer->flags & ABI_FLOW_LOCAL ? 0 : 1;
    if (p->v4)
        return send_rewrite4(skb, outer, hop);
    if (outer->addr_diff &&
        bpf_l4_csum_replace(skb, p->l4 + ICMP_CHECK, 0, outer->addr_diff, BPF_F_PSEUDO_HDR) != 0)
        return false;
    return send_rewrite6(skb, p, outer, hop);
}

/* w->flow: what changes outside, and the path. w->mirror: what changes inside. */
INLINE void icmp_plan(struct edge_work *w, const struct packet *p, const struct abi_flow *f)
{
    w->mirror.source = f->target;
    w->mirror.target = f->source;
    w->mirror.source_port = f->target_port;
    w->mirror.target_port = f->source_port;
    flow_complete(&w->key, &w->mirror);
    w->flow = *f;
    if (!(f->flags & ABI_FLOW_BACK) && f->mode != ABI_EDGE_FULL_NAT)
        w->flow.source = p->key.source; /* the router's: the backend may know it */
    flow_complete(&p->key, &w->flow);
}

static __noinline int icmp_error(struct __sk_buff *skb, struct packet *p)
{
    struct edge_work *w = edge_work();
    __u8 type;
    if (!w || bpf_skb_load_bytes(skb, p->l4, &type, 1) != 0 || !icmp_is_error(p, type))
        return TC_ACT_UNSPEC;
    __u32 at = icmp_inside(skb, p, &w->key);
    if (!at || !addr_equal(&w->key.source, &p->key.target))
        return TC_ACT_UNSPEC;
    struct abi_flow *f = icmp_flow(&w->key);
    if (!f)
        return TC_ACT_UNSPEC;
    if (flow_path_old(f) && !path_find_counted(skb, f, flow_closed(f) ? 0 : f->path_time)) {
        EDGE_COUNT(f->service, no_route);
        return TC_ACT_SHOT;
    }
    if (p->ttl <= 1 && !(f->flags & ABI_FLOW_LOCAL)) {
        EDGE_COUNT(f->service, expired);
        return TC_ACT_SHOT;
    }
    icmp_plan(w, p, f);
    if (f->mode != ABI_EDGE_DSR && (!icmp_change_ip(skb, p, &w->mirror) || !icmp_change_tcp(skb, p, at, w)))
        return TC_ACT_SHOT;
    if (!icmp_change_outside(skb, p, &w->flow))
        return TC_ACT_SHOT;
    EDGE_COUNT(f->service, icmp);
    return send_out(&w->flow, p->v4);
}

#endif
