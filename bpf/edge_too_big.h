/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A packet that is too big for the rest of its way is answered as a router would (RFC 792 and 1191, RFC 4443,
 * 3.2): what the sender is told is the MTU and the head of its packet. It comes from the address that the
 * packet was for, as the edge's resets do, and goes out where the packet came in.
 *
 * The packet itself becomes the message: it is cut, and room is made for the new headers before its own. A
 * segment whose checksum a device is still to fill in stays one: it is filled in inside the message, which
 * is why the message's own checksum has to know what will be there.
 */
#ifndef FL_BPF_EDGE_TOO_BIG_H
#define FL_BPF_EDGE_TOO_BIG_H

#include "edge_maps.h"
#include "edge_reset.h"
#include "parse.h"

enum {
    TOO_BIG_TTL = 64,
    TOO_BIG_TOS = 0xc0, /* RFC 1812, 4.3.2.5 */
    TOO_BIG_TYPE4 = 3,
    TOO_BIG_CODE4 = 4,
    TOO_BIG_TYPE6 = 2,
    TOO_BIG_TCP_CHECK = 16,
    /* Of each processor: so many in a second, the first of them at once. As many again about flows that are
     * established: SYNs are forged, and must not use up what those need. */
    TOO_BIG_A_SECOND = 200,
    TOO_BIG_SECOND_NS = 1000000000,
};

struct too_big_icmp {
    __u8 type, code;
    __sum16 check;
    __be32 mtu;
};

struct too_big4 {
    struct iphdr ip;
    struct too_big_icmp icmp;
};

struct too_big6 {
    struct ipv6hdr ip;
    struct too_big_icmp icmp;
};

INLINE bool too_big_allowed(struct edge_work *w, const struct abi_flow *f)
{
    __u64 now = bpf_ktime_get_ns();
    typeof(&w->told[0]) told = f->flags & ABI_FLOW_ESTABLISHED ? &w->told[1] : &w->told[0];
    if (now - told->since_ns >= TOO_BIG_SECOND_NS) {
        told->since_ns = now;
        told->count = 0;
    }
    return told->count++ < TOO_BIG_A_SECOND;
}

/* The sum of what will be inside when it is sent. Where the checksum of TCP is still to be filled in, all
 * that it covers then sums up to the complement of what its field holds now; an IPv4 header sums up to
 * nothing. */
INLINE bool too_big_sum(struct __sk_buff *skb, const struct packet *p, struct edge_work *w, __u32 *sum)
{
    __u32 check = p->l4 + TOO_BIG_TCP_CHECK;
    __u16 field;
    if (bpf_skb_load_bytes(skb, check, &field, sizeof(field)) != 0)
        return false;
    bool partial = reset_is_partial(skb, check);
    if (bpf_skb_store_bytes(skb, check, &field, sizeof(field), 0) != 0 ||
        bpf_skb_load_bytes(skb, PARSE_L3, w->inside, sizeof(w->inside)) != 0)
        return false;
    if (!partial) {
        *sum = bpf_csum_diff(NULL, 0, (__be32 *)w->inside, sizeof(w->inside), 0);
        return true;
    }
    *sum = (__u16)~field;
    if (!p->v4)
        *sum = bpf_csum_diff(NULL, 0, (__be32 *)w->inside, PARSE_IP6_MIN, *sum);
    return p->v4 || p->plain6;
}

INLINE bool too_big_write4(struct __sk_buff *skb, const struct packet *p, __u32 mtu, __u32 sum)
{
    struct too_big4 h = {};
    h.ip.version = 4;
    h.ip.ihl = PARSE_IP_MIN / 4;
    h.ip.tos = TOO_BIG_TOS;
    h.ip.tot_len = bpf_htons(sizeof(h) + EDGE_INSIDE);
    h.ip.frag_off = bpf_htons(0x4000);
    h.ip.ttl = TOO_BIG_TTL;
    h.ip.protocol = PARSE_ICMP;
    h.ip.saddr = p->key.target.word[3];
    h.ip.daddr = p->key.source.word[3];
    h.ip.check = ~reset_fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)&h.ip, sizeof(h.ip), 0));
    h.icmp.type = TOO_BIG_TYPE4;
    h.icmp.code = TOO_BIG_CODE4;
    h.icmp.mtu = bpf_htonl(mtu);
    h.icmp.check = ~reset_fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)&h.icmp, sizeof(h.icmp), sum));
    return bpf_skb_adjust_room(skb, sizeof(h), BPF_ADJ_ROOM_MAC, 0) == 0 &&
           bpf_skb_store_bytes(skb, PARSE_L3, &h, sizeof(h), 0) == 0;
}

INLINE bool too_big_write6(struct __sk_buff *skb, const struct packet *p, __u32 mtu, __u32 sum)
{
    struct too_big6 h = {};
    __u32 rest[2] = {bpf_htonl(sizeof(h.icmp) + EDGE_INSIDE), bpf_htonl(PARSE_ICMP6)};
    h.ip.version = 6;
    h.ip.payload_len = bpf_htons(sizeof(h.icmp) + EDGE_INSIDE);
    h.ip.nexthdr = PARSE_ICMP6;
    h.ip.hop_limit = TOO_BIG_TTL;
    __builtin_memcpy(&h.ip.saddr, &p->key.target, 16);
    __builtin_memcpy(&h.ip.daddr, &p->key.source, 16);
    h.icmp.type = TOO_BIG_TYPE6;
    h.icmp.mtu = bpf_htonl(mtu);
    sum = bpf_csum_diff(NULL, 0, (__be32 *)&h.ip.saddr, 32, sum);
    sum = bpf_csum_diff(NULL, 0, rest, sizeof(rest), sum);
    h.icmp.check = ~reset_fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)&h.icmp, sizeof(h.icmp), sum));
    return bpf_skb_adjust_room(skb, sizeof(h), BPF_ADJ_ROOM_MAC, 0) == 0 &&
           bpf_skb_store_bytes(skb, PARSE_L3, &h, sizeof(h), 0) == 0;
}

/* What cannot be answered is dropped alone: later fragments, what came to a group, a packet shorter than the
 * head that is sent (of a path whose MTU is less than 512 bytes). */
static __noinline int too_big_answer(struct __sk_buff *skb, struct packet *p, struct abi_flow *f)
{
    struct edge_work *w = edge_work();
    __u32 sum = 0, mtu = f->mtu_bytes, service = f->service;
    if (!w || skb->pkt_type != 0 || p->fragment == FRAGMENT_LATER || skb->len < PARSE_L3 + EDGE_INSIDE)
        return TC_ACT_SHOT;
    if (!too_big_allowed(w, f) || !too_big_sum(skb, p, w, &sum))
        return TC_ACT_SHOT;
    if (bpf_skb_change_tail(skb, PARSE_L3 + EDGE_INSIDE, 0) != 0)
        return TC_ACT_SHOT;
    if (p->v4 ? !too_big_write4(skb, p, mtu, sum) : !too_big_write6(skb, p, mtu, sum))
        return TC_ACT_SHOT;
    if (!reset_ethernet(skb))
        return TC_ACT_SHOT;
    EDGE_COUNT(service, told);
    return bpf_redirect(skb->ifindex, 0);
}

#endif
