/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bpf_attach.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi.h"
#include "check.h"

enum { PLACES_STEP = 64, MAP_IDS_MAX = 64 };

struct entry {
    struct bpf_attach_place place;
    uint32_t ifindex; /* 0: a cgroup */
};

struct bpf_attach {
    const struct bpf_load *load;
    char instance[BPF_PINS_INSTANCE_MAX];
    struct entry *entry;
    size_t count, cap;
};

/* Where a program belongs, by its name. Programs of cgroups are known by their type. */
static const struct hook_row {
    const char *program, *object;
    enum bpf_hook hook;
    uint32_t priority;
} hook_rows[] = {
    {"tick", "probe", BPF_HOOK_TICK, ABI_TC_RX},
    {"fan", "probe", BPF_HOOK_FAN, ABI_TC_RX},
    {"rx", "probe", BPF_HOOK_INGRESS, ABI_TC_RX},
    {"bfd_tick", "heartbeat", BPF_HOOK_TICK, ABI_TC_HEARTBEAT},
    {"bfd_rx", "heartbeat", BPF_HOOK_INGRESS, ABI_TC_HEARTBEAT},
    {"takeover", "takeover", BPF_HOOK_INGRESS, ABI_TC_TAKEOVER},
    {"takeover_tick", "takeover", BPF_HOOK_TICK, ABI_TC_TAKEOVER},
    {"edge", "edge", BPF_HOOK_INGRESS, ABI_TC_EDGE},
    {"edge_out", "edge", BPF_HOOK_EGRESS, ABI_TC_EDGE},
    {"cut_egress", "cut", BPF_HOOK_EGRESS, ABI_TC_CUT},
    {"edge_xdp", "edge_xdp", BPF_HOOK_XDP, 0},
};

static const struct hook_row *hook_of(const struct bpf_load_program *program)
{
    static const struct hook_row cgroup = {"", "", BPF_HOOK_CGROUP, 0};
    static const struct hook_row none = {"", "", BPF_HOOK_NONE, 0};
    if (program->type == BPF_PROG_TYPE_CGROUP_SOCK_ADDR || program->type == BPF_PROG_TYPE_SOCK_OPS)
        return &cgroup;
    for (size_t i = 0; i < ARRAY_SIZE(hook_rows); i++)
        if (strcmp(hook_rows[i].program, program->name) == 0)
            return &hook_rows[i];
    return &none;
}

const char *bpf_hook_name(enum bpf_hook hook)
{
    static const char *const names[] = {
        [BPF_HOOK_NONE] = "none", [BPF_HOOK_CGROUP] = "cgroup",   [BPF_HOOK_TICK] = "clock",
        [BPF_HOOK_FAN] = "fan",   [BPF_HOOK_INGRESS] = "ingress", [BPF_HOOK_EGRESS] = "egress",
        [BPF_HOOK_XDP] = "xdp",
    };
    return names[hook];
}

/* Whose programs are these? */

static bool has_id(const struct bpf_pins_ids *ids, uint32_t id)
{
    for (size_t i = 0; i < ids->count; i++)
        if (ids->id[i] == id)
            return true;
    return false;
}

/* Whether the program uses one of these maps. */
static bool program_uses(uint32_t program_id, const struct bpf_pins_ids *ids)
{
    uint32_t map_ids[MAP_IDS_MAX];
    struct bpf_prog_info info = {.nr_map_ids = MAP_IDS_MAX, .map_ids = (uintptr_t)map_ids};
    uint32_t len = sizeof(info);
    bool uses = false;
    int fd = bpf_prog_get_fd_by_id(program_id);
    if (fd < 0)
        return false;
    if (bpf_obj_get_info_by_fd(fd, &info, &len) == 0)
        for (uint32_t i = 0; i < info.nr_map_ids && i < MAP_IDS_MAX; i++)
            uses |= has_id(ids, map_ids[i]);
    close(fd);
    return uses;
}

