/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/affinity.h"

#include <stdatomic.h>
#include <sys/random.h>

#include "dataplane/proxy/exchange.h"
#include "dataplane/ring.h"

enum { BUCKETS = 8192, WAYS = 8 };

/* Key's tag above, backend's id below: both in one word, so that nobody reads half of each. */
struct slot {
    _Atomic uint64_t entry;
    _Atomic uint32_t used_s;
};

static struct slot table[BUCKETS][WAYS];
static uint64_t seed;

void affinity_init(void)
{
    if (!seed && getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        seed = 1;
}

static uint64_t mix(uint64_t h)
{
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93;
    return h ^ h >> 32;
}

static uint64_t hash(uint64_t scope, struct view key)
{
    uint64_t h = mix(seed ^ scope);
    for (size_t i = 0; i < key.len; i++)
        h = (h ^ (uint8_t)key.p[i]) * 0x100000001b3;
    return mix(h);
}

static uint32_t backend_in(uint64_t entry, uint64_t h)
{
    return entry >> 32 == h >> 32 ? (uint32_t)entry : 0;
}

uint32_t affinity_find(uint64_t scope, struct view key, uint64_t now_ms)
{
    uint64_t h = hash(scope, key);
    for (unsigned i = 0; i < WAYS; i++) {
        struct slot *s = &table[h % BUCKETS][i];
        uint32_t backend = backend_in(atomic_load_explicit(&s->entry, memory_order_relaxed), h);
        if (backend) {
            atomic_store_explicit(&s->used_s, (uint32_t)(now_ms / 1000), memory_order_relaxed);
            return backend;
        }
    }
    return 0;
}

/* In its own slot, else in the one that was not used for longest. */
void affinity_note(uint64_t scope, struct view key, uint32_t backend, uint64_t now_ms)
{
    uint64_t h = hash(scope, key);
    struct slot *at = NULL;
    uint32_t oldest = UINT32_MAX;
    for (unsigned i = 0; i < WAYS; i++) {
        struct slot *s = &table[h % BUCKETS][i];
        uint64_t entry = atomic_load_explicit(&s->entry, memory_order_relaxed);
        uint32_t used = entry ? atomic_load_explicit(&s->used_s, memory_order_relaxed) : 0;
        if (backend_in(entry, h)) {
            at = s;
            break;
        }
        if (!at || used < oldest) {
            at = s;
            oldest = used;
        }
    }
    atomic_store_explicit(&at->used_s, (uint32_t)(now_ms / 1000), memory_order_relaxed);
    atomic_store_explicit(&at->entry, h >> 32 << 32 | backend, memory_order_relaxed);
}

/* ------------------------------------------------------------------ of an exchange */

static uint64_t scope_of(const struct exchange *ex)
{
    return (uint64_t)ex->service_index << 32 | ex->incarnation;
}

uint32_t exchange_prefers(const struct exchange *ex)
{
    if (ex->order.refuse)
        return ex->order.backend + 1;
    if (!view_present(ex->facts.affinity) || ex->facts.affinity.len == 0)
        return 0;
    return affinity_find(scope_of(ex), ex->facts.affinity, ring_now_ms(ex->ring));
}

/* A session of BuildKit and the build that uses it come at the same time over two connections: whichever is
 * first decides for both, before it is answered. */
void exchange_chosen(struct exchange *ex, const struct target *t)
{
    struct view key = ex->facts.affinity;
    if (ex->p.kind == PROXY_DOCKER && view_present(key) && key.len)
        affinity_note(scope_of(ex), key, t->id + 1, ring_now_ms(ex->ring));
}

void exchange_note(struct exchange *ex, const struct attempt *a)
{
    struct view key = ex->facts.affinity;
    if (a->answer.status >= 400 || ex->order.refuse)
        return;
    if (ex->p.kind == PROXY_REGISTRY && a->answer.status == 202 &&
        view_present(a->answer.known[HTTP_KNOWN_LOCATION]))
        key = kind_upload_id(a->answer.known[HTTP_KNOWN_LOCATION]);
    if (view_present(key) && key.len)
        affinity_note(scope_of(ex), key, a->target->id + 1, ring_now_ms(ex->ring));
}
