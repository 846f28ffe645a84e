/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_edge.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/kernel_ports.h"

enum { CHANGED_MAX = 4096, KEY_PORTS = 0, PATH_BYTES = 96 };

/* What was changed, by ifindex; KEY_PORTS: the ports were reserved. */
struct changed {
    char name[IF_NAMESIZE];
    uint8_t forwards[2]; /* IPv4 and IPv6 did not forward before */
    uint8_t pad[2];
};

enum family { FAMILY_V4, FAMILY_V6 };

struct wanted {
    bool forward[2];
    bool ports;
};

static const struct kernel_ports ports = {ABI_EDGE_PORT_FIRST, ABI_EDGE_PORTS};

/* The record. */

static int open_record(const char *instance, bool make)
{
    char path[BPF_PINS_PATH_MAX];
    snprintf(path, sizeof(path), BPF_PINS_FS "/fairlead-%s/forwarding", instance);
    int fd = bpf_obj_get(path);
    if (fd >= 0)
        return fd;
    if (!make)
        return -ENOENT;
    fd = bpf_map_create(BPF_MAP_TYPE_HASH, "fl_forwarding", sizeof(uint32_t), sizeof(struct changed),
                        CHANGED_MAX, NULL);
    if (fd < 0 || bpf_obj_pin(fd, path) == 0)
        return fd < 0 ? -errno : fd;
    int result = -errno;
    close(fd);
    return result;
}

/* One switch of a device. */

static void switch_path(char path[PATH_BYTES], enum family family, const char *device)
{
    snprintf(path, PATH_BYTES, "/proc/sys/net/ipv%d/conf/%.15s/forwarding", family == FAMILY_V4 ? 4 : 6,
             device);
}

/* 0 or 1; -errno: the host has no such family, or the device is gone. */
static int read_switch(enum family family, const char *device)
{
    char path[PATH_BYTES], value = '0';
    switch_path(path, family, device);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int result = read(fd, &value, 1) == 1 ? value != '0' : -EIO;
    close(fd);
    return result;
}

static int write_switch(enum family family, const char *device, bool on)
{
    char path[PATH_BYTES];
    switch_path(path, family, device);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int result = write(fd, on ? "1" : "0", 1) == 1 ? 0 : -errno;
    close(fd);
    return result;
}

static bool is_there(uint32_t ifindex, const char *name)
{
    return if_nametoindex(name) == ifindex;
}

/* On. */

/* Remembered before it is changed: an end between the two gives back what was never taken. */
static int turn_on(int record, uint32_t ifindex, const char *device, enum family family)
{
    struct changed changed = {0};
    int now = read_switch(family, device);
    if (now != 0)
        return now < 0 && now != -ENOENT ? now : 0;
    if (bpf_map_lookup_elem(record, &ifindex, &changed) || strcmp(changed.name, device) != 0)
        memset(&changed, 0, sizeof(changed));
    snprintf(changed.name, sizeof(changed.name), "%.15s", device);
    changed.forwards[family] = 1;
    if (bpf_map_update_elem(record, &ifindex, &changed, BPF_ANY))
        return -errno;
    return write_switch(family, device, true);
}

static int turn_on_wanted(int record, const struct wanted *wanted, const char *device)
{
    uint32_t ifindex = if_nametoindex(device);
    int first = 0;
    for (int family = FAMILY_V4; ifindex && family <= FAMILY_V6; family++) {
        int result = wanted->forward[family] ? turn_on(record, ifindex, device, (enum family)family) : 0;
        first = first ? first : result;
    }
    return first;
}

static int reserve_ports(int record)
{
    const struct changed changed = {.name = "ports"};
    const uint32_t key = KEY_PORTS;
    if (kernel_ports_are_reserved(&ports))
        return 0;
    if (bpf_map_update_elem(record, &key, &changed, BPF_ANY))
        return -errno;
    return kernel_ports_reserve(&ports, true);
}

/* Off. */

static void give_back_ports(int record)
{
    const uint32_t key = KEY_PORTS;
    struct changed changed;
    if (bpf_map_lookup_elem(record, &key, &changed) == 0 && kernel_ports_reserve(&ports, false) == 0)
        bpf_map_delete_elem(record, &key);
}

/* A device that is gone, or that another has the number of, is forgotten. */
static void turn_off(int record, uint32_t ifindex, const struct wanted *wanted)
{
    struct changed changed;
    if (bpf_map_lookup_elem(record, &ifindex, &changed))
        return;
    struct changed rest = changed;
    for (int family = FAMILY_V4; family <= FAMILY_V6; family++)
        if (changed.forwards[family] && !wanted->forward[family]) {
            if (is_there(ifindex, changed.name) && write_switch((enum family)family, changed.name, false))
                continue;
            rest.forwards[family] = 0;
        }
    if (!rest.forwards[FAMILY_V4] && !rest.forwards[FAMILY_V6])
        bpf_map_delete_elem(record, &ifindex);
    else if (memcmp(&rest, &changed, sizeof(rest)) != 0)
        bpf_map_update_elem(record, &ifindex, &rest, BPF_ANY);
}

