/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who takes addresses over, where the configuration does not say: the managers of the state that are on the
 * address's segment, in the order of their ids, which is the same on all of them. Pure.
 */
#ifndef FL_CONTROL_KERNEL_MANAGERS_H
#define FL_CONTROL_KERNEL_MANAGERS_H

#include "control/compile/kernel_compile.h"
#include "control/state/node.h"

struct kernel_manager {
    uint64_t id;
    char name[NODE_NAME_MAX + 1];
    struct svc_address mesh, data; /* port 0: not said */
};

/* All managers, by id. */
struct kernel_managers {
    uint64_t self; /* this node's id, manager or not */
    uint32_t count;
    struct kernel_manager manager[NODE_MANAGERS_MAX];
};

void kernel_managers_of(const struct node_table *nodes, uint64_t self, struct kernel_managers *out);

/* What the kernel half goes by: peers of the configuration, behind them those managers that are on a segment
 * of this host and are no peers yet; candidates are indices into them. */
struct kernel_candidates {
    struct kernel_peer_config *peer; /* kernel_candidates_fini */
    uint32_t peer_count;
    struct kernel_takeover_config takeover;
};

void kernel_candidates_make(const struct kernel_managers *managers, const struct kernel_facts *facts,
                            const struct kernel_peer_config *peer, uint32_t peer_count,
                            struct kernel_candidates *out);
void kernel_candidates_fini(struct kernel_candidates *c);

#endif
