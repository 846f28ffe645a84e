/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
 * section 3.4) with weights and with the next candidates of each row. Pure: the same backends give the same
 * table on every node, in whatever order they are given.
 *
 * A row's candidates: its owner, then those who came to the row when it was taken already, in that order: who
 * would (in nearly every row) own it in a table made without the ones before.
 */
#ifndef FL_CONTROL_MAGLEV_H
#define FL_CONTROL_MAGLEV_H

#include <stddef.h>
#include <stdint.h>

#include "abi.h"

struct maglev_backend {
    uint64_t hash;   /* maglev_hash over what names it: not over its id */
    uint32_t id;     /* what the rows get */
    uint32_t weight; /* 1.. */
};

uint64_t maglev_hash(uint64_t seed, const void *data, size_t len);

/*
 * The size of a table, a prime: at least `per_backend` rows a backend, and enough for the weights'
 * proportions as long as that is not more; above the number of backends always. It grows in steps of two, so
 * that a backend more or less seldom changes it.
 */
uint32_t maglev_rows(const struct maglev_backend *backend, uint32_t count, uint32_t per_backend);

/* Fills `rows` rows (maglev_rows' prime, or another one above count) of count >= 1 backends, which it puts
 * into an order of its own. */
void maglev_fill(struct abi_row *row, uint32_t rows, struct maglev_backend *backend, uint32_t count);

#endif
