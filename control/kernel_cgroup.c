/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_cgroup.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "control/bpf_attach.h"
#include "control/journal.h"

/* 0: it is not there. */
static ino_t inode_of(const char *path)
{
    struct stat st;
    return path[0] && stat(path, &st) == 0 ? st.st_ino : 0;
}

/* 0 or -errno; path "" afterwards: not even the root is there. */
static int attach_to(struct kernel_cgroup *c, struct bpf_attach *attach)
{
    int result = 0;
    if (c->wanted)
        snprintf(c->path, sizeof(c->path), "%s", c->wanted);
    else
        result = bpf_attach_cgroup_root(c->path, sizeof(c->path));
    if (!result)
        result = bpf_attach_cgroup(attach, c->path);
    c->inode = inode_of(c->path);
    if (result && c->path[0])
        journal_warn(c->journal, "kernel",
                     "connects of %s are neither steered nor watched: %s; see `fairlead kernel`", c->path,
                     strerror(-result));
    return result;
}

void kernel_cgroup_attach(struct kernel_cgroup *c, struct bpf_attach *attach)
{
    if (attach_to(c, attach) && !c->path[0])
        journal_warn(c->journal, "kernel",
                     "cgroup2 is not mounted, so connects are neither steered nor watched; run "
                     "`mount -t cgroup2 none /sys/fs/cgroup`");
}

void kernel_cgroup_tick(struct kernel_cgroup *c, struct bpf_attach *attach)
{
    ino_t now = inode_of(c->path);
    if (now && now == c->inode)
        return;
    if (now || !c->path[0]) {
        if (attach_to(c, attach) == 0)
            journal_info(c->journal, "kernel", "connects of %s are looked at from now on", c->path);
    } else if (c->inode) {
        c->inode = 0;
        journal_warn(c->journal, "kernel", "the cgroup %s is gone, and with it what looks at its connects",
                     c->path);
    }
}
