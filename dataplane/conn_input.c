/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that were received and that nobody has used yet: what is kept of them, in which memory, in which
 * order. */
#include <string.h>

#include "dataplane/conn.h"
#include "dataplane/ring.h"

void conn_input_drop(struct conn *c)
{
    if (c->has_input) {
        loop_buffer_put(c->ring->loop, c->input_buffer);
        c->has_input = false;
        c->input_len = 0;
    }
    conn_feed(c->ring);
}

void conn_partial_drop(struct conn *c)
{
    if (!c->partial)
        return;
    pool_give(c->partial_large ? &c->ring->heads : &c->ring->partials, c->partial);
    c->partial = NULL;
    c->partial_len = 0;
}

/* Room for a head's first len bytes outside a stream. */
bool conn_partial_take(struct conn *c, size_t len)
{
    bool small = len <= PARTIAL_HEAD_BYTES;
    c->partial = pool_take(small ? &c->ring->partials : &c->ring->heads);
    c->partial_large = !small;
    c->partial_fresh = false;
    if (!c->partial)
        ring_count(c->ring, CTR_BUFFERS_EXHAUSTED, 1);
    return c->partial != NULL;
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
    size_t cap = c->partial_large ? HEADER_BYTES_CEILING : PARTIAL_HEAD_BYTES;
    if (len == 0)
        return true;
    if (!c->partial && (len > HEADER_BYTES_CEILING || !conn_partial_take(c, len)))
        return false;
    if (c->partial_len && len > cap - c->partial_len)
        return false;
    memmove(c->partial + len, c->partial, c->partial_len);
    memcpy(c->partial, data, len);
    c->partial_len += (uint32_t)len;
    c->partial_fresh = true;
    return true;
}
