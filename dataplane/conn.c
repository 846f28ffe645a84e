/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection's life, top to bottom; the picture is in conn.h. Completions only store their result and step;
 * conn_move is the one writer of the state.
 */
#include "dataplane/conn.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/stream_private.h"
#include "dataplane/tls/tls.h"

/* What is read and dropped behind an answer, at most: more than two full socket buffers. */
enum { LINGER_BYTES_MAX = 16 << 20 };

static const uint8_t may_move[CONN_STATES] = {
    [CONN_FREE] = 1 << CONN_IDLE,
    [CONN_IDLE] = 1 << CONN_HEAD | 1 << CONN_EXCHANGE | 1 << CONN_LINGER | 1 << CONN_CLOSING,
    [CONN_HEAD] = 1 << CONN_EXCHANGE | 1 << CONN_LINGER | 1 << CONN_CLOSING,
    [CONN_EXCHANGE] = 1 << CONN_IDLE | 1 << CONN_LINGER | 1 << CONN_CLOSING,
    [CONN_LINGER] = 1 << CONN_CLOSING,
    [CONN_CLOSING] = 1 << CONN_FREE,
};

static void conn_invariant(const struct conn *c)
{
    CHECK_DEBUG(c->state != CONN_EXCHANGE || c->stream);
    CHECK_DEBUG(c->state != CONN_IDLE || (!c->stream && !c->out.inflight));
    CHECK_DEBUG((c->state == CONN_CLOSING) == (c->reason != CLOSE_NONE) || c->state == CONN_FREE);
    (void)c;
}

static void conn_move(struct conn *c, enum conn_state to)
{
    CHECK(may_move[c->state] & 1 << to);
    c->state = (uint8_t)to;
    conn_invariant(c);
}

/* ------------------------------------------------------------------ receiving */

static void conn_timer_fire(struct timer *t, uint64_t now_ms);
static void conn_in_done(struct op *op, const struct event *ev);
static void conn_out_done(struct op *op, const struct event *ev);
static void conn_advance(struct conn *c);
static void conn_try_free(struct conn *c);

static void set_deadline(struct conn *c, uint64_t after_ms)
{
    timer_set(&c->ring->wheel, &c->timer, ring_now_ms(c->ring) + after_ms);
}

void conn_deadline(struct conn *c, uint64_t deadline_ms)
{
    timer_set(&c->ring->wheel, &c->timer, deadline_ms);
}

void conn_no_deadline(struct conn *c)
{
    timer_clear(&c->timer);
}

static void conn_wait_request(struct conn *c)
{
    set_deadline(c, ring_setting(c->ring, SET_HTTP_IDLE_TIMEOUT));
    conn_receive(c);
}

void conn_nodelay(struct conn *c, bool on)
{
    wire_nodelay(&c->wire, on);
}

static struct conn *conn_open(struct ring *ring, const struct wire *wire, uint16_t service)
{
    struct conn *c = pool_take(&ring->conns);
    if (!c)
        return NULL;
    memset(c, 0, sizeof(*c));
    c->ring = ring;
    c->wire = *wire;
    c->service = service;
    c->in.done = conn_in_done;
    c->out.done = conn_out_done;
    c->timer.fire = conn_timer_fire;
    c->next = ring->conn_list;
    c->prev = &ring->conn_list;
    if (c->next)
        c->next->prev = &c->next;
    ring->conn_list = c;
    ring_count(ring, CTR_CONNECTIONS_OPEN, !conn_is_stream(c));
    conn_move(c, CONN_IDLE);
    return c;
}

void conn_accepted(struct ring *ring, int fd, uint16_t service, uint16_t port)
{
    struct wire wire = wire_of_socket(ring->loop, fd);
    struct conn *c = conn_open(ring, &wire, service);
    ring_count(ring, CTR_CONNECTIONS_ACCEPTED, 1);
    if (!c) {
        refused_add(ring, fd);
        return;
    }
    c->local_port = port;
    set_deadline(c, ring_setting(ring, SET_HTTP_IDLE_TIMEOUT));
    loop_recv_first(ring->loop, &c->in, fd); /* clients speak as soon as they are connected */
}

