/* SPDX-License-Identifier: Apache-2.0 */
#include "control/state/stores.h"

#include <string.h>

static bool is_shared(const struct node *n)
{
    return n->shares && node_store_said(n);
}

uint64_t stores_holder(const struct node *n)
{
    uint64_t number = 0;
    if (!is_shared(n))
        return n->id;
    for (unsigned i = 0; i < sizeof(number); i++) /* the same on every machine */
        number |= (uint64_t)n->store[i] << (8 * i);
    return number | STORES_NUMBER;
}

uint64_t stores_fold(const struct node_table *t, uint64_t holder)
{
    const struct node *n = holder & STORES_NUMBER ? NULL : node_find(t, holder);
    return n ? stores_holder(n) : holder;
}

void stores_fold_blob(const struct node_table *t, struct names_blob *blob)
{
    struct cmd_holders folded = {.count = 0};
    for (unsigned i = 0; i < blob->holder_count; i++)
        (void)cmd_holders_add(&folded, stores_fold(t, blob->holder[i]));
    blob->holder_count = folded.count;
    memset(blob->holder, 0, sizeof(blob->holder));
    memcpy(blob->holder, folded.id, folded.count * sizeof(blob->holder[0]));
}

/* Its other names in the row. */
static void lose_names(const struct node_table *t, const struct names_blob *row, uint64_t holder,
                       struct cmd_holders *lost)
{
    for (unsigned i = 0; i < row->holder_count; i++)
        if (row->holder[i] != holder && stores_fold(t, row->holder[i]) == holder)
            (void)cmd_holders_add(lost, row->holder[i]);
}

static uint64_t name_in(const struct node_table *t, const struct names_blob *row, uint64_t holder)
{
    uint64_t name = holder;
    for (unsigned i = 0; i < row->holder_count; i++) {
        if (row->holder[i] == holder)
            return holder;
        if (stores_fold(t, row->holder[i]) == holder)
            name = row->holder[i];
    }
    return name;
}

void stores_unfold(const struct node_table *t, const struct names_blob *row, struct stores_saying *say)
{
    struct cmd_holders lost = say->lost, needed = {.count = 0};
    for (unsigned i = 0; i < say->lost.count; i++)
        lose_names(t, row, say->lost.id[i], &lost);
    for (unsigned i = 0; i < say->gained.count; i++)
        lose_names(t, row, say->gained.id[i], &lost);
    for (unsigned i = 0; i < say->needed.count; i++)
        (void)cmd_holders_add(&needed, name_in(t, row, say->needed.id[i]));
    say->lost = lost;
    say->needed = needed;
}

/* Whether a node before this one in the table is the same holder. */
static bool is_counted(const struct node_table *t, size_t at)
{
    uint64_t holder = stores_holder(&t->node[at]);
    for (size_t i = 0; holder & STORES_NUMBER && i < at; i++)
        if (t->node[i].replica && stores_holder(&t->node[i]) == holder)
            return true;
    return false;
}

uint32_t stores_count(const struct node_table *t)
{
    uint32_t count = 0;
    for (size_t i = 0; i < t->count; i++)
        count += t->node[i].replica && !is_counted(t, i);
    return count;
}

uint64_t stores_cleaner(const struct node_table *t, uint64_t node)
{
    const struct node *self = node_find(t, node);
    uint64_t first = 0;
    if (!self || !is_shared(self))
        return self ? node : 0;
    for (size_t i = 0; i < t->count; i++) {
        const struct node *n = &t->node[i];
        if (!n->replica || stores_holder(n) != stores_holder(self))
            continue;
        if (n->availability == NODE_ACTIVE && n->store_state == NODE_STORE_WELL)
            return n->id;
        first = first ? first : n->id;
    }
    return first;
}

const struct node *stores_stranger(const struct node_table *t, uint64_t node)
{
    const struct node *self = node_find(t, node);
    for (size_t i = 0; self && node_store_said(self) && i < t->count; i++) {
        const struct node *n = &t->node[i];
        if (n->id != node && memcmp(n->store, self->store, sizeof(n->store)) == 0 &&
            !(n->shares && self->shares))
            return n;
    }
    return NULL;
}
