/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Flows of the edge: from the service's rows to an element for each direction.
 *
 * A new flow is in half_open until the client has acknowledged what the backend said; then it moves to
 * flows. An element knows its own opposite (flow_mirror), so that one that was evicted is made again from the
 * other.
 */
#ifndef FL_BPF_EDGE_FLOW_H
#define FL_BPF_EDGE_FLOW_H

#include "edge_maps.h"
#include "edge_load.h"
#include "choose.h"
#include "parse.h"

enum {
    FLOW_PATH_TIME = 4,  /* how long a path is used before it is looked up again: 1 to 10 seconds */
    FLOW_FREE_TIME = 61, /* a closed flow that is silent for so many seconds gives its port away: the backend
                            has it in TIME_WAIT for 60, ... */
    FLOW_FREE_TIME_HARD = 16, /* ... and if need be so soon */
    FLOW_SILENT_TIME =
        30000,             /* ... and if need be one that was not closed: two hours at least (RFC 5382, 5) */
    FLOW_BEGINS_TIME = 32, /* a beginning whose client is silent for so many seconds gives its port away, */
    FLOW_BEGINS_TIME_HARD = 3, /* ... and if need be so soon */
    FLOW_WINDOW = 1 << 20,     /* how far a client's first acknowledgement may be ahead */
    FLOW_DSR_PACKETS = 3, /* from the client, that make a flow whose other side is not seen established */
};

INLINE __u16 flow_age(const struct abi_flow *f)
{
    return flow_time() - f->path_time;
}

INLINE bool flow_path_old(const struct abi_flow *f)
{
    return f->path_time == 0 || flow_age(f) > FLOW_PATH_TIME;
}

/* Whether both sides have ended it. With direct return only one is seen. */
INLINE bool flow_closed(const struct abi_flow *f)
{
    __u8 ends = f->mode == ABI_EDGE_DSR ? ABI_FLOW_FIN : ABI_FLOW_FIN | ABI_FLOW_FIN_BACK;
    return f->closing & ABI_FLOW_RESET || (f->closing & ends) == ends;
}

INLINE bool flow_backend_down(const struct abi_flow *f)
{
    const __u64 *verdict = bpf_map_lookup_elem(&verdicts, &f->backend);
    if (!verdict)
        return false;
    __u64 v = *(const volatile __u64 *)verdict;
    if (ABI_VERDICT_STATE(v) != ABI_DOWN || ABI_VERDICT_GENERATION(v) != f->generation)
        return false;
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &f->backend);
    return b && verdict_state(v, b) == ABI_DOWN;
}

/* In seconds, nearly. */
INLINE __u32 flow_clock(void)
{
    return bpf_ktime_get_coarse_ns() >> 30;
}

/* Of the client's address and `port`. */
INLINE __u32 flow_hash(const struct abi_flow_key *k, __u32 seed, __u16 port)
{
    __u32 hash = seed ^ port;
    for (int i = 0; i < 4; i++) {
        hash = (hash ^ k->source.word[i]) * 0x85ebca6b;
        hash ^= hash >> 15;
    }
    hash *= 0xc2b2ae35;
    return hash ^ hash >> 16;
}

/* What follows from a flow's key and its new addresses. */
INLINE void flow_complete(const struct abi_flow_key *k, struct abi_flow *f)
{
    f->addr_diff = 0;
    if (!addr_equal(&k->source, &f->source) || !addr_equal(&k->target, &f->target))
        f->addr_diff = bpf_csum_diff((__be32 *)&k->source, 32, (__be32 *)&f->source, 32, 0);
    f->source4 = f->source.word[3];
    f->target4 = f->target.word[3];
}

/* What the new ports add to a checksum; 0: nothing changes. */
INLINE __u32 flow_port_diff(const struct abi_flow_key *k, const struct abi_flow *f)
{
    if (k->source_port == f->source_port && k->target_port == f->target_port)
        return 0;
    return (__u16)~k->source_port + f->source_port + (__u16)~k->target_port + f->target_port;
}