bool conn_start(struct ring *ring, const struct wire *wire, uint16_t service, const struct conn_peer *peer,
                const void *early, size_t early_len)
{
    struct conn *c = conn_open(ring, wire, service);
    if (!c)
        return false;
    if (peer) {
        c->peer_known = true;
        c->peer_family = peer->family;
        c->peer_port = peer->port;
        memcpy(c->peer, peer->addr, sizeof(c->peer));
    }
    if (early_len == 0)
        conn_wait_request(c);
    else if (conn_unread(c, early, early_len))
        conn_advance(c);
    else
        conn_close(c, CLOSE_NO_STREAM);
    return true;
}

/* Drops what comes behind an answer, until the client has closed. */
static void linger_input(struct conn *c, const struct event *ev)
{
    if (ev->data)
        loop_buffer_put(c->ring->loop, ev->buffer);
    if (ev->res == -ENOBUFS)
        conn_unfed(c);
    else if (ev->res == -ECANCELED)
        conn_receive(c);
    else if (ev->res <= 0 || (uint32_t)ev->res >= c->linger_left)
        conn_close(c, c->end_reason);
    else {
        c->linger_left -= (uint32_t)ev->res;
        conn_receive(c);
    }
}

static void request_input(struct conn *c, const struct event *ev)
{
    if (ev->res == -ENOBUFS) {
        conn_unfed(c);
    } else if (ev->res > 0) {
        c->input_buffer = ev->buffer;
        c->has_input = true;
        c->input_at = 0;
        c->input_len = (uint16_t)ev->res;
        ring_count(c->ring, CTR_BYTES_RECEIVED, (uint64_t)ev->res);
        conn_advance(c);
    } else {
        if (ev->data)
            loop_buffer_put(c->ring->loop, ev->buffer);
        conn_close(c, c->state == CONN_IDLE && ev->res == 0 ? CLOSE_CLIENT_EOF : CLOSE_CLIENT_ABORT);
    }
}

void conn_watch(struct conn *c)
{
    if (c->state != CONN_EXCHANGE || c->in.inflight || c->half_closed || conn_has_input(c))
        return;
    c->watching = true;
    /* The end of what a stream receives says that the request is complete, and no more. */
    conn_is_stream(c) ? wire_poll(&c->wire, &c->in, POLLHUP) : conn_receive(c);
}

/*
 * The client has closed its sending side: it gets its answer (RFC 9112, 9.6), the last one. Whether there is
 * anybody shows by a reset: to the next write, or to the kernel's asking; it is looked for now and then. And
 * a socket that takes nothing is nobody's.
 */
static void half_close(struct conn *c)
{
    c->half_closed = c->close_after = true;
    c->end_reason = CLOSE_CLIENT_EOF;
    stream_full(c->stream)->close_after = true;
    wire_keepalive(&c->wire);
    wire_user_timeout(&c->wire, (unsigned)ring_setting(c->ring, SET_HTTP_SEND_TIMEOUT));
    if (!timer_is_set(&c->timer))
        set_deadline(c, CONN_LOOK_MS);
}

void conn_look(struct conn *c)
{
    if (c->half_closed && wire_broken(&c->wire))
        conn_close(c, CLOSE_CLIENT_ABORT);
}

/* During an exchange. The answer is sent to its end if it was under way there already. */
static void watch_input(struct conn *c, const struct event *ev)
{
    bool room = true;
    if (ev->data) {
        ring_count(c->ring, CTR_BYTES_RECEIVED, ev->res > 0 ? (uint64_t)ev->res : 0);
        room = ev->res <= 0 || conn_unread(c, ev->data, (size_t)ev->res);
        loop_buffer_put(c->ring->loop, ev->buffer);
    }
    if (!room)
        c->close_after = true;
    else if (ev->res == -ENOBUFS) {
        c->watching = true;
        conn_unfed(c);
    } else if (ev->res == 0 && stream_full(c->stream)->state == STREAM_DONE)
        c->close_after = true;
    else if (ev->res == 0 && !conn_is_stream(c) && stream_full(c->stream)->half_close)
        half_close(c);
    else if (ev->res <= 0)
        conn_close(c, CLOSE_CLIENT_ABORT);
}

