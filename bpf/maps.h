/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The maps that programs share, pinned by name; each object that includes this gets the same maps. Sizes are
 * the smallest that are useful: the loader sets the real ones before it loads. Layouts and writers: abi.h.
 */
#ifndef FL_BPF_MAPS_H
#define FL_BPF_MAPS_H

#include "abi.h"

#define FL_MAP(map, kind, entries, key_type, value_type, flags)                                              \
    struct {                                                                                                 \
        __uint(type, kind);                                                                                  \
        __uint(max_entries, entries);                                                                        \
        __uint(map_flags, flags);                                                                            \
        __uint(pinning, LIBBPF_PIN_BY_NAME);                                                                 \
        __type(key, key_type);                                                                               \
        __type(value, value_type);                                                                           \
    } map SEC(".maps")

/* Written by control. */
FL_MAP(node, BPF_MAP_TYPE_ARRAY, 1, __u32, struct abi_node, 0);
FL_MAP(services, BPF_MAP_TYPE_HASH, ABI_SERVICES_MAX, struct abi_endpoint, struct abi_service, 0);
FL_MAP(rows, BPF_MAP_TYPE_ARRAY, 65536, __u32, struct abi_row, 0);
FL_MAP(endpoints, BPF_MAP_TYPE_HASH, 8192, struct abi_endpoint, struct abi_endpoint_backends, 0);
FL_MAP(backends, BPF_MAP_TYPE_ARRAY, 8192, __u32, struct abi_backend, 0);
FL_MAP(checks, BPF_MAP_TYPE_ARRAY, ABI_SERVICES_MAX, __u32, struct abi_check, 0);
FL_MAP(probe_plan, BPF_MAP_TYPE_ARRAY, 1, __u32, struct abi_probe_plan, 0);
FL_MAP(probe_order, BPF_MAP_TYPE_ARRAY, 8192, __u32, __u32, 0);
FL_MAP(peers, BPF_MAP_TYPE_ARRAY, ABI_PEERS_MAX, __u32, struct abi_peer, 0);
FL_MAP(peer_members, BPF_MAP_TYPE_ARRAY, 8192, __u32, __u32, 0);
FL_MAP(addresses, BPF_MAP_TYPE_HASH, ABI_SERVICES_MAX, struct abi_address_key, struct abi_address, 0);
FL_MAP(handshakes, BPF_MAP_TYPE_ARRAY, ABI_HANDSHAKE_SLOTS, __u32, __u64, BPF_F_MMAPABLE);

/* Written by the data plane. */
FL_MAP(evidence, BPF_MAP_TYPE_ARRAY, ABI_EVIDENCE_SLOTS, __u32, __u64, BPF_F_MMAPABLE);

/* Written by BPF. */
FL_MAP(verdicts, BPF_MAP_TYPE_ARRAY, 8192, __u32, __u64, BPF_F_MMAPABLE);
FL_MAP(history, BPF_MAP_TYPE_ARRAY, ABI_HISTORY, __u32, struct abi_change, BPF_F_MMAPABLE);
FL_MAP(history_head, BPF_MAP_TYPE_ARRAY, 1, __u32, __u64, BPF_F_MMAPABLE);
FL_MAP(probe_state, BPF_MAP_TYPE_ARRAY, 8192, __u32, struct abi_probe_state, 0);
FL_MAP(tick_state, BPF_MAP_TYPE_ARRAY, 1, __u32, struct abi_tick_state, 0);
FL_MAP(backend_stats, BPF_MAP_TYPE_ARRAY, 8192, __u32, struct abi_backend_stats, 0);
FL_MAP(peer_state, BPF_MAP_TYPE_ARRAY, ABI_PEERS_MAX, __u32, struct abi_peer_state, 0);
FL_MAP(address_state, BPF_MAP_TYPE_HASH, ABI_SERVICES_MAX, struct abi_address_key, struct abi_address_state,
       0);

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} wake SEC(".maps");

#endif
