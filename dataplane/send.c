/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The response on its way to the socket: bytes from memory, a file (send_file.c), or parts that a handler
 * writes when there is room for them. The first error ends the connection: a response is never ended cleanly
 * short.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/store/store.h"
#include "dataplane/stream_private.h"

enum {
    CHUNK_ROOM = 32, /* for a chunk's header before, and its end and the body's end behind */
};

bool send_idle(const struct stream_full *f)
{
    return !f->s.conn->out.inflight && !f->send.file.inflight && !f->send.ahead.inflight;
}

void send_release(struct stream_full *f)
{
    if (f->send.buffer && f->send.kind == SEND_FILL)
        f->s.ring->fills--;
    if (f->send.buffer)
        ring_body_give(f->s.ring, f->send.buffer);
    if (f->send.blob)
        blob_put(f->s.ring->store, f->send.blob);
}

void send_progress(struct stream_full *f)
{
    conn_deadline(f->s.conn, ring_now_ms(f->s.ring) + ring_setting(f->s.ring, SET_HTTP_SEND_TIMEOUT));
}

void send_took(struct stream_full *f, size_t n)
{
    f->send.sent += n;
    ring_count(f->s.ring, CTR_BYTES_SENT, n);
    send_progress(f);
}

static void first_byte(struct stream_full *f)
{
    f->send.started = true;
    f->first_byte_us = loop_clock_us();
}

/* ------------------------------------------------------------------ bytes */

void send_iov_skip(struct iovec *iov, size_t n)
{
    for (int i = 0; i < 2; i++) {
        size_t part = n < iov[i].iov_len ? n : iov[i].iov_len;
        iov[i].iov_base = (char *)iov[i].iov_base + part;
        iov[i].iov_len -= part;
        n -= part;
    }
}

/* A small body goes behind the head, so that one plain send does. */
static void join(struct sending *s, char *response)
{
    struct iovec *head = &s->iov[0], *body = &s->iov[1];
    if (body->iov_len && head->iov_base == response &&
        head->iov_len + body->iov_len <= STREAM_RESPONSE_BYTES) {
        memcpy(response + head->iov_len, body->iov_base, body->iov_len);
        head->iov_len += body->iov_len;
        body->iov_len = 0;
    }
}

void send_bytes_out(struct stream_full *f)
{
    struct sending *s = &f->send;
    struct conn *c = f->s.conn;
    int flags = s->kind == SEND_FILE && s->left && send_is_direct(f) ? MSG_MORE : 0;
    s->polling = false;
    if (s->iov[0].iov_len && s->iov[1].iov_len) {
        s->msg = (struct msghdr){.msg_iov = s->iov, .msg_iovlen = 2};
        wire_sendmsg(&c->wire, &c->out, &s->msg, flags);
    } else {
        const struct iovec *one = s->iov[0].iov_len ? &s->iov[0] : &s->iov[1];
        wire_send(&c->wire, &c->out, one->iov_base, one->iov_len, flags);
    }
}

/* Sends what the socket takes now. False: a rest, or an error that the order for the rest will tell. */
bool send_at_once(struct stream_full *f, int flags)
{
    struct iovec *iov = f->send.iov;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = iov[1].iov_len ? 2 : 1};
    ssize_t n = wire_sendmsg_now(&f->s.conn->wire, &msg, flags);
    if (n > 0) {
        send_iov_skip(iov, (size_t)n);
        f->send.sent += (size_t)n;
        ring_count(f->s.ring, CTR_BYTES_SENT, (uint64_t)n);
    }
    return iov[0].iov_len == 0 && iov[1].iov_len == 0;
}

/* The client wants no more than these bytes, and there is nothing of its request to come. */
static bool is_last_word(const struct stream_full *f)
{
    const struct conn *c = f->s.conn;
    return f->send.kind == SEND_BYTES && c->close_after && c->end_reason == CLOSE_CLIENT_CLOSE &&
           !c->lingers && f->body.state == BODY_COMPLETE && !conn_is_stream(c);
}

/*
 * Answers go out together at the end of the batch: the clients are woken once. Only the first one of a
 * connection is sent at once, so that many new connections at a time do not take as many streams. If it is
 * the last one, too, the FIN goes in the same segment: a tenth less of the kernel's work for such a
 * connection.
 */
static void bytes_begin(struct stream_full *f)
{
    bool last = is_last_word(f);
    join(&f->send, f->response_own);
    if ((f->s.conn->requests == 1 || f->send.kind == SEND_RELAY) && send_at_once(f, last ? MSG_MORE : 0)) {
        if (last) /* what was held back goes now; a close alone might be a reset in its place */
            wire_shutdown(&f->s.conn->wire);
        send_part_out(f);
    } else {
        send_progress(f);
        send_bytes_out(f);
    }
}

void send_begin(struct stream_full *f)
{
    bool held = f->held;
    if (f->interim_pending) {
        send_progress(f);
        return; /* begins when that is sent */
    }
    if (!f->send.started)
        first_byte(f);
    f->held = true;
    if (f->send.kind == SEND_FILE)
        send_file_begin(f);
    else
        bytes_begin(f);
    f->held = held;
    if (!held && f->state == STREAM_DONE)
        ring_ready(f->s.ring, &f->s); /* ends at its turn */
}

/* ------------------------------------------------------------------ parts that the handler writes */

