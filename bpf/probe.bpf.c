/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Probes of backends, made and judged in the kernel (control/kernel_clock.h makes the devices):
 *
 *   tick   ingress of the clock's device. Each packet there is a tick: it is turned into the SYN of each
 * backend that is due (probe_plan), a clone of which goes out of node.out_ifindex. It returns TC_ACT_UNSPEC:
 *          other objects send with the same tick, by filters with later priorities. What the skb holds then
 * is of no meaning: each of them makes it what it wants, and needs mark ABI_MARK on what it clones. fan
 * ingress of the other end of that pair. There the skb has the right protocol, and no checksum that a device
 * would fill in, so packets are made and routed here: over the neighbour, or to this host's own stack if they
 * come from node.inner. The mark's low bits say what to do (enum abi_fan_order). rx     ingress of the
 * devices that backends are behind, and of the out device for backends on this host. Takes the answers to
 * probes. A RST or FIN in other connections is evidence: that backend is probed at once, and suspect if the
 * packet says so much. Nothing here trusts a packet: an answer must acknowledge the random sequence number of
 * its probe, evidence leads to a probe. timer  judges a class's probes when their time is up (probe_judge.h).
 *
 * Packets are made only in the first two; rx hands what it takes to `fan` by its mark. L3 devices (without
 * Ethernet headers), IP options and extension headers are left alone.
 */
#include "common.h"
#include "maps.h"
#include "verdict.h"
#include "suspicion.h"
#include "clock.h"
#include "probe_packet.h"
#include "probe_judge.h"
#include "probe_send.h"

char LICENSE[] SEC("license") = "GPL";

enum {
    CLOCK_MONOTONIC = 1,
    MARK_ORDER = 0xfff, /* of the mark: enum abi_fan_order */
    CHUNK = 256,        /* probes made in a row: the out device's queue is short */
    TOKEN_BYTES = 60,   /* of Ethernet: the token bucket is made for this (kernel_clock.c) */
    ARP_ETHERNET = 1,
    ARP_REQUEST = 1,
    ARP_REPLY = 2,
    ARP_OP_OFFSET = 20,
    EARLY_PARTS = 4, /* a tick within a quarter of the period is too early */
    EARLY_MAX = 3,   /* as many in a row let the token live */
    TOKEN_LOST_TICKS = 2,
    /* At most one series of probes in this time, of an address: after evidence that is as good as certain,
     * after a reset, after an ordinary FIN: busy servers end connections all day, and their clients' refused
     * connections tell of their death. */
    CERTAIN_NS = 5000000,
    RESET_NS = 20000000,
    FIN_NS = 100000000,
    SAME_ENDPOINT_WALK = ABI_SERVICES_MAX,
    STATUS_BYTES = 12, /* HTTP/1.1 200 */
    PACKET_HOST = 0,
};

/* --- the tick --------------------------------------------------------------------------------------------
 */

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

INLINE __u32 visit(struct __sk_buff *skb, __u32 id, __u64 slack_ns)
{
    struct checkup p;
    if (!probe_get(&p, id))
        return 0;
    p.now = bpf_ktime_get_ns();
    if (p.state->generation != p.backend->generation)
        probe_renew(&p);
    judge_shots(&p, ~0ull);
    judge_http_time(&p);
    if (!probe_due(&p))
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
    __u32 timeout_us = visit(w->round->skb, *listed, w->round->slack_ns);
    if (timeout_us && (!w->due_us || timeout_us < w->due_us))
        w->due_us = timeout_us;
    return 0;
}

/* --- the judge -------------------------------------------------------------------------------------------
 */

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
    p.now = bpf_ktime_get_ns();
    __u64 left_ns = judge_shots(&p, w->late_ns);
    if (left_ns && (!w->left_ns || left_ns < w->left_ns))
        w->left_ns = left_ns;
    return 0;
}

