/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The request's body on its way to its sink: memory (manifests) or an upload session. For an upload one
 * buffer is filled from the socket while the one before it is hashed and written; a buffer is taken only when
 * the socket has bytes, so that a slow client holds none. What is received counts as content only after the
 * framing.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "dataplane/store/store.h"
#include "dataplane/stream_private.h"

enum { KEPT_BYTES = 256 << 10 };

static void appended(struct waiter *w, int res);

void body_begin(struct stream_full *f)
{
    const struct http_request *req = &f->s.req;
    f->body.left = req->framing == HTTP_BODY_LENGTH ? req->content_length : 0;
    f->body.state = stream_has_body(&f->s) ? BODY_UNREAD : BODY_COMPLETE;
    f->body.appended.wake = appended;
}

static bool is_chunked(const struct stream_full *f)
{
    return f->s.req.framing == HTTP_BODY_CHUNKED;
}

bool body_idle(const struct stream_full *f)
{
    const struct body *b = &f->body;
    return !b->appending && b->state != BODY_READ && (!f->s.conn->in.inflight || f->s.conn->watching) &&
           (b->told || (!b->error && !b->sink));
}

void body_release(struct stream_full *f)
{
    struct body *b = &f->body;
    if (b->rx)
        ring_body_give(f->s.ring, b->rx);
    if (!b->from_pool)
        return;
    if (b->memory_len > KEPT_BYTES) /* a large manifest's memory is not kept */
        (void)madvise(b->memory + KEPT_BYTES, MANIFEST_BYTES_CEILING - KEPT_BYTES, MADV_DONTNEED);
    pool_give(&f->s.ring->manifests, b->memory);
}

/* ------------------------------------------------------------------ outcome */

/* Tells the handler, once, when nothing that could touch its sink is under way any more. */
static void tell(struct stream_full *f)
{
    struct body *b = &f->body;
    if (b->told || b->appending || f->s.conn->in.inflight)
        return;
    b->told = true;
    conn_no_deadline(f->s.conn);
    if (b->rx) {
        ring_body_give(f->s.ring, b->rx);
        b->rx = NULL;
    }
    if (b->state == BODY_COMPLETE && b->sink == SINK_MEMORY)
        f->s.body = view_of(b->memory, b->memory_len);
    f->s.handler->body_done(&f->s, b->state == BODY_COMPLETE ? 0 : b->error);
}

void body_fail(struct stream_full *f, int error, struct http_reject refusal)
{
    struct body *b = &f->body;
    if (b->state == BODY_FAILED)
        return;
    b->state = BODY_FAILED;
    if (b->sink == SINK_NONE) { /* nobody has asked for it: the answer ends the connection */
        b->told = true;
        return;
    }
    b->error = error;
    f->close_after = f->close_after || refusal.status;
    f->refusal = refusal;
    wire_cancel(&f->s.conn->wire, &f->s.conn->in);
    ring_ready(f->s.ring, &f->s);
}

static void fail_with(struct stream_full *f, enum http_reject_reason reason)
{
    body_fail(f, -ECONNRESET, http_reject_of(reason));
}

static bool content_complete(const struct stream_full *f)
{
    return is_chunked(f) ? http_chunked_done(&f->body.chunked) : f->body.left == 0;
}

/* ------------------------------------------------------------------ framing */

/*
 * n bytes of the body's framing are at `at`: leaves the content at its front and returns how much it is, or
 * -1: failed. What follows the end of a chunked body goes back to the connection.
 */
static ssize_t unframe(struct stream_full *f, char *at, size_t n)
{
    struct body *b = &f->body;
    if (!is_chunked(f)) {
        b->left -= n;
        b->received += n;
        return (ssize_t)n;
    }
    struct http_chunked_result result;
    struct http_reject reject;
    int done = http_chunked_decode(&b->chunked, at, n, &result, &reject);
    if (done < 0) {
        ring_count(f->s.ring, CTR_REQUESTS_REFUSED, 1);
        body_fail(f, -ECONNRESET, reject);
        return -1;
    }
    b->received += result.payload;
    if (done && !conn_unread(f->s.conn, at + result.consumed, n - result.consumed))
        f->close_after = true;
    return (ssize_t)result.payload;
}

