/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Neighbour solicitations for an IPv6 address are sent to its group (ff02::1:ff and its last 3 bytes: RFC
 * 4291, 2.7.1; on the link 33:33:ff and the same: RFC 2464, 7), which a host that does not have the address
 * is no member of: its device drops them, and a switch that follows memberships (MLD snooping) sends them
 * elsewhere. For addresses that are taken over every candidate's device is told, and the kernel made a
 * member; both outlive the process. What it is a member of is listed among the device's addresses.
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