/* The element of the other direction. */
INLINE void flow_mirror(const struct abi_flow_key *k, const struct abi_flow *f,
                        struct abi_flow_key *mirror_key, struct abi_flow *mirror)
{
    mirror_key->source = f->target;
    mirror_key->target = f->source;
    mirror_key->source_port = f->target_port;
    mirror_key->target_port = f->source_port;
    __builtin_memset(mirror, 0, sizeof(*mirror));
    mirror->backend = f->backend;
    mirror->generation = f->generation;
    mirror->mode = f->mode;
    mirror->flags = ((f->flags ^ ABI_FLOW_BACK) & ABI_FLOW_BACK) | (f->flags & ABI_FLOW_ESTABLISHED);
    mirror->service = f->service;
    mirror->source = k->target;
    mirror->target = k->source;
    mirror->source_port = k->target_port;
    mirror->target_port = k->source_port;
    flow_complete(mirror_key, mirror);
}

INLINE void flow_mirror_key(const struct abi_flow *f, struct abi_flow_key *key)
{
    key->source = f->target;
    key->target = f->source;
    key->source_port = f->target_port;
    key->target_port = f->source_port;
}

INLINE struct edge_work *edge_work(void)
{
    __u32 zero = 0;
    return bpf_map_lookup_elem(&edge_room, &zero);
}

/* --- ports towards the backend ------------------------------------------------------------------------- */

/* For how many seconds nothing was heard that a way back takes note of: of beginnings the client's packets,
 * later what ends the flow. */
INLINE __s32 flow_silent(const struct abi_flow *back)
{
    return flow_clock() - back->expected;
}

/* Whether who holds a way back has no use for it any more. `hard`: others were looked for in vain. What an
 * established flow loses by it is its connection, a beginning starts again with its client's next SYN. */
INLINE bool flow_gives_way(struct abi_flow *held, bool hard)
{
    if (!held->expected)
        held->expected = flow_clock(); /* made by programs that did not write it: as if heard just now */
    if (!(held->flags & ABI_FLOW_ESTABLISHED))
        return flow_silent(held) >= (hard ? FLOW_BEGINS_TIME_HARD : FLOW_BEGINS_TIME);
    if (flow_closed(held))
        return flow_silent(held) >= (hard ? FLOW_FREE_TIME_HARD : FLOW_FREE_TIME);
    return hard && held->path_time && flow_age(held) >= FLOW_SILENT_TIME;
}

/* Whether what holds the way back of w->flow is this flow itself. */
INLINE bool flow_is_own(const struct edge_work *w, const struct abi_flow *held)
{
    return addr_equal(&held->target, &w->mirror.target) && addr_equal(&held->source, &w->mirror.source) &&
           held->target_port == w->mirror.target_port && held->source_port == w->mirror.source_port;
}

enum way_back { WAY_TAKEN, WAY_FREE, WAY_OWN };

/* Whose the way back of w->flow is; who gives way is taken away. A flow that is established meanwhile is in
 * the second table before it leaves the first. */
INLINE enum way_back flow_way_back(struct edge_work *w, bool hard)
{
    struct abi_flow *held = bpf_map_lookup_elem(&half_open, &w->mirror_key);
    if (!held)
        held = bpf_map_lookup_elem(&flows, &w->mirror_key);
    if (!held)
        return WAY_FREE;
    if (flow_is_own(w, held))
        return WAY_OWN;
    if (!flow_gives_way(held, hard))
        return WAY_TAKEN;
    struct abi_flow_key old;
    flow_mirror_key(held, &old);
    bpf_map_delete_elem(&flows, &old);
    bpf_map_delete_elem(&half_open, &old);
    bpf_map_delete_elem(&flows, &w->mirror_key);
    bpf_map_delete_elem(&half_open, &w->mirror_key);
    return WAY_FREE;
}

/* Finds a source port with which the way back is free: with ABI_EDGE_NAT first the client's own. (Two
 * services may have a backend in common, and a client may use a port for both.) */