/* How many bytes may be received into `space`: never any of the next request where the length is known. */
static size_t may_take(const struct stream_full *f, size_t space)
{
    return is_chunked(f) || f->body.left > space ? space : (size_t)f->body.left;
}

bool body_skip(struct stream_full *f)
{
    struct body *b = &f->body;
    char drop[512];
    if (b->state != BODY_UNREAD)
        return b->state == BODY_COMPLETE;
    while (!content_complete(f)) {
        size_t n = conn_take_input(f->s.conn, drop, may_take(f, sizeof(drop)));
        if (n == 0 || unframe(f, drop, n) < 0)
            return false;
    }
    b->state = BODY_COMPLETE;
    return true;
}

/* ------------------------------------------------------------------ beginning */

/* RFC 9110, 10.1.1: the client may be waiting for this before it sends anything. */
static void send_continue(struct stream_full *f)
{
    if (f->s.req.expect_continue && !conn_has_input(f->s.conn))
        interim_continue(f);
}

uint64_t body_deadline(const struct stream_full *f)
{
    const struct body *b = &f->body;
    uint64_t pause = b->progress_ms + ring_setting(f->s.ring, SET_HTTP_BODY_TIMEOUT);
    uint64_t check = b->start_ms + ring_setting(f->s.ring, SET_HTTP_BODY_RATE_GRACE);
    uint64_t now = ring_now_ms(f->s.ring);
    if (check <= now)
        check = now + 1000;
    if (ring_setting(f->s.ring, SET_HTTP_BODY_RATE_MIN) == 0 || pause < check)
        return pause;
    return check;
}

bool body_too_slow(const struct stream_full *f)
{
    const struct body *b = &f->body;
    uint64_t now_ms = ring_now_ms(f->s.ring), passed = now_ms - b->start_ms;
    if (now_ms - b->progress_ms >= ring_setting(f->s.ring, SET_HTTP_BODY_TIMEOUT))
        return true;
    return passed >= ring_setting(f->s.ring, SET_HTTP_BODY_RATE_GRACE) &&
           b->received * 1000 < passed * ring_setting(f->s.ring, SET_HTTP_BODY_RATE_MIN);
}

void body_clock_restart(struct stream_full *f)
{
    f->body.start_ms = f->body.progress_ms = ring_now_ms(f->s.ring);
}

static void begin_reading(struct stream_full *f, enum body_sink sink)
{
    struct body *b = &f->body;
    b->sink = (uint8_t)sink;
    ring_ready(f->s.ring, &f->s); /* the first step is taken at its turn, never within the handler's call */
    if (b->state != BODY_UNREAD)
        return;
    b->state = BODY_READ;
    body_clock_restart(f);
    send_continue(f);
    conn_deadline(f->s.conn, body_deadline(f));
}

int stream_body_to_memory(struct stream *s, size_t max)
{
    struct stream_full *f = stream_full(s);
    struct body *b = &f->body;
    CHECK(b->sink == SINK_NONE && max <= MANIFEST_BYTES_CEILING);
    size_t want = is_chunked(f) ? max : (size_t)(b->left < max ? b->left : max);
    if (b->left > max) {
        b->sink = SINK_MEMORY;
        body_fail(f, -EFBIG, (struct http_reject){0});
        return 0;
    }
    b->memory = f->small_body;
    b->memory_cap = sizeof(f->small_body);
    b->memory_max = max;
    if (want > b->memory_cap) {
        if (s->ring->manifests.used >= ring_setting(s->ring, SET_REGISTRY_MANIFESTS_INFLIGHT))
            return -EAGAIN;
        b->memory = pool_take(&s->ring->manifests);
        if (!b->memory)
            return -EAGAIN;
        b->from_pool = true;
        b->memory_cap = MANIFEST_BYTES_CEILING;
    }
    begin_reading(f, SINK_MEMORY);
    return 0;
}

