/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream's part of relaying: a handler moves the bodies by pumps of its own between the client's wire and
 * another one; here are the time limits, the books, and the watch over a client that goes away meanwhile.
 */
#include <string.h>

#include "check.h"
#include "dataplane/http/proxy_header.h"
#include "dataplane/move/pump.h"
#include "dataplane/stream_private.h"

enum { LOOK_MS = 1000, LOOK_LEAST_MS = 50 };

void stream_hold(struct stream *s)
{
    stream_full(s)->holds++;
}

void stream_release_hold(struct stream *s)
{
    CHECK(stream_full(s)->holds > 0);
    stream_full(s)->holds--;
    ring_ready(s->ring, s); /* it ends at its turn */
}

struct wire *stream_wire(struct stream *s)
{
    return &s->conn->wire;
}

void stream_addresses(struct stream *s, struct proxy_header *out)
{
    conn_addresses(s->conn, out);
}

uint16_t stream_local_port(struct stream *s)
{
    return conn_local_port(s->conn);
}

struct view stream_scheme(struct stream *s)
{
    const struct plan_service *service = stream_service(s);
    return service && service->tls.mode == PLAN_TLS_TERMINATE ? VIEW_LIT("https") : VIEW_LIT("http");
}

char *stream_spare(struct stream *s)
{
    _Static_assert((int)STREAM_SPARE_BYTES == (int)STREAM_SMALL_BODY, "the same memory");
    return stream_full(s)->small_body;
}

/* ------------------------------------------------------------------ time */

/* Slow is who keeps a pump waiting, not whose pump waits for the other end. */
static bool source_too_slow(struct stream_full *f, uint64_t now_ms)
{
    struct body *b = &f->body;
    const struct pump *p = b->pump;
    uint64_t since = p->progress_ms > b->start_ms ? p->progress_ms : b->start_ms;
    if (b->unlimited)
        return false;
    if (!pump_waits_for_source(p)) {
        b->start_ms = now_ms;
        b->rated_from = b->received;
        return false;
    }
    if (now_ms >= since + ring_setting(f->s.ring, SET_HTTP_BODY_TIMEOUT))
        return true;
    uint64_t passed = now_ms - b->start_ms;
    return passed >= ring_setting(f->s.ring, SET_HTTP_BODY_RATE_GRACE) &&
           (b->received - b->rated_from) * 1000 < passed * ring_setting(f->s.ring, SET_HTTP_BODY_RATE_MIN);
}

static bool sink_too_slow(struct stream_full *f, uint64_t now_ms)
{
    const struct pump *p = f->send.pump;
    uint64_t since = p->sink_progress_ms > f->send.progress_ms ? p->sink_progress_ms : f->send.progress_ms;
    if (f->send.head_out ? f->send.unlimited || !pump_waits_for_sink(p) : !f->s.conn->out.inflight)
        return false;
    if (now_ms < since + ring_setting(f->s.ring, SET_HTTP_SEND_TIMEOUT))
        return false;
    if (!send_client_reads(f))
        return true;
    f->send.progress_ms = now_ms;
    return false;
}

static void look_later(struct stream_full *f)
{
    uint64_t body = ring_setting(f->s.ring, SET_HTTP_BODY_TIMEOUT);
    uint64_t send = ring_setting(f->s.ring, SET_HTTP_SEND_TIMEOUT);
    uint64_t after = body < send ? body / 2 : send / 2;
    after = after < LOOK_LEAST_MS ? LOOK_LEAST_MS : after > LOOK_MS ? LOOK_MS : after;
    conn_deadline(f->s.conn, ring_now_ms(f->s.ring) + after);
}

void relay_count(struct stream_full *f)
{
    if (f->body.sink == SINK_RELAY && f->body.pump) {
        uint64_t n = f->body.pump->moved;
        ring_count(f->s.ring, CTR_BYTES_RECEIVED, n - f->body.received);
        f->body.received = n;
    }
    if (f->send.kind == SEND_RELAY && f->send.pump) {
        uint64_t n = f->send.pump->moved;
        ring_count(f->s.ring, CTR_BYTES_SENT, n - f->send.pumped);
        f->send.sent += n - f->send.pumped;
        f->content_sent += n - f->send.pumped;
        f->send.pumped = n;
    }
}

