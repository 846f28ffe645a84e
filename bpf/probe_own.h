/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sequence numbers of probes. What answers one has to be told from another's connection long after the probe
 * was forgotten, so a number says whose it is: a random part, and a keyed hash of that, the address and the
 * ports. A stranger's number is taken for ours once in 16 million times.
 */
#ifndef FL_BPF_PROBE_OWN_H
#define FL_BPF_PROBE_OWN_H

#include "common.h"
#include "maps.h"

enum { OWN_HASH_BITS = 24, OWN_HASH_MASK = (1 << OWN_HASH_BITS) - 1 };

/* Random, from the first probe on; 0: not yet. */
FL_MAP(probe_key, BPF_MAP_TYPE_ARRAY, 1, __u32, __u64, 0);

INLINE __u64 own_random(void)
{
    __u64 mixed = (bpf_ktime_get_ns() ^ (__u64)bpf_get_prandom_u32() << 32) * 0x9e3779b97f4a7c15ull;
    return (mixed ^ mixed >> 29 ^ bpf_get_prandom_u32()) | 1;
}

INLINE __u64 own_key(void)
{
    __u32 zero = 0;
    __u64 *key = bpf_map_lookup_elem(&probe_key, &zero);
    if (!key)
        return 0;
    if (!*(volatile __u64 *)key)
        __sync_val_compare_and_swap(key, 0, own_random());
    return *(volatile __u64 *)key;
}

INLINE __u64 own_mix(__u64 h, __u64 more)
{
    h = (h ^ more) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 32;
}

/* `random`: what is above the hash. Address and ports are the backend's and the probe's, as on the wire. */
static __noinline __u32 own_sequence(__u32 random, const struct abi_addr *backend, __u16 port,
                                     __u16 probe_port)
{
    __u64 key = own_key();
    __u64 h = own_mix(key, (__u64)backend->word[0] << 32 | backend->word[1]) + key;
    h = own_mix(h, (__u64)backend->word[2] << 32 | backend->word[3]) + key;
    h = own_mix(h, (__u64)(random >> OWN_HASH_BITS) << 32 | (__u32)port << 16 | probe_port) + key;
    h = own_mix(h, key >> 1);
    return (random & ~OWN_HASH_MASK) | (h >> 40 & OWN_HASH_MASK);
}

INLINE bool own_is(__u32 sequence, const struct abi_addr *backend, __u16 port, __u16 probe_port)
{
    return own_sequence(sequence, backend, port, probe_port) == sequence;
}

#endif
