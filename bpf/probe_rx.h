/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What `rx` makes of answers to probes, and of evidence in other connections.
 */
#ifndef FL_BPF_PROBE_RX_H
#define FL_BPF_PROBE_RX_H

#include "common.h"
#include "maps.h"
#include "suspicion.h"
#include "probe_judge.h"
#include "probe_packet.h"
#include "probe_search.h"
#include "probe_send.h"
#include "probe_fan.h"

enum {
    STATUS_BYTES = 12, /* HTTP/1.1 200 */
    /* At most one series of probes in this time, of an address: after evidence that is as good as certain,
     * after a reset, after an ordinary FIN: busy servers end connections all day, and their clients' refused
     * connections tell of their death. */
    CERTAIN_NS = 5000000,
    RESET_NS = 20000000,
    FIN_NS = 100000000,
};

INLINE bool tcp_concerns(const struct tcphdr *tcp)
{
    __u16 port = bpf_ntohs(tcp->dest) - ABI_PROBE_PORT_FIRST;
    return port < ABI_PROBE_PORTS || (((const __u8 *)tcp)[13] & (TCP_RST | TCP_FIN));
}

/* A quick look that lets most traffic go. True: a packet to be read, or one whose head is not in one piece.
 */
INLINE bool rx_concerns(struct __sk_buff *skb)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct iphdr *ip = data + PARSE_L3;
    struct ipv6hdr *ip6 = data + PARSE_L3;
    struct tcphdr *tcp = data + SEGMENT_V4, *tcp6 = data + SEGMENT_V6;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if ((void *)(ip + 1) > end)
            return true;
        return ip->protocol == PARSE_TCP && ((void *)(tcp + 1) > end || tcp_concerns(tcp));
    }
    if (skb->protocol != bpf_htons(ETH_P_IPV6))
        return false;
    if ((void *)(ip6 + 1) > end)
        return true;
    return ip6->nexthdr == PARSE_TCP && ((void *)(tcp6 + 1) > end || tcp_concerns(tcp6));
}

static long want_step(__u32 i, struct search *s)
{
    __u32 id = s->id;
    struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    struct abi_probe_state *st = bpf_map_lookup_elem(&probe_state, &id);
    if (!b || !st)
        return 1;
    if (!st->wanted)
        st->wanted = ABI_WANTED_PROBE;
    s->id = b->next_same;
    return s->id == ABI_NO_BACKEND;
}

/* Begins a series of probes of what is at the address that this packet comes from. `spacing_ns` bounds how
 * often; what comes too soon is left to the ticks. */
static __noinline int probe_now(struct __sk_buff *skb, __u32 first, __u64 spacing_ns)
{
    struct abi_node *n = node_get(&node);
    struct abi_probe_state *st = bpf_map_lookup_elem(&probe_state, &first);
    struct search w = {.id = first};
    if (!n || !st || !(n->flags & ABI_NODE_PROBES) || !n->out_ifindex)
        return 0;
    __u64 now = bpf_ktime_get_ns(), last = st->urgent_ns;
    if (now < last + spacing_ns || __sync_val_compare_and_swap(&st->urgent_ns, last, now) != last)
        return 0;
    st->series = n->pace_ifindex ? SERIES_PROBES : 0;
    bpf_loop(SAME_ENDPOINT_WALK, want_step, &w, 0);
    __u32 mark = skb->mark;
    skb->mark = ABI_MARK | ABI_FAN_PROBE;
    bpf_clone_redirect(skb, n->out_ifindex, 0);
    skb->mark = mark;
    return 0;
}

/* Gives the packet to `fan`, which makes the answer of it. */
INLINE int hand_over(struct __sk_buff *skb, const struct abi_node *n, const struct segment *s, __u32 order)
{
    __u32 bytes = segment_head_bytes(s);
    if (skb->len > bytes && bpf_skb_change_tail(skb, bytes, 0))
        return TC_ACT_SHOT;
    skb->mark = ABI_MARK | order;
    return bpf_redirect(n->out_ifindex, 0);
}

/* The status in "HTTP/1.1 200", 0: it is no such thing. */
INLINE __u32 http_status(struct __sk_buff *skb, const struct segment *s)
{
    char h[STATUS_BYTES];
    if (s->payload_bytes < STATUS_BYTES || bpf_skb_load_bytes(skb, s->payload, h, sizeof(h)))
        return 0;
    if (h[0] != 'H' || h[1] != 'T' || h[2] != 'T' || h[3] != 'P' || h[4] != '/' || h[5] != '1' || h[6] != '.')
        return 0;
    if (h[8] != ' ' || h[9] < '1' || h[9] > '5' || h[10] < '0' || h[10] > '9' || h[11] < '0' || h[11] > '9')
        return 0;
    return (h[9] - '0') * 100 + (h[10] - '0') * 10 + (h[11] - '0');
}

INLINE bool status_expected(const struct abi_check *c, __u32 status)
{
    __u32 bit = status - 100;
    if (bit >= 512)
        return false;
    return c->statuses[bit / 64 & 7] >> (bit & 63) & 1;
}

