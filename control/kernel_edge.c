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

#include "control/abi_addr.h"
#include "control/kernel_ports.h"

/* Settings of a device, each raised to a value. */
enum setting { FORWARD_V4, FORWARD_V6, ANNOUNCE, SETTINGS };

static const struct {
    const char *path, *name;
    char value;
} settings[SETTINGS] = {
    [FORWARD_V4] = {"ipv4/conf", "forwarding", '1'},
    [FORWARD_V6] = {"ipv6/conf", "forwarding", '1'},
    [ANNOUNCE] = {"ipv4/conf", "arp_announce", '2'},
};

/* Keys of the record: an ifindex, or KEY_PORTS and the first port of a range. */
enum { CHANGED_MAX = 4096, PATH_BYTES = 96, RANGES_MAX = 64, DEVICES_MAX = 64 };
#define KEY_PORTS 0x80000000u

/* What was changed of a device. */
struct changed {
    char name[IF_NAMESIZE];
    uint8_t before[SETTINGS]; /* what it was, plus 1; 0: it was not changed */
    uint8_t pad;
};

/* ... or of the ports: what was reserved beside what others had. */
struct changed_ports {
    char name[IF_NAMESIZE];
    uint16_t count;
    uint8_t pad[2];
};
_Static_assert(sizeof(struct changed) == sizeof(struct changed_ports), "elements of one map");

struct wanted {
    bool forward[2]; /* IPv4, IPv6 */
    bool ports;
    const struct kernel_entries *entries; /* NULL: nothing is wanted */
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

/* One setting of a device. */

static void setting_path(char path[PATH_BYTES], enum setting setting, const char *device)
{
    snprintf(path, PATH_BYTES, "/proc/sys/net/%s/%.15s/%s", settings[setting].path, device,
             settings[setting].name);
}

/* A digit; -errno: the host has no such family, or the device is gone. */
static int read_setting(enum setting setting, const char *device)
{
    char path[PATH_BYTES], value = '0';
    setting_path(path, setting, device);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int result = read(fd, &value, 1) == 1 ? value : -EIO;
    close(fd);
    return result;
}

static int write_setting(enum setting setting, const char *device, char value)
{
    char path[PATH_BYTES];
    setting_path(path, setting, device);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int result = write(fd, &value, 1) == 1 ? 0 : -errno;
    close(fd);
    return result;
}

static bool is_there(uint32_t ifindex, const char *name)
{
    return if_nametoindex(name) == ifindex;
}

/* Whether an address of the device's segment is this host's while another may answer for it: the stack would
 * name it as the sender of its own questions, and whoever hears them would take it to be here. */
static bool is_shared_on(const struct kernel_entries *entries, uint32_t ifindex)
{
    for (uint32_t i = 0; entries && i < entries->address_count; i++)
        if (entries->address[i].key.ifindex == ifindex && abi_addr_is_v4(&entries->address[i].key.addr))
            return true;
    return false;
}

static bool is_wanted(const struct wanted *wanted, enum setting setting, uint32_t ifindex)
{
    return setting == ANNOUNCE ? is_shared_on(wanted->entries, ifindex) : wanted->forward[setting];
}

/* On. */

/* Remembered before it is changed: an end between the two gives back what was never taken. */
static int turn_on(int record, uint32_t ifindex, const char *device, enum setting setting)
{
    struct changed changed = {0};
    int now = read_setting(setting, device);
    if (now < 0 || now >= settings[setting].value)
        return now < 0 && now != -ENOENT ? now : 0;
    if (bpf_map_lookup_elem(record, &ifindex, &changed) || strcmp(changed.name, device) != 0)
        memset(&changed, 0, sizeof(changed));
    snprintf(changed.name, sizeof(changed.name), "%.15s", device);
    if (!changed.before[setting])
        changed.before[setting] = (uint8_t)(now - '0' + 1);
    if (bpf_map_update_elem(record, &ifindex, &changed, BPF_ANY))
        return -errno;
    return write_setting(setting, device, settings[setting].value);
}

static int turn_on_wanted(int record, const struct wanted *wanted, const char *device)
{
    uint32_t ifindex = if_nametoindex(device);
    int first = 0;
    for (int setting = FORWARD_V4; ifindex && setting <= FORWARD_V6; setting++) {
        int result = wanted->forward[setting] ? turn_on(record, ifindex, device, (enum setting)setting) : 0;
        first = first ? first : result;
    }
    return first;
}

/* What does not fit into the record stays reserved one day. */
static int reserve_ports(int record)
{
    struct kernel_ports missing[RANGES_MAX];
    int count = kernel_ports_missing(&ports, missing, RANGES_MAX);
    if (count == 0)
        return 0;
    for (int i = 0; i < count; i++) {
        const struct changed_ports changed = {.name = "ports", .count = missing[i].count};
        const uint32_t key = KEY_PORTS | missing[i].first;
        if (bpf_map_update_elem(record, &key, &changed, BPF_ANY))
            return -errno;
    }
    return kernel_ports_reserve(&ports, true);
}

/* Off. */

static void give_back_ports(int record, uint32_t key)
{
    struct changed_ports changed;
    if (bpf_map_lookup_elem(record, &key, &changed))
        return;
    const struct kernel_ports range = {(uint16_t)(key & 0xffff), changed.count};
    if (kernel_ports_reserve(&range, false) == 0)
        bpf_map_delete_elem(record, &key);
}

/* A device that is gone, or that another has the number of, is forgotten. */
static void turn_off(int record, uint32_t ifindex, const struct wanted *wanted)
{
    struct changed changed;
    if (bpf_map_lookup_elem(record, &ifindex, &changed))
        return;
    struct changed rest = changed;
    bool any = false;
    for (int setting = 0; setting < SETTINGS; setting++) {
        char before = (char)('0' + changed.before[setting] - 1);
        if (changed.before[setting] && !is_wanted(wanted, (enum setting)setting, ifindex) &&
            (!is_there(ifindex, changed.name) ||
             write_setting((enum setting)setting, changed.name, before) == 0))
            rest.before[setting] = 0;
        any |= rest.before[setting] != 0;
    }
    if (!any)
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
        if (!(key & KEY_PORTS))
            turn_off(record, key, wanted);
        else if (!wanted->ports)
            give_back_ports(record, key);
    }
}