/* Frames n bytes of content in the buffer, and the end of the body behind them. */
static void frame_part(struct stream_full *f, size_t n)
{
    struct sending *s = &f->send;
    char *start = s->buffer + CHUNK_ROOM, *end = start + n;
    if (s->chunked && n) {
        char header[HTTP_CHUNK_HEADER_MAX];
        size_t len = http_chunk_header(header, n);
        start -= len;
        memcpy(start, header, len);
        memcpy(end, HTTP_CHUNK_END.p, HTTP_CHUNK_END.len);
        end += HTTP_CHUNK_END.len;
    }
    if (s->chunked && s->filled) {
        memcpy(end, HTTP_CHUNK_LAST.p, HTTP_CHUNK_LAST.len);
        end += HTTP_CHUNK_LAST.len;
    }
    s->iov[1] = (struct iovec){start, (size_t)(end - start)};
}

/* The framing is chosen when the first part is there: a body that is complete then has a length. */
static int begin_parts(struct stream_full *f, size_t n)
{
    struct sending *s = &f->send;
    s->head_only = f->s.req.method == HTTP_HEAD;
    s->chunked = !s->filled && f->s.req.version_minor > 0;
    if (s->filled)
        http_response_field_u64(&f->response, "Content-Length", n);
    else if (s->chunked)
        http_response_field(&f->response, "Transfer-Encoding", VIEW_LIT("chunked"));
    else
        f->close_after = f->s.conn->close_after = true; /* HTTP/1.0: the end of the connection is the end */
    ssize_t head = stream_finish_head(f);
    if (head < 0)
        return (int)head;
    s->iov[0] = (struct iovec){f->response_own, (size_t)head};
    return 0;
}

static bool fill_buffer(struct stream_full *f)
{
    struct ring *ring = f->s.ring;
    if (f->send.buffer)
        return true;
    if (ring->fills < RING_FILLS_MAX)
        f->send.buffer = ring_body_take(ring, &f->s);
    else
        ring_body_line(ring, &f->s);
    ring->fills += f->send.buffer != NULL;
    return f->send.buffer != NULL;
}

static void fill_turn(struct stream_full *f)
{
    struct sending *s = &f->send;
    if (!fill_buffer(f))
        return; /* in line for one */
    ssize_t n = s->fill(&f->s, s->buffer + CHUNK_ROOM, BODY_BUFFER_BYTES - 2 * CHUNK_ROOM, &s->filled);
    bool first = !s->started;
    if (n < 0 || (first && begin_parts(f, (size_t)n))) {
        conn_close(f->s.conn, CLOSE_STORE_ERROR);
        return;
    }
    f->content_sent += (size_t)n;
    frame_part(f, (size_t)n);
    if (s->head_only) {
        s->filled = true;
        s->iov[1].iov_len = 0;
    }
    if (first)
        send_begin(f);
    else
        send_bytes_out(f);
}

/* ------------------------------------------------------------------ steps */

void send_turn(struct stream_full *f)
{
    if (f->s.conn->out.inflight || f->send.file.inflight || f->send.warming || f->interim_pending)
        return;
    if (f->send.kind == SEND_FILE)
        send_file_turn(f);
    else if (f->send.kind == SEND_FILL)
        fill_turn(f);
}

static void all_out(struct stream_full *f)
{
    if (f->send.delayed)
        conn_nodelay(f->s.conn, true); /* pushes what was held back, too */
    stream_sent(f);
}

void send_part_out(struct stream_full *f)
{
    struct sending *s = &f->send;
    if (s->copying) {
        s->copying = false;
        ring_body_give(f->s.ring, s->buffer);
        s->buffer = NULL;
    }
    bool more = s->kind == SEND_FILE ? s->left > 0 : s->kind == SEND_FILL && !s->filled;
    if (s->kind == SEND_RELAY)
        relay_head_out(f);
    else if (more)
        ring_ready(f->s.ring, &f->s);
    else
        all_out(f);
}

void send_output_done(struct stream_full *f, const struct event *ev)
{
    if (f->interim_pending) {
        interim_sent(f, ev);
    } else if (f->gone) {
        ring_ready(f->s.ring, &f->s);
    } else if (ev->res < 0) {
        conn_close(f->s.conn, CLOSE_CLIENT_ABORT);
    } else if (f->send.polling) {
        f->send.polling = false;
        ring_ready(f->s.ring, &f->s);
    } else {
        send_took(f, (size_t)ev->res);
        send_iov_skip(f->send.iov, (size_t)ev->res);
        if (f->send.iov[0].iov_len || f->send.iov[1].iov_len)
            send_bytes_out(f);
        else
            send_part_out(f);
    }
}

/* ------------------------------------------------------------------ time */

/* What the client has acknowledged tells a slow reader from one that stands still. */
bool send_client_reads(struct stream_full *f)
{
    uint64_t acked = f->send.sent - wire_unsent(&f->s.conn->wire);
    bool moved = acked > f->send.acked_seen;
    f->send.acked_seen = acked;
    return moved;
}

void stream_timeout(struct stream_full *f)
{
    conn_look(f->s.conn);
    if (f->gone)
        return;
    if (relay_reads(f) || relay_sends(f)) {
        relay_timeout(f);
    } else if (f->body.state == BODY_READ) {
        if (!f->s.conn->in.inflight)
            body_clock_restart(f);
        if (body_too_slow(f))
            body_fail(f, -ECONNRESET, http_reject_of(HTTP_REJECT_BODY_TIMEOUT));
        else
            conn_deadline(f->s.conn, body_deadline(f));
    } else if (f->state == STREAM_SEND && !f->gone) {
        if (send_client_reads(f))
            send_progress(f);
        else
            conn_close(f->s.conn, CLOSE_SEND_TIMEOUT);
    } else if (f->s.conn->half_closed) { /* waits for the handler's answer */
        conn_deadline(f->s.conn, ring_now_ms(f->s.ring) + CONN_LOOK_MS);
    }
}
