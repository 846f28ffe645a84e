/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Reading packets in tc programs: Ethernet, IPv4 with options, IPv6 with extension headers, the fixed part of
 * TCP. Every byte is untrusted; what is returned was read inside the packet.
 */
#ifndef FL_BPF_PARSE_H
#define FL_BPF_PARSE_H

#include "common.h"

enum parse_const {
    PARSE_L3 = 14, /* where the IP header is: devices are Ethernet */
    PARSE_IP_MIN = 20,
    PARSE_IP6_MIN = 40,
    PARSE_TCP_MIN = 20,
    PARSE_IP6_HEADERS_MAX = 6, /* extension headers looked at */
    PARSE_TCP = 6,
    PARSE_ICMP = 1,
    PARSE_ICMP6 = 58,
    PARSE_IP_MF = 0x2000,
    PARSE_IP_OFFSET = 0x1fff,
    PARSE_IP6_OFFSET = 0xfff8,
    PARSE_IP6_MF = 1,
    PACKET_OTHERHOST = 3,
};

/* Extension headers of IPv6 (RFC 8200, 4). */
enum parse_next_header {
    NEXT_HOP_BY_HOP = 0,
    NEXT_ROUTING = 43,
    NEXT_FRAGMENT = 44,
    NEXT_OPTIONS = 60,
};

enum parse_flag { TCP_FIN = 0x01, TCP_SYN = 0x02, TCP_RST = 0x04, TCP_PSH = 0x08, TCP_ACK = 0x10 };

enum parse_fragment { FRAGMENT_NOT = 0, FRAGMENT_FIRST = 1, FRAGMENT_LATER = 2 };

struct packet {
    struct abi_flow_key key; /* ports are 0 unless it is TCP and not a later fragment */
    __u32 fragment_id;
    __u32 sequence; /* host byte order, like acknowledged */
    __u32 acknowledged;
    __u16 l4;       /* offset of what follows the IP headers */
    __u16 l3_bytes; /* the IP packet as its header says, 0 in IPv6 jumbograms */
    __u8 v4;
    __u8 protocol;
    __u8 fragment; /* enum parse_fragment */
    __u8 ttl;
    __u8 flags; /* TCP */
    __u8 tcp_bytes;
    __u8 plain6; /* IPv6 without extension headers */
};

/* Fields of the context are loaded by an instruction of their own: the compiler would add to the pointer
 * first, which the verifier refuses. */
#define PARSE_CONTEXT(context, field)                                                                        \
    ({                                                                                                       \
        void *parse_pointer;                                                                                 \
        asm volatile("%0 = *(u32 *)(%1 + %2)"                                                                \
                     : "=r"(parse_pointer)                                                                   \
                     : "r"(context), "i"(__builtin_offsetof(typeof(*context), field)));                      \
        parse_pointer;                                                                                       \
    })

/* The first `bytes` of the packet can be read directly after this. */
INLINE bool parse_reach(struct __sk_buff *skb, __u32 bytes)
{
    if (PARSE_CONTEXT(skb, data) + bytes <= PARSE_CONTEXT(skb, data_end))
        return true;
    return skb->len >= bytes && bpf_skb_pull_data(skb, bytes) == 0;
}

INLINE bool parse_ip4(struct __sk_buff *skb, struct packet *p)
{
    void *data = PARSE_CONTEXT(skb, data), *end = PARSE_CONTEXT(skb, data_end);
    struct iphdr *ip = data + PARSE_L3;
    if ((void *)(ip + 1) > end)
        return false;
    if (ip->version != 4 || ip->ihl < 5)
        return false;
    p->v4 = 1;
    p->l4 = PARSE_L3 + ip->ihl * 4;
    p->l3_bytes = bpf_ntohs(ip->tot_len);
    p->protocol = ip->protocol;
    p->ttl = ip->ttl;
    __u16 fragment = bpf_ntohs(ip->frag_off) & (PARSE_IP_MF | PARSE_IP_OFFSET);
    if (fragment) {
        p->fragment = fragment & PARSE_IP_OFFSET ? FRAGMENT_LATER : FRAGMENT_FIRST;
        p->fragment_id = ip->id;
    }
    addr_set_v4(&p->key.source, ip->saddr);
    addr_set_v4(&p->key.target, ip->daddr);
    return true;
}