static long flow_try_port(__u32 i, void *context)
{
    __u32 hash = *(__u32 *)context;
    struct edge_work *w = edge_work();
    if (!w)
        return 1;
    if (i > 0 || w->flow.mode == ABI_EDGE_FULL_NAT)
        w->flow.source_port = bpf_htons(ABI_EDGE_PORT_FIRST + ((hash + i * 0x9e37) & (ABI_EDGE_PORTS - 1)));
    flow_complete(&w->key, &w->flow);
    flow_mirror(&w->key, &w->flow, &w->mirror_key, &w->mirror);
    w->mirror.expected = flow_clock();
    enum way_back way = flow_way_back(w, i >= ABI_EDGE_PORT_TRIES);
    if (way == WAY_TAKEN)
        return 0;
    /* Another processor may be at the same port: it is whose element is there first. */
    if (bpf_map_update_elem(&half_open, &w->mirror_key, &w->mirror, way == WAY_OWN ? BPF_ANY : BPF_NOEXIST) !=
        0)
        return 0;
    *(__u32 *)context = 0;
    return 1;
}

/* --- making and moving --------------------------------------------------------------------------------- */

/* Fills w->key and w->flow. False: the backend cannot be reached from this service. */
INLINE bool flow_fill(struct edge_work *w, const struct packet *p, const struct abi_service *s, __u32 id)
{
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    if (!b || addr_is_v4(&b->addr) != p->v4)
        return false;
    __builtin_memset(&w->flow, 0, sizeof(w->flow));
    w->key = p->key;
    w->flow.backend = id;
    w->flow.generation = b->generation;
    w->flow.service = s->id;
    w->flow.mode = s->edge;
    w->flow.source = p->key.source;
    w->flow.source_port = p->key.source_port;
    if (s->edge == ABI_EDGE_DSR) {
        w->flow.target = p->key.target;
        w->flow.target_port = p->key.target_port;
        w->flow.hop = b->addr;
        flow_complete(&w->key, &w->flow);
        return true;
    }
    w->flow.target = b->addr;
    w->flow.target_port = b->port;
    if (s->edge == ABI_EDGE_FULL_NAT && b->flags & ABI_BACKEND_LOCAL)
        w->flow.mode = ABI_EDGE_NAT; /* its answers are seen on their way out */
    if (w->flow.mode == ABI_EDGE_FULL_NAT) {
        if (addr_is_v4(&s->edge_source) != p->v4)
            return false;
        w->flow.source = s->edge_source;
    }
    return true;
}

/* The way back of w->flow is in half_open after this, and its port chosen. Ports are looked for from one on
 * that each flow has for itself, whatever its row goes by: whose element was pushed out finds its own again.
 * How soon a port is used again is up to flow_gives_way: who had it last is there until then. */
INLINE bool flow_reserve(struct edge_work *w, __u32 seed)
{
    if (w->flow.mode == ABI_EDGE_DSR)
        return true;
    __u32 left = flow_hash(&w->key, seed, w->key.source_port) | 1;
    bpf_loop(2 * ABI_EDGE_PORT_TRIES, flow_try_port, &left, 0);
    if (left != 0)
        EDGE_COUNT(w->flow.service, no_port);
    return left == 0;
}

/* Both ends speak: from half_open to flows. Returns the new element of this direction, or NULL. */
INLINE struct abi_flow *flow_establish(const struct packet *p, const struct abi_flow *f)
{
    struct edge_work *w = edge_work();
    if (!w)
        return NULL;
    w->key = p->key;
    w->flow = *f;
    w->flow.flags |= ABI_FLOW_ESTABLISHED;
    if (f->mode != ABI_EDGE_DSR) {
        flow_mirror(&w->key, &w->flow, &w->mirror_key, &w->mirror);
        struct abi_flow *before = bpf_map_lookup_elem(&half_open, &w->mirror_key);
        if (before)
            w->mirror = *before;
        w->mirror.flags |= ABI_FLOW_ESTABLISHED;
        bpf_map_update_elem(&flows, &w->mirror_key, &w->mirror, BPF_ANY);
        bpf_map_delete_elem(&half_open, &w->mirror_key);
    }
    if (bpf_map_update_elem(&flows, &w->key, &w->flow, BPF_ANY) != 0)
        return NULL;
    bpf_map_delete_elem(&half_open, &w->key);
    struct abi_edge_backend *b = bpf_map_lookup_elem(&edge_backends, &w->flow.backend);
    if (b)
        b->flows++;
    load_begins(&w->flow);
    return bpf_map_lookup_elem(&flows, &w->key);
}

