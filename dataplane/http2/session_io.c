/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of a session: received into memory of the ring's that all sessions use in turn, because nghttp2
 * takes all of them at once; sent from a buffer that a session has only while the wire has not taken all.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/http2/session.h"

/* ------------------------------------------------------------------ receiving */

void h2_session_wait_input(struct h2_session *s)
{
    if (!s->in.inflight && s->state != H2_GONE)
        wire_poll(&s->wire, &s->in, POLLIN);
}

/* What can come out of one reading has a place. The last part of them is for those who hold few. */
bool h2_session_has_blocks(const struct h2_session *s)
{
    const struct pool *p = &s->h->blocks;
    uint32_t kept = s->blocks > H2_SHARE_LEAST ? p->count / H2_SHARE : 0;
    return p->count - p->used >= s->stream_count + H2_BLOCKS_KEPT + kept;
}

/* Behind those who wait for blocks already. */
static void become_dry(struct h2_session *s)
{
    struct http2 *h = s->h;
    CHECK(!s->prev_dry);
    s->next_dry = NULL;
    s->prev_dry = h->dry_tail;
    *h->dry_tail = s;
    h->dry_tail = &s->next_dry;
}

void h2_session_moisten(struct h2_session *s)
{
    if (!s->prev_dry)
        return;
    *s->prev_dry = s->next_dry;
    if (s->next_dry)
        s->next_dry->prev_dry = s->prev_dry;
    else
        s->h->dry_tail = s->prev_dry;
    s->prev_dry = NULL;
}

void h2_session_feed(struct h2_session *s, const uint8_t *bytes, size_t len)
{
    h2_guard_look(&s->guard, bytes, len, ring_now_ms(s->ring));
    s->in_callback = true;
    ssize_t n = nghttp2_session_mem_recv(s->ng, bytes, len);
    s->in_callback = false;
    if (n < 0)
        h2_session_fail(s, (int)n);
    else if (s->allowance.exhausted)
        h2_session_close(s, CLOSE_H2_MEMORY, NGHTTP2_ENHANCE_YOUR_CALM);
    else if (s->guard.reason != CLOSE_NONE)
        h2_session_close(s, s->guard.reason, NGHTTP2_ENHANCE_YOUR_CALM);
    h2_session_ready(s);
}

/* The wire ended, or broke: that is no loss if every exchange had come to its end. */
static void wire_ended(struct h2_session *s)
{
    enum close_reason reason = s->draining ? CLOSE_DRAIN : CLOSE_CLIENT_EOF;
    for (const struct h2_stream *st = s->streams; st; st = st->next)
        if (st->open)
            reason = CLOSE_CLIENT_ABORT;
    h2_session_lost(s, reason);
}

static void receive(struct h2_session *s)
{
    size_t budget = H2_TURN_BYTES;
    s->input_due = false;
    while (s->state == H2_OPEN || s->state == H2_CLOSING || s->state == H2_LINGER) {
        if (s->state == H2_OPEN && !h2_session_has_blocks(s)) { /* http2_run finds it when there are */
            ring_count(s->ring, CTR_BUFFERS_EXHAUSTED, 1);
            become_dry(s);
            return;
        }
        if (budget < H2_IN_BYTES) {
            s->input_due = true; /* in the next batch */
            return;
        }
        ssize_t n = wire_recv_now(&s->wire, s->h->in, H2_IN_BYTES);
        if (n == -EAGAIN) {
            h2_session_wait_input(s);
            return;
        }
        if (n <= 0) {
            wire_ended(s);
            return;
        }
        ring_count(s->ring, CTR_BYTES_RECEIVED, (uint64_t)n);
        budget -= (size_t)n;
        if (s->state == H2_OPEN)
            h2_session_feed(s, s->h->in, (size_t)n);
    }
}

static void in_done(struct op *op, const struct event *ev)
{
    struct h2_session *s = container_of(op, struct h2_session, in);
    (void)ev; /* an error is told by the receiving itself */
    if (s->state == H2_GONE) {
        h2_session_step_gone(s);
        return;
    }
    s->input_due = true;
    h2_session_ready(s);
}

/* ------------------------------------------------------------------ sending */

void h2_session_out_drop(struct h2_session *s)
{
    if (s->out_buffer)
        pool_give(&s->h->outs, s->out_buffer);
    s->out_buffer = NULL;
    s->out_at = s->out_end = 0;
}

