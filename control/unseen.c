/* SPDX-License-Identifier: Apache-2.0 */
#include "control/unseen.h"

#include <stdlib.h>

#include "check.h"

void unseen_free(struct unseen *u)
{
    free(u->node);
    *u = (struct unseen){.count = 0};
}

void unseen_look(struct unseen *u, uint64_t term, const struct node_table *t, unseen_seen seen, void *arg,
                 uint64_t now_ms)
{
    struct unseen_node *list = calloc(t->count + 1, sizeof(*list));
    size_t count = 0, at = 0;
    CHECK(list);
    if (term != u->term || now_ms - u->looked_ms > UNSEEN_GAP_MS)
        u->count = 0;
    for (size_t i = 0; i < t->count; i++) {
        uint64_t id = t->node[i].id;
        if (seen(arg, id))
            continue;
        while (at < u->count && u->node[at].id < id)
            at++;
        bool known = at < u->count && u->node[at].id == id;
        list[count++] = (struct unseen_node){id, known ? u->node[at].since_ms : now_ms};
    }
    free(u->node);
    *u = (struct unseen){.node = list, .count = count, .term = term, .looked_ms = now_ms};
}

bool unseen_for(const struct unseen *u, uint64_t node, uint64_t ms)
{
    for (size_t i = 0; i < u->count; i++)
        if (u->node[i].id == node)
            return u->looked_ms - u->node[i].since_ms >= ms;
    return false;
}
