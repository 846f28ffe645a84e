/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that were received and that nobody has used yet: what is kept of them, in which memory, in which
 * order. */
#include <string.h>

#include "dataplane/conn.h"
#include "dataplane/ring.h"

void conn_receive(struct conn *c)
{
    if (!c->in.inflight)
        wire_recv(&c->wire, &c->in);
}

/* The ring found no free buffer: try again when one comes back. */
void conn_unfed(struct conn *c)
{
    ring_count(c->ring, CTR_BUFFERS_EXHAUSTED, 1);
    c->next_unfed = NULL;
    *c->ring->unfed_tail = c;
    c->ring->unfed_tail = &c->next_unfed;
}

void conn_unfed_leave(struct conn *c)
{
    struct conn **at = &c->ring->unfed;
    while (*at && *at != c)
        at = &(*at)->next_unfed;
    if (!*at)
        return;
    *at = c->next_unfed;
    if (!*at)
        c->ring->unfed_tail = at;
}

void conn_feed(struct ring *ring)
{
    struct conn *c = ring->unfed;
    if (!c)
        return;
    conn_unfed_leave(c);
    conn_receive(c);
}

void conn_input_drop(struct conn *c)
{
    if (c->has_input) {
        loop_buffer_put(c->ring->loop, c->input_buffer);
        c->has_input = false;
        c->input_len = 0;
    }
    conn_feed(c->ring);
}

static struct pool *partial_pool(struct ring *r, enum partial_pool pool)
{
    struct pool *pools[] = {
        [PARTIAL_HEAD] = &r->partials, [PARTIAL_REST] = &r->rests, [PARTIAL_LARGE] = &r->heads};
    return pools[pool];
}

static size_t partial_cap(const struct conn *c)
{
    static const uint32_t cap[] = {[PARTIAL_HEAD] = PARTIAL_HEAD_BYTES,
                                   [PARTIAL_REST] = PARTIAL_REST_BYTES,
                                   [PARTIAL_LARGE] = HEADER_BYTES_CEILING};
    return c->partial ? cap[c->partial_pool] : 0;
}

void conn_partial_drop(struct conn *c)
{
    if (!c->partial)
        return;
    pool_give(partial_pool(c->ring, c->partial_pool), c->partial);
    c->partial = NULL;
    c->partial_len = 0;
}

/* Room for a head's first len bytes outside a stream. */
bool conn_partial_take(struct conn *c, size_t len)
{
    c->partial_pool = len <= PARTIAL_HEAD_BYTES   ? PARTIAL_HEAD
                      : len <= PARTIAL_REST_BYTES ? PARTIAL_REST
                                                  : PARTIAL_LARGE;
    c->partial = pool_take(partial_pool(c->ring, c->partial_pool));
    c->partial_fresh = false;
    if (!c->partial)
        ring_count(c->ring, CTR_BUFFERS_EXHAUSTED, 1);
    return c->partial != NULL;
}

/*
 * The ring has a few hundred receive buffers, and clients that send their next request and read no answer
 * must not have them all. There is room for one buffer's bytes of each connection. What stands before them
 * came out of the same buffer or is here alone, so both fit; if they did not, they would stay where they are.
 */
void conn_input_keep(struct conn *c)
{
    char *before = c->partial;
    uint8_t pool = c->partial_pool;
    size_t before_len = before ? c->partial_len : 0;
    if (c->input_len == 0) {
        conn_input_drop(c);
        return;
    }
    if (c->input_len > partial_cap(c) - before_len) {
        if (!conn_partial_take(c, before_len + c->input_len)) {
            c->partial = before;
            c->partial_pool = pool;
            return;
        }
        if (before) {
            memcpy(c->partial, before, before_len);
            pool_give(partial_pool(c->ring, pool), before);
        }
    }
    memcpy(c->partial + before_len, loop_buffer(c->ring->loop, c->input_buffer) + c->input_at, c->input_len);
    c->partial_len = (uint32_t)(before_len + c->input_len);
    c->partial_fresh = true;
    conn_input_drop(c);
}

static size_t take_partial(struct conn *c, void *out, size_t cap)
{
    size_t n = c->partial_len < cap ? c->partial_len : cap;
    memcpy(out, c->partial, n);
    c->partial_len -= (uint32_t)n;
    memmove(c->partial, c->partial + n, c->partial_len);
    if (c->partial_len == 0)
        conn_partial_drop(c);
    return n;
}

size_t conn_take_input(struct conn *c, void *out, size_t cap)
{
    if (c->partial)
        return take_partial(c, out, cap);
    size_t n = c->input_len < cap ? c->input_len : cap;
    if (n == 0)
        return 0;
    memcpy(out, loop_buffer(c->ring->loop, c->input_buffer) + c->input_at, n);
    c->input_at = (uint16_t)(c->input_at + n);
    c->input_len = (uint16_t)(c->input_len - n);
    if (c->input_len == 0)
        conn_input_drop(c);
    return n;
}

/* The bytes were taken last, so they stand before all others that are kept. */
bool conn_unread(struct conn *c, const void *data, size_t len)
{
    if (len == 0)
        return true;
    if (!c->partial && (len > HEADER_BYTES_CEILING || !conn_partial_take(c, len)))
        return false;
    if (c->partial_len && len > partial_cap(c) - c->partial_len)
        return false;
    memmove(c->partial + len, c->partial, c->partial_len);
    memcpy(c->partial, data, len);
    c->partial_len += (uint32_t)len;
    c->partial_fresh = true;
    return true;
}
