/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Probes of backends, made and judged in the kernel (control/kernel_clock.h makes the devices):
 *
 * - tick, ingress of the clock's device. Each packet there is a tick: it becomes the SYN of each backend that
 * is due (probe_plan), clones of which go out of node.out_ifindex. It returns TC_ACT_UNSPEC: other objects
 * send with the same tick, by filters with later priorities. What the skb holds then is of no meaning: each
 * makes of it what it wants, and needs the mark ABI_MARK on what it clones.
 * - fan, ingress of the other end of that pair. There the skb has the right protocol, and no checksum that a
 *   device would fill in, so packets are made and routed here: over a neighbour, or to this host's own stack
 * if they come from node.inner. The mark's low bits say what to do (enum abi_fan_order). It is also where
 * packets arrive that went out of node.pace_ifindex: probes that follow each other faster than the clock.
 * - rx, ingress of the devices that backends are behind, and of the out device for backends on this host.
 * Takes the answers to probes. A RST or FIN in other connections is evidence: that backend is probed at once,
 * and suspect if the packet says so much. Nothing here trusts a packet: an answer must acknowledge the random
 *   sequence number of its probe, evidence leads to a probe.
 * - a timer for each class judges its probes when their time is up (probe_judge.h).
 * - feed, which control runs: verdicts of a manager (feed.h).
 *
 * Packets are made only in the first two; rx hands what it takes to `fan` by its mark. L3 devices (without
 * Ethernet headers), IP options and extension headers are left alone.
 */
#include "common.h"
#include "maps.h"
#include "clock.h"
#include "probe_tick.h"
#include "probe_fan.h"
#include "probe_rx.h"

char LICENSE[] SEC("license") = "GPL";

enum { MARK_OURS = 0xfff, MARK_ORDER = 0xf }; /* of the mark: enum abi_fan_order, and rounds of FAN_PROBE */

SEC("tc")
int tick(struct __sk_buff *skb)
{
    __u32 zero = 0;
    struct abi_node *n = node_get(&node);
    struct abi_tick_state *t = bpf_map_lookup_elem(&tick_state, &zero);
    if (!n || !t || !n->out_ifindex || !n->tick_ns)
        return TC_ACT_SHOT;
    /* Whatever becomes of it, this host's stack shall not take it. */
    bpf_skb_change_type(skb, PACKET_OTHERHOST);
    if (!tick_begin(skb, n, t, bpf_ktime_get_ns()))
        return TC_ACT_SHOT;
    if (n->flags & ABI_NODE_PROBES)
        send_probes(skb, t);
    return TC_ACT_UNSPEC;
}

SEC("tc")
int feed(struct __sk_buff *skb)
{
    feed_take(skb);
    return TC_ACT_SHOT;
}

SEC("tc")
int fan(struct __sk_buff *skb)
{
    __u32 zero = 0, order = skb->mark & MARK_ORDER;
    struct abi_tick_state *t = bpf_map_lookup_elem(&tick_state, &zero);
    long error = 0;
    if (!t || (skb->mark & ~MARK_OURS) != ABI_MARK)
        return TC_ACT_SHOT;
    t->fan_ns = bpf_ktime_get_ns();
    if (order == ABI_FAN_MORE) {
        send_chunk(skb);
        return TC_ACT_SHOT;
    }
    if (order == ABI_FAN_PROBE)
        error = fan_probe(skb);
    else if (order == ABI_FAN_SERIES)
        error = fan_series(skb);
    else if (order == ABI_FAN_RESET)
        error = fan_reset(skb);
    else if (order == ABI_FAN_REQUEST)
        error = fan_request(skb);
    if (error)
        return TC_ACT_SHOT;
    skb->mark = ABI_MARK | ABI_FAN_SEND;
    return route(skb);
}

SEC("tc")
int rx(struct __sk_buff *skb)
{
    struct abi_node *n = node_get(&node);
    struct segment s;
    if (!n || skb->vlan_present)
        return TC_ACT_UNSPEC; /* the VLAN's device sees it again */
    clock_kick(skb, n, bpf_ktime_get_coarse_ns());
    if (!rx_concerns(skb) || !segment_read(skb, &s))
        return TC_ACT_UNSPEC;
    __u16 port = bpf_ntohs(s.target_port) - ABI_PROBE_PORT_FIRST;
    if (port < ABI_PROBE_PORTS)
        return rx_answer(skb, &s);
    if (s.flags & (TCP_RST | TCP_FIN))
        return rx_evidence(skb, &s);
    return TC_ACT_UNSPEC;
}