static void conn_in_done(struct op *op, const struct event *ev)
{
    struct conn *c = container_of(op, struct conn, in);
    bool watching = c->watching;
    c->watching = false;
    switch (c->state) {
    case CONN_IDLE:
    case CONN_HEAD:
        request_input(c, ev);
        return;
    case CONN_EXCHANGE:
        if (watching) {
            watch_input(c, ev);
            return;
        }
        if (ev->data) /* came while a head's time was up: nobody wants it any more */
            loop_buffer_put(c->ring->loop, ev->buffer);
        body_input_done(stream_full(c->stream), ev);
        return;
    case CONN_LINGER:
        linger_input(c, ev);
        return;
    case CONN_CLOSING:
        if (ev->data)
            loop_buffer_put(c->ring->loop, ev->buffer);
        else if (c->stream)
            body_input_done(stream_full(c->stream), ev);
        conn_try_free(c);
        return;
    default:
        IMPOSSIBLE("a completion for a free connection");
    }
}

static void conn_out_done(struct op *op, const struct event *ev)
{
    struct conn *c = container_of(op, struct conn, out);
    if (c->stream)
        send_output_done(stream_full(c->stream), ev);
    if (c->state == CONN_CLOSING)
        conn_try_free(c);
}

/* ------------------------------------------------------------------ from bytes to a request */

/* Moves what is known of the head, and as much input as fits behind it, into the stream. */
static void head_fill(struct conn *c, struct stream_full *f)
{
    if (!c->partial)
        return;
    f->head_len = c->partial_len;
    f->head_seen = c->partial_fresh ? 0 : c->partial_len;
    if (c->partial_pool == PARTIAL_LARGE) { /* a large head moves as it is */
        f->head = c->partial;
        f->head_cap = HEADER_BYTES_CEILING;
        c->partial = NULL;
        c->partial_len = 0;
    } else {
        memcpy(f->head, c->partial, c->partial_len);
        conn_partial_drop(c);
    }
}

static size_t head_append(struct conn *c, struct stream_full *f)
{
    size_t n = f->head_cap - f->head_len;
    if (n > c->input_len)
        n = c->input_len;
    memcpy(f->head + f->head_len, loop_buffer(c->ring->loop, c->input_buffer) + c->input_at, n);
    f->head_len += n;
    return n;
}

/* Keeps an incomplete head without the stream. False: there is no memory for it. */
static bool head_park(struct conn *c, struct stream_full *f)
{
    if (f->head != f->head_own) {
        c->partial = f->head;
        c->partial_pool = PARTIAL_LARGE;
        c->partial_fresh = false;
        f->head = f->head_own;
    } else {
        if (!conn_partial_take(c, f->head_len))
            return false;
        memcpy(c->partial, f->head, f->head_len);
    }
    c->partial_len = (uint32_t)f->head_len;
    return true;
}

static struct http_limits head_limits(const struct ring *ring)
{
    return (struct http_limits){
        .header_bytes_max = (uint32_t)ring_setting(ring, SET_HTTP_HEADER_BYTES_MAX),
        .headers_max = (uint32_t)ring_setting(ring, SET_HTTP_HEADERS_MAX),
        .target_bytes_max = (uint32_t)ring_setting(ring, SET_HTTP_TARGET_BYTES_MAX),
    };
}

static void begin_exchange(struct conn *c, struct stream_full *f)
{
    c->stream = &f->s;
    c->requests++;
    c->end_reason = CLOSE_CLIENT_CLOSE;
    conn_no_deadline(c);
    conn_move(c, CONN_EXCHANGE);
}