void relay_timeout(struct stream_full *f)
{
    uint64_t now_ms = ring_now_ms(f->s.ring);
    relay_count(f);
    if (relay_reads(f) && source_too_slow(f, now_ms)) {
        if (f->responded) {
            conn_close(f->s.conn, CLOSE_BODY_TIMEOUT);
            return;
        }
        f->refusal = http_reject_of(HTTP_REJECT_BODY_TIMEOUT);
        f->abort_due = true;
        ring_ready(f->s.ring, &f->s);
    } else if (relay_sends(f) && sink_too_slow(f, now_ms)) {
        conn_close(f->s.conn, CLOSE_SEND_TIMEOUT);
        return;
    }
    look_later(f);
}

/* ------------------------------------------------------------------ the client's body */

size_t stream_body_here(struct stream *s)
{
    struct stream_full *f = stream_full(s);
    size_t here = stream_input_here(s);
    if (f->body.state != BODY_UNREAD)
        return 0;
    return s->req.framing == HTTP_BODY_LENGTH && f->body.left < here ? (size_t)f->body.left : here;
}

size_t stream_body_early(struct stream *s, char *out, size_t cap)
{
    struct stream_full *f = stream_full(s);
    size_t want = stream_body_here(s), n = 0;
    want = want < cap ? want : cap;
    while (n < want)
        n += conn_take_input(s->conn, out + n, want - n);
    if (s->req.framing == HTTP_BODY_LENGTH)
        f->body.left -= n;
    return n;
}

size_t stream_input_take(struct stream *s, char *out, size_t cap)
{
    size_t n = 0, more;
    while (n < cap && (more = conn_take_input(s->conn, out + n, cap - n)) > 0)
        n += more;
    return n;
}

size_t stream_input_here(const struct stream *s)
{
    return (s->conn->partial ? s->conn->partial_len : 0) + s->conn->input_len;
}

void stream_body_taken(struct stream *s)
{
    struct stream_full *f = stream_full(s);
    CHECK(f->body.state == BODY_UNREAD && f->body.left == 0);
    f->body.state = BODY_COMPLETE;
    f->body.received = s->req.content_length;
}

void stream_body_relay(struct stream *s, const struct pump *pump, bool unlimited)
{
    struct stream_full *f = stream_full(s);
    struct body *b = &f->body;
    CHECK(b->state == BODY_UNREAD && !s->conn->in.inflight);
    b->sink = SINK_RELAY;
    b->state = BODY_READ;
    b->pump = pump;
    b->unlimited = unlimited;
    b->start_ms = ring_now_ms(s->ring);
    look_later(f);
}

void stream_body_relayed(struct stream *s, bool complete, struct view rest)
{
    struct stream_full *f = stream_full(s);
    struct body *b = &f->body;
    CHECK(b->state == BODY_READ && b->sink == SINK_RELAY);
    relay_count(f);
    b->state = complete ? BODY_COMPLETE : BODY_FAILED;
    b->told = true;
    b->pump = NULL;
    if (!complete && !f->refusal.status) /* that has its own reason */
        stream_close_with(f, CLOSE_BODY_UNREAD, true);
    else if (complete && !conn_unread(s->conn, rest.p, rest.len))
        f->close_after = s->conn->close_after = true;
    if (!relay_sends(f))
        conn_no_deadline(s->conn);
}

void stream_body_broken(struct stream *s, struct http_reject reject)
{
    struct stream_full *f = stream_full(s);
    if (f->responded) {
        conn_close(s->conn, CLOSE_CLIENT_ABORT);
        return;
    }
    ring_count(s->ring, CTR_REQUESTS_REFUSED, 1);
    f->refusal = reject;
    f->abort_due = true;
    ring_ready(s->ring, s);
}

/*
 * While nobody reads from it, a client may still go away. What comes instead is its next request. Most
 * answers are there sooner than that is of any use: the watch begins with the next tick, for those that go
 * on.
 */
void stream_watch(struct stream *s, bool half_close)
{
    struct stream_full *f = stream_full(s);
    f->half_close = half_close;
    if (f->gone || f->prev_unwatched)
        return;
    f->next_unwatched = s->ring->unwatched;
    f->prev_unwatched = &s->ring->unwatched;
    if (f->next_unwatched)
        stream_full(f->next_unwatched)->prev_unwatched = &f->next_unwatched;
    s->ring->unwatched = s;
}

void relay_unwatch(struct stream_full *f)
{
    if (!f->prev_unwatched)
        return;
    *f->prev_unwatched = f->next_unwatched;
    if (f->next_unwatched)
        stream_full(f->next_unwatched)->prev_unwatched = f->prev_unwatched;
    f->prev_unwatched = NULL;
}

