/* SPDX-License-Identifier: Apache-2.0 */
/* The cgroup whose connects are steered and watched: it may come later than its daemon, go, and be made anew.
 */
#ifndef FL_CONTROL_KERNEL_CGROUP_H
#define FL_CONTROL_KERNEL_CGROUP_H

#include <sys/types.h>

#include "control/bpf_pins.h"

struct bpf_attach;
struct journal;

struct kernel_cgroup {
    const char *wanted; /* NULL: the root of cgroup2, wherever that is mounted */
    struct journal *journal;
    char path[BPF_PINS_PATH_MAX]; /* "": cgroup2 is not mounted */
    ino_t inode;                  /* that is attached to, or was tried; 0: there was none */
};

/* Attaches what is loaded. What is in the way is said in the log and in the places (bpf_attach.h). */
void kernel_cgroup_attach(struct kernel_cgroup *cgroup, struct bpf_attach *attach);

/* Once a second: attaches where there was nothing, or another one. */
void kernel_cgroup_tick(struct kernel_cgroup *cgroup, struct bpf_attach *attach);

#endif
