/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded writer and reader of little-endian fields: the one way bytes are laid out in log entries and in
 * messages. Both carry a sticky error: write or read everything, then look once at `failed`.
 */
#ifndef FL_WIRE_H
#define FL_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct wire_writer {
    uint8_t *buf;
    size_t cap, len;
    bool failed; /* something did not fit; len stays at what did */
};

struct wire_reader {
    const uint8_t *buf;
    size_t len, pos;
    bool failed; /* something was missing; every later read gives zero */
};

static inline void wire_put(struct wire_writer *w, const void *data, size_t len)
{
    if (w->failed || len > w->cap - w->len) {
        w->failed = true;
        return;
    }
    if (len)
        memcpy(w->buf + w->len, data, len);
    w->len += len;
}

static inline void wire_put_uint(struct wire_writer *w, uint64_t v, size_t size)
{
    uint8_t b[8];
    for (size_t i = 0; i < size; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    wire_put(w, b, size);
}

static inline void wire_put_u8(struct wire_writer *w, uint8_t v)
{
    wire_put_uint(w, v, 1);
}

static inline void wire_put_u16(struct wire_writer *w, uint16_t v)
{
    wire_put_uint(w, v, 2);
}

static inline void wire_put_u32(struct wire_writer *w, uint32_t v)
{
    wire_put_uint(w, v, 4);
}

static inline void wire_put_u64(struct wire_writer *w, uint64_t v)
{
    wire_put_uint(w, v, 8);
}

/* A 32-bit length, then the bytes. */
static inline void wire_put_bytes(struct wire_writer *w, const void *data, size_t len)
{
    if (len > UINT32_MAX) {
        w->failed = true;
        return;
    }
    wire_put_u32(w, (uint32_t)len);
    wire_put(w, data, len);
}

/* The next len bytes, in place: valid as long as the reader's buffer is. NULL if they are not there. */
static inline const uint8_t *wire_get(struct wire_reader *r, size_t len)
{
    if (r->failed || len > r->len - r->pos) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *p = r->buf + r->pos;
    r->pos += len;
    return p;
}

static inline uint64_t wire_get_uint(struct wire_reader *r, size_t size)
{
    const uint8_t *p = wire_get(r, size);
    uint64_t v = 0;
    for (size_t i = 0; p && i < size; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static inline uint8_t wire_get_u8(struct wire_reader *r)
{
    return (uint8_t)wire_get_uint(r, 1);
}

static inline uint16_t wire_get_u16(struct wire_reader *r)
{
    return (uint16_t)wire_get_uint(r, 2);
}

static inline uint32_t wire_get_u32(struct wire_reader *r)
{
    return (uint32_t)wire_get_uint(r, 4);
}

static inline uint64_t wire_get_u64(struct wire_reader *r)
{
    return wire_get_uint(r, 8);
}

/* The counterpart of wire_put_bytes: in place, *len is 0 and the result NULL on failure. */
static inline const uint8_t *wire_get_bytes(struct wire_reader *r, size_t *len)
{
    uint32_t n = wire_get_u32(r);
    const uint8_t *p = wire_get(r, n);
    *len = p ? n : 0;
    return p;
}

static inline bool wire_at_end(const struct wire_reader *r)
{
    return !r->failed && r->pos == r->len;
}

#endif
