/* SPDX-License-Identifier: GPL-2.0 */
/*
 * BFD control packets: what is on the wire (RFC 5880, 4.1; RFC 5881, 4 and 5; RFC 5883), taken apart and put
 * together. Nothing here knows of sessions.
 */
#ifndef FL_BPF_BFD_PACKET_H
#define FL_BPF_BFD_PACKET_H

#include "common.h"

enum {
    BFD_PORT = 3784,
    BFD_PORT_MULTIHOP = 4784,
    BFD_HOPS = 255, /* sent with; on a single hop also what arrives */
    BFD_BYTES = 24,
    BFD_BYTES_AUTHENTICATED = 26,
    BFD_VERSION = 1,
    BFD_CLASS = 0xc0, /* of service: network control */
    IPV4_BYTES = 20,
    IPV6_BYTES = 40,
    UDP_BYTES = 8,
};

enum bfd_flag {
    BFD_POLL = 0x20,
    BFD_FINAL = 0x10,
    BFD_INDEPENDENT = 0x08, /* does not share fate with a control plane */
    BFD_AUTHENTICATED = 0x04,
    BFD_DEMAND = 0x02,
    BFD_MULTIPOINT = 0x01,
};

struct bfd_packet {
    __u8 version; /* 3 bits; diagnostic, 5 */
    __u8 flags;   /* state, 2 bits; enum bfd_flag */
    __u8 multiplier;
    __u8 length;
    __be32 my_discriminator;
    __be32 your_discriminator;
    __be32 min_tx_us;
    __be32 min_rx_us;
    __be32 min_echo_rx_us;
};

/* A datagram to one of BFD's ports. */
struct bfd_arrival {
    struct abi_addr from, to;
    struct bfd_packet packet; /* only if `whole` */
    __u32 payload_bytes;
    __u8 hops;
    bool multihop;
    bool whole;
};

INLINE __u32 bfd_packet_state(const struct bfd_packet *p)
{
    return p->flags >> 6;
}

/* The checks of RFC 5880, 6.8.6 that need no session. */
INLINE bool bfd_packet_valid(const struct bfd_packet *p, __u32 payload_bytes)
{
    if (p->version >> 5 != BFD_VERSION || p->multiplier == 0 || (p->flags & BFD_MULTIPOINT))
        return false;
    if (p->length < (p->flags & BFD_AUTHENTICATED ? BFD_BYTES_AUTHENTICATED : BFD_BYTES))
        return false;
    if (p->length > payload_bytes || p->my_discriminator == 0)
        return false;
    return p->your_discriminator != 0 || bfd_packet_state(p) <= ABI_BFD_DOWN;
}

INLINE bool bfd_load_udp(struct __sk_buff *skb, __u32 at, __u32 room, struct bfd_arrival *a)
{
    struct udphdr udp;
    if (bpf_skb_load_bytes(skb, at, &udp, sizeof(udp)))
        return false;
    if (udp.dest != bpf_htons(BFD_PORT) && udp.dest != bpf_htons(BFD_PORT_MULTIHOP))
        return false;
    a->multihop = udp.dest == bpf_htons(BFD_PORT_MULTIHOP);
    __u32 bytes = bpf_ntohs(udp.len);
    a->payload_bytes = bytes >= UDP_BYTES && bytes <= room ? bytes - UDP_BYTES : 0;
    a->whole = a->payload_bytes >= BFD_BYTES &&
               !bpf_skb_load_bytes(skb, at + UDP_BYTES, &a->packet, sizeof(a->packet));
    return true;
}

INLINE bool bfd_load_v4(struct __sk_buff *skb, struct bfd_arrival *a)
{
    struct iphdr ip;
    if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
        return false;
    if (ip.version != 4 || ip.ihl < 5 || ip.protocol != IPPROTO_UDP || (ip.frag_off & bpf_htons(0x3fff)))
        return false;
    __u32 bytes = bpf_ntohs(ip.tot_len), head = ip.ihl * 4;
    addr_set_v4(&a->from, ip.saddr);
    addr_set_v4(&a->to, ip.daddr);
    a->hops = ip.ttl;
    return bytes > head && bfd_load_udp(skb, ETH_HLEN + head, bytes - head, a);
}

INLINE bool bfd_load_v6(struct __sk_buff *skb, struct bfd_arrival *a)
{
    struct ipv6hdr ip;
    if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
        return false;
    if (ip.version != 6 || ip.nexthdr != IPPROTO_UDP)
        return false;
    __builtin_memcpy(&a->from, &ip.saddr, sizeof(a->from));
    __builtin_memcpy(&a->to, &ip.daddr, sizeof(a->to));
    a->hops = ip.hop_limit;
    return bfd_load_udp(skb, ETH_HLEN + IPV6_BYTES, bpf_ntohs(ip.payload_len), a);
}

