/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Packets of probes: reading TCP segments, and making an skb one.
 *
 * What is written into an skb has a full checksum. That is right only where none is left to be filled in by a
 * device: on the clock's packets and behind the out device, which has no checksum offload.
 */
#ifndef FL_BPF_PROBE_PACKET_H
#define FL_BPF_PROBE_PACKET_H

#include "common.h"
#include "parse.h"

enum packet_const {
    SEGMENT_V4 = PARSE_L3 + PARSE_IP_MIN, /* where TCP is: packets with options are not ours */
    SEGMENT_V6 = PARSE_L3 + PARSE_IP6_MIN,
    SEGMENT_WINDOW = 8192,
    SEGMENT_TTL = 64,
    IP_DONT_FRAGMENT = 0x4000,
};

struct segment {
    struct abi_addr source;
    struct abi_addr target;
    __u16 source_port; /* network byte order, as in keys */
    __u16 target_port;
    __u32 sequence; /* host byte order */
    __u32 acknowledged;
    __u32 payload; /* its offset */
    __u32 payload_bytes;
    __u8 flags; /* enum parse_flag */
    __u8 v4;
};

INLINE void segment_take_tcp(struct segment *s, const struct tcphdr *tcp, __u32 l4, __u32 l4_bytes)
{
    __u32 head_bytes = tcp->doff * 4;
    s->source_port = tcp->source;
    s->target_port = tcp->dest;
    s->sequence = bpf_ntohl(tcp->seq);
    s->acknowledged = bpf_ntohl(tcp->ack_seq);
    s->flags = ((const __u8 *)tcp)[13];
    s->payload = l4 + head_bytes;
    s->payload_bytes = l4_bytes > head_bytes ? l4_bytes - head_bytes : 0;
}

INLINE bool segment_read4(struct __sk_buff *skb, struct segment *s)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct iphdr *ip = data + PARSE_L3;
    struct tcphdr *tcp = data + SEGMENT_V4;
    if ((void *)(tcp + 1) > end)
        return false;
    if (ip->version != 4 || ip->ihl != 5 || ip->protocol != PARSE_TCP)
        return false;
    if (ip->frag_off & bpf_htons(PARSE_IP_MF | PARSE_IP_OFFSET))
        return false;
    /* 0: longer than the field can say (BIG TCP). */
    __u32 bytes = ip->tot_len ? bpf_ntohs(ip->tot_len) : skb->len - PARSE_L3;
    s->v4 = 1;
    addr_set_v4(&s->source, ip->saddr);
    addr_set_v4(&s->target, ip->daddr);
    segment_take_tcp(s, tcp, SEGMENT_V4, bytes > PARSE_IP_MIN ? bytes - PARSE_IP_MIN : 0);
    return true;
}

INLINE bool segment_read6(struct __sk_buff *skb, struct segment *s)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct ipv6hdr *ip = data + PARSE_L3;
    struct tcphdr *tcp = data + SEGMENT_V6;
    if ((void *)(tcp + 1) > end)
        return false;
    if (ip->version != 6 || ip->nexthdr != PARSE_TCP)
        return false;
    s->v4 = 0;
    __builtin_memcpy(&s->source, &ip->saddr, sizeof(s->source));
    __builtin_memcpy(&s->target, &ip->daddr, sizeof(s->target));
    __u32 bytes = ip->payload_len ? bpf_ntohs(ip->payload_len) : skb->len - SEGMENT_V6;
    segment_take_tcp(s, tcp, SEGMENT_V6, bytes);
    /* ::ffff:a.b.c.d is never on a wire (RFC 4291, 2.5.5.2), and would be taken for IPv4. */
    return !addr_is_v4(&s->source) && !addr_is_v4(&s->target);
}

/* Whether it is TCP without IP options or extension headers; reads its headers. The last word of
 * struct segment is initialized too. */
INLINE bool segment_read(struct __sk_buff *skb, struct segment *s)
{
    __builtin_memset(s, 0, sizeof(*s));
    if (skb->protocol == bpf_htons(ETH_P_IP))
        return parse_reach(skb, SEGMENT_V4 + PARSE_TCP_MIN) && segment_read4(skb, s);
    if (skb->protocol == bpf_htons(ETH_P_IPV6))
        return parse_reach(skb, SEGMENT_V6 + PARSE_TCP_MIN) && segment_read6(skb, s);
    return false;
}

/* Making one. */

/* The pad lets what follows the Ethernet header be aligned. */
struct segment_head4 {
    __u16 pad;
    struct ethhdr eth;
    struct iphdr ip;
    struct tcphdr tcp;
};

struct segment_head6 {
    __u16 pad;
    struct ethhdr eth;
    struct ipv6hdr ip;
    struct tcphdr tcp;
};

