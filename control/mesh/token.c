/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/token.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

static const char prefix[] = "FLJ1-", alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

enum { BITS = 5, CA_CHARS = (TOKEN_CA_BYTES * 8 + 4) / 5, SECRET_CHARS = (TOKEN_SECRET_BYTES * 8 + 4) / 5 };

static char *put(char *out, const uint8_t *data, size_t len)
{
    uint32_t bits = 0;
    unsigned count = 0;
    for (size_t i = 0; i < len; i++) {
        bits = (bits << 8 | data[i]) & 0xffff;
        for (count += 8; count >= BITS; count -= BITS)
            *out++ = alphabet[bits >> (count - BITS) & 31];
    }
    if (count)
        *out++ = alphabet[bits << (BITS - count) & 31];
    return out;
}

void token_format(const struct token *token, char out[TOKEN_TEXT_MAX])
{
    memcpy(out, prefix, sizeof(prefix) - 1);
    char *end = put(out + sizeof(prefix) - 1, token->ca, sizeof(token->ca));
    *end++ = '-';
    end = put(end, token->secret, sizeof(token->secret));
    *end = '\0';
}

static int digit(char c)
{
    if (c >= 'a' && c <= 'z')
        c = (char)(c - 'a' + 'A');
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    return c >= '2' && c <= '7' ? c - '2' + 26 : -1;
}

/* The bits that the last character has too many must be zero: there is one text for one token. */
static const char *take(const char *text, uint8_t *out, size_t len)
{
    uint32_t bits = 0;
    unsigned count = 0;
    for (size_t i = 0; i < len;) {
        int value = digit(*text++);
        if (value < 0)
            return NULL;
        bits = (bits << BITS | (uint32_t)value) & 0xffff;
        count += BITS;
        if (count >= 8) {
            count -= 8;
            out[i++] = (uint8_t)(bits >> count);
        }
    }
    return bits & ((1u << count) - 1) ? NULL : text;
}

int token_parse(const char *text, struct token *out)
{
    if (strlen(text) != sizeof(prefix) - 1 + CA_CHARS + 1 + SECRET_CHARS ||
        strncasecmp(text, prefix, sizeof(prefix) - 1) != 0)
        return -EINVAL;
    text = take(text + sizeof(prefix) - 1, out->ca, sizeof(out->ca));
    if (!text || *text++ != '-')
        return -EINVAL;
    text = take(text, out->secret, sizeof(out->secret));
    return text && *text == '\0' ? 0 : -EINVAL;
}
