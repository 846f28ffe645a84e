/* SPDX-License-Identifier: Apache-2.0 */
/* One conversation by rtnetlink: shared by what asks (netlink.c) and what changes (rtnl.c). */
#ifndef FL_CONTROL_NETLINK_PRIVATE_H
#define FL_CONTROL_NETLINK_PRIVATE_H

#include <libmnl/libmnl.h>

#include "control/netlink.h"

/* A request of a type in the netlink's buffer, to be filled and asked. */
struct nlmsghdr *netlink_request(struct netlink *netlink, uint16_t type, uint16_t flags);

/* Sends it and has each message of the answer read; `each` may be NULL. 0 or -errno. */
int netlink_ask(struct netlink *netlink, struct nlmsghdr *head, mnl_cb_t each, void *arg);

#endif
