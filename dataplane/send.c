/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The response on its way to the socket: bytes from memory, a file from the page cache (move/file.h), or
 * parts that a handler writes when there is room for them. The first error ends the connection: a response is
 * never ended cleanly short.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "check.h"
#include "dataplane/move/file.h"
#include "dataplane/store/store.h"
#include "dataplane/stream_private.h"

enum {
    TURN_BYTES = 1 << 20,    /* of a file in one turn: then it is the next one's; */
    ALONE_BYTES = 8 << 20,   /* in one turn of the only request at work */
    LOOK_AHEAD = 4 << 20,    /* how far the page cache is looked at, */
    LOOK_VALID_MS = 500,     /* and for how long that counts */
    AHEAD_BYTES = 4 << 20,   /* what is read ahead where the cache is cold */
    LARGE_BYTES = 256 << 10, /* of a file: from here on full segments are worth two system calls */
    CHUNK_ROOM = 32,         /* for a chunk's header before, and its end and the body's end behind */
};

static void bytes_out(struct stream_full *f);
static void part_out(struct stream_full *f);
static void file_read_done(struct op *op, const struct event *ev);
static void file_ahead_done(struct op *op, const struct event *ev);
static void order_ahead(struct stream_full *f);
static void file_warm_done(struct op *op, const struct event *ev);

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

static void progress(struct stream_full *f)
{
    conn_deadline(f->s.conn, ring_now_ms(f->s.ring) + ring_setting(f->s.ring, SET_HTTP_SEND_TIMEOUT));
}

static void took(struct stream_full *f, size_t n)
{
    f->send.sent += n;
    ring_count(f->s.ring, CTR_BYTES_SENT, n);
    progress(f);
}

static void first_byte(struct stream_full *f)
{
    f->send.started = true;
    f->first_byte_us = loop_clock_us();
}

/* ------------------------------------------------------------------ bytes */

static void iov_skip(struct iovec *iov, size_t n)
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

static void bytes_out(struct stream_full *f)
{
    struct sending *s = &f->send;
    struct conn *c = f->s.conn;
    int flags = s->kind == SEND_FILE && s->left ? MSG_MORE : 0;
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
static bool out_at_once(struct stream_full *f, int flags)
{
    struct iovec *iov = f->send.iov;
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = iov[1].iov_len ? 2 : 1};
    ssize_t n = wire_sendmsg_now(&f->s.conn->wire, &msg, flags);
    if (n > 0) {
        iov_skip(iov, (size_t)n);
        f->send.sent += (size_t)n;
        ring_count(f->s.ring, CTR_BYTES_SENT, (uint64_t)n);
    }
    return iov[0].iov_len == 0 && iov[1].iov_len == 0;
}

/* A file's head is sent at once, so that the file can follow it in the same segment. */
static void head_then_file(struct stream_full *f)
{
    if (f->send.left >= LARGE_BYTES) {
        f->send.delayed = true;
        conn_nodelay(f->s.conn, false);
    }
    bool out = out_at_once(f, MSG_MORE);
    progress(f);
    if (out)
        send_turn(f);
    else
        bytes_out(f);
}

/*
 * Answers go out together at the end of the batch: the clients are woken once. Only the first one of a
 * connection is sent at once, so that many new connections at a time do not take as many streams.
 */
static void bytes_begin(struct stream_full *f)
{
    join(&f->send, f->response_own);
    if ((f->s.conn->requests == 1 || f->send.kind == SEND_RELAY) && out_at_once(f, 0)) {
        part_out(f);
    } else {
        progress(f);
        bytes_out(f);
    }
}

void send_begin(struct stream_full *f)
{
    bool held = f->held;
    if (f->continue_pending)
        return; /* begins when that is sent */
    if (!f->send.started)
        first_byte(f);
    f->held = true;
    if (f->send.kind == SEND_FILE)
        head_then_file(f);
    else
        bytes_begin(f);
    f->held = held;
    if (!held && f->state == STREAM_DONE)
        ring_ready(f->s.ring, &f->s); /* ends at its turn */
}

/* ------------------------------------------------------------------ a file */

static void wait_writable(struct stream_full *f)
{
    f->send.polling = true;
    wire_poll(&f->s.conn->wire, &f->s.conn->out, POLLOUT);
}

/* Remembers for all readers of the blob what was seen; a range that grows keeps the time of its oldest part.
 */
static void seen_resident(struct blob *b, uint64_t from, uint64_t to, uint64_t now_ms)
{
    bool fresh = b->resident_ms && now_ms - b->resident_ms < LOOK_VALID_MS;
    if (fresh && from >= b->resident_from && from <= b->resident_to) {
        if (to > b->resident_to)
            b->resident_to = to;
        return;
    }
    b->resident_from = from;
    b->resident_to = to;
    b->resident_ms = now_ms;
}