static bool program_is_others(const char *instance, uint32_t program_id)
{
    struct bpf_pins_ids ids;
    bpf_pins_ids(instance, true, &ids);
    return program_uses(program_id, &ids);
}

static bool program_is_own(const char *instance, uint32_t program_id)
{
    struct bpf_pins_ids ids;
    bpf_pins_ids(instance, false, &ids);
    return program_uses(program_id, &ids);
}

static uint32_t id_of_program(int fd)
{
    struct bpf_prog_info info = {0};
    uint32_t len = sizeof(info);
    return bpf_obj_get_info_by_fd(fd, &info, &len) ? 0 : info.id;
}

/* Places. */

struct bpf_attach *bpf_attach_new(const struct bpf_load *load, const char *instance)
{
    struct bpf_attach *attach = calloc(1, sizeof(*attach));
    CHECK(attach);
    attach->load = load;
    snprintf(attach->instance, sizeof(attach->instance), "%s", instance);
    return attach;
}

void bpf_attach_free(struct bpf_attach *attach)
{
    free(attach->entry);
    free(attach);
}

const struct bpf_attach_place *bpf_attach_place(const struct bpf_attach *attach, size_t i)
{
    return i < attach->count ? &attach->entry[i].place : NULL;
}

/* The row of a program at a device (0: the cgroup), made if it is new. */
static struct bpf_attach_place *place_of(struct bpf_attach *attach, const struct bpf_load_program *program,
                                         enum bpf_hook hook, uint32_t ifindex, const char *where)
{
    struct entry *entry = NULL;
    for (size_t i = 0; i < attach->count && !entry; i++)
        if (attach->entry[i].ifindex == ifindex && attach->entry[i].place.hook == hook &&
            strcmp(attach->entry[i].place.program, program->name) == 0)
            entry = &attach->entry[i];
    if (!entry) {
        if (attach->count == attach->cap) {
            attach->cap += PLACES_STEP;
            attach->entry = reallocarray(attach->entry, attach->cap, sizeof(*attach->entry));
            CHECK(attach->entry);
        }
        entry = &attach->entry[attach->count++];
    }
    *entry = (struct entry){.ifindex = ifindex,
                            .place = {.object = program->object, .program = program->name, .hook = hook}};
    snprintf(entry->place.where, sizeof(entry->place.where), "%s", where);
    return &entry->place;
}

void bpf_attach_keep(struct bpf_attach *attach, bool (*is_there)(void *arg, uint32_t ifindex), void *arg)
{
    size_t kept = 0;
    for (size_t i = 0; i < attach->count; i++)
        if (attach->entry[i].ifindex == 0 || is_there(arg, attach->entry[i].ifindex))
            attach->entry[kept++] = attach->entry[i];
    attach->count = kept;
}

static int fail(struct bpf_attach_place *place, int error, const char *text)
{
    snprintf(place->why, sizeof(place->why), "%s: %s", text, strerror(-error));
    return error;
}

/* Cgroups. */

int bpf_attach_cgroup_root(char *out, size_t cap)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    int result = -ENOENT;
    if (!mounts)
        return -errno;
    for (struct mntent *entry; result && (entry = getmntent(mounts)) != NULL;)
        if (strcmp(entry->mnt_type, "cgroup2") == 0 && strlen(entry->mnt_dir) < cap) {
            memcpy(out, entry->mnt_dir, strlen(entry->mnt_dir) + 1);
            result = 0;
        }
    endmntent(mounts);
    return result;
}

/* Whether a link is attached to the cgroup with this inode. */
static bool link_is_at(int link, ino_t cgroup)
{
    struct bpf_link_info info = {0};
    uint32_t len = sizeof(info);
    return bpf_obj_get_info_by_fd(link, &info, &len) == 0 && info.type == BPF_LINK_TYPE_CGROUP &&
           info.cgroup.cgroup_id == cgroup;
}

struct older_link {
    const char *program;
    int fd;
};

