/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For how long whoever leads has not seen nodes. One that is not connected at some instant may be about to
 * be: a leader that has just begun sees nobody. So times count from when this node began to lead and to look,
 * and all begin anew when it has not looked for a while. Pure.
 */
#ifndef FL_CONTROL_UNSEEN_H
#define FL_CONTROL_UNSEEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/state/node.h"

enum { UNSEEN_GAP_MS = 10000 /* between two looks that belong together */ };

struct unseen {
    struct unseen_node {
        uint64_t id, since_ms;
    } * node; /* by id */
    size_t count;
    uint64_t term, looked_ms;
};

typedef bool (*unseen_seen)(void *arg, uint64_t node);

/* A look, by the leader of that term. now_ms: of a clock that is never set. */
void unseen_look(struct unseen *u, uint64_t term, const struct node_table *t, unseen_seen seen, void *arg,
                 uint64_t now_ms);
/* Whether no look of so long has seen it. */
bool unseen_for(const struct unseen *u, uint64_t node, uint64_t ms);
void unseen_free(struct unseen *u);

#endif
