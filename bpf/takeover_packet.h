/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ARP packets and neighbour discovery messages: read, answered, made.
 */
#ifndef FL_BPF_TAKEOVER_PACKET_H
#define FL_BPF_TAKEOVER_PACKET_H

#include "common.h"
#include "takeover_claim.h"

enum {
    ARP_REQUEST = 1,
    ARP_REPLY = 2,
    ARP_ETHERNET = 1,
    MAC_BYTES = 6,
    ND_PROTOCOL = 58, /* ICMPv6 */
    ND_SOLICITATION = 135,
    ND_ADVERTISEMENT = 136,
    ND_HOPS = 255, /* RFC 4861, 7.1 */
    ND_OPTION_TARGET = 2,
    ND_SOLICITED = 0x40,
    ND_OVERRIDE = 0x20,
    IPV6_HEAD = 40,
};

struct arp_frame {
    __u8 to[MAC_BYTES];
    __u8 from[MAC_BYTES];
    __be16 protocol;
    __be16 hardware;
    __be16 network;
    __u8 hardware_bytes;
    __u8 network_bytes;
    __be16 operation;
    __u8 sender_mac[MAC_BYTES];
    __be32 sender;
    __u8 target_mac[MAC_BYTES];
    __be32 target;
} __attribute__((packed));

struct nd_message {
    __u8 type;
    __u8 code;
    __sum16 check;
    __u8 flags;
    __u8 reserved[3];
    struct abi_addr target;
};

struct nd_option {
    __u8 type;
    __u8 length; /* in units of 8 bytes */
    __u8 bytes[MAC_BYTES];
};

/* Of both kinds, without options. */
struct nd_frame {
    __u16 pad;
    struct ethhdr eth;
    struct ipv6hdr ip;
    struct nd_message nd;
};

/* What we send: with our link address, announcements with a claim behind it. */
struct nd_advertisement {
    struct nd_frame head;
    struct nd_option link;
    struct nd_option claim;
};

enum {
    ARP_FRAME = sizeof(struct arp_frame),
    ND_FRAME = sizeof(struct nd_frame) - 2,
    ND_ANSWER = ND_FRAME + 8,
    ND_ANNOUNCEMENT = ND_FRAME + 16,
};

_Static_assert(ARP_FRAME == 42, "Ethernet and ARP for IPv4");
_Static_assert(ND_FRAME == 78, "Ethernet, IPv6, a neighbour message");

INLINE bool mac_equal(const __u8 *a, const __u8 *b)
{
    __u8 difference = 0;
    for (int i = 0; i < MAC_BYTES; i++)
        difference |= a[i] ^ b[i];
    return !difference;
}

INLINE bool mac_known(const __u8 *a)
{
    return a[0] | a[1] | a[2] | a[3] | a[4] | a[5];
}

INLINE bool arp_load(struct __sk_buff *skb, struct arp_frame *f)
{
    return !bpf_skb_load_bytes(skb, 0, f, sizeof(*f)) && f->hardware == bpf_htons(ARP_ETHERNET) &&
           f->network == bpf_htons(ETH_P_IP) && f->hardware_bytes == MAC_BYTES && f->network_bytes == 4;
}

/* Turns a request round. */
INLINE long arp_answer(struct __sk_buff *skb, struct arp_frame *f, const __u8 *own_mac)
{
    __be32 address = f->target;
    __builtin_memcpy(f->to, f->sender_mac, MAC_BYTES);
    __builtin_memcpy(f->from, own_mac, MAC_BYTES);
    f->operation = bpf_htons(ARP_REPLY);
    __builtin_memcpy(f->target_mac, f->sender_mac, MAC_BYTES);
    f->target = f->sender;
    __builtin_memcpy(f->sender_mac, own_mac, MAC_BYTES);
    f->sender = address;
    return bpf_skb_store_bytes(skb, 0, f, sizeof(*f), 0);
}

/* A gratuitous packet: some receivers heed requests alone, some answers alone, and of those only such that
 * name the same link address twice. So the claim is in the request. */
INLINE long arp_announcement(struct __sk_buff *skb, __u16 operation, __be32 address, const __u8 *own_mac,
                             __u64 claim)
{
    struct arp_frame f = {};
    struct claim_mark mark;
    __builtin_memset(f.to, 0xff, MAC_BYTES);
    __builtin_memcpy(f.from, own_mac, MAC_BYTES);
    f.protocol = bpf_htons(ETH_P_ARP);
    f.hardware = bpf_htons(ARP_ETHERNET);
    f.network = bpf_htons(ETH_P_IP);
    f.hardware_bytes = MAC_BYTES;
    f.network_bytes = 4;
    f.operation = bpf_htons(operation);
    __builtin_memcpy(f.sender_mac, own_mac, MAC_BYTES);
    f.sender = f.target = address;
    claim_write(claim, &mark);
    __builtin_memcpy(f.target_mac, operation == ARP_REQUEST ? (__u8 *)&mark : own_mac, MAC_BYTES);
    long err = bpf_skb_change_tail(skb, ARP_FRAME, 0);
    return err ? err : bpf_skb_store_bytes(skb, 0, &f, sizeof(f), 0);
}