int stream_body_to_upload(struct stream *s, struct upload *u)
{
    struct stream_full *f = stream_full(s);
    uint64_t max = ring_setting(s->ring, SET_REGISTRY_BLOB_BYTES_MAX), offset = upload_offset(u);
    if (s->upload_max && s->upload_max < max)
        max = s->upload_max;
    CHECK(f->body.sink == SINK_NONE);
    f->body.upload = u;
    if (f->body.left > (max > offset ? max - offset : 0)) { /* said at once, before the client sends it all */
        f->body.sink = SINK_UPLOAD;
        body_fail(f, -EFBIG, (struct http_reject){0});
        return 0;
    }
    begin_reading(f, SINK_UPLOAD);
    return 0;
}

/* ------------------------------------------------------------------ receiving */

static void receive(struct stream_full *f, char *at, size_t space, int flags)
{
    f->body.polling = false;
    f->body.asked = may_take(f, space);
    wire_recv_into(&f->s.conn->wire, &f->s.conn->in, at, f->body.asked, flags);
}

static void wait_readable(struct stream_full *f)
{
    f->body.polling = true;
    wire_poll(&f->s.conn->wire, &f->s.conn->in, POLLIN);
}

static void finish(struct stream_full *f)
{
    f->body.state = BODY_COMPLETE;
    tell(f);
}

/* One step past the end of what fits tells a body that is too long from one that just fits. */
static void memory_step(struct stream_full *f)
{
    struct body *b = &f->body;
    while (b->state == BODY_READ && !content_complete(f)) {
        if (b->memory_len >= b->memory_max || b->memory_len == b->memory_cap) {
            body_fail(f, -EFBIG, (struct http_reject){0});
            return;
        }
        size_t space = b->memory_cap - b->memory_len;
        size_t n = conn_take_input(f->s.conn, b->memory + b->memory_len, may_take(f, space));
        if (n == 0) {
            receive(f, b->memory + b->memory_len, space, 0);
            return;
        }
        ssize_t payload = unframe(f, b->memory + b->memory_len, n);
        b->memory_len += payload > 0 ? (size_t)payload : 0;
    }
    if (b->state == BODY_READ && b->memory_len > b->memory_max)
        body_fail(f, -EFBIG, (struct http_reject){0});
    else if (b->state == BODY_READ)
        finish(f);
}

static void upload_got(struct stream_full *f, size_t n)
{
    ssize_t payload = unframe(f, f->body.rx + f->body.rx_len, n);
    if (payload > 0) {
        f->body.rx_len += (size_t)payload;
        ring_count(f->s.ring, CTR_PUSH_BYTES, (uint64_t)payload);
    }
}

/*
 * How much a new buffer takes: up to the file's next whole one. What is written within the bounds of large
 * pages is kept in the page cache as such, and costs less to send than many small ones.
 */
static size_t room(const struct body *b)
{
    uint64_t at = b->appending ? b->tx_end : upload_offset(b->upload);
    return BODY_BUFFER_BYTES - (size_t)(at % BODY_BUFFER_BYTES);
}

/* Hands the buffer over, if the one before it is done with. */
static void upload_hand_over(struct stream_full *f)
{
    struct body *b = &f->body;
    if (b->appending || b->rx_len == 0 || (f->s.conn->in.inflight && !b->polling))
        return;
    size_t len = b->rx_len;
    b->tx = b->rx;
    b->tx_end = upload_offset(b->upload) + len;
    b->rx = NULL;
    b->rx_len = 0;
    b->appending = true;
    bool over = f->s.upload_max && upload_offset(b->upload) + len > f->s.upload_max;
    int err = over ? -EFBIG : upload_append(b->upload, b->tx, len, &b->appended);
    if (err) /* refused at once: as if it had come back with it */
        appended(&b->appended, err);
}