/* Follows extension headers from p->protocol at p->l4 to TCP, ICMPv6 or what else there is. */
INLINE bool parse_ip6_headers(struct __sk_buff *skb, struct packet *p)
{
    for (int i = 0; i < PARSE_IP6_HEADERS_MAX; i++) {
        __u8 kind = p->protocol, head[8];
        if (kind != NEXT_HOP_BY_HOP && kind != NEXT_ROUTING && kind != NEXT_OPTIONS && kind != NEXT_FRAGMENT)
            return true;
        if (bpf_skb_load_bytes(skb, p->l4, head, sizeof(head)) != 0)
            return false;
        p->plain6 = 0;
        p->protocol = head[0];
        p->l4 += kind == NEXT_FRAGMENT ? 8 : 8 + head[1] * 8;
        if (kind != NEXT_FRAGMENT)
            continue;
        __u16 offset = head[2] << 8 | head[3];
        if (!(offset & (PARSE_IP6_OFFSET | PARSE_IP6_MF)))
            continue; /* an atomic fragment (RFC 6946) */
        p->fragment = offset & PARSE_IP6_OFFSET ? FRAGMENT_LATER : FRAGMENT_FIRST;
        __builtin_memcpy(&p->fragment_id, head + 4, 4);
        if (p->fragment == FRAGMENT_LATER)
            return true;
    }
    return false;
}

INLINE bool parse_ip6(struct __sk_buff *skb, struct packet *p)
{
    void *data = PARSE_CONTEXT(skb, data), *end = PARSE_CONTEXT(skb, data_end);
    struct ipv6hdr *ip = data + PARSE_L3;
    if ((void *)(ip + 1) > end)
        return false;
    if (ip->version != 6)
        return false;
    p->plain6 = 1;
    p->l4 = PARSE_L3 + PARSE_IP6_MIN;
    p->l3_bytes = bpf_ntohs(ip->payload_len);
    if (p->l3_bytes)
        p->l3_bytes += PARSE_IP6_MIN;
    p->protocol = ip->nexthdr;
    p->ttl = ip->hop_limit;
    __builtin_memcpy(&p->key.source, &ip->saddr, 16);
    __builtin_memcpy(&p->key.target, &ip->daddr, 16);
    /* ::ffff:a.b.c.d is never on a wire (RFC 4291, 2.5.5.2), and would be taken for IPv4. */
    return !addr_is_v4(&p->key.source) && !addr_is_v4(&p->key.target);
}

INLINE bool parse_tcp(struct __sk_buff *skb, struct packet *p)
{
    __u32 l4 = p->l4;
    if (l4 > PARSE_L3 + PARSE_IP6_MIN + PARSE_IP6_HEADERS_MAX * 2048)
        return false;
    if (!parse_reach(skb, l4 + PARSE_TCP_MIN))
        return false;
    asm volatile("%0 &= 0x3fff" : "+r"(l4)); /* known; the verifier has lost it by now */
    struct tcphdr *tcp = PARSE_CONTEXT(skb, data) + l4;
    if ((void *)(tcp + 1) > PARSE_CONTEXT(skb, data_end))
        return false;
    p->key.source_port = tcp->source;
    p->key.target_port = tcp->dest;
    p->sequence = bpf_ntohl(tcp->seq);
    p->acknowledged = bpf_ntohl(tcp->ack_seq);
    p->flags = ((__u8 *)tcp)[13];
    p->tcp_bytes = tcp->doff * 4;
    return true;
}

/* Reads the headers of IP, and those of TCP if it is TCP. False: nothing that the edge could know; what is
 * damaged is left to the stack, which drops it. */
INLINE bool parse_packet(struct __sk_buff *skb, struct packet *p)
{
    __builtin_memset(p, 0, sizeof(*p));
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (!parse_reach(skb, PARSE_L3 + PARSE_IP_MIN) || !parse_ip4(skb, p))
            return false;
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        if (!parse_reach(skb, PARSE_L3 + PARSE_IP6_MIN) || !parse_ip6(skb, p))
            return false;
        if (p->protocol != PARSE_TCP && !parse_ip6_headers(skb, p))
            return false;
    } else {
        return false;
    }
    if (p->protocol != PARSE_TCP || p->fragment == FRAGMENT_LATER)
        return true;
    return parse_tcp(skb, p);
}

#endif
