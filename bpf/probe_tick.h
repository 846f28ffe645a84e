/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a tick does: whether it is one, the token that makes the next, the probes that are due, and the timers
 * that judge them.
 */
#ifndef FL_BPF_PROBE_TICK_H
#define FL_BPF_PROBE_TICK_H

#include "common.h"
#include "maps.h"
#include "probe_judge.h"
#include "probe_packet.h"
#include "probe_send.h"
#include "suspicion.h"

enum {
    CLOCK_MONOTONIC = 1,
    CHUNK = 256,      /* probes made in a row: the out device's queue is short */
    TOKEN_BYTES = 60, /* of Ethernet: the token bucket is made for this (kernel_clock.c) */
    ARP_ETHERNET = 1,
    ARP_REQUEST = 1,
    ARP_REPLY = 2,
    ARP_OP_OFFSET = 20,
    EARLY_PARTS = 4, /* a tick within a quarter of the period is too early */
    EARLY_MAX = 3,   /* as many in a row let the token live */
    TOKEN_LOST_TICKS = 2,
    LATE_TICKS = 2,     /* a tick that comes later than so many periods ... */
    LATE_NS = 10000000, /* ... and this is late: jiffies, and what a busy host does */
    WANTED_PER_TICK = 64,
};

/* The index is masked where it is used: one whose address was taken has no bounds for the verifier. */
INLINE const struct abi_probe_class *class_at(const struct abi_probe_plan *plan, __u32 c)
{
    return &plan->class[c & (ABI_PROBE_CLASSES - 1)];
}

/* One class: what is left of it in this tick, and the timer that judges what was sent. Pinned, as timers live
 * as long as their map. */
struct probe_batch {
    struct bpf_timer timer;
    __u32 cursor; /* the next one of the class */
    __u32 credit; /* parts of a probe that ticks have not made yet: the class's divisor makes one */
    __u32 start;  /* of this tick's probes in the class */
    __u32 count;  /* sent so far */
    __u32 left;   /* to be sent */
    __u32 due_us;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, ABI_PROBE_CLASSES);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(key, __u32);
    __type(value, struct probe_batch);
} probe_batches SEC(".maps");

struct tick_round {
    struct __sk_buff *skb;
    __u64 slack_ns;
    __u32 room; /* probes that may still be made */
    __u32 rotate;
    __u32 unfinished;
    bool fed; /* there is a manager to go by */
};

struct class_walk {
    struct tick_round *round;
    __u32 first; /* in probe_order */
    __u32 count;
    __u32 at;
    __u32 due_us;
};

/* False: it did not leave. */
static __noinline int send_shot(struct __sk_buff *skb, struct checkup *p, __u32 is_http)
{
    struct abi_node *n = node_get(&node);
    struct segment s;
    if (!p || !n || !p->backend || !p->state || !p->clock)
        return 0;
    struct abi_probe_shot *shot = is_http ? &p->state->http : next_shot(p->state);
    if (!shot)
        return 0;
    shot_begin(p, shot, n, &s);
    if (segment_write(skb, &s) || bpf_clone_redirect(skb, n->out_ifindex, 0)) {
        shot->sent_ns = 0;
        shot->used = 0;
        __sync_fetch_and_add(&p->clock->errors, 1);
        return 0;
    }
    __sync_fetch_and_add(is_http ? &p->state->http_probes : &p->state->probes, 1);
    return 1;
}

/* Returns the time limit of what was sent, 0: nothing was. */
INLINE __u32 visit(struct __sk_buff *skb, __u32 id, __u64 slack_ns, bool fed)
{
    struct checkup p;
    if (!probe_get(&p, id))
        return 0;
    p.now = bpf_ktime_get_ns();
    if (p.state->generation != p.backend->generation)
        probe_renew(&p);
    judge_shots(id, ~0ull);
    judge_http_time(&p, slack_ns);
    if (!probe_due(&p, fed))
        return 0;
    bool http = http_due(&p, slack_ns);
    p.state->wanted = ABI_WANTED_NOT;
    send_shot(skb, &p, 0);
    if (http) {
        p.state->http_sent_ns = p.now;
        send_shot(skb, &p, 1);
    }
    return p.check->timeout_us;
}

static long visit_step(__u32 i, struct class_walk *w)
{
    __u32 slot = w->first + w->at;
    __u32 *listed = bpf_map_lookup_elem(&probe_order, &slot);
    if (++w->at >= w->count)
        w->at = 0;
    if (!listed)
        return 0;
    __u32 timeout_us = visit(w->round->skb, *listed, w->round->slack_ns, w->round->fed);
    if (timeout_us && (!w->due_us || timeout_us < w->due_us))
        w->due_us = timeout_us;
    return 0;
}