/* Takes a flow of the client's direction away, wherever it is. */
INLINE void flow_forget(const struct packet *p, const struct abi_flow *f)
{
    struct abi_flow_key mirror;
    flow_mirror_key(f, &mirror);
    if (f->flags & ABI_FLOW_ESTABLISHED && !flow_closed(f))
        load_ends(f);
    if (f->mode != ABI_EDGE_DSR) {
        bpf_map_delete_elem(&flows, &mirror);
        bpf_map_delete_elem(&half_open, &mirror);
    }
    bpf_map_delete_elem(&flows, &p->key);
    bpf_map_delete_elem(&half_open, &p->key);
}

/* An established flow whose other element was evicted gets it again; asked about once a second. */
INLINE void flow_keep_mirror(const struct packet *p, const struct abi_flow *f)
{
    struct edge_work *w = edge_work();
    if (!w || f->mode == ABI_EDGE_DSR)
        return;
    flow_mirror(&p->key, f, &w->mirror_key, &w->mirror);
    w->mirror.expected = flow_clock();
    if (!bpf_map_lookup_elem(&flows, &w->mirror_key))
        bpf_map_update_elem(&flows, &w->mirror_key, &w->mirror, BPF_NOEXIST);
}

/* The client of a beginning is still there. */
INLINE void flow_keep_port(const struct abi_flow *f)
{
    struct abi_flow_key key;
    flow_mirror_key(f, &key);
    struct abi_flow *back = bpf_map_lookup_elem(&half_open, &key);
    if (back)
        back->expected = flow_clock();
}

/* What a packet of a half-open flow says about it. True: it is established now. */
INLINE bool flow_hears(const struct packet *p, struct abi_flow *f)
{
    if (p->flags & TCP_RST)
        return false;
    if (f->flags & ABI_FLOW_BACK) {
        struct abi_flow_key key;
        flow_mirror_key(f, &key);
        struct abi_flow *in = bpf_map_lookup_elem(&half_open, &key);
        if (in) {
            in->expected = p->sequence + (p->flags & TCP_SYN ? 1 : 0);
            in->flags |= ABI_FLOW_ANSWERED;
        }
        return false;
    }
    if (f->heard < 255)
        f->heard++;
    if (f->mode == ABI_EDGE_DSR)
        return !(p->flags & TCP_SYN) && f->heard >= FLOW_DSR_PACKETS;
    flow_keep_port(f);
    if (p->flags & TCP_SYN)
        return false;
    return f->flags & ABI_FLOW_ANSWERED && p->flags & TCP_ACK && p->acknowledged - f->expected < FLOW_WINDOW;
}

/* FIN and RST are noted at the elements of both directions. */
INLINE void flow_note_closing(const struct packet *p, struct abi_flow *f)
{
    edge_count_flow(f);
    __u8 closing = p->flags & TCP_RST ? ABI_FLOW_RESET : 0;
    if (p->flags & TCP_FIN)
        closing |= f->flags & ABI_FLOW_BACK ? ABI_FLOW_FIN_BACK : ABI_FLOW_FIN;
    bool closed = flow_closed(f);
    f->closing |= closing;
    if (f->mode == ABI_EDGE_DSR)
        return;
    struct abi_flow_key key;
    flow_mirror_key(f, &key);
    struct abi_flow *mirror = bpf_map_lookup_elem(&flows, &key);
    if (mirror)
        mirror->closing |= closing;
    if (f->flags & ABI_FLOW_BACK)
        f->expected = flow_clock();
    else if (mirror)
        mirror->expected = flow_clock();
    if (closed || !flow_closed(f))
        return;
    if (!(f->flags & ABI_FLOW_BACK))
        load_ends(f);
    else if (mirror)
        load_ends(mirror);
}

/* Its ports begin a new connection, with the same backend. */
INLINE void flow_begin_again(struct abi_flow *f)
{
    struct abi_flow_key key;
    f->closing = 0;
    flow_mirror_key(f, &key);
    struct abi_flow *mirror = f->mode == ABI_EDGE_DSR ? NULL : bpf_map_lookup_elem(&flows, &key);
    if (mirror)
        mirror->closing = 0;
    load_begins(f);
}

#endif
