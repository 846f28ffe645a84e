/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel says of devices, addresses and routes of this network namespace (rtnetlink), asked one at a
 * time, and a watch that says that something of it has changed.
 *
 * Addresses are as in abi.h: network byte order, IPv4 as ::ffff:a.b.c.d. Functions return 0 or -errno.
 */
#ifndef FL_CONTROL_NETLINK_H
#define FL_CONTROL_NETLINK_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "abi.h"

enum { NETLINK_KIND_MAX = 16, NETLINK_SETTLE_MS = 50 };

struct netlink_device {
    uint32_t ifindex;
    char name[IF_NAMESIZE];
    char kind[NETLINK_KIND_MAX]; /* "veth", "bridge"; "" for hardware and lo */
    uint32_t master;             /* ifindex of the bridge, bond or VRF it is in, 0: none */
    bool loopback, up;
    bool ethernet;
    uint8_t mac[8];
};

struct netlink_address {
    uint32_t ifindex;
    struct abi_addr addr;
    uint8_t prefix_bits; /* of 32 or 128 */
};

/* The way to an address. */
struct netlink_route {
    uint32_t ifindex;
    struct abi_addr source; /* all zero: none */
    bool local;             /* it is one of this host's own */
};

struct netlink;

int netlink_open(struct netlink **out);
void netlink_close(struct netlink *netlink);

int netlink_devices(struct netlink *netlink, void (*each)(void *arg, const struct netlink_device *device),
                    void *arg);
/* What is noted on a device ("ip link set alias"); empty: nothing. */
int netlink_alias(struct netlink *netlink, const char *name, char *out, size_t cap);

int netlink_addresses(struct netlink *netlink, void (*each)(void *arg, const struct netlink_address *address),
                      void *arg);

/* -ENETUNREACH and its like: there is no way. */
int netlink_route(struct netlink *netlink, const struct abi_addr *to, struct netlink_route *out);

/* The addresses of the local routes with that protocol and metric. */
int netlink_local_routes(struct netlink *netlink, uint8_t protocol, uint32_t metric,
                         void (*each)(void *arg, const struct abi_addr *addr), void *arg);

/* The link address of a neighbour; -ENOENT: it is not known. */
int netlink_neighbour(struct netlink *netlink, uint32_t ifindex, const struct abi_addr *addr, uint8_t mac[6]);

/* The number of traffic control filters at a parent of a device; -errno. */
int netlink_filter_count(struct netlink *netlink, uint32_t ifindex, uint32_t parent);

struct netlink_watch;

/* Calls `changed` when devices, addresses or routes have, at most once in NETLINK_SETTLE_MS. */
int netlink_watch_open(uv_loop_t *loop, void (*changed)(void *arg), void *arg, struct netlink_watch **out);

/* Ends with the loop. */
void netlink_watch_close(struct netlink_watch *watch);

#endif