static void find_older(void *arg, const char *set)
{
    struct older_link *older = arg;
    char path[2 * BPF_PINS_PATH_MAX];
    snprintf(path, sizeof(path), "%s/links/%s", set, older->program);
    if (older->fd < 0)
        older->fd = bpf_obj_get(path);
}

/* The link that an earlier process pinned, in this set or an older one; negative: none. */
static int earlier_link(const struct bpf_attach *attach, const char *path, const char *program)
{
    struct older_link older = {.program = program, .fd = bpf_obj_get(path)};
    if (older.fd < 0)
        bpf_pins_each_other(bpf_load_pins(attach->load), find_older, &older);
    return older.fd;
}

/* Pins under `path`, in place of what is there. */
static int pin_link(int link, const char *path)
{
    if (bpf_obj_pin(link, path) == 0)
        return 0;
    if (errno != EEXIST || unlink(path))
        return -errno;
    return bpf_obj_pin(link, path) ? -errno : 0;
}

/* A new one takes over before the one of another cgroup goes. */
static int new_link(const struct bpf_load_program *program, int cgroup, const char *path)
{
    int link = bpf_link_create(program->fd, cgroup, (enum bpf_attach_type)program->attach_type, NULL);
    if (link < 0)
        return -errno;
    int result = pin_link(link, path);
    close(link);
    return result;
}

static int attach_to_cgroup(struct bpf_attach *attach, const struct bpf_load_program *program, int cgroup,
                            ino_t inode)
{
    char path[2 * BPF_PINS_PATH_MAX];
    snprintf(path, sizeof(path), "%s/links/%s", bpf_load_pins(attach->load)->set, program->name);
    int result = -ENOLINK, link = earlier_link(attach, path, program->name);
    if (link >= 0 && link_is_at(link, inode))
        result = bpf_link_update(link, program->fd, NULL) ? -errno
                 : access(path, F_OK)                     ? pin_link(link, path)
                                                          : 0;
    if (link >= 0)
        close(link);
    return result ? new_link(program, cgroup, path) : 0;
}

int bpf_attach_cgroup(struct bpf_attach *attach, const char *cgroup)
{
    struct bpf_load_program program;
    struct stat stat_buf = {0};
    int first = 0, fd = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int opened = fd < 0 || fstat(fd, &stat_buf) ? -errno : 0;
    for (size_t i = 0; bpf_load_program(attach->load, i, &program); i++) {
        if (hook_of(&program)->hook != BPF_HOOK_CGROUP)
            continue;
        struct bpf_attach_place *place = place_of(attach, &program, BPF_HOOK_CGROUP, 0, cgroup);
        int result = opened ? opened : attach_to_cgroup(attach, &program, fd, stat_buf.st_ino);
        if (result)
            fail(place, result,
                 opened ? "the cgroup cannot be opened" : "it cannot be attached to the cgroup");
        else {
            place->program_id = id_of_program(program.fd);
            place->why[0] = '\0';
        }
        first = first ? first : result;
    }
    if (fd >= 0)
        close(fd);
    return first;
}

/* Devices: traffic control. */

/* Devices on which this program made clsact, kept in the kernel: by ifindex, the device's name. */
static int own_qdiscs(const char *instance, bool make)
{
    char path[2 * BPF_PINS_PATH_MAX];
    snprintf(path, sizeof(path), BPF_PINS_FS "/fairlead-%s/clsact", instance);
    int fd = bpf_obj_get(path);
    if (fd >= 0 || !make)
        return fd;
    fd = bpf_map_create(BPF_MAP_TYPE_HASH, "fl_clsact", sizeof(uint32_t), IF_NAMESIZE, 4096, NULL);
    if (fd >= 0 && bpf_obj_pin(fd, path)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void note_own_qdisc(const char *instance, const struct netlink_device *device)
{
    int fd = own_qdiscs(instance, true);
    if (fd < 0)
        return;
    bpf_map_update_elem(fd, &device->ifindex, device->name, BPF_ANY);
    close(fd);
}

static bool is_own_qdisc(const char *instance, const struct netlink_device *device)
{
    char name[IF_NAMESIZE] = "";
    int fd = own_qdiscs(instance, false);
    if (fd < 0)
        return false;
    bool found = bpf_map_lookup_elem(fd, &device->ifindex, name) == 0;
    close(fd);
    return found && strncmp(name, device->name, sizeof(name)) == 0;
}

static int make_qdisc(const char *instance, const struct netlink_device *device)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)device->ifindex, .attach_point = BPF_TC_INGRESS);
    int result = bpf_tc_hook_create(&hook);
    if (result == 0)
        note_own_qdisc(instance, device);
    return result == -EEXIST ? 0 : result;
}

