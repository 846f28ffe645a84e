/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel half knows of this host's network: devices, addresses, and the ways to backends, which are
 * remembered until something changes: whoever compiles asks for thousands of them.
 */
#ifndef FL_CONTROL_KERNEL_NETWORK_H
#define FL_CONTROL_KERNEL_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/compile/kernel_compile.h"
#include "control/journal.h"
#include "control/netlink.h"

struct kernel_way;

struct kernel_network {
    struct netlink *netlink; /* NULL: closed */
    /* Whether packets that come in by the device are seen by the programs. */
    bool (*watched)(void *arg, const struct netlink_device *device);
    void *arg;
    struct netlink_device *device;
    size_t device_count, device_cap;
    struct kernel_local *local;
    size_t local_count, local_cap;
    struct kernel_way *way; /* a hash table: way_cap slots, a power of two */
    size_t way_count, way_cap;
    uint64_t ways_ms; /* since when they are remembered */
};

/* 0 or -errno. */
int kernel_network_open(struct kernel_network *n);
void kernel_network_close(struct kernel_network *n);
void kernel_network_fini(struct kernel_network *n);

/* Reads devices and addresses anew, and forgets the ways. */
void kernel_network_read(struct kernel_network *n, struct journal *journal);

/* Forgets ways that are remembered for long: nobody is told when rules of routing change. */
void kernel_network_age(struct kernel_network *n, uint64_t now_ms);

/* NULL: there is none. */
const struct netlink_device *kernel_network_device(const struct kernel_network *n, uint32_t ifindex);

/* kernel_facts.source and .neighbour; arg is the network. */
bool kernel_network_source(void *arg, const struct abi_addr *to, struct abi_addr *source, bool *watched);
bool kernel_network_neighbour(void *arg, uint32_t ifindex, const struct abi_addr *addr, uint8_t mac[6]);

#endif
