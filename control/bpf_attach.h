/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where loaded programs are attached: cgroup programs by links that are pinned (and updated in place when
 * there is one already), the others by traffic control filters and XDP on devices, with the priorities of
 * enum abi_tc_priority (and replaced in place). All of it goes on without this process.
 *
 * What another instance or another program has put at the same place is left alone and told.
 */
#ifndef FL_CONTROL_BPF_ATTACH_H
#define FL_CONTROL_BPF_ATTACH_H

#include "control/bpf_load.h"
#include "control/netlink.h"

enum bpf_hook {
    BPF_HOOK_NONE,    /* attached by nobody: run once, or called by others */
    BPF_HOOK_CGROUP,  /* the cgroup of the instance */
    BPF_HOOK_TICK,    /* ingress of the clock's device */
    BPF_HOOK_FAN,     /* ingress of the device that the clock's packets arrive at */
    BPF_HOOK_INGRESS, /* of every device */
    BPF_HOOK_EGRESS,
    BPF_HOOK_XDP, /* of devices that are named for it */
};

/* What a device is to the kernel half. */
enum bpf_device_role {
    BPF_DEVICE_TRAFFIC,
    BPF_DEVICE_XDP,  /* traffic, with the XDP program too */
    BPF_DEVICE_TICK, /* the clock's, see kernel_clock.h */
    BPF_DEVICE_OUT,  /* answers to probes of this host come in here: rx alone */
    BPF_DEVICE_FAN,
};

struct bpf_attach_place {
    const char *object, *program;
    enum bpf_hook hook;
    uint32_t program_id; /* 0: not attached, see why */
    char where[BPF_PINS_PATH_MAX];
    char why[BPF_LOAD_WHY_MAX];
};

struct bpf_attach;

struct bpf_attach *bpf_attach_new(const struct bpf_load *load, const char *instance);
void bpf_attach_free(struct bpf_attach *attach);

/* Attaches cgroup programs to a folder of cgroup2. 0 or the first -errno; why is in the places. */
int bpf_attach_cgroup(struct bpf_attach *attach, const char *cgroup);

/* Attaches to a device what its role asks for; what is attached already stays. 0 or the first -errno. */
int bpf_attach_device(struct bpf_attach *attach, const struct netlink_device *device,
                      enum bpf_device_role role);

/* Takes off a device what an earlier process attached of objects that nothing needs now. */
void bpf_attach_drop(struct bpf_attach *attach, const struct netlink_device *device);

/* Forgets the places of devices that are not there any more. */
void bpf_attach_keep(struct bpf_attach *attach, bool (*is_there)(void *arg, uint32_t ifindex), void *arg);

/* All places in turn: those of the last calls. NULL behind the last. */
const struct bpf_attach_place *bpf_attach_place(const struct bpf_attach *attach, size_t i);

/* Takes an instance's filters and XDP programs off a device, and clsact if it is ours and empty. */
int bpf_attach_clear(const char *instance, struct netlink *netlink, const struct netlink_device *device);

/* The folder where cgroup2 is mounted. 0 or -ENOENT. */
int bpf_attach_cgroup_root(char *out, size_t cap);

const char *bpf_hook_name(enum bpf_hook hook);

#endif