/* The judge. */

struct judge_walk {
    __u32 first;
    __u32 count;
    __u32 at;
    __u64 late_ns;
    __u64 left_ns;
};

static long judge_step(__u32 i, struct judge_walk *w)
{
    struct checkup p;
    __u32 slot = w->first + w->at;
    __u32 *listed = bpf_map_lookup_elem(&probe_order, &slot);
    if (++w->at >= w->count)
        w->at = 0;
    if (!listed || !probe_get(&p, *listed) || p.state->generation != p.backend->generation)
        return 0;
    __u64 left_ns = judge_shots(*listed, w->late_ns);
    if (left_ns && (!w->left_ns || left_ns < w->left_ns))
        w->left_ns = left_ns;
    return 0;
}

INLINE __u64 tick_limit_ns(const struct abi_node *n)
{
    return LATE_TICKS * n->tick_ns + LATE_NS;
}

/* While the clock is late it is left to the next tick to judge: answers may wait as it does. */
INLINE bool clock_late(const struct abi_node *n)
{
    __u32 zero = 0;
    const struct abi_tick_state *t = bpf_map_lookup_elem(&tick_state, &zero);
    return t && bpf_ktime_get_ns() > t->last_ns + tick_limit_ns(n);
}

static int judge_fired(void *map, __u32 *key, struct probe_batch *batch)
{
    __u32 zero = 0, c = *key;
    struct abi_node *n = node_get(&node);
    struct abi_probe_plan *plan = bpf_map_lookup_elem(&probe_plan, &zero);
    if (!n || !plan || clock_late(n))
        return 0;
    struct judge_walk w = {.first = class_at(plan, c)->first,
                           .count = class_at(plan, c)->count,
                           .at = batch->start,
                           .late_ns = n->stale_ns};
    __u32 count = batch->count;
    if (w.at >= w.count)
        return 0; /* the plan has changed */
    bpf_loop(count < ABI_PROBES_PER_TICK_MAX ? count : ABI_PROBES_PER_TICK_MAX, judge_step, &w, 0);
    if (w.left_ns)
        bpf_timer_start(&batch->timer, w.left_ns, 0);
    return 0;
}

/* The visit after next judges what the timer cannot. */
INLINE void judge_arm(struct probe_batch *batch)
{
    if (!batch->due_us)
        return;
    bpf_timer_init(&batch->timer, &probe_batches, CLOCK_MONOTONIC);
    bpf_timer_set_callback(&batch->timer, judge_fired);
    bpf_timer_start(&batch->timer, (__u64)batch->due_us * NS_PER_US, 0);
}

/* Classes. */

static long class_step(__u32 i, struct tick_round *r)
{
    __u32 zero = 0, c = (i + r->rotate) & (ABI_PROBE_CLASSES - 1);
    struct abi_probe_plan *plan = bpf_map_lookup_elem(&probe_plan, &zero);
    struct probe_batch *batch = bpf_map_lookup_elem(&probe_batches, &c);
    if (!plan || !batch || !batch->left)
        return 0;
    __u32 now_count = batch->left < r->room ? batch->left : r->room;
    struct class_walk w = {.round = r,
                           .first = class_at(plan, c)->first,
                           .count = class_at(plan, c)->count,
                           .at = batch->cursor,
                           .due_us = batch->due_us};
    if (w.at >= w.count)
        w.at = 0;
    if (!batch->count)
        batch->start = w.at;
    bpf_loop(now_count, visit_step, &w, 0);
    batch->cursor = w.at;
    batch->due_us = w.due_us;
    batch->count += now_count;
    batch->left -= now_count;
    r->room -= now_count;
    if (batch->left)
        r->unfinished = 1;
    else
        judge_arm(batch);
    return 0;
}

