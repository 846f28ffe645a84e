/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The token with which a host joins: FLJ1-, the SHA-256 of the cluster's CA certificate, a dash, and a secret
 * of 128 bits, both in base32 (RFC 4648, without padding). The state holds the SHA-256 of the secret; the
 * joiner does not send the secret before the other side has shown a certificate of that CA. Pure.
 */
#ifndef FL_MESH_TOKEN_H
#define FL_MESH_TOKEN_H

#include <stdint.h>

enum {
    TOKEN_CA_BYTES = 32,
    TOKEN_SECRET_BYTES = 16,
    TOKEN_TEXT_MAX = 96, /* with the NUL: 5 + 52 + 1 + 26 + 1 */
};

struct token {
    uint8_t ca[TOKEN_CA_BYTES];
    uint8_t secret[TOKEN_SECRET_BYTES];
};

void token_format(const struct token *token, char out[TOKEN_TEXT_MAX]);

/* Case does not matter. 0 or -EINVAL. */
int token_parse(const char *text, struct token *out);

#endif
