/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The clock is kept alive by traffic: whoever sees a packet may find that the clock stands still, and makes a
 * tick of that packet.
 */
#ifndef FL_BPF_CLOCK_H
#define FL_BPF_CLOCK_H

#include "common.h"
#include "maps.h"

enum { CLOCK_KICK_TICKS = 4 }; /* so late is late: the clock's timer may be a jiffy or two behind */

/* `now` may be coarse. */
INLINE void clock_kick(struct __sk_buff *skb, const struct abi_node *n, __u64 now)
{
    __u32 zero = 0;
    struct abi_tick_state *t = bpf_map_lookup_elem(&tick_state, &zero);
    __u64 late_ns = n->tick_ns * CLOCK_KICK_TICKS;
    if (!t || !n->tick_ifindex || !n->tick_ns || now < t->last_ns + late_ns)
        return;
    __u64 kicked = t->kick_ns;
    if (now < kicked + late_ns || __sync_val_compare_and_swap(&t->kick_ns, kicked, now) != kicked)
        return;
    __sync_fetch_and_add(&t->restarts, 1);
    bpf_clone_redirect(skb, n->tick_ifindex, BPF_F_INGRESS);
}

#endif
