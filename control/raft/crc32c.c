/* SPDX-License-Identifier: Apache-2.0 */
#include "crc32c.h"

#include <string.h>

enum { POLYNOMIAL_REFLECTED = 0x82f63b78 };

void crc32c_init(struct crc32c *c)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t v = i;
        for (int bit = 0; bit < 8; bit++)
            v = v & 1 ? v >> 1 ^ (uint32_t)POLYNOMIAL_REFLECTED : v >> 1;
        c->table[0][i] = v;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            c->table[t][i] = c->table[t - 1][i] >> 8 ^ c->table[0][c->table[t - 1][i] & 255];
}

uint32_t crc32c(const struct crc32c *c, uint32_t seed, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint32_t v = ~seed;
    for (; len >= 8; p += 8, len -= 8) {
        uint32_t low =
            v ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        v = c->table[7][low & 255] ^ c->table[6][low >> 8 & 255] ^ c->table[5][low >> 16 & 255] ^
            c->table[4][low >> 24] ^ c->table[3][p[4]] ^ c->table[2][p[5]] ^ c->table[1][p[6]] ^
            c->table[0][p[7]];
    }
    for (; len; p++, len--)
        v = v >> 8 ^ c->table[0][(v ^ *p) & 255];
    return ~v;
}
