/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_network.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/abi_addr.h"

enum { STEP = 32, WAYS_FIRST = 64, WAYS_LIFE_MS = 10000 };

struct kernel_way {
    struct abi_addr to;
    struct abi_addr source;
    bool used, found, watched;
};

int kernel_network_open(struct kernel_network *n)
{
    return netlink_open(&n->netlink);
}

void kernel_network_close(struct kernel_network *n)
{
    if (n->netlink)
        netlink_close(n->netlink);
    n->netlink = NULL;
}

void kernel_network_fini(struct kernel_network *n)
{
    kernel_network_close(n);
    free(n->device);
    free(n->local);
    free(n->way);
}

/* Devices and addresses. */

const struct netlink_device *kernel_network_device(const struct kernel_network *n, uint32_t ifindex)
{
    for (size_t i = 0; i < n->device_count; i++)
        if (n->device[i].ifindex == ifindex)
            return &n->device[i];
    return NULL;
}

static void take_device(void *arg, const struct netlink_device *device)
{
    struct kernel_network *n = arg;
    if (n->device_count == n->device_cap) {
        n->device_cap += STEP;
        n->device = reallocarray(n->device, n->device_cap, sizeof(*n->device));
        CHECK(n->device);
    }
    n->device[n->device_count++] = *device;
}

static void take_address(void *arg, const struct netlink_address *address)
{
    struct kernel_network *n = arg;
    const struct netlink_device *device = kernel_network_device(n, address->ifindex);
    if (n->local_count == n->local_cap) {
        n->local_cap += STEP;
        n->local = reallocarray(n->local, n->local_cap, sizeof(*n->local));
        CHECK(n->local);
    }
    struct kernel_local *local = &n->local[n->local_count++];
    *local = (struct kernel_local){
        .addr = address->addr,
        .ifindex = address->ifindex,
        .prefix = (uint8_t)(address->prefix_bits + (abi_addr_is_v4(&address->addr) ? 96 : 0))};
    if (device && device->ethernet)
        memcpy(local->mac, device->mac, sizeof(local->mac));
}

static void forget_ways(struct kernel_network *n)
{
    if (n->way_count)
        memset(n->way, 0, n->way_cap * sizeof(*n->way));
    n->way_count = 0;
}

void kernel_network_read(struct kernel_network *n, struct journal *journal)
{
    n->device_count = 0;
    n->local_count = 0;
    n->ways_ms = 0;
    forget_ways(n);
    int result = netlink_devices(n->netlink, take_device, n);
    if (!result)
        result = netlink_addresses(n->netlink, take_address, n);
    if (result)
        journal_warn(journal, "kernel", "the devices cannot be listed: %s", strerror(-result));
}

void kernel_network_age(struct kernel_network *n, uint64_t now_ms)
{
    if (now_ms - n->ways_ms < WAYS_LIFE_MS)
        return;
    forget_ways(n);
    n->ways_ms = now_ms;
}

/* Ways. */

static size_t slot_of(const struct kernel_network *n, const struct abi_addr *to)
{
    uint64_t hash = to->word[0];
    for (size_t i = 1; i < 4; i++)
        hash = (hash ^ to->word[i]) * 0x9e3779b97f4a7c15ull + (hash >> 29);
    hash ^= hash >> 32;
    size_t at = (size_t)hash & (n->way_cap - 1);
    while (n->way[at].used && memcmp(&n->way[at].to, to, sizeof(*to)) != 0)
        at = (at + 1) & (n->way_cap - 1);
    return at;
}

static void grow(struct kernel_network *n)
{
    struct kernel_way *old = n->way;
    size_t old_cap = n->way_cap;
    n->way_cap = old_cap ? old_cap * 2 : WAYS_FIRST;
    n->way = calloc(n->way_cap, sizeof(*n->way));
    CHECK(n->way);
    for (size_t i = 0; i < old_cap; i++)
        if (old[i].used)
            n->way[slot_of(n, &old[i].to)] = old[i];
    free(old);
}

static void look(const struct kernel_network *n, struct kernel_way *way)
{
    struct netlink_route route;
    if (netlink_route(n->netlink, &way->to, &route))
        return;
    const struct netlink_device *device = kernel_network_device(n, route.ifindex);
    way->source = route.source;
    way->found = (route.source.word[2] | route.source.word[3]) != 0;
    /* One that is not known yet will be told of. */
    way->watched = !device || device->loopback || n->watched(n->arg, device);
}

bool kernel_network_source(void *arg, const struct abi_addr *to, struct abi_addr *source, bool *watched)
{
    struct kernel_network *n = arg;
    if (n->way_count >= n->way_cap / 2)
        grow(n);
    struct kernel_way *way = &n->way[slot_of(n, to)];
    if (!way->used) {
        *way = (struct kernel_way){.to = *to, .used = true, .watched = true};
        look(n, way);
        n->way_count++;
    }
    if (way->found)
        *source = way->source;
    *watched = way->watched;
    return way->found;
}

bool kernel_network_neighbour(void *arg, uint32_t ifindex, const struct abi_addr *addr, uint8_t mac[6])
{
    const struct kernel_network *n = arg;
    return netlink_neighbour(n->netlink, ifindex, addr, mac) == 0;
}
