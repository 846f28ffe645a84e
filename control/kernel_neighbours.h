/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Link addresses of the other candidates for addresses that are taken over (abi_address.mac). A claim counts
 * only from its candidate's own; so when a host is replaced by one with the same address, the new link
 * address has to be known before its claims are. The kernel's table of neighbours learns it from the host's
 * first packets, and this watch from the table.
 */
#ifndef FL_CONTROL_KERNEL_NEIGHBOURS_H
#define FL_CONTROL_KERNEL_NEIGHBOURS_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "abi.h"
#include "control/compile/kernel_compile.h"

enum {
    KERNEL_NEIGHBOURS_SETTLE_MS = 200,
    KERNEL_NEIGHBOURS_SETTLE_MS_MAX = 200 << 5, /* where it goes on and on, */
    KERNEL_NEIGHBOURS_QUIET_MS = 20000,         /* which it does if nothing rests for so long */
};

struct kernel_neighbours;

/* `changed` is called when a candidate has another link address, or when news were lost: at most once in
 * KERNEL_NEIGHBOURS_SETTLE_MS, and ever more rarely while it goes on, whatever is said on the network. 0 or
 * -errno. */
int kernel_neighbours_open(uv_loop_t *loop, void (*changed)(void *arg), void *arg,
                           struct kernel_neighbours **out);

/* These count from now on; borrowed until the next call. */
void kernel_neighbours_set(struct kernel_neighbours *neighbours, const struct kernel_entries *entries);

/* Ends with the loop. */
void kernel_neighbours_close(struct kernel_neighbours *neighbours);

/* Whether the neighbour at `addr` is a candidate whose link address was another one, or not known. */
bool kernel_neighbours_is_news(const struct kernel_entries *entries, uint32_t ifindex,
                               const struct abi_addr *addr, const uint8_t mac[6]);

#endif
