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

static bool is_v4(const struct abi_addr *addr)
{
    return addr->word[0] == 0 && addr->word[1] == 0 && addr->word[2] == htonl(0xffff);
}

/* SIOCADDMULTI or SIOCDELMULTI; each is the same as once when it is done twice. A group that is not joined,
 * or a device that is gone, is left already. */
static bool change_group(int fd, unsigned long request, const struct abi_address_key *key)
{
    struct ifreq change = {0};
    uint8_t *mac = (uint8_t *)change.ifr_hwaddr.sa_data;
    if (is_v4(&key->addr) || !if_indextoname(key->ifindex, change.ifr_name))
        return true;
    mac[0] = 0x33;
    mac[1] = 0x33;
    mac[2] = 0xff;
    memcpy(mac + 3, (const uint8_t *)key->addr.word + 13, 3);
    return ioctl(fd, request, &change) == 0 || request == SIOCDELMULTI;
}

static bool is_wanted(const struct kernel_entries *entries, const struct abi_address_key *key)
{
    for (uint32_t i = 0; entries && i < entries->address_count; i++)
        if (memcmp(&entries->address[i].key, key, sizeof(*key)) == 0)
            return true;
    return false;
}

/* Two addresses of one device may share a group: those that stay join again afterwards. */
static void leave_others(int fd, int addresses, const struct kernel_entries *entries)
{
    struct abi_address_key key, next;
    for (const void *from = NULL; bpf_map_get_next_key(addresses, from, &next) == 0; from = &key) {
        if (!is_wanted(entries, &next))
            change_group(fd, SIOCDELMULTI, &next);
        key = next;
    }
}

size_t kernel_groups_apply(int addresses, const struct kernel_entries *entries)
{
    size_t refused = 0;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return entries ? entries->address_count : 0;
    leave_others(fd, addresses, entries);
    for (uint32_t i = 0; entries && i < entries->address_count; i++)
        refused += !change_group(fd, SIOCADDMULTI, &entries->address[i].key);
    close(fd);
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