static int judge_fired(void *map, __u32 *key, struct probe_batch *batch)
{
    __u32 zero = 0, c = *key;
    struct abi_node *n = node_get(&node);
    struct abi_probe_plan *plan = bpf_map_lookup_elem(&probe_plan, &zero);
    if (!n || !plan)
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

/* --- classes ---------------------------------------------------------------------------------------------
 */

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
    struct tick_round r = {.skb = skb, .room = CHUNK, .slack_ns = n->tick_ns / 2, .rotate = t->ticks};
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

INLINE void send_probes(struct __sk_buff *skb, struct abi_tick_state *t)
{
    struct share s = {.budget = ABI_PROBES_PER_TICK_MAX, .rotate = t->ticks};
    bpf_loop(ABI_PROBE_CLASSES, share_step, &s, 0);
    t->over_budget += s.over;
    t->port = bpf_get_prandom_u32();
    send_chunk(skb);
}

/* --- the clock -------------------------------------------------------------------------------------------
 */

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

/* --- from an address to its backends ---------------------------------------------------------------------
 */

enum { FOUND_NOT = -1, FOUND_HTTP = ABI_PROBE_SHOTS }; /* else the index of a TCP probe's shot */

/* A walk over the backends of one address for the one that a segment answers. */
struct search {
    __u32 id; /* of this step */
    int found;
    __u32 sequence;
    __u32 acknowledged;
    __u16 port; /* of the probe */
    __u8 flags;
    __u8 wanted; /* ... or for one that is to be probed, and whether there are more */
    __u32 wanted_id;
    __u32 more;
};

INLINE bool shot_is(const struct abi_probe_shot *shot, const struct search *s)
{
    return shot->used && shot->source_port == s->port && shot->sequence + 1 == s->acknowledged;
}

/* The HTTP check's connection: its SYN and later segments. A reset may come without an acknowledgement, with
 * the sequence number that is expected. */
INLINE bool http_is(const struct abi_probe_state *st, const struct abi_check *c, const struct search *s)
{
    if (!st->http.used || st->http.source_port != s->port)
        return false;
    if (!(s->flags & TCP_ACK))
        return (s->flags & TCP_RST) && st->http.accepted && s->sequence == st->http_sequence;
    __u32 behind = s->acknowledged - st->http.sequence;
    return behind == 1 || (st->http.accepted && behind == 1u + c->request_bytes);
}

INLINE int search_state(const struct abi_probe_state *st, const struct abi_check *c, const struct search *s)
{
    if (http_is(st, c, s))
        return FOUND_HTTP;
    if (!(s->flags & TCP_ACK))
        return FOUND_NOT;
    for (int i = 0; i < ABI_PROBE_SHOTS; i++)
        if (shot_is(&st->tcp[i], s))
            return i;
    return FOUND_NOT;
}

static long search_step(__u32 i, struct search *s)
{
    struct checkup p;
    if (!probe_get(&p, s->id))
        return 1;
    if (p.state->generation == p.backend->generation)
        s->found = search_state(p.state, p.check, s);
    if (s->found != FOUND_NOT || p.backend->next_same == ABI_NO_BACKEND)
        return 1;
    s->id = p.backend->next_same;
    return 0;
}

static long wanted_step(__u32 i, struct search *s)
{
    __u32 id = s->id;
    struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    struct abi_probe_state *st = bpf_map_lookup_elem(&probe_state, &id);
    if (!b || !st)
        return 1;
    if (st->wanted && s->wanted) {
        s->more = 1;
        return 1;
    }
    if (st->wanted) {
        s->wanted = st->wanted;
        s->wanted_id = id;
        st->wanted = ABI_WANTED_NOT;
    }
    s->id = b->next_same;
    return s->id == ABI_NO_BACKEND;
}

INLINE __u32 first_backend(const struct segment *s)
{
    struct abi_endpoint at = {.addr = s->source, .port = s->source_port};
    return backend_at(&at);
}

INLINE void search_init(struct search *w, const struct segment *s, __u32 first)
{
    __builtin_memset(w, 0, sizeof(*w));
    w->id = first;
    w->found = FOUND_NOT;
    w->sequence = s->sequence;
    w->acknowledged = s->acknowledged;
    w->port = bpf_ntohs(s->target_port);
    w->flags = s->flags;
}

/* --- fan -------------------------------------------------------------------------------------------------
 */

INLINE bool is_inner(const struct abi_node *n, const struct abi_addr *a)
{
    return addr_equal(a, addr_is_v4(a) ? &n->inner : &n->inner6);
}

INLINE bool route_params4(struct __sk_buff *skb, struct bpf_fib_lookup *f, struct abi_addr *source)
{
    struct iphdr ip;
    if (bpf_skb_load_bytes(skb, PARSE_L3, &ip, sizeof(ip)))
        return false;
    f->family = AF_INET;
    f->ipv4_src = ip.saddr;
    f->ipv4_dst = ip.daddr;
    addr_set_v4(source, ip.saddr);
    return true;
}

INLINE bool route_params6(struct __sk_buff *skb, struct bpf_fib_lookup *f, struct abi_addr *source)
{
    struct ipv6hdr ip;
    if (bpf_skb_load_bytes(skb, PARSE_L3, &ip, sizeof(ip)))
        return false;
    f->family = AF_INET6;
    __builtin_memcpy(f->ipv6_src, &ip.saddr, sizeof(ip.saddr));
    __builtin_memcpy(f->ipv6_dst, &ip.daddr, sizeof(ip.daddr));
    __builtin_memcpy(source, &ip.saddr, sizeof(*source));
    return true;
}

/* Sends a packet on its way by the routes of this moment. */
static __noinline int route(struct __sk_buff *skb)
{
    struct abi_node *n = node_get(&node);
    struct bpf_fib_lookup f = {};
    struct abi_addr source;
    if (!n)
        return TC_ACT_SHOT;
    if (skb->protocol == bpf_htons(ETH_P_IP) ? !route_params4(skb, &f, &source)
                                             : !route_params6(skb, &f, &source))
        return TC_ACT_SHOT;
    if (is_inner(n, &source)) {
        bpf_skb_change_type(skb, PACKET_HOST);
        return skb->ingress_ifindex == n->fan_ifindex ? TC_ACT_OK : bpf_redirect(n->out_ifindex, 0);
    }
    f.ifindex = n->fan_ifindex;
    long result = bpf_fib_lookup(skb, &f, sizeof(f), 0);
    if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH)
        return TC_ACT_SHOT;
    return bpf_redirect_neigh(f.ifindex, NULL, 0, 0);
}

