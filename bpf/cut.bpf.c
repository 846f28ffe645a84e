/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Ends connections that are stuck on a backend that is down: the next segment or retransmission that this
 * host sends there is not sent, but answered by a reset. On the egress of the devices towards backends.
 */
#include "common.h"
#include "maps.h"
#include "sockets.h"
#include "verdict.h"

char LICENSE[] SEC("license") = "GPL";

enum {
    LOOPBACK_IFINDEX = 1, /* a packet from there, with its route forgotten, would be a martian */
    SAME_ENDPOINT_WALK = ABI_SERVICES_MAX,
    RESET_TTL = 64,
    IP4_PLAIN = 0x45, /* version 4, no options */
    IP6_PLAIN = 0x60,
    TCP_FIN = 0x0001,
    TCP_SYN = 0x0002,
    TCP_RST = 0x0004,
    TCP_ACK = 0x0010,
};

/* As on the wire: the kernel's own type has bit-fields whose names changed. */
struct tcp {
    __be16 source, dest;
    __be32 seq, ack_seq;
    __be16 offset_and_flags;
    __be16 window;
    __sum16 check;
    __be16 urgent;
};
enum { TCP_BYTES = sizeof(struct tcp) };

/* A segment of this host to a backend, without IP options or extension headers. */
struct segment {
    struct abi_endpoint to;
    __u32 ip_bytes; /* of the IP header */
    __u32 bytes;    /* of sequence space */
    struct ethhdr eth;
    struct tcp tcp;
};

struct pseudo4 {
    __be32 from, to;
    __be32 protocol_and_length;
};

struct pseudo6 {
    struct abi_addr from, to;
    __be32 length;
    __be32 protocol;
};

INLINE bool read_ip4(struct __sk_buff *skb, struct segment *s)
{
    struct iphdr ip;
    if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
        return false;
    if (*(__u8 *)&ip != IP4_PLAIN || ip.protocol != IPPROTO_TCP)
        return false;
    addr_set_v4(&s->to.addr, ip.daddr);
    s->ip_bytes = sizeof(ip);
    return bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), &s->tcp, sizeof(s->tcp)) == 0;
}

INLINE bool read_ip6(struct __sk_buff *skb, struct segment *s)
{
    struct ipv6hdr ip;
    if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
        return false;
    if ((*(__u8 *)&ip & 0xf0) != IP6_PLAIN || ip.nexthdr != IPPROTO_TCP)
        return false;
    __builtin_memcpy(&s->to.addr, &ip.daddr, sizeof(s->to.addr));
    s->ip_bytes = sizeof(ip);
    return bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), &s->tcp, sizeof(s->tcp)) == 0;
}

/* False: not TCP, or not plain. */
INLINE bool read_segment(struct __sk_buff *skb, struct segment *s)
{
    bool read = false;
    if (skb->protocol == bpf_htons(ETH_P_IP))
        read = read_ip4(skb, s);
    else if (skb->protocol == bpf_htons(ETH_P_IPV6))
        read = read_ip6(skb, s);
    s->to.port = s->tcp.dest;
    return read;
}

INLINE bool has(const struct segment *s, __u16 flag)
{
    return s->tcp.offset_and_flags & bpf_htons(flag);
}

/* What the reset acknowledges: all of the segment. */
INLINE bool measure(struct __sk_buff *skb, struct segment *s)
{
    __u32 tcp_bytes = (bpf_ntohs(s->tcp.offset_and_flags) >> 12) * 4;
    __u32 headers = ETH_HLEN + s->ip_bytes + tcp_bytes;
    if (skb->len < headers || tcp_bytes < TCP_BYTES)
        return false;
    s->bytes = skb->len - headers + has(s, TCP_FIN);
    return bpf_skb_load_bytes(skb, 0, &s->eth, sizeof(s->eth)) == 0;
}

/* A walk over the backends of one address; each service may have one there. */
struct walk {
    __u32 id; /* of this step; ABI_NO_BACKEND: the last one was down too */
    __u32 sequence;
};

static long down_step(__u32 i, struct walk *w)
{
    __u32 id = w->id;
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    const __u64 *verdict = bpf_map_lookup_elem(&verdicts, &id);
    if (!b || !verdict || !(b->flags & ABI_BACKEND_CUT))
        return 1;
    __u64 v = *(const volatile __u64 *)verdict;
    if (verdict_state(v, b) != ABI_DOWN)
        return 1;
    if (i == 0)
        w->sequence = ABI_VERDICT_SEQUENCE(v);
    w->id = b->next_same;
    return w->id == ABI_NO_BACKEND;
}

/* The verdict's sequence if the first backend at this address is down and so are all others there, and all
 * are to be cut; else 0. A down verdict has a sequence: unknown came before it. A packet says no more than
 * its address, so one that is up spares all; end_if_stuck has the connection's note, and asks for its backend
 * alone: the two are meant to differ. */
INLINE __u32 down_sequence(__u32 first)
{
    struct walk w = {.id = first};
    bpf_loop(SAME_ENDPOINT_WALK, down_step, &w, 0);
    return w.id == ABI_NO_BACKEND ? w.sequence : 0;
}

/* A forwarded packet is not ours to answer; a connection made when the backend was down already, by the same
 * verdict as now, is not stuck. */
INLINE bool is_own_and_stuck(struct __sk_buff *skb, __u32 sequence)
{
    struct bpf_sock *sk = skb->sk;
    if (!sk)
        return false;
    sk = bpf_sk_fullsock(sk);
    if (!sk)
        return false;
    struct socket_note *note = bpf_sk_storage_get(&sockets, sk, 0, 0);
    return !note || note->late != sequence;
}