/* False: not BFD. A BFD packet that is cut off has `whole` unset. */
INLINE bool bfd_load(struct __sk_buff *skb, struct bfd_arrival *a)
{
    if (skb->protocol == bpf_htons(ETH_P_IP))
        return bfd_load_v4(skb, a);
    return skb->protocol == bpf_htons(ETH_P_IPV6) && bfd_load_v6(skb, a);
}

/* Whole frames. The padding in front keeps what the checksums run over aligned to four bytes. */
struct bfd_frame_v4 {
    __u16 pad;
    struct ethhdr eth;
    struct iphdr ip;
    struct udphdr udp;
    struct bfd_packet bfd;
};

struct bfd_frame_v6 {
    __u16 pad;
    struct ethhdr eth;
    struct ipv6hdr ip;
    struct udphdr udp;
    struct bfd_packet bfd;
};

enum {
    BFD_FRAME_V4 = ETH_HLEN + IPV4_BYTES + UDP_BYTES + BFD_BYTES,
    BFD_FRAME_V6 = ETH_HLEN + IPV6_BYTES + UDP_BYTES + BFD_BYTES,
};

struct bfd_pseudo {
    struct abi_addr from, to; /* an IPv4 address: its last word, the others 0 */
    __be32 bytes;
    __be32 protocol;
};

INLINE __u16 csum_fold(__u64 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

/* Fills in the ports, length and checksum of `udp`, behind which `bfd` follows. */
INLINE void bfd_fill_udp(struct udphdr *udp, struct bfd_pseudo *pseudo, __be16 from_port, bool multihop)
{
    udp->source = from_port;
    udp->dest = multihop ? bpf_htons(BFD_PORT_MULTIHOP) : bpf_htons(BFD_PORT);
    udp->len = bpf_htons(UDP_BYTES + BFD_BYTES);
    udp->check = 0;
    pseudo->bytes = bpf_htonl(UDP_BYTES + BFD_BYTES);
    pseudo->protocol = bpf_htonl(IPPROTO_UDP);
    __s64 sum = bpf_csum_diff(0, 0, (__be32 *)pseudo, sizeof(*pseudo), 0);
    sum = bpf_csum_diff(0, 0, (__be32 *)udp, UDP_BYTES + BFD_BYTES, sum);
    udp->check = csum_fold(sum);
    if (!udp->check)
        udp->check = 0xffff;
}

/* Makes the skb of the clock this packet: link addresses are the router's business (`fan`). */
INLINE long bfd_store_v4(struct __sk_buff *skb, const struct abi_peer *peer, const struct bfd_packet *p)
{
    struct bfd_frame_v4 f = {};
    struct bfd_pseudo pseudo = {};
    f.eth.h_proto = bpf_htons(ETH_P_IP);
    f.ip.version = 4;
    f.ip.ihl = 5;
    f.ip.tos = BFD_CLASS;
    f.ip.tot_len = bpf_htons(BFD_FRAME_V4 - ETH_HLEN);
    f.ip.frag_off = bpf_htons(0x4000);
    f.ip.ttl = BFD_HOPS;
    f.ip.protocol = IPPROTO_UDP;
    f.ip.saddr = peer->source.word[3];
    f.ip.daddr = peer->addr.word[3];
    f.ip.check = csum_fold(bpf_csum_diff(0, 0, (__be32 *)&f.ip, sizeof(f.ip), 0));
    f.bfd = *p;
    pseudo.from.word[3] = f.ip.saddr;
    pseudo.to.word[3] = f.ip.daddr;
    bfd_fill_udp(&f.udp, &pseudo, peer->source_port, peer->flags & ABI_PEER_MULTIHOP);
    long err = bpf_skb_change_tail(skb, BFD_FRAME_V4, 0);
    return err ? err : bpf_skb_store_bytes(skb, 0, &f.eth, BFD_FRAME_V4, 0);
}

INLINE long bfd_store_v6(struct __sk_buff *skb, const struct abi_peer *peer, const struct bfd_packet *p)
{
    struct bfd_frame_v6 f = {};
    struct bfd_pseudo pseudo = {};
    f.eth.h_proto = bpf_htons(ETH_P_IPV6);
    f.ip.version = 6;
    f.ip.priority = BFD_CLASS >> 4;
    f.ip.payload_len = bpf_htons(UDP_BYTES + BFD_BYTES);
    f.ip.nexthdr = IPPROTO_UDP;
    f.ip.hop_limit = BFD_HOPS;
    __builtin_memcpy(&f.ip.saddr, &peer->source, sizeof(f.ip.saddr));
    __builtin_memcpy(&f.ip.daddr, &peer->addr, sizeof(f.ip.daddr));
    f.bfd = *p;
    pseudo.from = peer->source;
    pseudo.to = peer->addr;
    bfd_fill_udp(&f.udp, &pseudo, peer->source_port, peer->flags & ABI_PEER_MULTIHOP);
    long err = bpf_skb_change_tail(skb, BFD_FRAME_V6, 0);
    return err ? err : bpf_skb_store_bytes(skb, 0, &f.eth, BFD_FRAME_V6, 0);
}

#endif