/* All. */

static struct wanted wanted_by(const struct kernel_entries *entries)
{
    struct wanted wanted = {.entries = entries};
    for (uint32_t i = 0; i < entries->service_count; i++) {
        const struct kernel_service *s = &entries->service[i];
        if (s->value.edge == ABI_EDGE_OFF)
            continue;
        wanted.forward[abi_addr_is_v4(&s->key.addr) ? FORWARD_V4 : FORWARD_V6] = true;
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

static bool is_among(const uint32_t *list, uint32_t count, uint32_t value)
{
    for (uint32_t i = 0; i < count; i++)
        if (list[i] == value)
            return true;
    return false;
}

/* Wherever an address is shared: also where the data plane has it, and the edge is not. Each device once. */
static void turn_on_announcing(int record, const struct kernel_entries *entries,
                               char why[KERNEL_EDGE_WHY_MAX])
{
    uint32_t done[DEVICES_MAX], count = 0;
    char device[IF_NAMESIZE];
    for (uint32_t i = 0; i < entries->address_count && count < DEVICES_MAX; i++) {
        uint32_t ifindex = entries->address[i].key.ifindex;
        if (!abi_addr_is_v4(&entries->address[i].key.addr) || is_among(done, count, ifindex))
            continue;
        done[count++] = ifindex;
        int result = if_indextoname(ifindex, device) ? turn_on(record, ifindex, device, ANNOUNCE) : 0;
        if (result)
            snprintf(why, KERNEL_EDGE_WHY_MAX, "arp_announce of %.15s: %s", device, strerror(-result));
    }
}

void kernel_edge_apply(struct kernel_edge *edge, const char *instance, const struct kernel_entries *entries,
                       const struct bpf_attach *attach, uint64_t now_ms)
{
    struct wanted wanted = wanted_by(entries);
    char why[KERNEL_EDGE_WHY_MAX] = "";
    bool any = wanted.forward[FORWARD_V4] || wanted.forward[FORWARD_V6] || entries->address_count > 0;
    int record = open_record(instance, any);
    if (record < 0 && any)
        snprintf(why, sizeof(why), "changes cannot be remembered: %s", strerror(-record));
    if (record >= 0 && now_ms - edge->begun_ms >= KERNEL_EDGE_SETTLE_MS)
        turn_off_unwanted(record, &wanted);
    if (record >= 0 && any)
        turn_on_attached(record, &wanted, attach, why);
    if (record >= 0 && any)
        turn_on_announcing(record, entries, why);
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