/* Makes a chunk of this tick's probes; the rest follows when `fan` has taken these from the queue. */
INLINE int send_chunk(struct __sk_buff *skb)
{
    __u32 zero = 0;
    struct abi_node *n = node_get(&node);
    struct abi_tick_state *t = bpf_map_lookup_elem(&tick_state, &zero);
    if (!n || !t)
        return 0;
    struct tick_round r = {.skb = skb,
                           .room = CHUNK,
                           .slack_ns = n->tick_ns / 2,
                           .rotate = t->ticks,
                           .fed = feed_counts(n, bpf_ktime_get_ns())};
    skb->mark = ABI_MARK | ABI_FAN_SEND;
    bpf_loop(ABI_PROBE_CLASSES, class_step, &r, 0);
    if (!r.unfinished)
        return 0;
    skb->mark = ABI_MARK | ABI_FAN_MORE;
    if (bpf_clone_redirect(skb, n->out_ifindex, 0))
        __sync_fetch_and_add(&t->errors, 1);
    return 0;
}

struct share {
    __u32 budget;
    __u32 rotate;
    __u32 over;
};

/* What this tick takes of each class. */
static long share_step(__u32 i, struct share *s)
{
    __u32 zero = 0, c = (i + s->rotate) & (ABI_PROBE_CLASSES - 1);
    struct abi_probe_plan *plan = bpf_map_lookup_elem(&probe_plan, &zero);
    struct probe_batch *batch = bpf_map_lookup_elem(&probe_batches, &c);
    if (!plan || !batch)
        return 0;
    __u32 divisor = class_at(plan, c)->divisor ? class_at(plan, c)->divisor : 1;
    __u32 count = c < plan->classes ? class_at(plan, c)->count : 0;
    __u32 left = ((__u64)batch->credit + count) / divisor;
    batch->credit = ((__u64)batch->credit + count) % divisor;
    if (left > count)
        left = count; /* the plan has changed */
    if (left > s->budget) {
        s->over += left - s->budget;
        left = s->budget;
    }
    s->budget -= left;
    batch->left = left;
    batch->count = 0;
    batch->due_us = 0;
    return 0;
}

/* One that somebody suspects. If it was probed meanwhile, it is not any more. */
static long wanted_visit(__u32 i, struct tick_round *r)
{
    __u32 id;
    if (bpf_map_pop_elem(&wanted, &id))
        return 1;
    struct abi_probe_state *st = bpf_map_lookup_elem(&probe_state, &id);
    if (st && st->wanted)
        visit(r->skb, id, r->slack_ns, r->fed);
    return 0;
}

/* What the data plane saw since the last tick. Its word is not trusted: it leads to a probe. */
static long evidence_step(__u32 i, void *none)
{
    __u32 slot = i & (ABI_EVIDENCE_SLOTS - 1);
    __u64 *word = bpf_map_lookup_elem(&evidence, &slot);
    __u64 seen = word ? *(volatile __u64 *)word : 0;
    if (!seen || __sync_val_compare_and_swap(word, seen, 0) != seen)
        return 0;
    __u32 id = (__u32)seen;
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    if (!b || b->generation != (__u16)(seen >> 32))
        return 0;
    if ((seen >> 48 & 0xff) == ABI_EVIDENCE_HARD)
        suspect(id, ABI_EVIDENCE);
    else
        suspect_softly(id, ABI_EVIDENCE);
    return 0;
}

/* How handshakes with backends ended that control has made since the last tick. */
static long handshake_step(__u32 i, void *none)
{
    __u32 slot = i & (ABI_HANDSHAKE_SLOTS - 1);
    __u64 *word = bpf_map_lookup_elem(&handshakes, &slot);
    __u64 told = word ? *(volatile __u64 *)word : 0;
    struct checkup p;
    if (!told || __sync_val_compare_and_swap(word, told, 0) != told || !probe_get(&p, (__u32)told))
        return 0;
    p.now = bpf_ktime_get_ns();
    __u8 age_s = (__u8)(p.now / 1000000000ull) - (__u8)(told >> 56);
    if (p.backend->generation != (__u16)(told >> 32) || p.check->kind != ABI_CHECK_TLS ||
        age_s > ABI_HANDSHAKE_LIFE_S)
        return 0;
    if (p.state->generation != p.backend->generation)
        return 0; /* not probed yet */
    judge_handshake(&p, told >> 48 & 0xff);
    return 0;
}

INLINE void send_probes(struct __sk_buff *skb, struct abi_tick_state *t)
{
    struct tick_round r = {.skb = skb};
    struct share s = {.budget = ABI_PROBES_PER_TICK_MAX, .rotate = t->ticks};
    bpf_loop(ABI_PROBE_CLASSES, share_step, &s, 0);
    t->over_budget += s.over;
    t->port = bpf_get_prandom_u32();
    skb->mark = ABI_MARK | ABI_FAN_SEND;
    bpf_loop(ABI_EVIDENCE_SLOTS, evidence_step, 0, 0);
    bpf_loop(ABI_HANDSHAKE_SLOTS, handshake_step, 0, 0);
    bpf_loop(WANTED_PER_TICK, wanted_visit, &r, 0);
    send_chunk(skb);
}

