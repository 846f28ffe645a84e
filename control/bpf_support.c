/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bpf_support.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/capability.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/magic.h>

#include "check.h"
#include "control/bpf_attach.h"

/* From PROGRAM on the kernel has to be asked by making one, which needs capabilities. */
enum kind { TYPE_INFORMATION, BPFFS, CGROUP2, PROGRAM, HELPER, MAP };

static const struct row {
    enum kind kind;
    int type;   /* of the program or map */
    int helper; /* enum bpf_func_id */
    const char *feature, *purpose;
} rows[] = {
    {TYPE_INFORMATION, 0, 0, "BTF", "every program: it is fitted to the kernel by its type information"},
    {BPFFS, 0, 0, "bpffs", "every program: maps and links are kept there"},
    {CGROUP2, 0, 0, "cgroup2", "steering and watching of connects"},
    {PROGRAM, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, 0, "cgroup connect programs", "steering of connects"},
    {PROGRAM, BPF_PROG_TYPE_SOCK_OPS, 0, "socket operation programs", "evidence from traffic"},
    {PROGRAM, BPF_PROG_TYPE_SCHED_CLS, 0, "traffic control programs",
     "probes, heartbeats, edge, takeover, cutting"},
    {PROGRAM, BPF_PROG_TYPE_XDP, 0, "XDP programs", "the edge's short cut in network cards"},
    {MAP, BPF_MAP_TYPE_RINGBUF, 0, "ring buffers", "telling changes at once, not each second"},
    {MAP, BPF_MAP_TYPE_SK_STORAGE, 0, "socket storage", "getpeername() of a steered socket"},
    {HELPER, BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_fib_lookup, "bpf_fib_lookup", "routes in programs"},
    {HELPER, BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_redirect_neigh, "bpf_redirect_neigh", "sending in programs"},
    {HELPER, BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_timer_start, "bpf_timer", "judging of heartbeats"},
    {HELPER, BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_loop, "bpf_loop", "thousands of backends"},
};

static bool has_capability(cap_value_t value)
{
    cap_flag_value_t flag = CAP_CLEAR;
    cap_t caps = cap_get_proc();
    if (!caps)
        return true; /* what needs it will say */
    cap_get_flag(caps, value, CAP_EFFECTIVE, &flag);
    cap_free(caps);
    return flag == CAP_SET;
}

bool bpf_support_permitted(void)
{
    return has_capability(CAP_BPF) && has_capability(CAP_NET_ADMIN);
}

static bool bpffs_is_there(void)
{
    struct statfs fs;
    return statfs(BPF_PINS_FS, &fs) == 0 && fs.f_type == BPF_FS_MAGIC;
}

static bool try_row(const struct row *row)
{
    char cgroup[BPF_PINS_PATH_MAX];
    switch (row->kind) {
    case TYPE_INFORMATION:
        return access("/sys/kernel/btf/vmlinux", R_OK) == 0;
    case BPFFS:
        return bpffs_is_there();
    case CGROUP2:
        return bpf_attach_cgroup_root(cgroup, sizeof(cgroup)) == 0;
    case PROGRAM:
        return libbpf_probe_bpf_prog_type((enum bpf_prog_type)row->type, NULL) == 1;
    case HELPER:
        return libbpf_probe_bpf_helper((enum bpf_prog_type)row->type, (enum bpf_func_id)row->helper, NULL) ==
               1;
    case MAP:
        return libbpf_probe_bpf_map_type((enum bpf_map_type)row->type, NULL) == 1;
    }
    return false;
}

bool bpf_support_try(size_t i, struct bpf_support *out)
{
    if (i >= ARRAY_SIZE(rows))
        return false;
    bool known = rows[i].kind < PROGRAM || bpf_support_permitted();
    *out = (struct bpf_support){rows[i].feature, rows[i].purpose, known, known && try_row(&rows[i])};
    return true;
}