/* A probe in the skb, which then is on its way; the HTTP check's goes round by the out device. */
static __noinline int fan_shot(struct __sk_buff *skb, struct checkup *p, __u32 is_http)
{
    struct abi_node *n = node_get(&node);
    struct segment s;
    if (!n || !p || !p->state || !p->backend || !p->clock)
        return -1;
    struct abi_probe_shot *shot = is_http ? &p->state->http : next_shot(p->state);
    if (!shot)
        return -1;
    shot_begin(p, shot, n, &s);
    __sync_fetch_and_add(is_http ? &p->state->http_probes : &p->state->probes, 1);
    if (segment_write(skb, &s))
        return -1;
    if (!is_http)
        return 0;
    p->state->http_sent_ns = p->now;
    skb->mark = ABI_MARK | ABI_FAN_SEND;
    return bpf_clone_redirect(skb, n->out_ifindex, 0);
}

/* A TCP probe in the skb, which comes round again while the series lasts. While as many probes as can be are
 * under way, the packet goes round without. */
static __noinline int fan_follow(struct __sk_buff *skb, struct checkup *p)
{
    struct abi_node *n = node_get(&node);
    if (!n || !p || !p->state)
        return -1;
    long error = fan_shot(skb, p, 0);
    if (in_series(p) && n->pace_ifindex) {
        skb->mark = ABI_MARK | ABI_FAN_SERIES;
        bpf_clone_redirect(skb, n->pace_ifindex, 0);
    }
    return error;
}

/* The packet came from a backend's address: a probe takes its place. */
static __noinline int fan_probe(struct __sk_buff *skb)
{
    struct abi_node *n = node_get(&node);
    struct segment s;
    struct search w;
    struct checkup p;
    if (!n || !segment_read(skb, &s))
        return -1;
    __u32 first = first_backend(&s);
    if (first == ABI_NO_BACKEND)
        return -1;
    search_init(&w, &s, first);
    bpf_loop(SAME_ENDPOINT_WALK, wanted_step, &w, 0);
    if (!w.wanted || !probe_get(&p, w.wanted_id))
        return -1;
    if (w.more)
        bpf_clone_redirect(skb, n->out_ifindex, 0);
    p.now = bpf_ktime_get_ns();
    if (p.state->generation != p.backend->generation)
        probe_renew(&p);
    if (w.wanted == ABI_WANTED_HTTP && p.check->kind == ABI_CHECK_HTTP && !p.state->http.sent_ns)
        fan_shot(skb, &p, 1);
    return fan_follow(skb, &p);
}

