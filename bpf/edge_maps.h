/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Maps of the edge, shared by its tc and XDP programs and read by control. Only BPF writes them; layouts:
 * abi.h.
 */
#ifndef FL_BPF_EDGE_MAPS_H
#define FL_BPF_EDGE_MAPS_H

#include "maps.h"

FL_MAP(flows, BPF_MAP_TYPE_LRU_HASH, ABI_EDGE_FLOWS, struct abi_flow_key, struct abi_flow, 0);
/* Flows that have not shown that both ends speak. They have a table of their own, so that a flood of SYNs
 * pushes out other beginnings, and never an established flow. */
FL_MAP(half_open, BPF_MAP_TYPE_LRU_HASH, ABI_EDGE_HALF_OPEN, struct abi_flow_key, struct abi_flow, 0);
FL_MAP(fragments, BPF_MAP_TYPE_LRU_HASH, ABI_EDGE_FRAGMENTS, struct abi_fragment_key, struct abi_flow, 0);
FL_MAP(edge_stats, BPF_MAP_TYPE_PERCPU_ARRAY, ABI_SERVICES_MAX, __u32, struct abi_edge_stats, 0);
FL_MAP(edge_backends, BPF_MAP_TYPE_PERCPU_ARRAY, 8192, __u32, struct abi_edge_backend, 0);

enum { EDGE_INSIDE = 512 };

/* Room for what does not fit on the stack; not pinned. */
struct edge_work {
    struct abi_flow_key key;
    struct abi_flow_key mirror_key;
    struct abi_flow flow;
    struct abi_flow mirror;
    __u8 inside[EDGE_INSIDE]; /* of a packet that an error is about */
    /* Errors of this processor's own, about beginnings and about flows that are established: when the last
     * were allowed again, and how many were sent since. */
    struct {
        __u64 since_ns, count;
    } told[2];
};
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct edge_work);
} edge_room SEC(".maps");

#define EDGE_COUNT(service, counter)                                                                         \
    do {                                                                                                     \
        __u32 count_id = (service);                                                                          \
        struct abi_edge_stats *count_stats = bpf_map_lookup_elem(&edge_stats, &count_id);                    \
        if (count_stats)                                                                                     \
            count_stats->counter++;                                                                          \
    } while (0)

/* Adds what a flow counted to its backend's. */
INLINE void edge_count_flow(struct abi_flow *f)
{
    if (f->packets == 0)
        return;
    struct abi_edge_backend *b = bpf_map_lookup_elem(&edge_backends, &f->backend);
    if (b && f->flags & ABI_FLOW_BACK) {
        b->back_packets += f->packets;
        b->back_bytes += f->bytes;
    } else if (b) {
        b->packets += f->packets;
        b->bytes += f->bytes;
    }
    f->packets = 0;
    f->bytes = 0;
}

/* In the flow, whose memory is at hand: the backend's would be fetched for this alone. A flow is on one
 * processor at a time; where it moves, a count may be lost. */
INLINE void edge_count_packet(struct abi_flow *f, __u32 bytes)
{
    f->packets++;
    f->bytes += bytes;
    if (f->bytes >> 31 || f->packets >> 15)
        edge_count_flow(f);
}

#endif
