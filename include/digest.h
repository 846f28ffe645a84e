/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A content digest (OCI image-spec, descriptor.md, "Digests"): algorithm and raw bytes. The registered
 * algorithms sha256 and sha512 are known; everything else is refused by the parser.
 *
 * Three forms: text "sha256:<lower-case hex>", this struct, and the packed form (one byte algorithm, then
 * the bytes) that stands in keys, log entries and messages.
 */
#ifndef FL_DIGEST_H
#define FL_DIGEST_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum digest_alg { DIGEST_NONE = 0, DIGEST_SHA256 = 1, DIGEST_SHA512 = 2 };

enum {
    DIGEST_BYTES_MAX = 64,
    DIGEST_PACKED_MAX = 1 + DIGEST_BYTES_MAX,
    DIGEST_TEXT_MAX = 7 + 2 * DIGEST_BYTES_MAX, /* without the final NUL */
};

struct digest {
    uint8_t alg; /* enum digest_alg */
    uint8_t bytes[DIGEST_BYTES_MAX];
};

/* Bytes of the raw digest, 0 for an unknown algorithm. */
static inline size_t digest_size(uint8_t alg)
{
    return alg == DIGEST_SHA256 ? 32 : alg == DIGEST_SHA512 ? 64 : 0;
}

static inline bool digest_equal(const struct digest *a, const struct digest *b)
{
    return a->alg == b->alg && memcmp(a->bytes, b->bytes, digest_size(a->alg)) == 0;
}

static inline const char *digest_alg_name(uint8_t alg)
{
    return alg == DIGEST_SHA256 ? "sha256" : alg == DIGEST_SHA512 ? "sha512" : "none";
}

static inline int digest_hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* The value of a lower-case hex digit; sets *bad if it is none. */
static inline unsigned digest_nibble(char c, unsigned *bad)
{
    unsigned digit = (unsigned)(uint8_t)c - '0', letter = (unsigned)(uint8_t)c - 'a';
    *bad |= (digit > 9) & (letter > 5);
    return (digit <= 9 ? digit : letter + 10) & 15;
}

/* Parses the text form. 0, -ENOTSUP for a well-formed algorithm that is not known, -EINVAL otherwise. */
static inline int digest_parse(const char *text, size_t len, struct digest *out)
{
    const char *colon = memchr(text, ':', len);
    if (!colon || colon == text)
        return -EINVAL;
    size_t alg_len = (size_t)(colon - text);
    const char *hex = colon + 1;
    size_t hex_len = len - alg_len - 1;
    if (alg_len != 6 || (memcmp(text, "sha256", 6) != 0 && memcmp(text, "sha512", 6) != 0))
        return hex_len ? -ENOTSUP : -EINVAL;
    out->alg = text[3] == '2' ? DIGEST_SHA256 : DIGEST_SHA512;
    size_t size = digest_size(out->alg);
    if (hex_len != 2 * size)
        return -EINVAL;
    /* Without branches: the digits of a digest are noise, each branch on one would be guessed wrongly. */
    unsigned bad = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned hi = digest_nibble(hex[2 * i], &bad), lo = digest_nibble(hex[2 * i + 1], &bad);
        out->bytes[i] = (uint8_t)(hi << 4 | lo);
    }
    if (bad)
        return -EINVAL;
    memset(out->bytes + size, 0, DIGEST_BYTES_MAX - size);
    return 0;
}

/* Writes the raw bytes as lower-case hex and a NUL; out has room for 2 * size + 1. Returns the length. */
static inline size_t digest_hex(const struct digest *d, char *out)
{
    static const char digits[] = "0123456789abcdef";
    size_t size = digest_size(d->alg);
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[d->bytes[i] >> 4];
        out[2 * i + 1] = digits[d->bytes[i] & 15];
    }
    out[2 * size] = '\0';
    return 2 * size;
}

/* Writes the text form and a NUL; the algorithm is known, out has room for DIGEST_TEXT_MAX + 1. Returns the
 * length without the NUL. */
static inline size_t digest_format(const struct digest *d, char *out)
{
    memcpy(out, d->alg == DIGEST_SHA512 ? "sha512" : "sha256", 6);
    out[6] = ':';
    return 7 + digest_hex(d, out + 7);
}

/* Writes the packed form; out has room for DIGEST_PACKED_MAX. Returns its length. */
static inline size_t digest_pack(const struct digest *d, uint8_t *out)
{
    out[0] = d->alg;
    memcpy(out + 1, d->bytes, digest_size(d->alg));
    return 1 + digest_size(d->alg);
}

/* Reads a packed form that starts at in and may be followed by more. Returns the bytes used, 0 if it is none.
 */
static inline size_t digest_unpack(const uint8_t *in, size_t len, struct digest *out)
{
    size_t size = len ? digest_size(in[0]) : 0;
    if (size == 0 || len < 1 + size)
        return 0;
    out->alg = in[0];
    memcpy(out->bytes, in + 1, size);
    memset(out->bytes + size, 0, DIGEST_BYTES_MAX - size);
    return 1 + size;
}

#endif