/* Of the first `before` bytes, which were kept, and the input behind them, a head took `used`. */
static void head_used(struct conn *c, struct stream_full *f, size_t used, size_t before)
{
    if (used < before) {
        f->close_after = !conn_unread(c, f->head + used, before - used);
        return;
    }
    c->input_at = (uint16_t)(c->input_at + used - before);
    c->input_len = (uint16_t)(c->input_len - (used - before));
}

/*
 * Reads a head out of the partial one and the input. Returns the head's bytes, -EAGAIN (more is needed;
 * everything is in the stream), -EBADMSG with *reject, or -ENOBUFS.
 */
static ssize_t head_read(struct conn *c, struct stream_full *f, struct http_reject *reject)
{
    struct http_limits limits = head_limits(c->ring);
    for (;;) {
        size_t before = f->head_len, n = head_append(c, f);
        ssize_t used = http_request_read(f->head, f->head_len, f->head_seen, &limits, &f->s.req, reject);
        if (used > 0) {
            head_used(c, f, (size_t)used, before);
            return used;
        }
        if (used != -EAGAIN)
            return used;
        f->head_seen = f->head_len;
        c->input_at = (uint16_t)(c->input_at + n);
        c->input_len = (uint16_t)(c->input_len - n);
        if (c->input_len == 0)
            return -EAGAIN;
        if (stream_head_grow(f))
            return -ENOBUFS;
    }
}

static void conn_wait_head(struct conn *c)
{
    if (c->state == CONN_IDLE) {
        conn_move(c, CONN_HEAD);
        set_deadline(c, ring_setting(c->ring, SET_HTTP_HEADER_TIMEOUT));
    }
    conn_receive(c);
}

static void refuse(struct conn *c, struct stream_full *f, struct http_reject reject)
{
    begin_exchange(c, f);
    stream_refuse(f, reject);
}

/*
 * The response was sent while request bytes may still be on their way: closing now would answer them with a
 * reset, which can destroy the response before the client has read it (RFC 9112, 9.6). So only our direction
 * is closed.
 */
static void conn_linger(struct conn *c)
{
    conn_move(c, CONN_LINGER);
    conn_input_drop(c);
    conn_partial_drop(c);
    c->linger_left = LINGER_BYTES_MAX;
    wire_shutdown(&c->wire);
    set_deadline(c, ring_setting(c->ring, SET_HTTP_LINGER_TIMEOUT));
    conn_receive(c);
}