/* The clock. */

struct token {
    __u16 pad;
    struct ethhdr eth;
    __u16 hardware, protocol;
    __u8 hardware_bytes, protocol_bytes;
    __u16 op;
    __u8 sender_mac[6];
    __u8 sender_ip[4];
    __u8 target_mac[6];
    __u8 target_ip[4];
} __attribute__((packed));

/* Asks the clock's network for its own address, by way of the token bucket: the answer is the next tick. A
 * probe for an address (RFC 5227, sender 0.0.0.0) is answered and leaves no neighbour behind. */
static __noinline int token_send(struct __sk_buff *skb, __u32 ifindex)
{
    struct token t = {.eth.h_proto = bpf_htons(ETH_P_ARP),
                      .hardware = bpf_htons(ARP_ETHERNET),
                      .protocol = bpf_htons(ETH_P_IP),
                      .hardware_bytes = 6,
                      .protocol_bytes = 4,
                      .op = bpf_htons(ARP_REQUEST),
                      .sender_mac = {2},
                      .target_ip = {ABI_CLOCK_ADDRESS >> 24, ABI_CLOCK_ADDRESS >> 16 & 0xff,
                                    ABI_CLOCK_ADDRESS >> 8 & 0xff, ABI_CLOCK_ADDRESS & 0xff}};
    __builtin_memset(t.eth.h_dest, 0xff, sizeof(t.eth.h_dest));
    t.eth.h_source[0] = 2;
    if (bpf_skb_change_tail(skb, TOKEN_BYTES, 0) ||
        bpf_skb_store_bytes(skb, 0, &t.eth, sizeof(t) - sizeof(t.pad), 0))
        return -1;
    return bpf_clone_redirect(skb, ifindex, 0);
}

/* The operation of an ARP packet; 0: it is something else, a kick. */
INLINE __u32 arp_operation(struct __sk_buff *skb)
{
    __u16 op;
    if (skb->protocol != bpf_htons(ETH_P_ARP) || bpf_skb_load_bytes(skb, ARP_OP_OFFSET, &op, sizeof(op)))
        return 0;
    return bpf_ntohs(op);
}

/* Too early: a second token, or a token bucket that somebody took away. */
INLINE bool tick_early(struct __sk_buff *skb, const struct abi_node *n, struct abi_tick_state *t,
                       bool is_token)
{
    t->storms++;
    if (is_token && t->fast++ < EARLY_MAX && token_send(skb, n->tick_ifindex))
        t->errors++;
    return false;
}

INLINE void tick_note_lateness(const struct abi_node *n, __u64 gap_ns, __u64 now)
{
    __u32 zero = 0;
    struct tick_lateness *l = bpf_map_lookup_elem(&tick_lateness, &zero);
    bool late = gap_ns > tick_limit_ns(n);
    if (l && late && !l->is_late)
        l->forgiven_ns = now;
    if (l)
        l->is_late = late;
}

/* Whether this packet is a tick. */
INLINE bool tick_begin(struct __sk_buff *skb, const struct abi_node *n, struct abi_tick_state *t, __u64 now)
{
    __u32 op = arp_operation(skb);
    bool tokens = n->flags & ABI_NODE_TOKEN, first = !t->last_ns;
    __u64 gap_ns = now > t->last_ns ? now - t->last_ns : 0;
    if (op == ARP_REPLY && !tokens)
        return false;
    if (op == ARP_REQUEST && tokens && gap_ns < TOKEN_LOST_TICKS * n->tick_ns)
        return false; /* the token lives */
    if (!first && gap_ns < n->tick_ns / EARLY_PARTS)
        return tick_early(skb, n, t, op == ARP_REPLY);
    t->fast = 0;
    tick_note_lateness(n, first ? 0 : gap_ns, now);
    if (first || gap_ns > n->stale_ns)
        t->resumed_ns = now;
    if (!first && gap_ns > n->stale_ns)
        t->stale++;
    if (!first && gap_ns > t->max_gap_ns)
        t->max_gap_ns = gap_ns;
    t->last_ns = now;
    t->ticks++;
    if (op == ARP_REQUEST && tokens)
        t->restarts++;
    if (tokens && token_send(skb, n->tick_ifindex))
        t->errors++;
    return true;
}

#endif
