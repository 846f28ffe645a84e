/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source ports of probes and canaries, kept from this namespace's own connections while there is a clock
 * in it. What others had reserved before stays reserved after: what was added is noted on the clock's device
 * (its alias), which lives as long as the reservation and in the same namespace.
 */
#ifndef FL_CONTROL_CLOCK_PORTS_H
#define FL_CONTROL_CLOCK_PORTS_H

#include "control/netlink.h"
#include "control/rtnl.h"

struct clock_ports_note {
    char list[RTNL_ALIAS_MAX + 1];
};

/* `device`: the clock's. 0 or -errno. */
int clock_ports_reserve(struct netlink *netlink, const char *device);

/* What is noted on a device; nothing, if it is none of these notes. */
void clock_ports_read(struct netlink *netlink, const char *device, struct clock_ports_note *note);

/* What was noted on a device that is gone becomes `heir`'s, a clock's in this namespace, to give back. */
void clock_ports_hand_over(struct netlink *netlink, const struct clock_ports_note *note, const char *heir);

/* The clock with that device ends: what it added is given back, or (`heir`: the device of another clock in
 * this namespace, or NULL) becomes that one's to give back. */
void clock_ports_give_back(struct netlink *netlink, const char *device, const char *heir);

#endif
