/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A client's segment is answered by a reset (RFC 9293, 3.5.2, group 1) in the service's name: the packet is
 * cut to its headers and turned round.
 */
#ifndef FL_BPF_EDGE_RESET_H
#define FL_BPF_EDGE_RESET_H

#include "edge_maps.h"
#include "parse.h"

enum { RESET_TTL = 64, RESET_MARK = 0x1111 };

/* Where the device still is to fill the checksum in, the field has the sum of the pseudo header only, and a
 * difference in the segment does not change it. */
INLINE bool reset_is_partial(struct __sk_buff *skb, __u32 check)
{
    __u16 probe = RESET_MARK, after = RESET_MARK;
    if (bpf_skb_store_bytes(skb, check, &probe, 2, 0) != 0 ||
        bpf_l4_csum_replace(skb, check, 0, bpf_htons(0x0101), 0) != 0 ||
        bpf_skb_load_bytes(skb, check, &after, 2) != 0)
        return false;
    return after == RESET_MARK;
}

INLINE __u16 reset_fold(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

INLINE void reset_tcp(const struct packet *p, struct tcphdr *tcp)
{
    __builtin_memset(tcp, 0, sizeof(*tcp));
    tcp->source = p->key.target_port;
    tcp->dest = p->key.source_port;
    tcp->doff = 5;
    tcp->rst = 1;
    if (p->flags & TCP_ACK) {
        tcp->seq = bpf_htonl(p->acknowledged);
        return;
    }
    __u32 headers = p->l4 - PARSE_L3 + p->tcp_bytes;
    __u32 length = p->l3_bytes > headers ? p->l3_bytes - headers : 0;
    length += (p->flags & TCP_SYN ? 1 : 0) + (p->flags & TCP_FIN ? 1 : 0);
    tcp->ack = 1;
    tcp->ack_seq = bpf_htonl(p->sequence + length);
}

/* The sum of the pseudo header, not yet folded. The order of source and target makes no difference. */
INLINE __u64 reset_pseudo(const struct packet *p)
{
    __u64 sum = bpf_htons(PARSE_TCP) + bpf_htons(PARSE_TCP_MIN);
    for (int i = 0; i < 4; i++)
        if (!p->v4 || i == 3)
            sum += (__u64)p->key.source.word[i] + p->key.target.word[i];
    return sum;
}

/* Options are overwritten by zeros (end of options), so that an offset the device was told stays true. */
INLINE bool reset_ip4(struct __sk_buff *skb, const struct packet *p)
{
    struct iphdr ip = {};
    __u32 zero = 0, bytes = p->l4 - PARSE_L3;
    ip.version = 4;
    ip.ihl = bytes / 4;
    ip.tot_len = bpf_htons(bytes + PARSE_TCP_MIN);
    ip.frag_off = bpf_htons(0x4000);
    ip.ttl = RESET_TTL;
    ip.protocol = PARSE_TCP;
    ip.saddr = p->key.target.word[3];
    ip.daddr = p->key.source.word[3];
    ip.check = ~reset_fold(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
    for (__u32 at = PARSE_IP_MIN; at < 60; at += 4)
        if (at < bytes)
            bpf_skb_store_bytes(skb, PARSE_L3 + at, &zero, 4, 0);
    return bpf_skb_store_bytes(skb, PARSE_L3, &ip, sizeof(ip), 0) == 0;
}

INLINE bool reset_ip6(struct __sk_buff *skb, const struct packet *p)
{
    struct ipv6hdr ip = {};
    ip.version = 6;
    ip.payload_len = bpf_htons(PARSE_TCP_MIN);
    ip.nexthdr = PARSE_TCP;
    ip.hop_limit = RESET_TTL;
    __builtin_memcpy(&ip.saddr, &p->key.target, 16);
    __builtin_memcpy(&ip.daddr, &p->key.source, 16);
    return bpf_skb_store_bytes(skb, PARSE_L3, &ip, sizeof(ip), 0) == 0;
}

INLINE bool reset_ethernet(struct __sk_buff *skb)
{
    __u8 old[12], new[12];
    if (bpf_skb_load_bytes(skb, 0, old, sizeof(old)) != 0)
        return false;
    __builtin_memcpy(new, old + 6, 6);
    __builtin_memcpy(new + 6, old, 6);
    return bpf_skb_store_bytes(skb, 0, new, sizeof(new), 0) == 0;
}

/* Answers the packet by a reset; what cannot be answered is dropped. */
static __noinline int reset_client(struct __sk_buff *skb, struct packet *p, __u32 service)
{
    struct tcphdr tcp;
    if (p->flags & TCP_RST || skb->pkt_type != 0 || p->fragment || (!p->v4 && !p->plain6))
        return TC_ACT_SHOT;
    __u32 l4 = p->l4;
    bool partial = reset_is_partial(skb, l4 + 16);
    if (bpf_skb_change_tail(skb, l4 + PARSE_TCP_MIN, 0) != 0)
        return TC_ACT_SHOT;
    reset_tcp(p, &tcp);
    __u64 sum = reset_pseudo(p);
    if (partial)
        tcp.check = reset_fold(sum);
    else
        tcp.check = ~reset_fold(sum + (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&tcp, sizeof(tcp), 0));
    if (bpf_skb_store_bytes(skb, l4, &tcp, sizeof(tcp), 0) != 0 || !reset_ethernet(skb))
        return TC_ACT_SHOT;
    if (p->v4 ? !reset_ip4(skb, p) : !reset_ip6(skb, p))
        return TC_ACT_SHOT;
    EDGE_COUNT(service, resets);
    return bpf_redirect(skb->ifindex, 0);
}

#endif
