/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The edge's short cut on devices whose driver runs XDP programs itself: packets of established flows are
 * forwarded before the kernel makes a socket buffer of them. All that needs more than that is left to `edge`,
 * the tc program on the same device, which makes the flows too.
 *
 * It changes checksums by their differences and takes them to be complete, as a wire carries them. Packets
 * that the same machine sent over a veth are not: there tc alone is right.
 */
#include "common.h"
#include "edge_maps.h"
#include "edge_flow.h"
#include "parse.h"

char LICENSE[] SEC("license") = "GPL";

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1024);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct abi_edge_link);
} edge_links SEC(".maps");

/* Headers of a packet without IPv4 options or IPv6 extension headers. */
struct frame {
    struct ethhdr *ethernet;
    struct iphdr *ip4; /* one of them */
    struct ipv6hdr *ip6;
    struct tcphdr *tcp;
    bool v4;
    __u32 bytes; /* of IP, as its header says */
};

INLINE bool frame_read4(struct frame *f, void *end, struct abi_flow_key *key)
{
    f->ip4 = (void *)(f->ethernet + 1);
    f->tcp = (void *)(f->ip4 + 1);
    if ((void *)(f->tcp + 1) > end)
        return false;
    if (f->ip4->version != 4 || f->ip4->ihl != 5 || f->ip4->protocol != PARSE_TCP || f->ip4->ttl <= 1)
        return false;
    if (f->ip4->frag_off & bpf_htons(PARSE_IP_MF | PARSE_IP_OFFSET))
        return false;
    f->bytes = bpf_ntohs(f->ip4->tot_len);
    addr_set_v4(&key->source, f->ip4->saddr);
    addr_set_v4(&key->target, f->ip4->daddr);
    return true;
}

INLINE bool frame_read6(struct frame *f, void *end, struct abi_flow_key *key)
{
    f->ip6 = (void *)(f->ethernet + 1);
    f->tcp = (void *)(f->ip6 + 1);
    if ((void *)(f->tcp + 1) > end)
        return false;
    if (f->ip6->version != 6 || f->ip6->nexthdr != PARSE_TCP || f->ip6->hop_limit <= 1)
        return false;
    f->bytes = bpf_ntohs(f->ip6->payload_len) + PARSE_IP6_MIN;
    __builtin_memcpy(&key->source, &f->ip6->saddr, 16);
    __builtin_memcpy(&key->target, &f->ip6->daddr, 16);
    return !addr_is_v4(&key->source) && !addr_is_v4(&key->target);
}

/* False: nothing for a short cut. */
INLINE bool frame_read(struct xdp_md *context, bool v4, struct frame *f, struct abi_flow_key *key)
{
    void *end = PARSE_CONTEXT(context, data_end);
    f->v4 = v4;
    f->ethernet = PARSE_CONTEXT(context, data);
    if (v4 ? !frame_read4(f, end, key) : !frame_read6(f, end, key))
        return false;
    key->source_port = f->tcp->source;
    key->target_port = f->tcp->dest;
    return !(((__u8 *)f->tcp)[13] & (TCP_SYN | TCP_FIN | TCP_RST));
}

INLINE bool frame_is_for(const struct frame *f, const struct abi_edge_link *link)
{
    if (!link)
        return false;
    const __u16 *a = (const __u16 *)f->ethernet->h_dest, *b = (const __u16 *)link->mac;
    return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

INLINE bool flow_is_plain(const struct abi_flow *f, __u32 bytes)
{
    return !flow_path_old(f) && bytes <= f->mtu_bytes && !(f->flags & ABI_FLOW_LOCAL) &&
           (f->flags & ABI_FLOW_BACK || !flow_backend_down(f));
}

/* The link addresses; the route is asked again with each packet, as they come with it. */
INLINE bool frame_link(struct xdp_md *context, const struct frame *frame, const struct abi_flow *f,
                       struct bpf_fib_lookup *fib)
{
    const struct abi_addr *to = f->mode == ABI_EDGE_DSR ? &f->hop : &f->target;
    fib->ifindex = context->ingress_ifindex;
    fib->l4_protocol = PARSE_TCP;
    if (frame->v4) {
        fib->family = AF_INET;
        fib->ipv4_src = f->source.word[3];
        fib->ipv4_dst = to->word[3];
    } else {
        fib->family = AF_INET6;
        __builtin_memcpy(fib->ipv6_src, &f->source, 16);
        __builtin_memcpy(fib->ipv6_dst, to, 16);
    }
    if (bpf_fib_lookup(context, fib, sizeof(*fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
        return false;
    const struct abi_edge_link *out = bpf_map_lookup_elem(&edge_links, &fib->ifindex);
    return out && out->sends;
}

INLINE __u16 frame_check(__u16 check, __u32 a, __u32 b)
{
    __u32 sum = (__u16)~check + (a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

INLINE void frame_rewrite(struct frame *frame, const struct abi_flow_key *key, const struct abi_flow *f,
                          const struct bpf_fib_lookup *fib)
{
    if (frame->v4) {
        frame->ip4->check = frame_check(frame->ip4->check, f->addr_diff, (__u16)~bpf_htons(0x100));
        frame->ip4->ttl--;
        frame->ip4->saddr = f->source4;
        frame->ip4->daddr = f->target4;
    } else {
        frame->ip6->hop_limit--;
        __builtin_memcpy(&frame->ip6->saddr, &f->source, 16);
        __builtin_memcpy(&frame->ip6->daddr, &f->target, 16);
    }
    frame->tcp->check = frame_check(frame->tcp->check, f->addr_diff, flow_port_diff(key, f));
    frame->tcp->source = f->source_port;
    frame->tcp->dest = f->target_port;
    __builtin_memcpy(frame->ethernet->h_dest, fib->dmac, 6);
    __builtin_memcpy(frame->ethernet->h_source, fib->smac, 6);
}

INLINE int frame_forward(struct xdp_md *context, bool v4)
{
    struct abi_flow_key key = {};
    struct frame frame = {};
    struct bpf_fib_lookup fib = {};
    __u32 here = context->ingress_ifindex;
    if (!frame_read(context, v4, &frame, &key))
        return XDP_PASS;
    struct abi_flow *f = bpf_map_lookup_elem(&flows, &key);
    if (!f || !flow_is_plain(f, frame.bytes) ||
        !frame_is_for(&frame, bpf_map_lookup_elem(&edge_links, &here)))
        return XDP_PASS;
    if (!frame_link(context, &frame, f, &fib))
        return XDP_PASS;
    frame_rewrite(&frame, &key, f, &fib);
    edge_count_packet(f, frame.bytes + PARSE_L3);
    return bpf_redirect(fib.ifindex, 0);
}

SEC("xdp")
int edge_xdp(struct xdp_md *context)
{
    struct ethhdr *ethernet = PARSE_CONTEXT(context, data);
    if ((void *)(ethernet + 1) > PARSE_CONTEXT(context, data_end))
        return XDP_PASS;
    if (ethernet->h_proto == bpf_htons(ETH_P_IP))
        return frame_forward(context, true);
    return ethernet->h_proto == bpf_htons(ETH_P_IPV6) ? frame_forward(context, false) : XDP_PASS;
}
