/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of devices by rtnetlink, each acknowledged by the kernel, in the network namespace of the thread
 * that opened the netlink. Functions return 0 or -errno; "is there already" and "is not there" are theirs to
 * accept.
 */
#ifndef FL_CONTROL_RTNL_H
#define FL_CONTROL_RTNL_H

#include <stdbool.h>
#include <stdint.h>

#include "abi.h"
#include "control/netlink.h"

/* A pair of veth devices; the peer in the network namespace `peer_ns`, -1: in this one too. */
int rtnl_veth(struct netlink *netlink, const char *name, const char *peer, int peer_ns);

/* Deletes a device, and with it its peer; none is no error. */
int rtnl_delete(struct netlink *netlink, const char *name);

/* Up, without ARP if `silent`; an mtu of 0 stays what it is. */
int rtnl_up(struct netlink *netlink, uint32_t ifindex, bool silent, uint32_t mtu_bytes);

int rtnl_address(struct netlink *netlink, uint32_t ifindex, const struct abi_addr *addr, uint8_t prefix_bits);

/* Notes a text of at most RTNL_ALIAS_MAX bytes on a device; an empty one takes the note away. */
enum { RTNL_ALIAS_MAX = 255 };
int rtnl_alias(struct netlink *netlink, const char *name, const char *alias);

/* A neighbour that the kernel itself goes on asking for (Linux 5.16). `addr` is IPv4, network byte order. */
int rtnl_managed_neighbour(struct netlink *netlink, uint32_t ifindex, uint32_t addr);

/* A route that makes the address one of this host's own, in the table local; adding one that is there, and
 * removing one that is not, is no error. */
int rtnl_local_route(struct netlink *netlink, const struct abi_addr *addr, uint8_t protocol, uint32_t metric,
                     bool add);

/* A token bucket as the device's way out. */
int rtnl_token_bucket(struct netlink *netlink, uint32_t ifindex, uint32_t bytes_per_second,
                      uint32_t burst_bytes);

#endif