int h2_session_fill(struct h2_session *s)
{
    CHECK(!s->in_callback);
    while (!s->out.inflight && H2_OUT_BYTES - s->out_end >= H2_OUT_RESERVE) {
        const uint8_t *frame;
        if (!s->out_buffer) {
            if (!nghttp2_session_want_write(s->ng))
                return 0;
            s->out_buffer = pool_take(&s->h->outs);
            CHECK(s->out_buffer); /* there is one for each session */
        }
        ssize_t n = nghttp2_session_mem_send(s->ng, &frame);
        if (n <= 0)
            return (int)n;
        CHECK((size_t)n <= H2_OUT_BYTES - s->out_end);
        memcpy(s->out_buffer + s->out_end, frame, (size_t)n);
        s->out_end += (uint32_t)n;
        s->out_total += (uint64_t)n;
    }
    return 0;
}

static void out_took(struct h2_session *s, size_t n)
{
    s->out_at += (uint32_t)n;
    s->out_since_ms = 0;
    ring_count(s->ring, CTR_BYTES_SENT, n);
    if (s->out_at == s->out_end)
        s->out_at = s->out_end = 0;
}

static void out_order(struct h2_session *s)
{
    if (!s->out_since_ms)
        s->out_since_ms = ring_now_ms(s->ring);
    h2_session_time(s);
    wire_send(&s->wire, &s->out, s->out_buffer + s->out_at, s->out_end - s->out_at, 0);
}

/* Whether the wire took everything. */
static bool out_send(struct h2_session *s)
{
    struct iovec iov = {s->out_buffer + s->out_at, s->out_end - s->out_at};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n = wire_sendmsg_now(&s->wire, &msg, 0);
    if (n < 0 && n != -EAGAIN) {
        wire_ended(s);
        return false;
    }
    if (n > 0)
        out_took(s, (size_t)n);
    if (s->out_end == 0)
        return true;
    out_order(s);
    return false;
}

static void streams_output(struct h2_session *s)
{
    for (struct h2_stream *st = s->streams, *next; st; st = next) {
        next = st->next;
        if (!h2_stream_waits_room(st))
            h2_stream_output(st);
    }
    /* Those that wait for room have it one after the other, the next time another one first. */
    struct h2_stream *st = s->turn ? s->turn : s->streams;
    s->turn = st ? st->next : NULL;
    for (uint32_t i = 0; st && i < s->stream_count; i++) {
        struct h2_stream *next = st->next ? st->next : s->streams;
        if (h2_stream_waits_room(st))
            h2_stream_output(st);
        st = next;
    }
}

static void flush(struct h2_session *s)
{
    if (s->state == H2_OPEN)
        h2_rooms_look(s);
    for (size_t budget = H2_TURN_BYTES; budget && !s->out.inflight && s->state != H2_GONE;) {
        int err = h2_session_fill(s);
        if (err) {
            h2_session_fail(s, err);
            return;
        }
        size_t len = s->out_end - s->out_at;
        if (len == 0)
            break;
        if (!out_send(s))
            break;
        budget = len < budget ? budget - len : 0;
    }
    if (s->state == H2_GONE)
        return;
    if (!s->out.inflight && s->out_end == 0)
        h2_session_out_drop(s);
    if (s->state == H2_OPEN) {
        streams_output(s);
        if (!s->out.inflight && nghttp2_session_want_write(s->ng))
            h2_session_ready(s); /* the rest in the next batch */
    }
    if (!s->out.inflight && !s->out_buffer)
        h2_session_flushed(s);
}

static void out_done(struct op *op, const struct event *ev)
{
    struct h2_session *s = container_of(op, struct h2_session, out);
    if (s->state == H2_GONE) {
        h2_session_step_gone(s);
        return;
    }
    if (ev->res <= 0) {
        wire_ended(s);
        return;
    }
    out_took(s, (size_t)ev->res);
    if (s->out_end)
        out_order(s);
    else
        h2_session_ready(s);
}

void h2_session_io_init(struct h2_session *s)
{
    s->in.done = in_done;
    s->out.done = out_done;
}

void h2_session_turn(struct h2_session *s)
{
    if (s->input_due)
        receive(s);
    h2_windows_look(s);
    if (s->state != H2_GONE)
        flush(s);
    if (s->input_due && s->state != H2_GONE)
        h2_session_ready(s);
}
