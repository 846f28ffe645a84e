/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of nodes are in the order of their ids, whatever else a row says. */
#ifndef FL_STATE_BY_ID_H
#define FL_STATE_BY_ID_H

#include <stddef.h>
#include <stdint.h>

/* The row with this id, or NULL. Each row begins with its id, a uint64_t, and has row_bytes. */
static inline const void *by_id(const void *rows, size_t count, size_t row_bytes, uint64_t id)
{
    const char *row = rows;
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (*(const uint64_t *)(const void *)(row + middle * row_bytes) < id)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == count || *(const uint64_t *)(const void *)(row + low * row_bytes) != id)
        return NULL;
    return row + low * row_bytes;
}

#endif