INLINE bool nd_load(struct __sk_buff *skb, struct nd_frame *f)
{
    return !bpf_skb_load_bytes(skb, 0, &f->eth, ND_FRAME) && f->ip.version == 6 &&
           f->ip.nexthdr == ND_PROTOCOL && f->ip.hop_limit == ND_HOPS && f->nd.code == 0 &&
           bpf_ntohs(f->ip.payload_len) >= sizeof(f->nd);
}

INLINE __sum16 nd_checksum(const struct nd_advertisement *a, __u32 bytes)
{
    __be32 tail[2] = {bpf_htonl(bytes), bpf_htonl(ND_PROTOCOL)};
    __s64 sum = bpf_csum_diff(0, 0, (__be32 *)&a->head.ip.saddr, 32, 0);
    sum = bpf_csum_diff(0, 0, tail, sizeof(tail), sum);
    sum = bpf_csum_diff(0, 0, (__be32 *)&a->head.nd, sizeof(a->head.nd) + sizeof(a->link), sum);
    if (bytes > sizeof(a->head.nd) + sizeof(a->link))
        sum = bpf_csum_diff(0, 0, (__be32 *)&a->claim, sizeof(a->claim), sum);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/* What answers and announcements have in common; destination and flags are the caller's. */
INLINE void nd_fill(struct nd_advertisement *a, const struct abi_addr *address, const __u8 *own_mac,
                    __u32 bytes)
{
    __builtin_memcpy(a->head.eth.h_source, own_mac, MAC_BYTES);
    a->head.eth.h_proto = bpf_htons(ETH_P_IPV6);
    a->head.ip.version = 6;
    a->head.ip.payload_len = bpf_htons(bytes);
    a->head.ip.nexthdr = ND_PROTOCOL;
    a->head.ip.hop_limit = ND_HOPS;
    __builtin_memcpy(&a->head.ip.saddr, address, sizeof(*address));
    a->head.nd.type = ND_ADVERTISEMENT;
    a->head.nd.target = *address;
    a->link.type = ND_OPTION_TARGET;
    a->link.length = 1;
    __builtin_memcpy(a->link.bytes, own_mac, MAC_BYTES);
    a->head.nd.check = nd_checksum(a, bytes);
}

/* ff02::1 and its link address */
INLINE void nd_to_all(struct nd_advertisement *a)
{
    const __u8 link[MAC_BYTES] = {0x33, 0x33, 0, 0, 0, 1};
    __be32 *to = (__be32 *)&a->head.ip.daddr;
    __builtin_memcpy(a->head.eth.h_dest, link, MAC_BYTES);
    to[0] = bpf_htonl(0xff020000);
    to[1] = to[2] = 0;
    to[3] = bpf_htonl(1);
}

/* Makes the solicitation its answer; one for :: (detection of duplicates) goes to all. */
INLINE long nd_answer(struct __sk_buff *skb, const struct nd_frame *f, const __u8 *own_mac)
{
    struct nd_advertisement a = {};
    const __be32 *from = (const __be32 *)&f->ip.saddr;
    a.head.nd.flags = ND_OVERRIDE;
    if (from[0] | from[1] | from[2] | from[3]) {
        a.head.nd.flags |= ND_SOLICITED;
        __builtin_memcpy(&a.head.ip.daddr, from, sizeof(struct abi_addr));
        __builtin_memcpy(a.head.eth.h_dest, f->eth.h_source, MAC_BYTES);
    } else {
        nd_to_all(&a);
    }
    nd_fill(&a, &f->nd.target, own_mac, ND_ANSWER - ETH_HLEN - IPV6_HEAD);
    long err = bpf_skb_change_tail(skb, ND_ANSWER, 0);
    return err ? err : bpf_skb_store_bytes(skb, 0, &a.head.eth, ND_ANSWER, BPF_F_RECOMPUTE_CSUM);
}

INLINE long nd_announcement(struct __sk_buff *skb, const struct abi_addr *address, const __u8 *own_mac,
                            __u64 claim)
{
    struct nd_advertisement a = {};
    nd_to_all(&a);
    a.head.nd.flags = ND_OVERRIDE;
    a.claim.type = CLAIM_OPTION;
    a.claim.length = 1;
    claim_write(claim, (struct claim_mark *)a.claim.bytes);
    nd_fill(&a, address, own_mac, ND_ANNOUNCEMENT - ETH_HLEN - IPV6_HEAD);
    long err = bpf_skb_change_tail(skb, ND_ANNOUNCEMENT, 0);
    return err ? err : bpf_skb_store_bytes(skb, 0, &a.head.eth, ND_ANNOUNCEMENT, 0);
}

/* The claim in an announcement of ours. */
INLINE bool nd_claim(struct __sk_buff *skb, __u64 *claim)
{
    struct nd_option o;
    return !bpf_skb_load_bytes(skb, ND_ANSWER, &o, sizeof(o)) && o.type == CLAIM_OPTION && o.length == 1 &&
           claim_read((struct claim_mark *)o.bytes, claim);
}

#endif