/* One more probe of the backend that this one went to. */
static __noinline int fan_series(struct __sk_buff *skb)
{
    struct segment s;
    struct checkup p;
    if (!segment_read(skb, &s))
        return -1;
    struct abi_endpoint at = {.addr = s.target, .port = s.target_port};
    __u32 first = backend_at(&at);
    if (first == ABI_NO_BACKEND || !probe_get(&p, first))
        return -1;
    p.now = bpf_ktime_get_ns();
    if (!in_series(&p) || p.state->generation != p.backend->generation)
        return -1;
    p.state->series--;
    return fan_follow(skb, &p);
}

/* From the segment that came to one that goes back. */
INLINE void segment_turn(struct segment *s, __u8 flags)
{
    struct abi_addr source = s->source;
    __u16 source_port = s->source_port;
    __u32 sequence = s->sequence;
    s->source = s->target;
    s->target = source;
    s->source_port = s->target_port;
    s->target_port = source_port;
    s->sequence = s->acknowledged;
    s->acknowledged = flags & TCP_ACK ? sequence + 1 : 0;
    s->flags = flags;
    s->payload_bytes = 0;
}

static __noinline int fan_reset(struct __sk_buff *skb)
{
    struct segment s;
    if (!segment_read(skb, &s) || !(s.flags & TCP_ACK))
        return -1;
    segment_turn(&s, TCP_RST);
    return segment_write(skb, &s);
}

static __noinline int fan_request(struct __sk_buff *skb)
{
    struct segment s;
    struct search w;
    struct checkup p;
    if (!segment_read(skb, &s))
        return -1;
    __u32 first = first_backend(&s);
    if (first == ABI_NO_BACKEND)
        return -1;
    search_init(&w, &s, first);
    bpf_loop(SAME_ENDPOINT_WALK, search_step, &w, 0);
    if (w.found != FOUND_HTTP || !probe_get(&p, w.id))
        return -1;
    segment_turn(&s, TCP_ACK | TCP_PSH);
    return segment_write_request(skb, &s, p.check);
}

SEC("tc")
int fan(struct __sk_buff *skb)
{
    __u32 zero = 0, order = skb->mark & MARK_ORDER;
    struct abi_tick_state *t = bpf_map_lookup_elem(&tick_state, &zero);
    long error = 0;
    if (!t || (skb->mark & ~MARK_ORDER) != ABI_MARK)
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

/* --- rx --------------------------------------------------------------------------------------------------
 */

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
    bpf_loop(SAME_ENDPOINT_MAX, want_step, &w, 0);
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

/* A segment to a port of probes, from a backend's address. What answers no probe under way is ended as the
 * stack would, or dropped. */
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
    bpf_loop(SAME_ENDPOINT_WALK, search_step, &w, 0);
    if (w.found != FOUND_NOT && probe_get(&p, w.id)) {
        p.now = bpf_ktime_get_ns();
        if (s->flags & TCP_RST)
            return rx_reset(skb, &p, w.found, first);
        if (s->flags & TCP_SYN)
            return rx_syn_ack(skb, n, s, &p, w.found);
        if (w.found == FOUND_HTTP)
            return rx_http(skb, n, s, &p);
    }
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

SEC("tc")
int rx(struct __sk_buff *skb)
{
    struct abi_node *n = node_get(&node);
    struct segment s;
    if (!n || skb->vlan_present)
        return TC_ACT_UNSPEC; /* the VLAN's device sees it again */
    clock_kick(skb, n, bpf_ktime_get_coarse_ns());
    if (!segment_read(skb, &s))
        return TC_ACT_UNSPEC;
    __u16 port = bpf_ntohs(s.target_port) - ABI_PROBE_PORT_FIRST;
    if (port < ABI_PROBE_PORTS)
        return rx_answer(skb, &s);
    if (s.flags & (TCP_RST | TCP_FIN))
        return rx_evidence(skb, &s);
    return TC_ACT_UNSPEC;
}
