/* SPDX-License-Identifier: Apache-2.0 */
#include "control/compile/maglev.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* The largest primes below the powers of two: up to 128 rows for each of the most backends of a service. */
static const uint32_t primes[] = {7,    13,   31,    61,    127,   251,    509,    1021,   2039,
                                  4093, 8191, 16381, 32749, 65521, 131071, 262139, 524287, 1048573};

/* A backend on its way through its permutation of the rows. */
struct walker {
    uint32_t id;
    uint32_t next, skip; /* its next row; from there to the one after */
    uint32_t visited;    /* rows; all of them at most */
    uint32_t weight;
    uint32_t turns; /* that it had */
};

struct table {
    struct abi_row *row;
    uint32_t rows;
    struct walker *walker;
    uint32_t *due; /* of each walker: the round of its next turn; apart, because it is looked at most */
    uint32_t count;
    uint32_t weight_max;
    uint32_t round;
    uint32_t depth;  /* candidates that a row can have */
    uint64_t vacant; /* places in all rows */
};

static uint64_t mix(uint64_t h)
{
    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdull;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53ull;
    return h ^ h >> 33;
}

uint64_t maglev_hash(uint64_t seed, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    uint64_t h = mix(seed + 0x9e3779b97f4a7c15ull * (len + 1));
    for (size_t i = 0; i < len; i++)
        h = (h ^ bytes[i]) * 0x100000001b3ull;
    return mix(h);
}

static uint32_t common_divisor(uint32_t a, uint32_t b)
{
    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

uint32_t maglev_rows(const struct maglev_backend *backend, uint32_t count, uint32_t per_backend)
{
    enum { ROWS_PER_WEIGHT = 16 };
    uint64_t weights = 0;
    uint32_t divisor = 0;
    for (uint32_t i = 0; i < count; i++) {
        weights += backend[i].weight;
        divisor = common_divisor(divisor, backend[i].weight);
    }
    uint64_t wanted = (uint64_t)count * per_backend;
    uint64_t units = divisor ? weights / divisor : 0;
    uint64_t exact = units > count ? units * ROWS_PER_WEIGHT : 0; /* equal weights need none */
    /* Unequal weights may ask for up to four times of it. */
    if (exact > wanted)
        wanted = exact < wanted * 4 ? exact : wanted * 4;
    for (size_t i = 0; i < ARRAY_SIZE(primes); i++)
        if (primes[i] >= wanted && primes[i] > count)
            return primes[i];
    return primes[ARRAY_SIZE(primes) - 1];
}

static int compare(const void *a, const void *b)
{
    const struct maglev_backend *one = a, *other = b;
    if (one->hash != other->hash)
        return one->hash < other->hash ? -1 : 1;
    return one->id < other->id ? -1 : one->id > other->id;
}

/* Puts a backend into the row's next free place. Returns whether it became the owner. */
static bool row_enter(struct table *t, struct abi_row *row, uint32_t id)
{
    for (uint32_t i = 0; i < t->depth; i++) {
        if (row->backend[i] != ABI_NO_BACKEND)
            continue;
        row->backend[i] = id;
        t->vacant--;
        return i == 0;
    }
    return false;
}

/* The walker's next row. Returns whether it became its owner. */
static bool step(struct table *t, struct walker *w)
{
    struct abi_row *row = &t->row[w->next];
    w->next += w->skip;
    if (w->next >= t->rows)
        w->next -= t->rows;
    w->visited++;
    return row_enter(t, row, w->id);
}

/* The walker has had a turn: a weight of half the largest has one in every second round. */
static void turn_end(struct table *t, uint32_t i)
{
    struct walker *w = &t->walker[i];
    w->turns++;
    t->due[i] = (uint32_t)(((uint64_t)w->turns * t->weight_max + w->weight - 1) / w->weight);
}

/* The paper's table: in turn, each backend takes the next row of its permutation that is free. Who comes to a
 * row that is taken stands behind the owner. */
static void fill_owners(struct table *t)
{
    for (uint32_t owned = 0;; t->round++) {
        for (uint32_t i = 0; i < t->count; i++) {
            if (t->due[i] > t->round)
                continue;
            turn_end(t, i);
            while (!step(t, &t->walker[i]))
                continue;
            if (++owned == t->rows)
                return;
        }
    }
}

/* The walks go on until each row has all its candidates; a permutation has each row once, so that nobody
 * comes twice. */
static void fill_candidates(struct table *t)
{
    for (; t->vacant; t->round++) {
        for (uint32_t i = 0; i < t->count && t->vacant; i++) {
            if (t->due[i] > t->round || t->walker[i].visited == t->rows)
                continue;
            turn_end(t, i);
            step(t, &t->walker[i]);
        }
    }
}

void maglev_fill(struct abi_row *row, uint32_t rows, struct maglev_backend *backend, uint32_t count)
{
    CHECK(count > 0 && rows > count);
    struct table t = {.row = row,
                      .rows = rows,
                      .walker = calloc(count, sizeof(*t.walker)),
                      .due = calloc(count, sizeof(*t.due)),
                      .count = count,
                      .round = 1,
                      .depth = count < ABI_CANDIDATES ? count : ABI_CANDIDATES};
    CHECK(t.walker && t.due);
    t.vacant = (uint64_t)rows * t.depth;
    qsort(backend, count, sizeof(*backend), compare);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(backend[i].weight > 0);
        t.walker[i] = (struct walker){.id = backend[i].id,
                                      .next = (uint32_t)(mix(backend[i].hash) % rows),
                                      .skip = (uint32_t)(mix(~backend[i].hash) % (rows - 1) + 1),
                                      .weight = backend[i].weight};
        if (backend[i].weight > t.weight_max)
            t.weight_max = backend[i].weight;
    }
    memset(row, 0xff, (size_t)rows * sizeof(*row));
    fill_owners(&t);
    fill_candidates(&t);
    free(t.walker);
    free(t.due);
}
