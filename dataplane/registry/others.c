/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/others.h"

#include "check.h"
#include "placement.h"
#include "plan.h"
#include "dataplane/fetch/fetch.h"

void others_note_bad(struct others *o, uint64_t node, uint64_t now_ms)
{
    unsigned at = o->bad_at;
    for (unsigned i = 0; i < OTHERS_BAD_MAX; i++)
        if (o->bad[i].node == node)
            at = i;
    if (at == o->bad_at)
        o->bad_at = (at + 1) % OTHERS_BAD_MAX;
    o->bad[at].node = node;
    o->bad[at].until_ms = now_ms + OTHERS_BAD_MS;
}

static bool is_bad(const struct others *o, uint64_t node, uint64_t now_ms)
{
    for (unsigned i = 0; i < OTHERS_BAD_MAX; i++)
        if (o->bad[i].node == node)
            return now_ms < o->bad[i].until_ms;
    return false;
}

struct digest others_key(const struct digest *d, const char *session)
{
    struct digest key = {.alg = DIGEST_NONE};
    if (d->alg != DIGEST_NONE)
        return *d;
    for (unsigned i = 0; i < 16; i++) {
        unsigned nibble = (unsigned)digest_hex_value(session[i]) & 15;
        key.bytes[i / 2] = (uint8_t)(key.bytes[i / 2] * 16u + nibble);
    }
    return key;
}

static bool was_tried(const struct others_tried *tried, uint64_t node)
{
    for (unsigned i = 0; i < tried->count; i++)
        if (tried->node[i] == node)
            return true;
    return false;
}

/* Whether bytes that go there would come to a store that has them. */
static bool is_covered(const struct others_tried *tried, uint64_t holder)
{
    for (unsigned i = 0; i < tried->holder_count; i++)
        if (tried->holder[i] == holder)
            return true;
    return false;
}

uint64_t others_holder(const struct plan *plan, uint64_t node)
{
    const struct plan_service *s = plan_service_of(plan, fetch_peers_service(plan));
    for (uint32_t i = 0; s && i < s->backend_count; i++)
        if (plan_backend(plan, s->first_backend + i)->node == node)
            return plan_backend(plan, s->first_backend + i)->holder;
    return node;
}

uint64_t others_next(const struct others *o, const struct plan *plan, const struct digest *key,
                     const struct others_tried *tried, uint64_t now_ms)
{
    const struct plan_service *s = plan_service_of(plan, fetch_peers_service(plan));
    uint64_t best = 0;
    bool best_bad = true;
    for (uint32_t i = 0; s && i < s->backend_count; i++) {
        const struct plan_backend *b = plan_backend(plan, s->first_backend + i);
        bool bad = is_bad(o, b->node, now_ms);
        if (b->draining || was_tried(tried, b->node) || (bad && !tried->bad_too) ||
            b->holder == plan->copies.holder || is_covered(tried, b->holder))
            continue;
        if (!best || bad < best_bad || (bad == best_bad && placement_before(key, b->node, best))) {
            best = b->node;
            best_bad = bad;
        }
    }
    return best;
}

/* The place of its orders, or a free one; OTHERS_ORDERED_MAX: there is none. */
static unsigned find(const struct others *o, uint64_t node)
{
    unsigned at = OTHERS_ORDERED_MAX;
    for (unsigned i = 0; i < OTHERS_ORDERED_MAX; i++) {
        if (o->order[i].count && o->order[i].node == node)
            return i;
        if (!o->order[i].count && at == OTHERS_ORDERED_MAX)
            at = i;
    }
    return at;
}

bool others_order(struct others *o, const struct plan *plan, uint64_t node)
{
    const struct plan_service *s = plan_service_of(plan, fetch_peers_service(plan));
    uint32_t most = s && s->proxy.connections_max ? (s->proxy.connections_max + 3) / 4 : UINT32_MAX;
    unsigned at = find(o, node);
    if (at == OTHERS_ORDERED_MAX || o->order[at].count >= most)
        return false;
    o->order[at].node = node;
    o->order[at].count++;
    return true;
}

void others_order_end(struct others *o, uint64_t node)
{
    unsigned at = find(o, node);
    CHECK(at < OTHERS_ORDERED_MAX && o->order[at].count);
    o->order[at].count--;
}