static enum bpf_tc_attach_point point_of(enum bpf_hook hook)
{
    return hook == BPF_HOOK_EGRESS ? BPF_TC_EGRESS : BPF_TC_INGRESS;
}

/* The id of the program that is there, 0 for none. */
static uint32_t filter_program(uint32_t ifindex, enum bpf_tc_attach_point point, uint32_t priority)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = point);
    LIBBPF_OPTS(bpf_tc_opts, opts, .handle = ABI_TC_HANDLE, .priority = priority);
    return bpf_tc_query(&hook, &opts) ? 0 : opts.prog_id;
}

static int attach_filter(struct bpf_attach *attach, const struct bpf_load_program *program,
                         const struct hook_row *row, const struct netlink_device *device,
                         struct bpf_attach_place *place)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)device->ifindex, .attach_point = point_of(row->hook));
    LIBBPF_OPTS(bpf_tc_opts, opts, .handle = ABI_TC_HANDLE, .priority = row->priority, .prog_fd = program->fd,
                .flags = BPF_TC_F_REPLACE);
    uint32_t id = id_of_program(program->fd),
             now = filter_program(device->ifindex, hook.attach_point, row->priority);
    if (now != id && now && program_is_others(attach->instance, now))
        return fail(place, -EBUSY, "another instance of Fairlead has it here");
    int result = now == id ? 0 : make_qdisc(attach->instance, device);
    if (result)
        return fail(place, result, "the device takes no clsact");
    if (now != id)
        result = bpf_tc_attach(&hook, &opts);
    if (result)
        return fail(place, result, "the filter cannot be attached");
    place->program_id = id;
    return 0;
}

/* Devices: XDP. Only in the driver: the generic kind is slower than traffic control and breaks GSO. */

static uint32_t xdp_program(uint32_t ifindex)
{
    LIBBPF_OPTS(bpf_xdp_query_opts, opts);
    return bpf_xdp_query((int)ifindex, XDP_FLAGS_DRV_MODE, &opts) ? 0 : opts.drv_prog_id;
}

static int attach_xdp(struct bpf_attach *attach, const struct bpf_load_program *program,
                      const struct netlink_device *device, struct bpf_attach_place *place)
{
    LIBBPF_OPTS(bpf_xdp_attach_opts, opts, .old_prog_fd = -1);
    uint32_t flags = XDP_FLAGS_DRV_MODE, now = xdp_program(device->ifindex);
    uint32_t id = id_of_program(program->fd);
    if (now && now != id && !program_is_own(attach->instance, now))
        return fail(place, -EBUSY, "another XDP program is attached here; packets go by traffic control");
    int old = now && now != id ? bpf_prog_get_fd_by_id(now) : -1;
    if (old >= 0)
        opts.old_prog_fd = old;
    else
        flags |= XDP_FLAGS_UPDATE_IF_NOEXIST;
    int result = now == id
                     ? 0
                     : bpf_xdp_attach((int)device->ifindex, program->fd,
                                      old >= 0 ? flags | XDP_FLAGS_REPLACE : flags, old >= 0 ? &opts : NULL);
    if (old >= 0)
        close(old);
    if (result)
        return fail(place, result, "the driver takes no XDP program; packets go by traffic control");
    place->program_id = id;
    return 0;
}

