/* SPDX-License-Identifier: Apache-2.0 */
/* The entries that are not durable and applied yet. */
#include <stdlib.h>
#include <string.h>

#include "consensus_internal.h"

struct entry *cache_get(const struct consensus *c, uint64_t index)
{
    if (c->cache_count == 0 || index < c->cache_first || index >= c->cache_first + c->cache_count)
        return NULL;
    return c->cache[index - c->cache_first];
}

int cache_add(struct consensus *c, struct entry *e)
{
    if (c->cache_count == c->cache_cap) {
        size_t cap = c->cache_cap ? 2 * c->cache_cap : 256;
        struct entry **grown = realloc(c->cache, cap * sizeof(struct entry *));
        if (!grown)
            return -ENOMEM;
        c->cache = grown;
        c->cache_cap = cap;
    }
    if (c->cache_count == 0)
        c->cache_first = e->index;
    CHECK(e->index == c->cache_first + c->cache_count);
    c->cache[c->cache_count++] = e;
    return 0;
}

void cache_truncate(struct consensus *c, uint64_t index, enum cmd_status status)
{
    while (c->cache_count && cache_last(c) >= index) {
        struct entry *e = c->cache[--c->cache_count];
        entry_answer(c, e, status, NULL, 0);
        entry_put(e);
    }
}

void cache_release(struct consensus *c)
{
    size_t n = 0;
    while (n < c->cache_count && c->cache[n]->index <= c->applied && c->cache[n]->index <= c->persisted)
        entry_put(c->cache[n++]);
    c->cache_count -= n;
    c->cache_first += n;
    if (n)
        memmove(c->cache, c->cache + n, c->cache_count * sizeof(struct entry *));
}
