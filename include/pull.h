/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a ring tells control of a manifest or blob that a client was given, for webhooks (LOG_PULL, shared.h),
 * and control keeps on its disk until they were told. Its reader trusts nothing of it.
 *
 * u8 version, u8 bits, u64 time_ms, u64 request, u64 size, digest, then as bytes: repo, tag, media type,
 * client, host, user agent.
 */
#ifndef FL_PULL_H
#define FL_PULL_H

#include "digest.h"
#include "limits.h"
#include "wire.h"

enum {
    PULL_VERSION = 1,
    PULL_HOST_MAX = 255,
    PULL_AGENT_MAX = 255, /* what is longer is cut */
    PULL_BYTES_MAX = 1536,
};

enum pull_bit {
    PULL_HEAD = 1 << 0,  /* it was asked for by HEAD */
    PULL_BLOB = 1 << 1,  /* a blob; else a manifest */
    PULL_HTTPS = 1 << 2, /* the client spoke TLS */
    PULL_BITS = 7,
};

struct pull_text {
    const char *data;
    size_t len;
};

struct pull {
    uint8_t bits;     /* enum pull_bit */
    uint64_t time_ms; /* UTC */
    uint64_t request; /* its id, as X-Request-Id has it in hex */
    uint64_t size;    /* bytes of the whole object, also if a part was asked for */
    struct digest digest;
    struct pull_text repo, tag, media_type, client, host, agent;
};

static inline void pull_put_text(struct wire_writer *w, struct pull_text t, size_t max)
{
    wire_put_bytes(w, t.data, t.len < max ? t.len : max);
}

static inline void pull_put(struct wire_writer *w, const struct pull *p)
{
    uint8_t packed[DIGEST_PACKED_MAX];
    wire_put_u8(w, PULL_VERSION);
    wire_put_u8(w, p->bits);
    wire_put_u64(w, p->time_ms);
    wire_put_u64(w, p->request);
    wire_put_u64(w, p->size);
    wire_put(w, packed, digest_pack(&p->digest, packed));
    pull_put_text(w, p->repo, REPO_NAME_MAX);
    pull_put_text(w, p->tag, TAG_NAME_MAX);
    pull_put_text(w, p->media_type, MEDIA_TYPE_MAX);
    pull_put_text(w, p->client, SOURCE_TEXT_MAX);
    pull_put_text(w, p->host, PULL_HOST_MAX);
    pull_put_text(w, p->agent, PULL_AGENT_MAX);
}

static inline struct pull_text pull_get_text(struct wire_reader *r, size_t max)
{
    struct pull_text t;
    t.data = (const char *)wire_get_bytes(r, &t.len);
    if (t.len > max)
        r->failed = true;
    return t;
}

/* False for what is none. Views are valid as long as data is. */
static inline bool pull_get(const void *data, size_t len, struct pull *p)
{
    struct wire_reader r = {.buf = data, .len = len};
    memset(p, 0, sizeof(*p));
    uint8_t version = wire_get_u8(&r);
    p->bits = wire_get_u8(&r);
    p->time_ms = wire_get_u64(&r);
    p->request = wire_get_u64(&r);
    p->size = wire_get_u64(&r);
    size_t used = r.failed ? 0 : digest_unpack(r.buf + r.pos, r.len - r.pos, &p->digest);
    r.failed |= used == 0 || version != PULL_VERSION || (p->bits & ~PULL_BITS) != 0;
    r.pos += r.failed ? 0 : used;
    p->repo = pull_get_text(&r, REPO_NAME_MAX);
    p->tag = pull_get_text(&r, TAG_NAME_MAX);
    p->media_type = pull_get_text(&r, MEDIA_TYPE_MAX);
    p->client = pull_get_text(&r, SOURCE_TEXT_MAX);
    p->host = pull_get_text(&r, PULL_HOST_MAX);
    p->agent = pull_get_text(&r, PULL_AGENT_MAX);
    return wire_at_end(&r) && p->repo.len > 0;
}

#endif
