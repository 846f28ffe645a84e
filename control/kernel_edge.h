/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings of this network namespace that the edge needs (bpf/edge.bpf.c): devices that it is on forward the
 * packets of its services' family, since routes are asked for only there (bpf_fib_lookup), and the source
 * ports of full NAT are kept from the host's own connections. And one that addresses on the LAN need: a
 * device on whose segment one is answered by one node of several, or by none, asks for its neighbours in its
 * own name (arp_announce 2), not in that of the address whose packet waits.
 *
 * What was changed is remembered in a map that is pinned beside the sets of the instance, so that it can be
 * given back after any number of restarts. What had its value already is left alone, then and later.
 */
#ifndef FL_CONTROL_KERNEL_EDGE_H
#define FL_CONTROL_KERNEL_EDGE_H

#include "control/bpf_attach.h"
#include "control/compile/kernel_compile.h"
#include "control/journal.h"

enum { KERNEL_EDGE_WHY_MAX = 160, KERNEL_EDGE_SETTLE_MS = 10000 };

struct kernel_edge {
    struct journal *journal;
    uint64_t begun_ms;             /* when this process began with it */
    char why[KERNEL_EDGE_WHY_MAX]; /* what was told last */
};

/* Makes it so for the entries and for what is attached, and gives back what nobody needs any more: not in the
 * first KERNEL_EDGE_SETTLE_MS, in which the state of a cluster may not be known yet. What fails is logged,
 * once. */
void kernel_edge_apply(struct kernel_edge *edge, const char *instance, const struct kernel_entries *entries,
                       const struct bpf_attach *attach, uint64_t now_ms);

/* Tells the XDP program the devices that it is on: what it forwards comes from one of them and leaves by one
 * of them. `links` is its map; -ENOENT: it is not loaded. */
void kernel_edge_links(int links, const struct bpf_attach *attach);

/* Gives everything of an instance back. */
void kernel_edge_restore(const char *instance);

#endif
