/* SPDX-License-Identifier: Apache-2.0 */
#include "control/local_routes.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/netlink.h"
#include "control/rtnl.h"
#include "control/sockets_at.h"

struct found {
    struct abi_addr *addr;
    size_t count;
};

static void note_route(void *arg, const struct abi_addr *addr)
{
    struct found *found = arg;
    found->addr = reallocarray(found->addr, found->count + 1, sizeof(*found->addr));
    CHECK(found->addr);
    found->addr[found->count++] = *addr;
}

static bool is_in(const struct abi_addr *list, size_t count, const struct abi_addr *addr)
{
    for (size_t i = 0; i < count; i++)
        if (memcmp(&list[i], addr, sizeof(*addr)) == 0)
            return true;
    return false;
}

/* FNV-1a; never 0, which is no metric. */
static uint32_t metric_of(const char *instance)
{
    uint32_t hash = 0x811c9dc5;
    for (; *instance; instance++)
        hash = (hash ^ (uint8_t)*instance) * 0x01000193;
    return hash | 1;
}

static void keep_first(int *first, int err)
{
    if (err && !*first)
        *first = err;
}

/* Those that are not wanted any more. lingering NULL: all of them; else those that are in use are counted,
 * and stay: a connection needs its own address. */
static int remove_routes(struct netlink *netlink, uint32_t metric, const struct found *gone,
                         size_t *lingering)
{
    bool *used = calloc(gone->count + 1, sizeof(*used));
    CHECK(used);
    int result = lingering && gone->count ? sockets_at(gone->addr, gone->count, used) : 0;
    for (size_t i = 0; i < gone->count; i++) {
        if (used[i])
            (*lingering)++;
        else
            keep_first(&result,
                       rtnl_local_route(netlink, &gone->addr[i], LOCAL_ROUTES_PROTOCOL, metric, false));
    }
    free(used);
    return result;
}

static int sync_routes(struct netlink *netlink, uint32_t metric, const struct abi_addr *wanted, size_t count,
                       size_t *lingering)
{
    struct found found = {0}, gone = {0};
    int result = netlink_local_routes(netlink, LOCAL_ROUTES_PROTOCOL, metric, note_route, &found);
    for (size_t i = 0; i < found.count; i++)
        if (!is_in(wanted, count, &found.addr[i]))
            note_route(&gone, &found.addr[i]);
    for (size_t i = 0; i < count; i++)
        if (!is_in(found.addr, found.count, &wanted[i]))
            keep_first(&result, rtnl_local_route(netlink, &wanted[i], LOCAL_ROUTES_PROTOCOL, metric, true));
    keep_first(&result, remove_routes(netlink, metric, &gone, lingering));
    free(gone.addr);
    free(found.addr);
    return result;
}

int local_routes_sync(const char *instance, const struct abi_addr *wanted, size_t count, bool *delivered,
                      size_t *lingering)
{
    struct netlink *netlink;
    if (lingering)
        *lingering = 0;
    int result = netlink_open(&netlink);
    if (result)
        return result;
    result = sync_routes(netlink, metric_of(instance), wanted, count, lingering);
    for (size_t i = 0; i < count && delivered; i++) {
        struct netlink_route route;
        delivered[i] = netlink_route(netlink, &wanted[i], &route) == 0 && route.local;
    }
    netlink_close(netlink);
    return result;
}
