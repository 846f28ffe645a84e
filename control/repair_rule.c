/* SPDX-License-Identifier: Apache-2.0 */
#include "control/repair_rule.h"

#include "control/state/by_id.h"
#include "placement.h"

const struct repair_node *repair_node_find(const struct repair_view *v, uint64_t id)
{
    _Static_assert(offsetof(struct repair_node, id) == 0, "as by_id wants it");
    return by_id(v->node, v->count, sizeof(v->node[0]), id);
}

bool repair_counts(const struct repair_view *v, uint64_t id)
{
    const struct repair_node *n = repair_node_find(v, id);
    return n && n->presence != REPAIR_OUT;
}

uint64_t repair_view_shape(const struct repair_view *v)
{
    uint64_t shape = placement_mix(v->wanted + 1);
    for (size_t i = 0; i < v->count; i++)
        if (v->node[i].presence != REPAIR_OUT)
            shape = placement_mix(shape ^ v->node[i].id);
    return shape ? shape : 1;
}

bool repair_view_same(const struct repair_view *a, const struct repair_view *b)
{
    if (a->self != b->self || a->wanted != b->wanted || a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (a->node[i].id != b->node[i].id || a->node[i].presence != b->node[i].presence)
            return false;
    return true;
}

static bool is_up(const struct repair_view *v, uint64_t id)
{
    const struct repair_node *n = repair_node_find(v, id);
    return n && n->presence == REPAIR_UP;
}

static bool holds(const struct names_blob *b, uint64_t id)
{
    for (unsigned i = 0; i < b->holder_count; i++)
        if (b->holder[i] == id)
            return true;
    return false;
}

/* How many others of this presence or a better one come before this node; not_of: but for its holders. */
static unsigned rank_of(const struct repair_view *v, const struct digest *d, enum repair_presence worst,
                        const struct names_blob *not_of)
{
    unsigned rank = 0;
    for (size_t i = 0; i < v->count; i++) {
        const struct repair_node *n = &v->node[i];
        if (n->id != v->self && n->presence <= worst && !(not_of && holds(not_of, n->id)))
            rank += placement_before(d, n->id, v->self);
    }
    return rank;
}

/* This node comes to hold it. What is left of nodes that are none any more goes with it, and what does not
 * count if there is no room else. False: there is none. */
static bool gain(const struct repair_view *v, const struct names_blob *b, struct repair_choice *out)
{
    unsigned kept = b->holder_count;
    for (unsigned i = 0; i < b->holder_count; i++)
        if (!repair_node_find(v, b->holder[i]) && cmd_holders_add(&out->lost, b->holder[i]))
            kept--;
    for (unsigned i = 0; kept >= BLOB_HOLDERS_MAX && i < b->holder_count; i++)
        if (!cmd_holders_has(&out->lost, b->holder[i]) && !repair_counts(v, b->holder[i]) &&
            cmd_holders_add(&out->lost, b->holder[i]))
            kept--;
    return kept < BLOB_HOLDERS_MAX && cmd_holders_add(&out->gained, v->self);
}

/* Enough others that count, and are ranked better, have to hold it; and each of them has to be there just
 * now. */
static bool let_go(const struct repair_view *v, const struct digest *d, const struct names_blob *b,
                   struct repair_choice *out)
{
    uint64_t counted[BLOB_HOLDERS_MAX], best[BLOB_HOLDERS_MAX];
    size_t count = 0;
    for (unsigned i = 0; i < b->holder_count; i++)
        if (repair_counts(v, b->holder[i]))
            counted[count++] = b->holder[i];
    size_t n = placement_best(d, counted, count, v->wanted, best);
    for (size_t i = 0; i < n; i++)
        if (best[i] == v->self || !is_up(v, best[i]) || !cmd_holders_add(&out->needed, best[i]))
            return false;
    return n == v->wanted && cmd_holders_add(&out->lost, v->self);
}

static enum repair_step step_of(const struct repair_view *v, const struct digest *d,
                                const struct names_blob *b, unsigned more, struct repair_choice *out)
{
    bool mine = holds(b, v->self);
    if (out->living < v->wanted) {
        if (mine)
            return REPAIR_WAIT;
        unsigned turns = v->wanted - out->living + more;
        return rank_of(v, d, REPAIR_UP, b) < turns && gain(v, b, out) ? REPAIR_COPY : REPAIR_WAIT;
    }
    if (!mine)
        return rank_of(v, d, REPAIR_AWAY, NULL) < v->wanted && gain(v, b, out) ? REPAIR_MOVE : REPAIR_REST;
    return out->living > v->wanted && let_go(v, d, b, out) ? REPAIR_LET_GO : REPAIR_REST;
}

void repair_choose(const struct repair_view *v, const struct digest *d, const struct names_blob *blob,
                   unsigned more, struct repair_choice *out)
{
    *out = (struct repair_choice){.step = REPAIR_REST};
    if (!blob->links)
        return; /* on its way out */
    for (unsigned i = 0; i < blob->holder_count; i++)
        out->living += repair_counts(v, blob->holder[i]);
    if (!is_up(v, v->self))
        return;
    if (blob->version) {
        out->step = step_of(v, d, blob, more, out);
    } else {
        out->step = REPAIR_CLAIM;
        (void)cmd_holders_add(&out->gained, v->self);
    }
}

bool repair_spares(const struct repair_view *v, const struct digest *d, const struct names_blob *blob)
{
    struct repair_choice choice;
    unsigned up = 0;
    if (!blob->version || !blob->links || (v->self && !is_up(v, v->self)) || holds(blob, v->self))
        return false;
    for (unsigned i = 0; i < blob->holder_count; i++)
        up += is_up(v, blob->holder[i]);
    repair_choose(v, d, blob, 0, &choice);
    return choice.step == REPAIR_REST && up > 0 && up >= v->wanted;
}