/* Whether bytes came at once; else an order for more is under way, or none is wanted now. */
static bool upload_receive(struct stream_full *f)
{
    struct body *b = &f->body;
    if (b->state != BODY_READ || f->s.conn->in.inflight || content_complete(f) ||
        (b->rx && b->rx_len == b->rx_cap))
        return false;
    bool here = conn_has_input(f->s.conn) || b->recv_direct;
    if (!here) {
        wait_readable(f);
        return false;
    }
    if (!b->rx) {
        b->rx = ring_body_take(f->s.ring, &f->s);
        b->rx_cap = room(b);
    }
    if (!b->rx)
        return false; /* in line for one: stream_fed */
    size_t space = b->rx_cap - b->rx_len;
    size_t n = conn_take_input(f->s.conn, b->rx + b->rx_len, may_take(f, space));
    if (n == 0)
        receive(f, b->rx + b->rx_len, space, MSG_DONTWAIT);
    else
        upload_got(f, n);
    return n > 0;
}

/* An empty buffer is not kept for bytes that may never come. */
static void upload_let_go(struct stream_full *f)
{
    struct body *b = &f->body;
    if (!b->rx || b->rx_len)
        return;
    void *buffer = b->rx;
    b->rx = NULL;
    ring_body_give(f->s.ring, buffer);
}

static void upload_step(struct stream_full *f)
{
    struct body *b = &f->body;
    bool more;
    do {
        upload_hand_over(f);
        more = upload_receive(f);
    } while (more && b->state == BODY_READ);
    if (b->state != BODY_READ || !content_complete(f))
        return;
    upload_hand_over(f);
    if (b->state == BODY_READ && !b->appending && b->rx_len == 0)
        finish(f);
}

void body_step(struct stream_full *f)
{
    if (f->body.state == BODY_READ && f->body.sink == SINK_MEMORY && !f->s.conn->in.inflight)
        memory_step(f);
    else if (f->body.state == BODY_READ && f->body.sink == SINK_UPLOAD)
        upload_step(f);
    if (f->body.state != BODY_READ)
        tell(f);
}

static void appended(struct waiter *w, int res)
{
    struct body *b = container_of(w, struct body, appended);
    struct stream_full *f = container_of(b, struct stream_full, body);
    b->appending = false;
    ring_body_give(f->s.ring, b->tx);
    b->tx = NULL;
    if (res < 0)
        body_fail(f, res, (struct http_reject){0});
    ring_ready(f->s.ring, &f->s); /* also if it had failed before: only now the handler can be told */
}

static void received(struct stream_full *f, size_t n)
{
    struct body *b = &f->body;
    ring_count(f->s.ring, CTR_BYTES_RECEIVED, n);
    b->progress_ms = ring_now_ms(f->s.ring);
    if (body_too_slow(f)) {
        fail_with(f, HTTP_REJECT_BODY_TIMEOUT);
        return;
    }
    conn_deadline(f->s.conn, body_deadline(f));
    b->recv_direct = n == b->asked;
    if (b->sink == SINK_UPLOAD) {
        upload_got(f, n);
    } else {
        ssize_t payload = unframe(f, b->memory + b->memory_len, n);
        b->memory_len += payload > 0 ? (size_t)payload : 0;
    }
}

void body_input_done(struct stream_full *f, const struct event *ev)
{
    struct body *b = &f->body;
    if (b->state != BODY_READ) {
        ring_ready(f->s.ring, &f->s);
        return;
    }
    if (b->polling) {
        b->polling = false;
        b->recv_direct = true;
    } else if (ev->res > 0) {
        received(f, (size_t)ev->res);
    } else if (ev->res == -EAGAIN) {
        b->recv_direct = false;
        upload_let_go(f);
    } else if (ev->res == 0) {
        fail_with(f, HTTP_REJECT_BODY_TRUNCATED);
    } else {
        conn_close(f->s.conn, CLOSE_CLIENT_ABORT);
        return;
    }
    body_step(f);
}
