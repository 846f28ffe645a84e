/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/fetch/fresh.h"

#include <stdatomic.h>
#include <string.h>

enum { BUCKETS = 4096, WAYS = 4, AGE_BITS = 28 };

/* The key's tag above, tenths of a second below: both in one word, so that nobody reads half of each. 28 bits
 * are ten months: what is that old is likely to have been asked for again. */
static _Atomic uint64_t table[BUCKETS][WAYS];

static const uint64_t age_mask = (1ull << AGE_BITS) - 1;

static uint64_t tag_of(const struct digest *key, unsigned *bucket)
{
    uint64_t h;
    uint32_t b;
    memcpy(&h, key->bytes, sizeof(h));
    memcpy(&b, key->bytes + sizeof(h), sizeof(b));
    *bucket = b % BUCKETS;
    return (h | 1ull << 63) & ~age_mask; /* never that of a free place */
}

bool fresh_within(const struct digest *key, uint64_t now_ms, uint64_t ttl_ms)
{
    unsigned bucket;
    uint64_t tag = tag_of(key, &bucket);
    for (unsigned i = 0; i < WAYS; i++) {
        uint64_t v = atomic_load_explicit(&table[bucket][i], memory_order_relaxed);
        if ((v & ~age_mask) == tag)
            return ((now_ms / 100 - v) & age_mask) * 100 < ttl_ms;
    }
    return false;
}

/* In its own place, else in the oldest one. */
void fresh_note(const struct digest *key, uint64_t now_ms)
{
    unsigned bucket, at = 0;
    uint64_t tag = tag_of(key, &bucket), oldest = 0;
    for (unsigned i = 0; i < WAYS; i++) {
        uint64_t v = atomic_load_explicit(&table[bucket][i], memory_order_relaxed);
        uint64_t age = v ? (now_ms / 100 - v) & age_mask : age_mask;
        if ((v & ~age_mask) == tag) {
            at = i;
            break;
        }
        if (age >= oldest) {
            oldest = age;
            at = i;
        }
    }
    atomic_store_explicit(&table[bucket][at], tag | ((now_ms / 100) & age_mask), memory_order_relaxed);
}
