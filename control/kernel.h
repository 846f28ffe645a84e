/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel half in the life of the daemon: loads and attaches the programs, writes what was compiled into
 * their maps, follows devices, addresses and routes, and tells what the programs decided.
 *
 * Neither an end nor a crash of the daemon takes anything away: the kernel goes on deciding, and the next
 * start finds it. kernel_detach() takes all of it away.
 */
#ifndef FL_CONTROL_KERNEL_H
#define FL_CONTROL_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "control/bpf_attach.h"
#include "control/bpf_load.h"
#include "control/compile/kernel_compile.h"
#include "control/journal.h"
#include "control/kernel_clock.h"
#include "control/kernel_maps.h"

enum { KERNEL_EXCLUDES_MAX = 32, KERNEL_WHY_MAX = 512 };

struct kernel;

struct kernel_handlers {
    /* The entries for what is known of this node; owned by the handler's side until the next call. */
    const struct kernel_entries *(*compile)(void *arg, const struct kernel_facts *facts);
    /* A verdict has changed; time in milliseconds, UTC. */
    void (*changed)(void *arg, const struct abi_change *change, uint64_t time_ms);
    /* The set of maps that counts from now on; NULL: it is being taken away. */
    void (*maps)(void *arg, const struct bpf_load *load);
    /* It was attached, detached, or something about it failed: for the events. May be NULL. */
    void (*note)(void *arg, const char *kind, const char *text);
};

struct kernel_config {
    uv_loop_t *loop;
    struct journal *journal;
    const char *instance;
    const char *cgroup;         /* NULL: the root of cgroup2 */
    const char *const *exclude; /* patterns of devices' names that are left alone */
    size_t exclude_count;
    const char *const *xdp; /* patterns of devices that get the edge's XDP program */
    size_t xdp_count;
    struct kernel_handlers handlers;
    void *arg;
};

/* What may change while it runs. */
struct kernel_wishes {
    bool enabled;   /* else nothing is attached, and what is gets detached */
    bool needed;    /* there is something to do; without it what is attached stays, and nothing is started */
    uint32_t needs; /* enum kernel_need; what nothing needs any more stays until the next start */
    bool probes;    /* this node probes */
    bool fed;       /* as long as a manager tells it verdicts, it probes its doubts alone */
    bool draining;  /* this node gives its addresses away */
    uint64_t node_id;
    uint32_t tick_ms;
    uint32_t backends_max, rows_max, flows_max; /* from the next start on */
};

/* Borrows what the config points to. Touches nothing yet. */
struct kernel *kernel_new(const struct kernel_config *config);

/* Ends with the loop; all that is attached stays. */
void kernel_close(struct kernel *kernel);

/* Starts, stops or brings up to date: after every change of the wishes, of services or of settings. */
void kernel_update(struct kernel *kernel, const struct kernel_wishes *wishes);

/* Once a second. */
void kernel_tick(struct kernel *kernel);

/* Takes everything of the instance out of the kernel, and stays off until the wishes were off once. 0 or
 * -errno with a message. */
int kernel_detach(struct kernel *kernel, char err[KERNEL_WHY_MAX]);

/* The same without a daemon. */
int kernel_detach_instance(const char *instance, char err[KERNEL_WHY_MAX]);

enum kernel_phase { KERNEL_OFF, KERNEL_LOADING, KERNEL_FAILED, KERNEL_DETACHED, KERNEL_ON };

/* What is there, for those who show it; pointers are NULL unless it is on, and valid until the next turn of
 * the loop. */
struct kernel_view {
    enum kernel_phase phase;
    const char *why; /* it is off or failed; "" else */
    const char *instance, *cgroup;
    const struct bpf_load *load;
    const struct bpf_attach *attach;
    const struct kernel_maps *maps;
    const struct kernel_entries *entries; /* the newest */
    const struct kernel_clock *clock;     /* NULL: there is none, see clock_why */
    const char *clock_why;
    uint64_t changes_lost; /* verdicts that changed and could not be told */
    uint64_t skipped_devices;
};

void kernel_view(const struct kernel *kernel, struct kernel_view *out);

#endif