/* Whether the next bytes are in the page cache. */
static bool resident(struct stream_full *f)
{
    const struct sending *s = &f->send;
    struct blob *b = s->blob;
    uint64_t now = ring_now_ms(f->s.ring);
    if (b->resident_ms && now - b->resident_ms < LOOK_VALID_MS && s->offset >= b->resident_from &&
        s->offset < b->resident_to)
        return true;
    uint64_t len = s->left < LOOK_AHEAD ? s->left : LOOK_AHEAD;
    if (!file_resident(b->fd, s->offset, len)) {
        len = len < TURN_BYTES ? len : TURN_BYTES;
        if (!file_resident(b->fd, s->offset, len))
            return false;
    }
    seen_resident(b, s->offset, s->offset + len, now);
    return true;
}

static void await_piece(struct stream_full *f)
{
    struct sending *s = &f->send;
    uint64_t piece = s->left < TURN_BYTES ? s->left : TURN_BYTES;
    s->file.done = file_warm_done;
    loop_read(f->s.ring->loop, &s->file, s->blob->fd, &s->byte, 1, s->offset + piece - 1);
}

/*
 * A ring does not wait for a disk. A cold piece is read into the page cache by the loop, and goes out from
 * there like any other: the order to read ahead, then one byte from the end of the piece, which comes when
 * the disk has come so far.
 */
static void warm(struct stream_full *f)
{
    struct sending *s = &f->send;
    ring_count(f->s.ring, CTR_FILE_COLD, 1);
    s->warming = true;
    s->warmed = s->offset;
    s->was_warmed = true;
    if (s->ahead.inflight) /* of bytes further on: this piece is waited for when that is ordered */
        return;
    if (s->ahead_to > s->offset)
        await_piece(f);
    else
        order_ahead(f);
}

/* The disk reads on while a cold file's bytes go out. */
static void keep_ahead(struct stream_full *f)
{
    struct sending *s = &f->send;
    if (s->was_warmed && !s->ahead.inflight && s->ahead_to < s->offset + AHEAD_BYTES &&
        s->ahead_to < s->offset + s->left)
        order_ahead(f);
}

static void order_ahead(struct stream_full *f)
{
    struct sending *s = &f->send;
    uint64_t from = s->ahead_to > s->offset ? s->ahead_to : s->offset, left = s->offset + s->left - from;
    size_t len = left < AHEAD_BYTES ? (size_t)left : AHEAD_BYTES;
    s->ahead.done = file_ahead_done;
    s->ahead_to = from + len;
    loop_readahead(f->s.ring->loop, &s->ahead, s->blob->fd, from, len);
}

static void file_ahead_done(struct op *op, const struct event *ev)
{
    struct sending *s = container_of(op, struct sending, ahead);
    struct stream_full *f = container_of(s, struct stream_full, send);
    (void)ev; /* advice: if it failed the read is slower */
    if (f->gone || f->state == STREAM_DONE) {
        ring_ready(f->s.ring, &f->s);
        return;
    }
    if (s->warming)
        await_piece(f);
}

static void file_failed(struct stream_full *f)
{
    ring_count(f->s.ring, CTR_STORE_ERRORS, 1);
    conn_close(f->s.conn, CLOSE_STORE_ERROR);
}

static void file_warm_done(struct op *op, const struct event *ev)
{
    struct sending *s = container_of(op, struct sending, file);
    struct stream_full *f = container_of(s, struct stream_full, send);
    s->warming = false;
    if (!f->gone && ev->res <= 0) /* also a file that ends too early */
        file_failed(f);
    else
        ring_ready(f->s.ring, &f->s);
}

/* A piece that does not stay in the page cache, or of which the kernel does not say so, goes through a
 * buffer. */
static void read_cold(struct stream_full *f)
{
    struct sending *s = &f->send;
    if (!s->buffer)
        s->buffer = ring_body_take(f->s.ring, &f->s);
    if (!s->buffer)
        return; /* in line for one */
    f->technique = "copy";
    s->file.done = file_read_done;
    size_t len = s->left < BODY_BUFFER_BYTES ? (size_t)s->left : BODY_BUFFER_BYTES;
    loop_read(f->s.ring->loop, &s->file, s->blob->fd, s->buffer, len, s->offset);
}

/* Clients that do not read must not have all buffers: a piece can be read again. */
static void copy_let_go(struct stream_full *f)
{
    struct sending *s = &f->send;
    void *buffer = s->buffer;
    s->offset -= s->iov[0].iov_len;
    s->left += s->iov[0].iov_len;
    s->iov[0].iov_len = 0;
    s->copying = false;
    s->buffer = NULL;
    wait_writable(f);
    ring_body_give(f->s.ring, buffer);
}