/* Every stream is at work: the answer needs none. */
static void turn_away(struct conn *c)
{
    static const char busy[] = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
                               "Connection: close\r\n\r\n";
    struct iovec iov = {(void *)(uintptr_t)busy, sizeof(busy) - 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    (void)wire_sendmsg_now(&c->wire, &msg, 0);
    ring_count(c->ring, CTR_RESPONSES_4XX, 1);
    c->end_reason = CLOSE_NO_STREAM;
    conn_linger(c);
}

static void head_advance(struct conn *c)
{
    struct stream_full *f = stream_new(c);
    if (!f) {
        turn_away(c);
        return;
    }
    struct http_reject reject = {0};
    head_fill(c, f);
    ssize_t used = head_read(c, f, &reject);
    if (used > 0) {
        if (c->input_len == 0)
            conn_input_drop(c);
        begin_exchange(c, f);
        stream_start(f);
        if (c->stream) /* it may take long */
            conn_input_keep(c);
    } else if (used == -EAGAIN && head_park(c, f)) {
        conn_input_drop(c);
        stream_release(f);
        conn_wait_head(c);
    } else if (used == -EBADMSG && reject.reason == HTTP_REJECT_HTTP2_PREFACE &&
               conn_becomes_session(c, f->head, f->head_len, f->head_seen)) {
        stream_release(f);
        c->closed = true; /* the wire is the session's */
        conn_close(c, CLOSE_H2_PREFACE);
    } else {
        conn_input_drop(c);
        refuse(c, f, used == -EBADMSG ? reject : http_reject_of(HTTP_REJECT_BUSY));
    }
}

/* From the bytes that are here, one request after another as long as each is answered at once; else the next
 * bytes are awaited. */
static void conn_advance(struct conn *c)
{
    c->advancing = true;
    do
        head_advance(c);
    while (c->state == CONN_IDLE && conn_has_input(c));
    c->advancing = false;
    if (c->state == CONN_IDLE)
        conn_wait_request(c);
}

/* ------------------------------------------------------------------ the end of an exchange */

static void conn_next_request(struct conn *c)
{
    conn_move(c, CONN_IDLE);
    if (c->advancing)
        return;
    if (conn_has_input(c))
        conn_advance(c);
    else
        conn_wait_request(c);
}

void conn_exchange_done(struct conn *c)
{
    c->stream = NULL;
    if (c->state == CONN_CLOSING) {
        conn_try_free(c);
        return;
    }
    CHECK(c->state == CONN_EXCHANGE);
    conn_no_deadline(c);
    if (c->closed)
        conn_close(c, CLOSE_TUNNEL_BEGUN);
    else if (c->close_after && c->lingers)
        conn_linger(c);
    else if (c->close_after)
        conn_close(c, c->end_reason);
    else if (c->ring->draining)
        conn_close(c, CLOSE_DRAIN);
    else if (c->stale)
        conn_close(c, CLOSE_SERVICE_GONE);
    else if (conn_is_stream(c))
        conn_close(c, CLOSE_H2_STREAM);
    else
        conn_next_request(c);
}

void conn_drain(struct conn *c)
{
    if (c->state == CONN_IDLE)
        conn_close(c, CLOSE_DRAIN);
}

void conn_expire(struct conn *c)
{
    c->stale = true;
    if (c->state == CONN_IDLE)
        conn_close(c, CLOSE_SERVICE_GONE);
}

/* ------------------------------------------------------------------ closing */

void conn_close(struct conn *c, enum close_reason reason)
{
    if (c->state == CONN_CLOSING)
        return;
    c->reason = (uint8_t)reason;
    conn_move(c, CONN_CLOSING);
    counter_add(&c->ring->counters->closed[reason], 1);
    conn_no_deadline(c);
    conn_unfed_leave(c);
    wire_cancel(&c->wire, &c->in);
    wire_cancel(&c->wire, &c->out);
    if (c->stream)
        stream_abort(stream_full(c->stream));
    conn_try_free(c);
}

static void conn_try_free(struct conn *c)
{
    if (c->state != CONN_CLOSING || c->in.inflight || c->out.inflight || c->stream)
        return;
    if (!c->closed) {
        c->closed = true;
        if (tls_is(&c->wire) && !close_is_error(c->reason)) /* else the client has to take it for a cut */
            wire_shutdown(&c->wire);
        wire_close(&c->wire, &c->out);
        return;
    }
    conn_input_drop(c);
    conn_partial_drop(c);
    *c->prev = c->next;
    if (c->next)
        c->next->prev = c->prev;
    ring_count(c->ring, CTR_CONNECTIONS_OPEN, conn_is_stream(c) ? 0 : (uint64_t)-1);
    conn_move(c, CONN_FREE);
    pool_give(&c->ring->conns, c);
}

/* ------------------------------------------------------------------ time */

static void head_timeout(struct conn *c)
{
    struct stream_full *f = stream_new(c);
    if (!f) {
        conn_close(c, CLOSE_HEADER_TIMEOUT);
        return;
    }
    wire_cancel(&c->wire, &c->in);
    conn_unfed_leave(c);
    conn_partial_drop(c);
    refuse(c, f, http_reject_of(HTTP_REJECT_HEAD_TIMEOUT));
}

static void conn_timer_fire(struct timer *t, uint64_t now_ms)
{
    struct conn *c = container_of(t, struct conn, timer);
    (void)now_ms;
    switch (c->state) {
    case CONN_IDLE:
        conn_close(c, CLOSE_IDLE);
        return;
    case CONN_HEAD:
        head_timeout(c);
        return;
    case CONN_EXCHANGE:
        stream_timeout(stream_full(c->stream));
        return;
    case CONN_LINGER:
        conn_close(c, c->end_reason);
        return;
    default:
        IMPOSSIBLE("a timer of a connection that closes");
    }
}
