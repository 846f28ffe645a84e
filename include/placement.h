/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which replicas keep a blob. Every node that knows the same replicas comes to the same answer: the nodes are
 * ranked for each blob by a hash of both (rendezvous hashing), so that a replica that comes or goes moves its
 * own share alone. Pure.
 *
 * Whoever takes a push in keeps a copy, wherever it is ranked; the others go to the best-ranked replicas that
 * can be used.
 */
#ifndef FL_PLACEMENT_H
#define FL_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "digest.h"
#include "limits.h"

enum { PLACEMENT_COPIES_DEFAULT = 2 };

/* How many copies there are to be: `copies` as the cluster's row has it (0: the default), of so many
 * replicas. */
static inline uint32_t placement_wanted(uint32_t copies, uint32_t replicas)
{
    uint32_t wanted = copies ? copies : PLACEMENT_COPIES_DEFAULT;
    if (wanted > replicas)
        wanted = replicas;
    if (wanted > BLOB_HOLDERS_MAX)
        wanted = BLOB_HOLDERS_MAX;
    return wanted ? wanted : 1;
}

/* The finisher of splitmix64: every bit of the input reaches every bit of the output. */
static inline uint64_t placement_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* What the numbers are is part of the format: nodes of two versions must agree. */
static inline uint64_t placement_weight(const struct digest *d, uint64_t node)
{
    uint64_t head = 0;
    for (unsigned i = 0; i < 8; i++) /* the same on every machine */
        head |= (uint64_t)d->bytes[i] << (8 * i);
    return placement_mix(head ^ placement_mix(node * 0x9e3779b97f4a7c15ull + d->alg));
}

/* True if node `a` comes before node `b`. */
static inline bool placement_before(const struct digest *d, uint64_t a, uint64_t b)
{
    uint64_t x = placement_weight(d, a), y = placement_weight(d, b);
    return x != y ? x > y : a < b;
}

/* Writes the best `want` of the nodes to out, the best one first; returns how many there are. */
static inline size_t placement_best(const struct digest *d, const uint64_t *node, size_t count, size_t want,
                                    uint64_t *out)
{
    size_t found = 0;
    for (size_t i = 0; i < count && want > 0; i++) {
        size_t at = found < want ? found : want;
        while (at > 0 && placement_before(d, node[i], out[at - 1]))
            at--;
        if (at == want)
            continue;
        found += found < want;
        memmove(out + at + 1, out + at, (found - at - 1) * sizeof(*out));
        out[at] = node[i];
    }
    return found;
}

#endif