static void copy_out(struct stream_full *f)
{
    struct sending *s = &f->send;
    struct msghdr msg = {.msg_iov = s->iov, .msg_iovlen = 1};
    ssize_t n = wire_sendmsg_now(&f->s.conn->wire, &msg, s->left ? MSG_MORE : 0);
    if (n < 0 && n != -EAGAIN) {
        conn_close(f->s.conn, CLOSE_CLIENT_ABORT);
        return;
    }
    if (n > 0) {
        took(f, (size_t)n);
        iov_skip(s->iov, (size_t)n);
    }
    if (s->iov[0].iov_len == 0)
        part_out(f);
    else if (ring_bodies_short(f->s.ring))
        copy_let_go(f);
    else
        bytes_out(f);
}

static void file_read_done(struct op *op, const struct event *ev)
{
    struct sending *s = container_of(op, struct sending, file);
    struct stream_full *f = container_of(s, struct stream_full, send);
    if (f->gone) {
        ring_ready(f->s.ring, &f->s);
        return;
    }
    if (ev->res <= 0) { /* also a file that ends too early */
        file_failed(f);
        return;
    }
    s->copying = true;
    s->offset += (uint32_t)ev->res;
    s->left -= (uint32_t)ev->res;
    s->iov[0] = (struct iovec){s->buffer, (size_t)ev->res};
    s->iov[1].iov_len = 0;
    copy_out(f);
}

static void file_sent(struct stream_full *f)
{
    if (f->send.delayed)
        conn_nodelay(f->s.conn, true); /* pushes what was held back, too */
    stream_sent(f);
}

static void file_turn(struct stream_full *f)
{
    struct sending *s = &f->send;
    size_t budget = f->s.ring->streams.used > 1 ? TURN_BYTES : ALONE_BYTES;
    if (s->left &&
        wire_fd_to(&f->s.conn->wire) < 0) { /* the wire changes the bytes: they have to pass through memory */
        read_cold(f);
        return;
    }
    while (s->left && budget) {
        if (!resident(f)) {
            if (s->was_warmed && s->warmed == s->offset)
                read_cold(f);
            else
                warm(f);
            return;
        }
        keep_ahead(f);
        size_t len = s->left < budget ? (size_t)s->left : budget;
        ssize_t n = file_send(wire_fd_to(&f->s.conn->wire), s->blob->fd, s->offset, len);
        if (n == -EAGAIN) {
            wait_writable(f);
            return;
        }
        if (n <= 0) {
            conn_close(f->s.conn, n == 0 || n == -EIO ? CLOSE_STORE_ERROR : CLOSE_CLIENT_ABORT);
            return;
        }
        s->offset += (size_t)n;
        s->left -= (size_t)n;
        budget -= (size_t)n;
        took(f, (size_t)n);
        ring_count(f->s.ring, CTR_BYTES_SENT_FILE, (uint64_t)n);
        if ((size_t)n < len) {
            wait_writable(f);
            return;
        }
    }
    if (s->left)
        ring_ready(f->s.ring, &f->s);
    else
        file_sent(f);
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
        bytes_out(f);
}

/* ------------------------------------------------------------------ steps */

void send_turn(struct stream_full *f)
{
    if (f->s.conn->out.inflight || f->send.file.inflight || f->send.warming || f->continue_pending)
        return;
    if (f->send.kind == SEND_FILE)
        file_turn(f);
    else if (f->send.kind == SEND_FILL)
        fill_turn(f);
}

static void part_out(struct stream_full *f)
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
        file_sent(f);
}

static void continue_out(struct stream_full *f, const struct event *ev)
{
    f->continue_pending = false;
    if (f->gone)
        ring_ready(f->s.ring, &f->s);
    else if (ev->res < 0)
        conn_close(f->s.conn, CLOSE_CLIENT_ABORT);
    else if (f->state == STREAM_SEND && f->send.kind != SEND_FILL)
        send_begin(f);
    else
        ring_ready(f->s.ring, &f->s);
}

void send_output_done(struct stream_full *f, const struct event *ev)
{
    if (f->continue_pending) {
        continue_out(f, ev);
    } else if (f->gone) {
        ring_ready(f->s.ring, &f->s);
    } else if (ev->res < 0) {
        conn_close(f->s.conn, CLOSE_CLIENT_ABORT);
    } else if (f->send.polling) {
        f->send.polling = false;
        ring_ready(f->s.ring, &f->s);
    } else {
        took(f, (size_t)ev->res);
        iov_skip(f->send.iov, (size_t)ev->res);
        if (f->send.iov[0].iov_len || f->send.iov[1].iov_len)
            bytes_out(f);
        else
            part_out(f);
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
            progress(f);
        else
            conn_close(f->s.conn, CLOSE_SEND_TIMEOUT);
    }
}