static void turn_off_unwanted(int record, const struct wanted *wanted)
{
    uint32_t key, next;
    int end = bpf_map_get_next_key(record, NULL, &next);
    while (!end) {
        key = next;
        end = bpf_map_get_next_key(record, &key, &next); /* before the key may go */
        if (key != KEY_PORTS)
            turn_off(record, key, wanted);
    }
    if (!wanted->ports)
        give_back_ports(record);
}

/* All. */

static struct wanted wanted_by(const struct kernel_entries *entries)
{
    struct wanted wanted = {0};
    for (uint32_t i = 0; i < entries->service_count; i++) {
        const struct kernel_service *s = &entries->service[i];
        const struct abi_addr *addr = &s->key.addr;
        bool v4 = addr->word[0] == 0 && addr->word[1] == 0 && addr->word[2] == htonl(0xffff);
        if (s->value.edge == ABI_EDGE_OFF)
            continue;
        wanted.forward[v4 ? FAMILY_V4 : FAMILY_V6] = true;
        wanted.ports |= s->value.edge == ABI_EDGE_FULL_NAT;
    }
    return wanted;
}

static void turn_on_attached(int record, const struct wanted *wanted, const struct bpf_attach *attach,
                             char why[KERNEL_EDGE_WHY_MAX])
{
    const struct bpf_attach_place *place;
    for (size_t i = 0; (place = bpf_attach_place(attach, i)) != NULL; i++) {
        if (strcmp(place->program, "edge") != 0 || place->program_id == 0)
            continue;
        int result = turn_on_wanted(record, wanted, place->where);
        if (result)
            snprintf(why, KERNEL_EDGE_WHY_MAX, "forwarding of %.40s: %s", place->where, strerror(-result));
    }
    int reserved = wanted->ports ? reserve_ports(record) : 0;
    if (reserved)
        snprintf(why, KERNEL_EDGE_WHY_MAX, "net.ipv4.ip_local_reserved_ports: %s", strerror(-reserved));
}

void kernel_edge_apply(struct kernel_edge *edge, const char *instance, const struct kernel_entries *entries,
                       const struct bpf_attach *attach, uint64_t now_ms)
{
    struct wanted wanted = wanted_by(entries);
    char why[KERNEL_EDGE_WHY_MAX] = "";
    bool any = wanted.forward[FAMILY_V4] || wanted.forward[FAMILY_V6];
    int record = open_record(instance, any);
    if (record < 0 && any)
        snprintf(why, sizeof(why), "changes cannot be remembered: %s", strerror(-record));
    if (record >= 0 && now_ms - edge->begun_ms >= KERNEL_EDGE_SETTLE_MS)
        turn_off_unwanted(record, &wanted);
    if (record >= 0 && any)
        turn_on_attached(record, &wanted, attach, why);
    if (record >= 0)
        close(record);
    if (*why && strcmp(why, edge->why) != 0)
        journal_warn(edge->journal, "kernel", "the edge may not forward everything: %s", why);
    memcpy(edge->why, why, sizeof(why));
}

/* Links of the XDP program. */

static bool link_of(const char *device, uint32_t *ifindex, struct abi_edge_link *link)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%.15s", device);
    *ifindex = if_nametoindex(request.ifr_name);
    bool known = *ifindex && ioctl(fd, SIOCGIFHWADDR, &request) == 0;
    close(fd);
    *link = (struct abi_edge_link){.sends = 1};
    memcpy(link->mac, request.ifr_hwaddr.sa_data, sizeof(link->mac));
    return known;
}

static bool has_xdp(const struct bpf_attach *attach, uint32_t ifindex)
{
    const struct bpf_attach_place *place;
    for (size_t i = 0; (place = bpf_attach_place(attach, i)) != NULL; i++)
        if (place->hook == BPF_HOOK_XDP && place->program_id && if_nametoindex(place->where) == ifindex)
            return true;
    return false;
}

static void forget_links(int links, const struct bpf_attach *attach)
{
    uint32_t key, next;
    int end = bpf_map_get_next_key(links, NULL, &next);
    while (!end) {
        key = next;
        end = bpf_map_get_next_key(links, &key, &next); /* before the key may go */
        if (!has_xdp(attach, key))
            bpf_map_delete_elem(links, &key);
    }
}

void kernel_edge_links(int links, const struct bpf_attach *attach)
{
    const struct bpf_attach_place *place;
    struct abi_edge_link link;
    uint32_t ifindex;
    if (links < 0)
        return;
    forget_links(links, attach);
    for (size_t i = 0; (place = bpf_attach_place(attach, i)) != NULL; i++)
        if (place->hook == BPF_HOOK_XDP && place->program_id && link_of(place->where, &ifindex, &link))
            bpf_map_update_elem(links, &ifindex, &link, BPF_ANY);
}

void kernel_edge_restore(const char *instance)
{
    const struct wanted none = {0};
    int record = open_record(instance, false);
    if (record < 0)
        return;
    turn_off_unwanted(record, &none);
    close(record);
}
