/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Neighbour solicitations for an IPv6 address that this host does not have are sent to a group of link
 * addresses (33:33:ff and the address's last 3 bytes: RFC 4291, 2.7.1, and RFC 2464, 7) that a device drops
 * unless told to take it in. For addresses that are taken over, the device is told; that outlives the
 * process.
 */
#ifndef FL_CONTROL_KERNEL_GROUPS_H
#define FL_CONTROL_KERNEL_GROUPS_H

#include "control/compile/kernel_compile.h"

/* Joins the groups of the entries' addresses, and leaves those that `addresses` (the map, before it is
 * written) has and the entries have not. entries NULL: leaves all. Returns how many devices refused. */
size_t kernel_groups_apply(int addresses, const struct kernel_entries *entries);

/* Leaves all groups of an instance, whatever its sets are. */
void kernel_groups_leave(const char *instance);

#endif