INLINE __u16 checksum_fold(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

INLINE void segment_fill_tcp(const struct segment *s, struct tcphdr *tcp)
{
    tcp->source = s->source_port;
    tcp->dest = s->target_port;
    tcp->seq = bpf_htonl(s->sequence);
    tcp->ack_seq = bpf_htonl(s->acknowledged);
    tcp->doff = PARSE_TCP_MIN / 4;
    ((__u8 *)tcp)[13] = s->flags;
    tcp->window = bpf_htons(SEGMENT_WINDOW);
}

/* `payload_sum`: of the payload, by bpf_csum_diff. */
INLINE long segment_write4(struct __sk_buff *skb, const struct segment *s, __s64 payload_sum)
{
    struct segment_head4 h = {};
    __u16 tcp_bytes = PARSE_TCP_MIN + s->payload_bytes;
    h.eth.h_proto = bpf_htons(ETH_P_IP);
    h.ip.version = 4;
    h.ip.ihl = PARSE_IP_MIN / 4;
    h.ip.tot_len = bpf_htons(PARSE_IP_MIN + tcp_bytes);
    h.ip.frag_off = bpf_htons(IP_DONT_FRAGMENT);
    h.ip.ttl = SEGMENT_TTL;
    h.ip.protocol = PARSE_TCP;
    h.ip.saddr = s->source.word[3];
    h.ip.daddr = s->target.word[3];
    h.ip.check = checksum_fold(bpf_csum_diff(0, 0, (__be32 *)&h.ip, sizeof(h.ip), 0));
    segment_fill_tcp(s, &h.tcp);
    __u32 pseudo[3] = {h.ip.saddr, h.ip.daddr, bpf_htonl(PARSE_TCP << 16 | tcp_bytes)};
    __s64 sum = bpf_csum_diff(0, 0, (__be32 *)&h.tcp, sizeof(h.tcp), payload_sum);
    h.tcp.check = checksum_fold(bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), sum));
    return bpf_skb_store_bytes(skb, 0, &h.eth, SEGMENT_V4 + PARSE_TCP_MIN, BPF_F_RECOMPUTE_CSUM);
}

INLINE long segment_write6(struct __sk_buff *skb, const struct segment *s, __s64 payload_sum)
{
    struct segment_head6 h = {};
    __u16 tcp_bytes = PARSE_TCP_MIN + s->payload_bytes;
    h.eth.h_proto = bpf_htons(ETH_P_IPV6);
    h.ip.version = 6;
    h.ip.payload_len = bpf_htons(tcp_bytes);
    h.ip.nexthdr = PARSE_TCP;
    h.ip.hop_limit = SEGMENT_TTL;
    __builtin_memcpy(&h.ip.saddr, &s->source, sizeof(s->source));
    __builtin_memcpy(&h.ip.daddr, &s->target, sizeof(s->target));
    segment_fill_tcp(s, &h.tcp);
    __u32 pseudo[2] = {bpf_htonl(tcp_bytes), bpf_htonl(PARSE_TCP)};
    __s64 sum = bpf_csum_diff(0, 0, (__be32 *)&h.tcp, sizeof(h.tcp), payload_sum);
    sum = bpf_csum_diff(0, 0, (__be32 *)&h.ip.saddr, 2 * sizeof(h.ip.saddr), sum);
    h.tcp.check = checksum_fold(bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), sum));
    return bpf_skb_store_bytes(skb, 0, &h.eth, SEGMENT_V6 + PARSE_TCP_MIN, BPF_F_RECOMPUTE_CSUM);
}

INLINE __u32 segment_head_bytes(const struct segment *s)
{
    return (s->v4 ? SEGMENT_V4 : SEGMENT_V6) + PARSE_TCP_MIN;
}

/* Makes the skb this segment, which has no payload. 0 or an error of the helpers. */
static __noinline long segment_write(struct __sk_buff *skb, struct segment *s)
{
    if (!s)
        return -1;
    __u32 bytes = segment_head_bytes(s);
    if (skb->len != bytes && bpf_skb_change_tail(skb, bytes, 0))
        return -1;
    return s->v4 ? segment_write4(skb, s, 0) : segment_write6(skb, s, 0);
}

/* The same with the request as its payload. */
INLINE long segment_write_request(struct __sk_buff *skb, struct segment *s, const struct abi_check *c)
{
    __u32 head_bytes = segment_head_bytes(s), request_bytes = c->request_bytes;
    if (request_bytes > ABI_REQUEST_MAX || bpf_skb_change_tail(skb, head_bytes + ABI_REQUEST_MAX, 0))
        return -1;
    s->payload_bytes = request_bytes;
    __s64 sum = bpf_csum_diff(0, 0, (__be32 *)c->request, ABI_REQUEST_MAX, 0);
    if (s->v4 ? segment_write4(skb, s, sum) : segment_write6(skb, s, sum))
        return -1;
    /* All of it, and then less: the verifier of 6.1 wants constant lengths. */
    if (bpf_skb_store_bytes(skb, head_bytes, c->request, ABI_REQUEST_MAX, BPF_F_RECOMPUTE_CSUM))
        return -1;
    return bpf_skb_change_tail(skb, head_bytes + request_bytes, 0);
}

#endif
