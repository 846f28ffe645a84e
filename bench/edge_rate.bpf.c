/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Makes the packet of a test run one of another flow with each run, then goes on with the program under test:
 * so that BPF_PROG_RUN, which repeats one packet, measures what many flows cost.
 */
#include "common.h"
#include "edge_maps.h"
#include "parse.h"

char LICENSE[] SEC("license") = "GPL";

enum rate_phase {
    RATE_FILL = 0,  /* handshakes: three runs a flow */
    RATE_HIT = 1,   /* data of established flows, from clients */
    RATE_BACK = 2,  /* the same from backends */
    RATE_MISS = 3,  /* data of flows that are not known */
    RATE_FLOOD = 4, /* SYNs */
};

__u32 phase = 0;
__u32 number = 0;     /* of the run */
__u32 flows_mask = 0; /* flows are numbered up to this */
__u32 service_count = 0;
__u32 direct = 0; /* the backend's packets are not seen: the client sends another in its place */
__u32 target = 0; /* in `programs`: 0 is the edge, 1 does nothing */

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, __u32);
} programs SEC(".maps");

struct rate_packet {
    __u32 source, target; /* last words of the addresses */
    __u16 source_port, target_port;
    __u8 flags;
};

/* Flow `i`: its client has 64 flows. */
INLINE void rate_client(__u32 i, struct rate_packet *p)
{
    p->source = bpf_htonl(0x0a800000 + (i >> 6));
    p->source_port = bpf_htons(1024 + (i & 63) * 1000 + (i >> 6) % 1000);
    p->target = bpf_htonl(0xc6120000 + i % service_count);
    p->target_port = bpf_htons(80);
}

INLINE void rate_key(const struct rate_packet *p, bool v4, struct abi_flow_key *key)
{
    __builtin_memset(key, 0, sizeof(*key));
    key->source.word[v4 ? 2 : 0] = key->target.word[v4 ? 2 : 0] =
        v4 ? bpf_htonl(0xffff) : bpf_htonl(0xfd010000);
    if (!v4)
        key->target.word[0] = bpf_htonl(0xfd050000);
    key->source.word[3] = p->source;
    key->target.word[3] = p->target;
    key->source_port = p->source_port;
    key->target_port = p->target_port;
}

/* The backend's packet of the flow. False: the flow is not known. */
INLINE bool rate_turn(struct rate_packet *p, bool v4, void *map)
{
    struct abi_flow_key key;
    rate_key(p, v4, &key);
    struct abi_flow *f = bpf_map_lookup_elem(map, &key);
    if (!f)
        return false;
    p->source = f->target.word[3];
    p->target = f->source.word[3];
    p->source_port = f->target_port;
    p->target_port = f->source_port;
    return true;
}

INLINE bool rate_choose(struct rate_packet *p, bool v4, bool *back)
{
    __u32 n = number++;
    /* An odd factor: each flow once, in no order. */
    __u32 i = (phase == RATE_FILL ? n / 3 : n) * 0x9e3779b1 & flows_mask;
    if (phase == RATE_FLOOD || phase == RATE_MISS)
        i += flows_mask + 1;
    rate_client(i, p);
    p->flags = phase == RATE_FLOOD || (phase == RATE_FILL && n % 3 == 0) ? TCP_SYN : TCP_ACK;
    if (phase == RATE_FILL && n % 3 == 1 && !direct) {
        *back = true;
        p->flags = TCP_SYN | TCP_ACK;
        return rate_turn(p, v4, &half_open);
    }
    if (phase == RATE_BACK) {
        *back = true;
        return rate_turn(p, v4, &flows);
    }
    return true;
}

INLINE void rate_put4(struct iphdr *ip, const struct rate_packet *p)
{
    ip->saddr = p->source;
    ip->daddr = p->target;
    ip->ttl = 64;
}

INLINE void rate_put6(struct ipv6hdr *ip, const struct rate_packet *p, bool back)
{
    __builtin_memset(&ip->saddr, 0, 32);
    ip->saddr.in6_u.u6_addr32[0] = back ? bpf_htonl(0xfd020000) : bpf_htonl(0xfd010000);
    ip->daddr.in6_u.u6_addr32[0] = back ? bpf_htonl(0xfd010000) : bpf_htonl(0xfd050000);
    ip->saddr.in6_u.u6_addr32[3] = p->source;
    ip->daddr.in6_u.u6_addr32[3] = p->target;
    ip->hop_limit = 64;
}

INLINE int rate_run(struct __sk_buff *skb, bool v4)
{
    struct rate_packet p;
    bool back = false;
    if (!rate_choose(&p, v4, &back))
        return TC_ACT_SHOT;
    void *end = PARSE_CONTEXT(skb, data_end);
    struct ethhdr *ethernet = PARSE_CONTEXT(skb, data);
    struct tcphdr *tcp = (void *)(ethernet + 1) + (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
    if ((void *)(tcp + 1) > end)
        return TC_ACT_SHOT;
    if (v4)
        rate_put4((void *)(ethernet + 1), &p);
    else
        rate_put6((void *)(ethernet + 1), &p, back);
    tcp->source = p.source_port;
    tcp->dest = p.target_port;
    tcp->seq = bpf_htonl(5000);
    tcp->ack_seq = bpf_htonl(5001);
    ((__u8 *)tcp)[13] = p.flags;
    bpf_tail_call(skb, &programs, target);
    return TC_ACT_SHOT;
}

SEC("tc")
int rate4(struct __sk_buff *skb)
{
    return rate_run(skb, true);
}

SEC("tc")
int rate6(struct __sk_buff *skb)
{
    return rate_run(skb, false);
}

SEC("tc")
int nothing(struct __sk_buff *skb)
{
    return TC_ACT_SHOT;
}
