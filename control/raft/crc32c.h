/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli; RFC 3720, B.4), eight bytes a step. */
#ifndef FL_RAFT_CRC32C_H
#define FL_RAFT_CRC32C_H

#include <stddef.h>
#include <stdint.h>

struct crc32c {
    uint32_t table[8][256];
};

void crc32c_init(struct crc32c *c);

/* The checksum of data after `seed`, which is 0 or the checksum of what came before. */
uint32_t crc32c(const struct crc32c *c, uint32_t seed, const void *data, size_t len);

#endif
