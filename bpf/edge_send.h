/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A packet gets what its flow says and goes on its way.
 *
 * Checksums are changed by their differences, so that a damaged packet stays damaged. The one of TCP goes
 * through bpf_l4_csum_replace, which knows whether it is complete or (offload) only its pseudo header's.
 * IPv6 headers are stored with BPF_F_RECOMPUTE_CSUM: where a device gave the sum of the whole packet, the
 * helper's account of the addresses is right only with that. IPv4 headers sum up to the same as before.
 */
#ifndef FL_BPF_EDGE_SEND_H
#define FL_BPF_EDGE_SEND_H

#include "edge_flow.h"
#include "edge_too_big.h"

enum { SEND_TCP_CHECK = 16, SEND_IP6_HOP_LIMIT = 7, PATH_MTU_MIN = 68 };

INLINE bool send_tcp_check(struct __sk_buff *skb, const struct packet *p, const struct abi_flow *f)
{
    if (p->fragment == FRAGMENT_LATER)
        return true;
    __u32 check = p->l4 + SEND_TCP_CHECK;
    if (f->addr_diff && bpf_l4_csum_replace(skb, check, 0, f->addr_diff, BPF_F_PSEUDO_HDR) != 0)
        return false;
    __u32 ports = flow_port_diff(&p->key, f);
    return !ports || bpf_l4_csum_replace(skb, check, 0, ports, 0) == 0;
}

INLINE bool send_ports(struct __sk_buff *skb, const struct packet *p, const struct abi_flow *f)
{
    if (p->fragment == FRAGMENT_LATER || flow_port_diff(&p->key, f) == 0)
        return true;
    __u32 l4 = p->l4;
    asm volatile("%0 &= 0x3fff" : "+r"(l4)); /* as in parse_tcp */
    struct tcphdr *tcp = PARSE_CONTEXT(skb, data) + l4;
    if ((void *)(tcp + 1) > PARSE_CONTEXT(skb, data_end))
        return false;
    tcp->source = f->source_port;
    tcp->dest = f->target_port;
    return true;
}

/* `hop`: 1, or 0 for what stays on this host. */
INLINE bool send_rewrite4(struct __sk_buff *skb, const struct abi_flow *f, __u32 hop)
{
    void *data = PARSE_CONTEXT(skb, data), *end = PARSE_CONTEXT(skb, data_end);
    struct iphdr *ip = data + PARSE_L3;
    if ((void *)(ip + 1) > end)
        return false;
    __u32 sum = (__u16)~ip->check;
    if (f->addr_diff)
        sum += (f->addr_diff & 0xffff) + (f->addr_diff >> 16);
    if (hop)
        sum += (__u16)~bpf_htons(0x100);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    ip->check = ~sum;
    ip->ttl -= hop;
    ip->saddr = f->source4;
    ip->daddr = f->target4;
    return true;
}

INLINE bool send_rewrite6(struct __sk_buff *skb, const struct packet *p, const struct abi_flow *f, __u32 hop)
{
    /* From the hop limit to the end of the addresses. */
    struct {
        __u8 limit;
        struct abi_addr source, target;
    } __attribute__((packed)) head = {.limit = p->ttl - hop, .source = f->source, .target = f->target};
    return bpf_skb_store_bytes(skb, PARSE_L3 + SEND_IP6_HOP_LIMIT, &head, sizeof(head),
                               BPF_F_RECOMPUTE_CSUM) == 0;
}

/* `v4`: the packet is, and with it the hop, unless its route is by a neighbour of IPv6 (RFC 9229 and the
 * like): then hop4 is 0. */
INLINE int send_out(const struct abi_flow *f, bool v4)
{
    if (f->flags & ABI_FLOW_LOCAL)
        return TC_ACT_UNSPEC;
    struct bpf_redir_neigh hop;
    if (v4 && f->hop4) {
        hop.nh_family = AF_INET;
        hop.ipv4_nh = f->hop4;
        hop.ipv6_nh[1] = hop.ipv6_nh[2] = hop.ipv6_nh[3] = 0;
    } else {
        hop.nh_family = AF_INET6;
        __builtin_memcpy(hop.ipv6_nh, &f->hop, 16);
    }
    return bpf_redirect_neigh(f->ifindex, &hop, sizeof(hop), 0);
}

/* The flow's path and the packet's time to live were looked at before. */
INLINE int send_packet(struct __sk_buff *skb, const struct packet *p, struct abi_flow *f)
{
    __u32 hop = f->flags & ABI_FLOW_LOCAL ? 0 : 1;
    edge_count_packet(f, skb->len);
    if (p->fragment == FRAGMENT_LATER)
        edge_count_flow(f); /* nobody comes back to the copy */
    if (!send_tcp_check(skb, p, f) || !send_ports(skb, p, f))
        return TC_ACT_SHOT;
    if (p->v4 ? !send_rewrite4(skb, f, hop) : !send_rewrite6(skb, p, f, hop))
        return TC_ACT_SHOT;
    return send_out(f, p->v4);
}

/* --- the path ------------------------------------------------------------------------------------------ */

INLINE const struct abi_addr *path_target(const struct abi_flow *f)
{
    return f->mode == ABI_EDGE_DSR ? &f->hop : &f->target;
}

