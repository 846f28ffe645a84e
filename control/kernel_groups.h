/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Neighbour solicitations for an IPv6 address are sent to its group (ff02::1:ff and its last 3 bytes: RFC
 * 4291, 2.7.1; on the link 33:33:ff and the same: RFC 2464, 7), which a host that does not have the address
 * is no member of: its device drops them, and a switch that follows memberships (MLD snooping) sends them
 * elsewhere. For addresses that are taken over every candidate's device is told, which outlives the process,
 * and a socket is a member. That ends with the process, and a switch that snoops may look elsewhere until the
 * next one has started: what would stay, a group as an address of the device (IFA_F_MCAUTOJOIN), can become
 * the source address of what the host sends, and cannot be left once the device was down.
 */
#ifndef FL_CONTROL_KERNEL_GROUPS_H
#define FL_CONTROL_KERNEL_GROUPS_H

#include "control/compile/kernel_compile.h"

/* The socket: one for as long as the groups are to be joined. -1: there is no IPv6 on this host. */
int kernel_groups_open(void);

/* Joins the groups of the entries' addresses, and leaves those that `addresses` (the map, before it is
 * written) has and the entries have not. entries NULL: leaves all. Returns how many devices refused. */
size_t kernel_groups_apply(int groups, int addresses, const struct kernel_entries *entries);

/* The devices of an instance leave all groups, whatever its sets are. */
void kernel_groups_leave(const char *instance);

#endif