static int clear_xdp(const char *instance, uint32_t ifindex)
{
    uint32_t id = xdp_program(ifindex);
    if (!id || !program_is_own(instance, id))
        return 0;
    return bpf_xdp_detach((int)ifindex, XDP_FLAGS_DRV_MODE, NULL);
}

/* Devices: all. */

static bool wants(enum bpf_device_role role, const struct hook_row *row)
{
    bool traffic = role == BPF_DEVICE_TRAFFIC || role == BPF_DEVICE_XDP;
    switch (row->hook) {
    case BPF_HOOK_TICK:
        return role == BPF_DEVICE_TICK;
    case BPF_HOOK_FAN:
        return role == BPF_DEVICE_FAN;
    case BPF_HOOK_INGRESS:
        return traffic || (role == BPF_DEVICE_OUT && row->priority == ABI_TC_RX);
    case BPF_HOOK_EGRESS:
        return traffic;
    case BPF_HOOK_XDP:
        return role == BPF_DEVICE_XDP;
    case BPF_HOOK_NONE:
    case BPF_HOOK_CGROUP:
        break;
    }
    return false;
}

int bpf_attach_device(struct bpf_attach *attach, const struct netlink_device *device,
                      enum bpf_device_role role)
{
    struct bpf_load_program program;
    int first = 0;
    for (size_t i = 0; bpf_load_program(attach->load, i, &program); i++) {
        const struct hook_row *row = hook_of(&program);
        if (!wants(role, row))
            continue;
        struct bpf_attach_place *place = place_of(attach, &program, row->hook, device->ifindex, device->name);
        int result = row->hook == BPF_HOOK_XDP ? attach_xdp(attach, &program, device, place)
                                               : attach_filter(attach, &program, row, device, place);
        first = first ? first : result;
    }
    if (role == BPF_DEVICE_TRAFFIC)
        clear_xdp(attach->instance, device->ifindex); /* it was named for it in an earlier process */
    return first;
}

/* Detaching. */

static bool is_anothers(const char *instance, uint32_t program_id)
{
    return program_id == 0 || program_is_others(instance, program_id);
}

static int clear_filter(const char *instance, uint32_t ifindex, enum bpf_tc_attach_point point,
                        uint32_t priority)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = point);
    LIBBPF_OPTS(bpf_tc_opts, opts, .handle = ABI_TC_HANDLE, .priority = priority);
    if (is_anothers(instance, filter_program(ifindex, point, priority)))
        return 0;
    return bpf_tc_detach(&hook, &opts);
}

void bpf_attach_drop(struct bpf_attach *attach, const struct netlink_device *device)
{
    for (size_t i = 0; i < ARRAY_SIZE(hook_rows); i++) {
        const struct hook_row *row = &hook_rows[i];
        if (!bpf_load_is_idle(attach->load, row->object))
            continue;
        if (row->hook == BPF_HOOK_XDP)
            clear_xdp(attach->instance, device->ifindex);
        else
            clear_filter(attach->instance, device->ifindex, point_of(row->hook), row->priority);
    }
}

static int clear_qdisc(const char *instance, struct netlink *netlink, const struct netlink_device *device)
{
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)device->ifindex,
                .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
    if (!is_own_qdisc(instance, device) ||
        netlink_filter_count(netlink, device->ifindex, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)) != 0 ||
        netlink_filter_count(netlink, device->ifindex, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)) != 0)
        return 0;
    return bpf_tc_hook_destroy(&hook);
}

int bpf_attach_clear(const char *instance, struct netlink *netlink, const struct netlink_device *device)
{
    int first = clear_xdp(instance, device->ifindex);
    for (uint32_t priority = ABI_TC_RX; priority <= ABI_TC_CUT; priority++) {
        int in = clear_filter(instance, device->ifindex, BPF_TC_INGRESS, priority);
        int out = clear_filter(instance, device->ifindex, BPF_TC_EGRESS, priority);
        first = first ? first : in ? in : out;
    }
    int result = clear_qdisc(instance, netlink, device);
    return first ? first : result;
}
