/* SPDX-License-Identifier: Apache-2.0 */
/* What this node says of who holds a blob. */
#ifndef FL_HOLDERS_H
#define FL_HOLDERS_H

#include "cmd.h"
#include "plan.h"

/* At the end of a command about a blob that is durable here: this node, and the others that have said so
 * (NULL: none). Nothing, while the cluster has nodes that would not understand it. */
static inline void holders_put(struct wire_writer *w, const struct plan *plan,
                               const struct cmd_holders *others)
{
    struct cmd_holders all = {0};
    if (others)
        all = *others;
    if (plan->copies.keeps)
        (void)cmd_holders_add(&all, plan->copies.holder);
    if (plan->copies.told && all.count)
        cmd_put_holders(w, &all);
}

#endif
