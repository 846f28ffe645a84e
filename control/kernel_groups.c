/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_groups.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/abi_addr.h"
#include "control/bpf_pins.h"

/* ff02::1:ff and the address's last 3 bytes. */
static struct abi_addr group_of(const struct abi_addr *addr)
{
    struct abi_addr group = {{htonl(0xff020000), 0, htonl(1), addr->word[3] | htonl(0xff000000)}};
    return group;
}

/* By link address: SIOCADDMULTI or SIOCDELMULTI; each is the same as once when it is done twice. A group that
 * is not joined, or a device that is gone, is left already. */
static bool change_link_group(int fd, bool join, const struct abi_address_key *key)
{
    struct ifreq change = {0};
    uint8_t *mac = (uint8_t *)change.ifr_hwaddr.sa_data;
    if (!if_indextoname(key->ifindex, change.ifr_name))
        return true;
    mac[0] = 0x33;
    mac[1] = 0x33;
    mac[2] = 0xff;
    memcpy(mac + 3, (const uint8_t *)key->addr.word + 13, 3);
    return ioctl(fd, join ? SIOCADDMULTI : SIOCDELMULTI, &change) == 0 || !join;
}

/* Likewise. */
static bool change_membership(int fd, bool join, const struct abi_address_key *key)
{
    struct abi_addr group = group_of(&key->addr);
    struct ipv6_mreq change = {.ipv6mr_interface = key->ifindex};
    memcpy(&change.ipv6mr_multiaddr, group.word, sizeof(group.word));
    int rc = setsockopt(fd, IPPROTO_IPV6, join ? IPV6_JOIN_GROUP : IPV6_LEAVE_GROUP, &change, sizeof(change));
    return rc == 0 || !join || errno == EADDRINUSE;
}

static bool change_group(int fd, bool join, const struct abi_address_key *key)
{
    if (abi_addr_is_v4(&key->addr))
        return true;
    bool member = change_membership(fd, join, key);
    return change_link_group(fd, join, key) && member;
}

/* Two addresses of one device may share a group. */
static bool is_wanted(const struct kernel_entries *entries, const struct abi_address_key *key)
{
    struct abi_addr group = group_of(&key->addr);
    for (uint32_t i = 0; entries && i < entries->address_count; i++) {
        const struct abi_address_key *one = &entries->address[i].key;
        struct abi_addr other = group_of(&one->addr);
        if (one->ifindex == key->ifindex && !abi_addr_is_v4(&one->addr) &&
            memcmp(&other, &group, sizeof(group)) == 0)
            return true;
    }
    return false;
}

static void leave_others(int fd, int addresses, const struct kernel_entries *entries)
{
    struct abi_address_key key, next;
    for (const void *from = NULL; bpf_map_get_next_key(addresses, from, &next) == 0; from = &key) {
        if (!is_wanted(entries, &next))
            change_group(fd, false, &next);
        key = next;
    }
}

int kernel_groups_open(void)
{
    return socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

size_t kernel_groups_apply(int groups, int addresses, const struct kernel_entries *entries)
{
    size_t refused = 0;
    if (groups < 0) /* a host without IPv6 has none of its addresses */
        return 0;
    leave_others(groups, addresses, entries);
    for (uint32_t i = 0; entries && i < entries->address_count; i++)
        refused += !change_group(groups, true, &entries->address[i].key);
    return refused;
}

static void leave_set(void *arg, const char *set)
{
    char path[BPF_PINS_PATH_MAX + 16];
    const int *groups = arg;
    snprintf(path, sizeof(path), "%s/addresses", set);
    int fd = bpf_obj_get(path);
    if (fd < 0)
        return;
    kernel_groups_apply(*groups, fd, NULL);
    close(fd);
}

void kernel_groups_leave(const char *instance)
{
    struct bpf_pins pins = {.set = "", .lock = -1};
    int groups = kernel_groups_open();
    bpf_pins_name(&pins, instance);
    bpf_pins_each_other(&pins, leave_set, &groups);
    if (groups >= 0)
        close(groups);
}
