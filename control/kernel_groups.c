/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_groups.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/bpf_pins.h"
#include "control/netlink.h"
#include "control/rtnl.h"

static bool is_v4(const struct abi_addr *addr)
{
    return addr->word[0] == 0 && addr->word[1] == 0 && addr->word[2] == htonl(0xffff);
}

struct groups {
    int fd;
    struct netlink *netlink; /* NULL: only the link addresses */
};

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

static bool change_group(const struct groups *groups, bool join, const struct abi_address_key *key)
{
    if (is_v4(&key->addr))
        return true;
    struct abi_addr group = group_of(&key->addr);
    bool member = !groups->netlink || rtnl_group(groups->netlink, key->ifindex, &group, join) == 0;
    return change_link_group(groups->fd, join, key) && member;
}

/* Two addresses of one device may share a group. */
static bool is_wanted(const struct kernel_entries *entries, const struct abi_address_key *key)
{
    struct abi_addr group = group_of(&key->addr);
    for (uint32_t i = 0; entries && i < entries->address_count; i++) {
        const struct abi_address_key *one = &entries->address[i].key;
        struct abi_addr other = group_of(&one->addr);
        if (one->ifindex == key->ifindex && !is_v4(&one->addr) && memcmp(&other, &group, sizeof(group)) == 0)
            return true;
    }
    return false;
}

static void leave_others(const struct groups *groups, int addresses, const struct kernel_entries *entries)
{
    struct abi_address_key key, next;
    for (const void *from = NULL; bpf_map_get_next_key(addresses, from, &next) == 0; from = &key) {
        if (!is_wanted(entries, &next))
            change_group(groups, false, &next);
        key = next;
    }
}

size_t kernel_groups_apply(int addresses, const struct kernel_entries *entries)
{
    size_t refused = 0;
    struct groups groups = {.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    if (groups.fd < 0)
        return entries ? entries->address_count : 0;
    if (netlink_open(&groups.netlink) != 0)
        groups.netlink = NULL;
    leave_others(&groups, addresses, entries);
    for (uint32_t i = 0; entries && i < entries->address_count; i++)
        refused += !change_group(&groups, true, &entries->address[i].key);
    if (groups.netlink)
        netlink_close(groups.netlink);
    close(groups.fd);
    return refused;
}

static void leave_set(void *arg, const char *set)
{
    char path[BPF_PINS_PATH_MAX + 16];
    (void)arg;
    snprintf(path, sizeof(path), "%s/addresses", set);
    int fd = bpf_obj_get(path);
    if (fd < 0)
        return;
    kernel_groups_apply(fd, NULL);
    close(fd);
}

void kernel_groups_leave(const char *instance)
{
    struct bpf_pins pins = {.set = "", .lock = -1};
    bpf_pins_name(&pins, instance);
    bpf_pins_each_other(&pins, leave_set, NULL);
}
