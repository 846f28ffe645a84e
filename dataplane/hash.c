/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/hash.h"

void hash_begin(struct hash *h, uint8_t alg)
{
    h->alg = alg;
    if (alg == DIGEST_SHA512)
        (void)SHA512_Init(&h->sha512);
    else
        (void)SHA256_Init(&h->sha256);
}

void hash_add(struct hash *h, const void *bytes, size_t len)
{
    if (h->alg == DIGEST_SHA512)
        (void)SHA512_Update(&h->sha512, bytes, len);
    else
        (void)SHA256_Update(&h->sha256, bytes, len);
}

void hash_end(struct hash *h, struct digest *out)
{
    *out = (struct digest){.alg = h->alg};
    if (h->alg == DIGEST_SHA512)
        (void)SHA512_Final(out->bytes, &h->sha512);
    else
        (void)SHA256_Final(out->bytes, &h->sha256);
}