/* Whether the checksum is left to the device: then the field holds that of the pseudo header alone, and the
 * kernel leaves it as it is when other bytes change. */
INLINE bool checksum_is_partial(struct __sk_buff *skb, const struct segment *s)
{
    __u32 offset = ETH_HLEN + s->ip_bytes + __builtin_offsetof(struct tcp, check);
    __sum16 after = s->tcp.check;
    if (bpf_l4_csum_replace(skb, offset, 0, 1, 2))
        return false;
    bpf_skb_load_bytes(skb, offset, &after, sizeof(after));
    return after == s->tcp.check;
}

INLINE __u16 fold(__u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    return sum + (sum >> 16);
}

INLINE void set_check(struct tcp *reset, __u32 pseudo_sum, bool partial)
{
    reset->check = 0;
    if (partial)
        reset->check = fold(pseudo_sum);
    else
        reset->check = ~fold(bpf_csum_diff(0, 0, (__be32 *)reset, TCP_BYTES, pseudo_sum));
}

/* From the backend, exactly where the socket awaits it (RFC 5961, 3.2). */
INLINE struct tcp reset_for(const struct segment *s)
{
    struct tcp reset = {
        .source = s->tcp.dest,
        .dest = s->tcp.source,
        .seq = s->tcp.ack_seq,
        .ack_seq = bpf_htonl(bpf_ntohl(s->tcp.seq) + s->bytes),
        .offset_and_flags = bpf_htons((TCP_BYTES / 4) << 12 | TCP_RST | TCP_ACK),
    };
    return reset;
}

INLINE long turn_ip4(struct __sk_buff *skb, struct tcp *reset, bool partial)
{
    struct iphdr ip;
    if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
        return -1;
    __be32 from = ip.daddr;
    ip.daddr = ip.saddr;
    ip.saddr = from;
    ip.tot_len = bpf_htons(sizeof(ip) + TCP_BYTES);
    ip.ttl = RESET_TTL;
    ip.frag_off = bpf_htons(0x4000);
    ip.check = 0;
    ip.check = ~fold(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
    struct pseudo4 pseudo = {ip.saddr, ip.daddr, bpf_htonl(IPPROTO_TCP << 16 | TCP_BYTES)};
    set_check(reset, bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0), partial);
    return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0) ||
           bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), reset, TCP_BYTES, 0);
}

INLINE long turn_ip6(struct __sk_buff *skb, struct tcp *reset, bool partial)
{
    struct ipv6hdr ip;
    if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
        return -1;
    struct in6_addr from = ip.daddr;
    ip.daddr = ip.saddr;
    ip.saddr = from;
    ip.payload_len = bpf_htons(TCP_BYTES);
    ip.hop_limit = RESET_TTL;
    struct pseudo6 pseudo = {.length = bpf_htonl(TCP_BYTES), .protocol = bpf_htonl(IPPROTO_TCP)};
    __builtin_memcpy(&pseudo.from, &ip.saddr, sizeof(pseudo.from));
    __builtin_memcpy(&pseudo.to, &ip.daddr, sizeof(pseudo.to));
    set_check(reset, bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0), partial);
    return bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0) ||
           bpf_skb_store_bytes(skb, ETH_HLEN + sizeof(ip), reset, TCP_BYTES, 0);
}

/* The segment becomes the reset that the backend would have sent. */
INLINE bool turn(struct __sk_buff *skb, const struct segment *s)
{
    struct tcp reset = reset_for(s);
    bool partial = checksum_is_partial(skb, s);
    if (bpf_skb_change_tail(skb, ETH_HLEN + s->ip_bytes + TCP_BYTES, 0))
        return false;
    struct ethhdr eth = s->eth;
    __builtin_memcpy(eth.h_dest, s->eth.h_source, sizeof(eth.h_dest));
    __builtin_memcpy(eth.h_source, s->eth.h_dest, sizeof(eth.h_source));
    if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0))
        return false;
    skb->mark = ABI_MARK;
    return (s->ip_bytes == sizeof(struct iphdr) ? turn_ip4(skb, &reset, partial)
                                                : turn_ip6(skb, &reset, partial)) == 0;
}

INLINE void count_cut(__u32 id)
{
    struct abi_backend_stats *stats = bpf_map_lookup_elem(&backend_stats, &id);
    if (stats)
        __sync_fetch_and_add(&stats->cuts, 1);
}

SEC("tc")
int cut_egress(struct __sk_buff *skb)
{
    struct segment s = {};
    /* What has no socket is forwarded: it must not cost a walk over the backends of its address. */
    if (skb->mark == ABI_MARK || skb->ifindex == LOOPBACK_IFINDEX || !skb->sk || !read_segment(skb, &s))
        return TC_ACT_UNSPEC;
    const struct abi_endpoint_backends *found = bpf_map_lookup_elem(&endpoints, &s.to);
    if (!found || has(&s, TCP_SYN) || has(&s, TCP_RST) || !has(&s, TCP_ACK))
        return TC_ACT_UNSPEC;
    __u32 first = found->first, sequence = down_sequence(first);
    if (!sequence || !measure(skb, &s))
        return TC_ACT_UNSPEC;
    if (!is_own_and_stuck(skb, sequence))
        return TC_ACT_UNSPEC;
    if (!turn(skb, &s))
        return TC_ACT_SHOT;
    count_cut(first);
    return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}