/* A segment of the HTTP check's connection, after its SYN was answered. */
INLINE int rx_http(struct __sk_buff *skb, const struct abi_node *n, const struct segment *s,
                   struct checkup *p)
{
    struct abi_probe_state *st = p->state;
    bool first = s->sequence == st->http_sequence;
    if (!st->http.sent_ns)
        return hand_over(skb, n, s, ABI_FAN_RESET);
    if (!st->http.accepted || !first || (!s->payload_bytes && !(s->flags & TCP_FIN)))
        return TC_ACT_SHOT; /* an acknowledgement, or what comes before its turn: it will come again */
    __u64 sent_ns = shot_claim(&st->http);
    if (!sent_ns)
        return hand_over(skb, n, s, ABI_FAN_RESET);
    __u32 status = http_status(skb, s);
    st->status = status;
    if (status_expected(p->check, status))
        judge_http_good(p, sent_ns);
    else
        judge_http_bad(p, status ? ABI_HTTP_STATUS : ABI_HTTP_INVALID);
    return hand_over(skb, n, s, ABI_FAN_RESET);
}

INLINE int rx_syn_ack(struct __sk_buff *skb, const struct abi_node *n, const struct segment *s,
                      struct checkup *p, int found)
{
    struct abi_probe_state *st = p->state;
    if (found != FOUND_HTTP) {
        judge_syn_ack(p, shot_claim(&st->tcp[found & (ABI_PROBE_SHOTS - 1)]));
        return hand_over(skb, n, s, ABI_FAN_RESET);
    }
    if (!st->http.sent_ns)
        return hand_over(skb, n, s, ABI_FAN_RESET);
    st->http_sequence = s->sequence + 1;
    st->http.accepted = 1;
    st->misses = 0;
    return hand_over(skb, n, s, ABI_FAN_REQUEST);
}

/* Nothing listens at the address: that is so for each backend there. */
static long refuse_step(__u32 i, struct search *s)
{
    struct checkup p;
    if (!probe_get(&p, s->id))
        return 1;
    p.now = bpf_ktime_get_ns();
    judge_refused(&p);
    s->id = p.backend->next_same;
    return s->id == ABI_NO_BACKEND;
}

/* A reset ends a probe: its SYN was refused, or the HTTP check's connection broke, which says less. A reset
 * that comes late says nothing about now. */
INLINE int rx_reset(struct __sk_buff *skb, struct checkup *p, int found, __u32 first)
{
    struct abi_probe_state *st = p->state;
    bool http = found == FOUND_HTTP;
    if (!shot_claim(http ? &st->http : &st->tcp[found & (ABI_PROBE_SHOTS - 1)]))
        return TC_ACT_SHOT;
    if (!http || !st->http.accepted) {
        struct search w = {.id = first};
        __sync_fetch_and_add(&st->refusals, 1);
        bpf_loop(SAME_ENDPOINT_WALK, refuse_step, &w, 0);
        return TC_ACT_SHOT;
    }
    judge_http_bad(p, ABI_RESET);
    st->wanted = ABI_WANTED_HTTP;
    probe_now(skb, first, CERTAIN_NS);
    return TC_ACT_SHOT;
}

/* A segment to a port of probes, from a backend's address. What answers a probe that is forgotten ends its
 * connection. What answers none may be of a connection that another made (a NAT heeds no reserved ports): the
 * stack knows what to do with it. Only what is for `inner`, which nobody has, is ended here, or dropped. */
static __noinline int rx_answer(struct __sk_buff *skb, struct segment *s)
{
    struct abi_node *n = node_get(&node);
    struct search w;
    struct checkup p;
    struct abi_addr source;
    if (!n || !s || !n->out_ifindex)
        return TC_ACT_UNSPEC;
    __u32 first = first_backend(s);
    if (first == ABI_NO_BACKEND || !probe_get(&p, first))
        return TC_ACT_UNSPEC;
    probe_source(n, p.backend, &source);
    if (!addr_equal(&source, &s->target))
        return TC_ACT_UNSPEC; /* another host's */
    search_init(&w, s, first);
    search_run(&w, first);
    if (w.found != FOUND_NOT && probe_get(&p, w.id)) {
        p.now = bpf_ktime_get_ns();
        if (s->flags & TCP_RST)
            return rx_reset(skb, &p, w.found, first);
        if (s->flags & TCP_SYN)
            return rx_syn_ack(skb, n, s, &p, w.found);
        if (w.found == FOUND_HTTP)
            return rx_http(skb, n, s, &p);
    }
    if (!is_inner(n, &s->target) && !search_own(&w, first))
        return TC_ACT_UNSPEC;
    if ((s->flags & TCP_RST) || !(s->flags & TCP_ACK))
        return TC_ACT_SHOT;
    return hand_over(skb, n, s, ABI_FAN_RESET);
}

/* A RST or FIN in a connection to a backend: whoever sent it, a probe will tell. */
static __noinline int rx_evidence(struct __sk_buff *skb, struct segment *s)
{
    struct abi_node *n = node_get(&node);
    if (!n || !s || !(n->flags & ABI_NODE_PROBES))
        return TC_ACT_UNSPEC;
    __u32 first = first_backend(s);
    if (first == ABI_NO_BACKEND)
        return TC_ACT_UNSPEC;
    __u16 port = bpf_ntohs(s->target_port) - ABI_CANARY_PORT_FIRST;
    bool reset = s->flags & TCP_RST, refused = reset && (s->flags & TCP_ACK) && !s->sequence;
    bool certain = refused || port < ABI_CANARY_PORTS;
    if (certain)
        suspect(first, refused ? ABI_REFUSED : ABI_CANARY);
    probe_now(skb, first, certain ? CERTAIN_NS : reset ? RESET_NS : FIN_NS);
    return TC_ACT_UNSPEC;
}

#endif
