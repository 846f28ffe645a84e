/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How many connections a backend has through this edge (ABI_POLICY_LEAST). Flows end without a word and are
 * pushed out of their table, so a plain count would go wrong for ever. Counted are those that were seen in
 * this window of time or in the one before: each flow tells when its path is looked up, which is every few
 * seconds while it sends, and is taken off when it ends. What was counted wrong is forgotten two windows
 * later. Processors may overtake each other at the turn of a window: that spoils little, and not for long; no
 * one sets the window back.
 *
 * With direct return ends are not seen, so nothing is counted.
 */
#ifndef FL_BPF_EDGE_LOAD_H
#define FL_BPF_EDGE_LOAD_H

#include "edge_maps.h"

enum {
    LOAD_WINDOW_BITS = 5, /* of flow_time(): 8 to 80 seconds */
    LOAD_WINDOW_MASK = 0xffff >> LOAD_WINDOW_BITS,
    LOAD_BEHIND = 8, /* windows that a processor may be behind others: it was stopped meanwhile */
};

struct edge_load {
    __u32 window; /* which one `now` is */
    __s32 now;    /* flows last seen in it */
    __s32 before; /* ... and in the one before */
    __u32 pad;
};

FL_MAP(edge_loads, BPF_MAP_TYPE_ARRAY, 8192, __u32, struct edge_load, 0);

/* In 256 jiffies, never 0. */
INLINE __u16 flow_time(void)
{
    __u16 time = bpf_jiffies64() >> 8;
    return time ? time : 1;
}

INLINE struct edge_load *load_get(__u32 backend)
{
    struct edge_load *l = bpf_map_lookup_elem(&edge_loads, &backend);
    __u32 window = flow_time() >> LOAD_WINDOW_BITS;
    if (!l)
        return NULL;
    __u32 held = *(volatile __u32 *)&l->window;
    if (((held - window) & LOAD_WINDOW_MASK) > LOAD_BEHIND &&
        __sync_val_compare_and_swap(&l->window, held, window) == held) {
        l->before = ((window - held) & LOAD_WINDOW_MASK) == 1 ? l->now : 0;
        l->now = 0;
    }
    return l;
}

/* `seen`: a time of the flow's path, 0: never. */
INLINE void load_add(struct edge_load *l, __u16 seen, __s32 count)
{
    __u32 behind = (l->window - (seen >> LOAD_WINDOW_BITS)) & LOAD_WINDOW_MASK;
    if (seen && behind == 0)
        __sync_fetch_and_add(&l->now, count);
    else if (seen && behind == 1)
        __sync_fetch_and_add(&l->before, count);
}

/* One more flow, of the client's direction, or one less. */
INLINE void load_change(const struct abi_flow *f, __s32 count)
{
    struct edge_load *l = f->mode == ABI_EDGE_DSR ? NULL : load_get(f->backend);
    if (l)
        load_add(l, f->path_time, count);
}

INLINE void load_begins(const struct abi_flow *f)
{
    load_change(f, 1);
}

INLINE void load_ends(const struct abi_flow *f)
{
    load_change(f, -1);
}

/* A flow that goes on has a new path time; `before` is the last one under which it was counted, or 0. */
INLINE void load_goes_on(const struct abi_flow *f, __u16 before)
{
    struct edge_load *l = f->mode == ABI_EDGE_DSR ? NULL : load_get(f->backend);
    if (!l || (before && before >> LOAD_WINDOW_BITS == f->path_time >> LOAD_WINDOW_BITS))
        return;
    load_add(l, before, -1);
    load_add(l, f->path_time, 1);
}

INLINE __u64 load_of(__u32 backend)
{
    struct edge_load *l = load_get(backend);
    __s64 count = l ? (__s64)l->now + l->before : 0;
    return count > 0 ? count : 0;
}

#endif
