/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings of this network namespace that the edge needs (bpf/edge.bpf.c): devices that it is on forward the
 * packets of its services' family, since routes are asked for only there (bpf_fib_lookup), and the source
 * ports of full NAT are kept from the host's own connections.
 *
 * What was changed is remembered in a map that is pinned beside the sets of the instance, so that it can be
 * given back after any number of restarts. What had its value already is left alone, then and later.
 */
#ifndef FL_CONTROL_KERNEL_EDGE_H
#define FL_CONTROL_KERNEL_EDGE_H

#include "control/bpf_attach.h"
#include "control/compile/kernel_compile.h"

enum { KERNEL_EDGE_WHY_MAX = 160 };

/* Makes it so for the entries and for what is attached, and gives back what nobody needs any more. 0 or
 * -errno with a message in why. */
int kernel_edge_apply(const char *instance, const struct kernel_entries *entries,
                      const struct bpf_attach *attach, char why[KERNEL_EDGE_WHY_MAX]);

/* Tells the XDP program the devices that it is on: what it forwards comes from one of them and leaves by one
 * of them. `links` is its map; -ENOENT: it is not loaded. */
void kernel_edge_links(int links, const struct bpf_attach *attach);

/* Gives everything of an instance back. */
void kernel_edge_restore(const char *instance);

#endif
