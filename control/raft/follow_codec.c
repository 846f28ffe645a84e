/* SPDX-License-Identifier: Apache-2.0 */
#include "follow_codec.h"

#include <errno.h>
#include <raft.h>

#include "check.h"
#include "wire.h"

static struct wire_writer begin(uint8_t *out, size_t cap)
{
    struct wire_writer w = {.buf = out, .cap = cap};
    wire_put_u16(&w, FOLLOW_VERSION);
    return w;
}

static size_t end(const struct wire_writer *w)
{
    CHECK(!w->failed);
    return w->len;
}

/* 0 if the version is ours. */
static int open_frame(struct wire_reader *r, const void *data, size_t len)
{
    *r = (struct wire_reader){.buf = data, .len = len};
    uint16_t version = wire_get_u16(r);
    return r->failed ? -EBADMSG : version == FOLLOW_VERSION ? 0 : -EPROTO;
}

/* A byte that is 0 or 1. */
static bool get_bool(struct wire_reader *r)
{
    uint8_t value = wire_get_u8(r);
    r->failed |= value > 1;
    return value;
}

static int close_frame(const struct wire_reader *r)
{
    return wire_at_end(r) ? 0 : -EBADMSG;
}

size_t follow_ask_encode(const struct follow_ask *ask, uint8_t *out)
{
    struct wire_writer w = begin(out, FOLLOW_FRAME_BYTES);
    wire_put_u32(&w, ask->session);
    wire_put_u64(&w, ask->applied);
    wire_put_u64(&w, ask->term);
    wire_put_u64(&w, ask->top);
    wire_put_u64(&w, ask->top_term);
    wire_put_u8(&w, ask->following);
    return end(&w);
}

int follow_ask_decode(const void *data, size_t len, struct follow_ask *out)
{
    struct wire_reader r;
    int rc = open_frame(&r, data, len);
    if (rc)
        return rc;
    out->session = wire_get_u32(&r);
    out->applied = wire_get_u64(&r);
    out->term = wire_get_u64(&r);
    out->top = wire_get_u64(&r);
    out->top_term = wire_get_u64(&r);
    out->following = get_bool(&r);
    r.failed |= out->top < out->applied;
    return close_frame(&r);
}

size_t follow_refused_encode(const struct follow_refused *refused, uint8_t *out)
{
    struct wire_writer w = begin(out, FOLLOW_FRAME_BYTES);
    wire_put_u32(&w, refused->session);
    wire_put_u8(&w, refused->why);
    return end(&w);
}

int follow_refused_decode(const void *data, size_t len, struct follow_refused *out)
{
    struct wire_reader r;
    int rc = open_frame(&r, data, len);
    if (rc)
        return rc;
    out->session = wire_get_u32(&r);
    out->why = wire_get_u8(&r);
    return close_frame(&r);
}

size_t follow_renew_encode(const struct follow_renew *renew, uint8_t *out)
{
    struct wire_writer w = begin(out, FOLLOW_FRAME_BYTES);
    wire_put_u32(&w, renew->session);
    wire_put_u64(&w, renew->applied);
    wire_put_u64(&w, renew->stamp_ms);
    wire_put_u8(&w, renew->lease);
    return end(&w);
}

int follow_renew_decode(const void *data, size_t len, struct follow_renew *out)
{
    struct wire_reader r;
    int rc = open_frame(&r, data, len);
    if (rc)
        return rc;
    out->session = wire_get_u32(&r);
    out->applied = wire_get_u64(&r);
    out->stamp_ms = wire_get_u64(&r);
    out->lease = get_bool(&r);
    return close_frame(&r);
}

size_t follow_grant_encode(const struct follow_grant *grant, uint8_t *out)
{
    struct wire_writer w = begin(out, FOLLOW_FRAME_BYTES);
    wire_put_u32(&w, grant->session);
    wire_put_u64(&w, grant->stamp_ms);
    wire_put_u64(&w, grant->applied);
    wire_put_u64(&w, grant->leader);
    wire_put_u64(&w, grant->floor);
    wire_put_u32(&w, grant->valid_ms);
    return end(&w);
}

int follow_grant_decode(const void *data, size_t len, struct follow_grant *out)
{
    struct wire_reader r;
    int rc = open_frame(&r, data, len);
    if (rc)
        return rc;
    out->session = wire_get_u32(&r);
    out->stamp_ms = wire_get_u64(&r);
    out->applied = wire_get_u64(&r);
    out->leader = wire_get_u64(&r);
    out->floor = wire_get_u64(&r);
    out->valid_ms = wire_get_u32(&r);
    r.failed |= out->valid_ms > FOLLOW_LEASE_MS_MAX;
    return close_frame(&r);
}

size_t follow_entries_encode(uint64_t first, uint64_t prev_term, const struct follow_entry *entry,
                             uint32_t count, uint8_t *out)
{
    struct wire_writer w = begin(out, SIZE_MAX);
    wire_put_u64(&w, first);
    wire_put_u64(&w, prev_term);
    wire_put_u32(&w, count);
    for (uint32_t i = 0; i < count; i++) {
        wire_put_u64(&w, entry[i].term);
        wire_put_u16(&w, entry[i].type);
        wire_put_bytes(&w, entry[i].data, entry[i].len);
    }
    return end(&w);
}

bool follow_entries_next(struct follow_entries *entries, struct follow_entry *out)
{
    struct wire_reader r = {.buf = entries->at, .len = entries->left};
    if (entries->left == 0)
        return false;
    out->term = wire_get_u64(&r);
    out->type = wire_get_u16(&r);
    out->data = wire_get_bytes(&r, &out->len);
    if (r.failed)
        return false;
    entries->at += r.pos;
    entries->left -= r.pos;
    return true;
}

int follow_entries_decode(const void *data, size_t len, struct follow_entries *out)
{
    struct wire_reader r;
    int rc = open_frame(&r, data, len);
    if (rc)
        return rc;
    out->first = wire_get_u64(&r);
    out->prev_term = wire_get_u64(&r);
    out->count = wire_get_u32(&r);
    if (r.failed || out->first == 0 || out->first > INT64_MAX || out->count == 0 ||
        out->count > FOLLOW_ENTRIES_MAX)
        return -EBADMSG;
    out->at = r.buf + r.pos;
    out->left = r.len - r.pos;
    struct follow_entries look = *out;
    struct follow_entry entry;
    uint64_t term = out->prev_term;
    uint32_t count = 0;
    for (; follow_entries_next(&look, &entry); count++) {
        if (entry.term < term || entry.type < RAFT_COMMAND || entry.type > RAFT_CHANGE || entry.len == 0)
            return -EBADMSG;
        term = entry.term;
    }
    return look.left == 0 && count == out->count ? 0 : -EBADMSG;
}

size_t follow_snapshot_encode(uint32_t session, const void *handle, size_t handle_len, uint8_t *out)
{
    struct wire_writer w = begin(out, FOLLOW_FRAME_BYTES + handle_len);
    wire_put_u32(&w, session);
    wire_put_bytes(&w, handle, handle_len);
    return end(&w);
}

int follow_snapshot_decode(const void *data, size_t len, uint32_t *session, const void **handle,
                           size_t *handle_len)
{
    struct wire_reader r;
    int rc = open_frame(&r, data, len);
    if (rc)
        return rc;
    *session = wire_get_u32(&r);
    *handle = wire_get_bytes(&r, handle_len);
    return close_frame(&r);
}
