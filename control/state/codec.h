/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of the bytes of services, nodes and what else has commands and rows. Readers fail on what is out of
 * range. */
#ifndef FL_STATE_CODEC_H
#define FL_STATE_CODEC_H

#include "control/state/service.h"
#include "wire.h"

static inline void codec_put_text(struct wire_writer *w, const char *text)
{
    wire_put_bytes(w, text, strlen(text));
}

/* A text without a NUL in it that fits cap bytes with one. */
static inline void codec_get_text(struct wire_reader *r, char *out, size_t cap)
{
    size_t len;
    const uint8_t *data = wire_get_bytes(r, &len);
    out[0] = '\0';
    if (r->failed)
        return;
    if (len >= cap || (len && memchr(data, 0, len))) {
        r->failed = true;
        return;
    }
    if (len)
        memcpy(out, data, len);
    out[len] = '\0';
}

static inline uint8_t codec_get_version(struct wire_reader *r, uint8_t newest)
{
    uint8_t version = wire_get_u8(r);
    if (version == 0 || version > newest)
        r->failed = true;
    return version;
}

static inline uint32_t codec_get_range(struct wire_reader *r, size_t size, uint32_t min, uint32_t max)
{
    uint64_t value = wire_get_uint(r, size);
    if (value < min || value > max)
        r->failed = true;
    return (uint32_t)value;
}

static inline bool codec_get_bool(struct wire_reader *r)
{
    return codec_get_range(r, 1, 0, 1) == 1;
}

static inline void codec_put_address(struct wire_writer *w, const struct svc_address *a)
{
    wire_put(w, a->ip, sizeof(a->ip));
    wire_put_u16(w, a->port);
}

static inline void codec_get_address(struct wire_reader *r, struct svc_address *a, uint16_t port_min)
{
    const uint8_t *ip = wire_get(r, sizeof(a->ip));
    if (ip)
        memcpy(a->ip, ip, sizeof(a->ip));
    a->port = (uint16_t)codec_get_range(r, 2, port_min, UINT16_MAX);
}

/* Bytes of a fixed length; zeros on failure. */
static inline void codec_get_fixed(struct wire_reader *r, void *out, size_t len)
{
    const uint8_t *p = wire_get(r, len);
    if (p)
        memcpy(out, p, len);
    else
        memset(out, 0, len);
}

#endif