INLINE void path_ask(struct bpf_fib_lookup *fib, const struct abi_flow *f, __u32 ifindex)
{
    const struct abi_addr *to = path_target(f);
    fib->ifindex = ifindex;
    fib->l4_protocol = PARSE_TCP;
    fib->tot_len = 1; /* with it the answer has the route's MTU: the device's may be larger */
    if (addr_is_v4(to)) {
        fib->family = AF_INET;
        fib->ipv4_src = f->source.word[3];
        fib->ipv4_dst = to->word[3];
    } else {
        fib->family = AF_INET6;
        __builtin_memcpy(fib->ipv6_src, &f->source, 16);
        __builtin_memcpy(fib->ipv6_dst, to, 16);
    }
}

INLINE bool path_take(struct __sk_buff *skb, struct abi_flow *f, const struct bpf_fib_lookup *fib)
{
    struct abi_addr hop;
    if (fib->family == AF_INET)
        addr_set_v4(&hop, fib->ipv4_dst);
    else
        __builtin_memcpy(&hop, fib->ipv6_dst, 16);
    if (f->mode == ABI_EDGE_DSR && !addr_equal(&hop, &f->hop))
        return false; /* behind a router, which would send it back */
    __u32 mtu = 0;
    if (bpf_check_mtu(skb, fib->ifindex, &mtu, 0, 0) < 0)
        return false;
    if (fib->mtu_result >= PATH_MTU_MIN && fib->mtu_result < mtu)
        mtu = fib->mtu_result;
    f->mtu_bytes = mtu > 0xffff ? 0xffff : mtu;
    f->hop = hop;
    f->hop4 = fib->family == AF_INET ? fib->ipv4_dst : 0;
    f->ifindex = fib->ifindex;
    f->flags &= ~ABI_FLOW_LOCAL;
    return true;
}

/* Looks the path up. False: there is none. */
static __noinline bool path_find(struct __sk_buff *skb, struct abi_flow *f)
{
    struct bpf_fib_lookup fib = {};
    path_ask(&fib, f, skb->ifindex);
    long result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
    /* The neighbour is found by bpf_redirect_neigh. */
    if (result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH) {
        if (!path_take(skb, f, &fib))
            return false;
    } else {
        const struct abi_backend *b = bpf_map_lookup_elem(&backends, &f->backend);
        if (result != BPF_FIB_LKUP_RET_NOT_FWDED || f->flags & ABI_FLOW_BACK || !b ||
            !(b->flags & ABI_BACKEND_LOCAL))
            return false;
        f->flags |= ABI_FLOW_LOCAL;
        f->mtu_bytes = 0xffff;
    }
    f->path_time = flow_time();
    if (result == BPF_FIB_LKUP_RET_NO_NEIGH && f->path_time > FLOW_PATH_TIME)
        f->path_time -= FLOW_PATH_TIME; /* the answer had no MTU: soon asked for again */
    return true;
}

/* The same; `before` is the path's time under which the flow was counted, or 0. */
INLINE bool path_find_counted(struct __sk_buff *skb, struct abi_flow *f, __u16 before)
{
    if (!path_find(skb, f))
        return false;
    if ((f->flags & (ABI_FLOW_ESTABLISHED | ABI_FLOW_BACK)) == ABI_FLOW_ESTABLISHED && !flow_closed(f))
        load_goes_on(f, before);
    return true;
}

/* What is sent in segments later (GSO): each of them is the headers and so many bytes. */
INLINE bool send_too_big(struct __sk_buff *skb, const struct packet *p, const struct abi_flow *f)
{
    __u32 room = (__u32)f->mtu_bytes + PARSE_L3, segment = skb->gso_size;
    if (skb->len <= room)
        return false;
    return !segment || p->l4 + p->tcp_bytes + segment > room;
}

/* Looks the path up again. False: there is none. What later fragments have is a copy of their flow, whose
 * counts and way back are the flow's own to see to. */
INLINE bool send_find_path(struct __sk_buff *skb, const struct packet *p, struct abi_flow *f)
{
    if (p->fragment == FRAGMENT_LATER)
        return path_find(skb, f);
    __u16 before = flow_closed(f) ? 0 : f->path_time;
    edge_count_flow(f);
    if (!(p->flags & TCP_RST))
        f->closing &= ~ABI_FLOW_RESET; /* it goes on: the reset was forged */
    if (!path_find_counted(skb, f, before))
        return false;
    if (f->flags & ABI_FLOW_ESTABLISHED)
        flow_keep_mirror(p, f);
    return true;
}

/* Makes sure of path, size and time to live, then sends. */
static __noinline int send_checked(struct __sk_buff *skb, struct packet *p, struct abi_flow *f)
{
    if (flow_path_old(f) && !send_find_path(skb, p, f)) {
        EDGE_COUNT(f->service, no_route);
        return TC_ACT_SHOT;
    }
    if (p->ttl <= 1 && !(f->flags & ABI_FLOW_LOCAL)) {
        EDGE_COUNT(f->service, expired);
        return TC_ACT_SHOT;
    }
    if (send_too_big(skb, p, f)) {
        EDGE_COUNT(f->service, too_big);
        return too_big_answer(skb, p, f);
    }
    if (p->fragment == FRAGMENT_FIRST) {
        struct abi_fragment_key key = {p->key.source, p->key.target, p->fragment_id, 0};
        edge_count_flow(f); /* so that nothing is counted by the copy as well */
        bpf_map_update_elem(&fragments, &key, f, BPF_ANY);
    }
    return send_packet(skb, p, f);
}

#endif
