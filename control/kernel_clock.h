/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of the kernel's clock and of its probes, which need no process once they are there:
 *
 * - clock, in a network namespace of its own, fairlead-INSTANCE-tick: it has 169.254.77.1 and the neighbour
 *   169.254.77.2, managed and never there;
 * - flt-INSTANCE, its peer, in the node's namespace like all that follow: ingress tick, egress a token
 * bucket;
 * - flo-INSTANCE: tick's packets go out here; ingress rx;
 * - flf-INSTANCE, its peer: ingress fan; it has the net of `inner`;
 * - flp-INSTANCE: egress a token bucket, 4,000 packets a second;
 * - flq-INSTANCE, its peer: ingress fan, for probes that follow each other faster than the clock.
 *
 * Two sources of ticks. The kernel asks for a managed neighbour for ever: an ARP request each period, as
 * exact as jiffies are. Where there are token buckets (sch_tbf), a token goes round: tick sends a packet out
 * through the bucket, the clock's namespace answers it, the answer is the next tick, exact to microseconds;
 * the neighbour then asks at a slower pace, and a lost token is made anew from its request. The namespace has
 * no process and nothing else in it, so that no `ip neigh flush` of the host stops the clock.
 *
 * flo has no checksum offload: what arrives at flf has full checksums, so that `fan` may rewrite it. A probe
 * of an address of this host comes from `inner`, which nobody has: the answer goes out of flf and arrives at
 * flo.
 *
 * Addresses and names are made from the instance's name, so that several nodes can be on one kernel.
 */
#ifndef FL_CONTROL_KERNEL_CLOCK_H
#define FL_CONTROL_KERNEL_CLOCK_H

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "abi.h"

enum { KERNEL_CLOCK_WHY_MAX = 256, KERNEL_CLOCK_PATH_MAX = 128, KERNEL_CLOCK_PERIOD_MIN_US = 1000 };

struct kernel_clock {
    char tick_name[IF_NAMESIZE];
    char out_name[IF_NAMESIZE];
    char fan_name[IF_NAMESIZE];
    char pace_name[IF_NAMESIZE];
    char paced_name[IF_NAMESIZE];
    char ns_path[KERNEL_CLOCK_PATH_MAX];
    uint32_t tick_ifindex, out_ifindex, fan_ifindex;
    uint32_t pace_ifindex, paced_ifindex; /* 0 where there are no token buckets */
    struct abi_addr inner, inner6;        /* inner6 is all zero where there is no IPv6 */
    bool token;                           /* node.flags gets ABI_NODE_TOKEN */
    uint64_t tick_ns;
};

/* Makes what is missing and puts right what is not as it shall be; what is as it shall be is not touched, so
 * that the clock goes on through a restart. A changed period may cost a tick. 0 or -errno with a reason that
 * names what this kernel or process lacks. */
int kernel_clock_ensure(const char *instance, uint32_t period_us, struct kernel_clock *clock,
                        char why[KERNEL_CLOCK_WHY_MAX]);

/* Removes it all, if it is there; what can be removed is, also after an error. */
int kernel_clock_remove(const char *instance, char why[KERNEL_CLOCK_WHY_MAX]);

/* Only the names and addresses. */
void kernel_clock_name(const char *instance, struct kernel_clock *clock);

#endif