void relay_tick(struct ring *r)
{
    while (r->unwatched) {
        struct stream_full *f = stream_full(r->unwatched);
        relay_unwatch(f);
        if (!f->gone)
            conn_watch(f->s.conn);
    }
}

/* ------------------------------------------------------------------ the response */

char *stream_relay_head(struct stream *s, size_t room, size_t *cap)
{
    struct stream_full *f = stream_full(s);
    *cap = RESPONSE_HEAD_MAX;
    if (room <= *cap)
        return f->response_own;
    *cap = HEADER_BYTES_CEILING;
    if (!f->head_large)
        f->head_large = room <= *cap ? pool_take(&s->ring->heads) : NULL;
    if (!f->head_large)
        ring_count(s->ring, CTR_BUFFERS_EXHAUSTED, 1);
    return f->head_large;
}

bool stream_relay_chunks(const struct stream *s)
{
    return s->req.version_minor > 0;
}

/* The head's end: what the framing and the client's connection add. Its length or -errno. */
static ssize_t finish_head(struct stream_full *f, const struct stream_relay *r)
{
    bool chunked = r->body == RELAY_CHUNKED && stream_relay_chunks(&f->s);
    if (r->body == RELAY_LENGTH || r->body == RELAY_HEAD)
        http_response_field_u64(&f->response, "Content-Length", r->length);
    if (chunked)
        http_response_field(&f->response, "Transfer-Encoding", VIEW_LIT("chunked"));
    if (r->body == RELAY_TUNNEL)
        stream_close_with(f, CLOSE_TUNNEL_BEGUN, false);
    f->send.until_end = r->body == RELAY_CHUNKED && !chunked;
    if (r->close || f->send.until_end)
        f->close_after = true;
    if (r->status != 101)
        return stream_finish_head(f);
    return http_response_end(&f->response);
}

void stream_send_relay(struct stream *s, const struct stream_relay *r)
{
    struct stream_full *f = stream_full(s);
    f->status = r->status;
    f->response = *r->head;
    if (!stream_answer(f))
        return;
    ssize_t head = finish_head(f, r);
    if (head < 0) {
        stream_refuse_answer(f, HTTP_REJECT_BUSY);
        return;
    }
    f->send.kind = r->ready ? SEND_RELAY : SEND_BYTES;
    f->send.pump = r->pump;
    f->send.ready = r->ready;
    f->send.unlimited = r->unlimited;
    f->send.progress_ms = ring_now_ms(s->ring);
    f->send.iov[0] = (struct iovec){f->response.buf, (size_t)head};
    f->send.iov[1] = (struct iovec){(void *)(uintptr_t)r->content.p, r->content.len};
    f->content_sent = r->content.len;
    send_begin(f);
}

void relay_head_out(struct stream_full *f)
{
    f->send.head_out = true;
    if (relay_sends(f))
        look_later(f);
    ring_ready(f->s.ring, &f->s); /* the pump begins at its turn */
}

void stream_relayed(struct stream *s, const char *technique, bool good, enum close_reason reason)
{
    struct stream_full *f = stream_full(s);
    relay_count(f);
    f->technique = technique;
    f->send.pump = NULL;
    if (!good) {
        if (f->send.until_end) /* it must not look like the end */
            wire_resets(&s->conn->wire);
        conn_close(s->conn, reason);
        return;
    }
    if (f->state != STREAM_SEND)
        return; /* gone meanwhile */
    if (f->body.state != BODY_COMPLETE)
        stream_close_with(f, CLOSE_BODY_UNREAD, true);
    stream_sent(f);
}

void stream_hand_over(struct stream *s, struct wire *client)
{
    struct stream_full *f = stream_full(s);
    struct conn *c = s->conn;
    CHECK(f->state == STREAM_SEND && f->send.head_out && c->state == CONN_EXCHANGE && !c->closed);
    CHECK(!c->in.inflight && !c->out.inflight);
    relay_count(f);
    f->technique = "tunnel";
    *client = c->wire;
    c->wire.over = NULL; /* what stands on the socket may be gone before this is */
    c->closed = true;    /* ends with the exchange */
    stream_sent(f);
}

void stream_note_upstream(struct stream *s, const char *name, uint64_t us, unsigned attempts)
{
    struct stream_full *f = stream_full(s);
    f->upstream = name;
    f->upstream_us = us;
    f->attempts = attempts;
}
