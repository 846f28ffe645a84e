/* SPDX-License-Identifier: Apache-2.0 */
#include "control/digest_set.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "placement.h"

enum { FIRST_CAP = 256 };

/* 0 is a free slot. */
static uint64_t key_of(const struct digest *digest)
{
    uint64_t key;
    memcpy(&key, digest->bytes, sizeof(key));
    return key ? key : 1;
}

/* Where the key is, or would be. */
static size_t place_of(const struct digest_set *set, uint64_t key)
{
    size_t at = placement_mix(key) & (set->cap - 1);
    while (set->slot[at] && set->slot[at] != key)
        at = (at + 1) & (set->cap - 1);
    return at;
}

/* Half of the slots are free, so that a place is found soon. */
static void grow(struct digest_set *set)
{
    struct digest_set wider = {.cap = set->cap ? 2 * set->cap : FIRST_CAP, .count = set->count};
    wider.slot = calloc(wider.cap, sizeof(*wider.slot));
    CHECK(wider.slot);
    for (size_t i = 0; i < set->cap; i++)
        if (set->slot[i])
            wider.slot[place_of(&wider, set->slot[i])] = set->slot[i];
    free(set->slot);
    *set = wider;
}

void digest_set_add(struct digest_set *set, const struct digest *digest)
{
    if (set->count >= DIGEST_SET_MAX)
        return;
    if (2 * set->count >= set->cap)
        grow(set);
    uint64_t key = key_of(digest);
    size_t at = place_of(set, key);
    set->count += set->slot[at] == 0;
    set->slot[at] = key;
}

bool digest_set_has(const struct digest_set *set, const struct digest *digest)
{
    return set->count && set->slot[place_of(set, key_of(digest))] != 0;
}

void digest_set_fini(struct digest_set *set)
{
    free(set->slot);
    *set = (struct digest_set){.slot = NULL};
}
