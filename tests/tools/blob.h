/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blobs for tests: pseudo-random bytes that are a function of a seed and of their place, so that any piece
 * of any blob is made, and checked, without a file. Byte n of blob s is the same everywhere.
 */
#ifndef FL_TESTS_BLOB_H
#define FL_TESTS_BLOB_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The finalizer of SplitMix64. */
static inline uint64_t blob_word(uint64_t seed, uint64_t index)
{
    uint64_t x = seed * 0xd1342543de82ef95u + (index + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Bytes [at, at + len) of a blob. Words are little-endian on every machine. */
static inline void blob_fill(uint64_t seed, uint64_t at, uint8_t *out, size_t len)
{
    while (len > 0) {
        uint8_t bytes[8];
        uint64_t word = blob_word(seed, at / 8);
        size_t first = at % 8, n = 8 - first < len ? 8 - first : len;
        for (unsigned i = 0; i < 8; i++)
            bytes[i] = (uint8_t)(word >> (8 * i));
        memcpy(out, bytes + first, n);
        out += n;
        at += n;
        len -= n;
    }
}

#endif
