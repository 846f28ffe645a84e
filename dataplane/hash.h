/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hash of a digest, piece by piece. The plain functions: EVP takes half a megabyte of code and tables for
 * the same instructions, and its contexts come from the heap.
 */
#ifndef FL_HASH_H
#define FL_HASH_H

#define OPENSSL_API_COMPAT 0x10100000L
#include <openssl/sha.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"

struct hash {
    uint8_t alg; /* enum digest_alg */
    union {
        SHA256_CTX sha256;
        SHA512_CTX sha512;
    };
};

void hash_begin(struct hash *h, uint8_t alg);
void hash_add(struct hash *h, const void *bytes, size_t len);
void hash_end(struct hash *h, struct digest *out);

#endif
