/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What control does with sockets for the kernel half: keeps a canary to each checked backend, and ends idle
 * connections to a backend that went down, where its service wants that.
 */
#ifndef FL_CONTROL_KERNEL_SOCKETS_H
#define FL_CONTROL_KERNEL_SOCKETS_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "abi.h"
#include "control/canary.h"
#include "control/compile/kernel_compile.h"
#include "control/journal.h"
#include "control/kernel_maps.h"

enum { KERNEL_CANARIES_MAX = 1024 };

struct kernel_sockets;

struct kernel_sockets_counts {
    struct canary_counts canaries;
    uint64_t ended;      /* idle connections */
    bool ends_idle_ones; /* this kernel can */
};

/* Borrows the loop, the journal and the maps. */
struct kernel_sockets *kernel_sockets_new(uv_loop_t *loop, struct journal *journal,
                                          const struct kernel_maps *maps);

/* Canaries are closed; memory is freed when the loop has run once more. */
void kernel_sockets_close(struct kernel_sockets *sockets);

/* These are the backends now; borrowed until the next call. canaries: each gets one. */
void kernel_sockets_set(struct kernel_sockets *sockets, const struct kernel_entries *entries, bool canaries);

void kernel_sockets_changed(struct kernel_sockets *sockets, const struct abi_change *change);

struct kernel_sockets_counts kernel_sockets_counts(const struct kernel_sockets *sockets);

#endif
