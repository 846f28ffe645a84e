/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream's life: made for a head, started when that is complete, answered by its handler, finished when the
 * response is with the socket and nothing is under way. Body and response are two tracks of their own: body.c
 * and send.c.
 */
#include "dataplane/stream_private.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "plan_names.h"
#include "dataplane/admin/admin.h"
#include "dataplane/link.h"
#include "dataplane/proxy/proxy.h"
#include "dataplane/registry/peer.h"
#include "dataplane/registry/registry.h"
#include "dataplane/store/store.h"

/* ------------------------------------------------------------------ what handlers ask */

struct store_ring *stream_store(struct stream *s)
{
    return s->ring->store;
}

struct names *stream_names(struct stream *s)
{
    return s->ring->names;
}

struct channel *stream_channel(struct stream *s)
{
    return s->ring->channel;
}

uint64_t stream_setting(const struct stream *s, int setting)
{
    return ring_setting(s->ring, (enum setting_id)setting);
}

uint64_t stream_now_ms(const struct stream *s)
{
    return ring_now_ms(s->ring);
}

void stream_count(struct stream *s, enum counter_id c, uint64_t n)
{
    ring_count(s->ring, c, n);
}

const struct counters_page *stream_counters(struct stream *s)
{
    return s->ring->page;
}

bool stream_control_connected(struct stream *s)
{
    return channel_connected(s->ring->channel);
}

const char *stream_peer(struct stream *s)
{
    struct stream_full *f = stream_full(s);
    if (!f->peer_text[0])
        conn_peer_text(s->conn, f->peer_text, sizeof(f->peer_text));
    return f->peer_text;
}

const struct plan_service *stream_service(struct stream *s)
{
    return s->conn->stale ? NULL : plan_service_of(s->ring->plan, s->conn->service);
}

uint32_t stream_service_index(const struct stream *s)
{
    return s->conn->service;
}

uint8_t *stream_scratch(struct stream *s)
{
    s->ring->scratch_used = true;
    return s->ring->scratch;
}

void stream_id_text(const struct stream *s, char out[STREAM_ID_TEXT])
{
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < STREAM_ID_TEXT; i++)
        out[i] = digits[s->id >> (60 - 4 * i) & 15];
}

bool stream_gone(const struct stream *s)
{
    return ((const struct stream_full *)s)->gone;
}

bool stream_has_body(const struct stream *s)
{
    return s->req.framing == HTTP_BODY_CHUNKED ||
           (s->req.framing == HTTP_BODY_LENGTH && s->req.content_length > 0);
}

/* ------------------------------------------------------------------ life */

static const uint8_t may_move[] = {
    [STREAM_OPEN] = 1 << STREAM_SEND | 1 << STREAM_DONE,
    [STREAM_SEND] = 1 << STREAM_DONE,
    [STREAM_DONE] = 0,
};

void stream_move(struct stream_full *f, enum stream_state to)
{
    CHECK(may_move[f->state] & 1 << to);
    f->state = (uint8_t)to;
}

struct stream_full *stream_new(struct conn *c)
{
    struct stream_full *f = pool_take(&c->ring->streams);
    if (!f)
        return NULL;
    memset(f, 0, offsetof(struct stream_full, peer_text) + 1); /* the buffers behind it need no clearing */
    f->s.ring = c->ring;
    f->s.conn = c;
    f->s.class = CLASS_OTHER;
    f->s.req.fields = f->fields;
    f->s.req.fields_max = ARRAY_SIZE(f->fields);
    f->head = f->head_own;
    f->head_cap = sizeof(f->head_own);
    f->technique = "memory";
    arena_init(&f->s.arena, f->arena_own, sizeof(f->arena_own));
    return f;
}

void stream_release(struct stream_full *f)
{
    if (f->head != f->head_own)
        pool_give(&f->s.ring->heads, f->head);
    if (f->head_large)
        pool_give(&f->s.ring->heads, f->head_large);
    pool_give(&f->s.ring->streams, f);
}

int stream_head_grow(struct stream_full *f)
{
    char *large = f->head == f->head_own ? pool_take(&f->s.ring->heads) : NULL;
    if (!large) {
        ring_count(f->s.ring, CTR_BUFFERS_EXHAUSTED, 1);
        return -ENOBUFS;
    }
    memcpy(large, f->head, f->head_len);
    f->head = large;
    f->head_cap = HEADER_BYTES_CEILING;
    return 0;
}

static void nothing(struct stream *s)
{
    (void)s;
}

static void no_body_asked(struct stream *s, int err)
{
    (void)s;
    (void)err;
    IMPOSSIBLE("a refused request reads no body");
}

/* Answers what never reached a handler. */
static const struct handler refused = {
    .name = "refused", .begin = nothing, .body_done = no_body_asked, .end = nothing};

static void begin(struct stream_full *f)
{
    f->s.id = ++f->s.ring->next_id << 8 | f->s.ring->index;
    f->start_us = loop_clock_us();
    ring_count(f->s.ring, CTR_STREAMS_OPEN, 1);
}

/* Without the port, and the dot of the root. */
static size_t host_name_len(struct view host)
{
    const char *colon = memrchr(host.p, ':', host.len);
    size_t len = colon ? (size_t)(colon - host.p) : host.len;
    return len && host.p[len - 1] == '.' ? len - 1 : len;
}

/* Clients may use a connection for whatever its certificate is good for; the service was chosen by the name
 * in TLS, and another one may have this host. */
static bool is_misdirected(const struct stream_full *f, const struct plan_service *s)
{
    struct view host = f->s.req.host;
    char name[PLAN_DOMAIN_MAX];
    if (s->name_count == 0 || view_empty(host))
        return false;
    size_t len = host.p[0] == '[' ? host.len : host_name_len(host);
    if (len >= sizeof(name))
        return true;
    for (size_t i = 0; i < len; i++)
        name[i] = view_lower(host.p[i]);
    name[len] = '\0';
    return plan_name_place(f->s.ring->plan, s, name) != f->s.conn->service;
}

static const struct handler *route(struct stream_full *f, enum http_reject_reason *why)
{
    const struct plan_service *service = stream_service(&f->s);
    *why = HTTP_REJECT_BUSY; /* its service left the plan */
    if (service && is_misdirected(f, service)) {
        *why = HTTP_REJECT_HOST_MISDIRECTED;
        return NULL;
    }
    switch (service ? service->kind : 0) {
    case SERVICE_REGISTRY:
        return &registry_handler;
    case SERVICE_ADMIN:
        return &admin_handler;
    case SERVICE_PEER:
        return &peer_handler;
    case SERVICE_PROXY:
        return &proxy_handler;
    default:
        return NULL;
    }
}

void stream_start(struct stream_full *f)
{
    enum http_reject_reason why;
    begin(f);
    body_begin(f);
    f->s.handler = route(f, &why);
    if (!f->s.handler) {
        f->s.handler = &refused;
        f->refusal = http_reject_of(why);
        stream_send(&f->s);
        return;
    }
    f->held = true;
    f->s.handler->begin(&f->s);
    f->held = false;
    if (f->state == STREAM_DONE) /* answered and sent already */
        stream_step_end(f);
}

void stream_refuse(struct stream_full *f, struct http_reject reject)
{
    begin(f);
    ring_count(f->s.ring, CTR_REQUESTS_REFUSED, 1);
    f->s.handler = &refused;
    f->s.req.method = HTTP_GET; /* whatever was asked, the refusal has a body */
    f->refusal = reject;
    f->body.state = BODY_FAILED;
    f->body.told = true;
    stream_send(&f->s);
}

/* ------------------------------------------------------------------ the answer */

struct http_response *stream_response(struct stream *s, int status)
{
    struct stream_full *f = stream_full(s);
    char id[STREAM_ID_TEXT];
    CHECK(!f->responded);
    f->status = status;
    http_response_begin(&f->response, f->response_own, RESPONSE_HEAD_MAX, status);
    http_response_field(&f->response, "Date", view_of(ring_date(s->ring), HTTP_DATE_LEN));
    stream_id_text(s, id);
    http_response_field(&f->response, "X-Request-Id", view_of(id, sizeof(id)));
    if (s->old_names) { /* RFC 7234 5.5.1 */
        http_response_field(
            &f->response, "Warning",
            VIEW_LIT("110 fairlead \"this node is cut off from the others; this may be old\""));
        stream_count(s, CTR_NAMES_STALE, 1);
    }
    return &f->response;
}

/* Whether the connection can take another request after this response. */
static bool keeps_alive(struct stream_full *f)
{
    const struct conn *c = f->s.conn;
    if (f->close_after || !f->s.req.keep_alive || f->s.ring->draining || c->stale)
        return false;
    if (c->requests >= ring_setting(f->s.ring, SET_HTTP_REQUESTS_MAX))
        return false;
    if (relay_reads(f)) /* an error that comes before the end of the body: nobody wants the rest */
        return f->status < 400;
    return body_skip(f);
}

void stream_close_with(struct stream_full *f, enum close_reason reason, bool lingers)
{
    f->close_after = true;
    f->s.conn->close_after = true;
    f->s.conn->lingers |= lingers;
    f->s.conn->end_reason = (uint8_t)reason;
}

static enum close_reason end_reason(const struct stream_full *f)
{
    if (f->body.state != BODY_COMPLETE || f->close_after) /* bytes that nobody took, or that had no room */
        return CLOSE_BODY_UNREAD;
    if (f->s.conn->stale)
        return CLOSE_SERVICE_GONE;
    if (f->s.ring->draining)
        return CLOSE_DRAIN;
    return f->s.req.keep_alive ? CLOSE_REQUESTS_MAX : CLOSE_CLIENT_CLOSE;
}

ssize_t stream_finish_head(struct stream_full *f)
{
    bool keep = keeps_alive(f);
    if (!keep && !f->s.conn->close_after) {
        enum close_reason reason = end_reason(f);
        stream_close_with(f, reason,
                          reason != CLOSE_CLIENT_CLOSE); /* what still comes was not asked to stop */
    }
    http_response_connection(&f->response, keep, f->s.req.version_minor);
    return http_response_end(&f->response);
}

static enum close_reason refusal_reason(const struct stream_full *f)
{
    switch (f->refusal.reason) {
    case HTTP_REJECT_HEAD_TIMEOUT:
        return CLOSE_HEADER_TIMEOUT;
    case HTTP_REJECT_BODY_TIMEOUT:
        return CLOSE_BODY_TIMEOUT;
    case HTTP_REJECT_BUSY:
        return CLOSE_NO_STREAM;
    default:
        return CLOSE_BAD_REQUEST;
    }
}

/* The connection's own answer in place of the handler's. */
static void refusal_send(struct stream_full *f)
{
    ssize_t n =
        http_refusal_write(f->response_own, sizeof(f->response_own), f->refusal,
                           view_of(ring_date(f->s.ring), HTTP_DATE_LEN), f->s.req.method == HTTP_HEAD);
    CHECK(n > 0);
    f->status = f->refusal.status;
    stream_close_with(f, refusal_reason(f), true);
    f->send = (struct sending){.kind = SEND_BYTES};
    f->send.iov[0] = (struct iovec){f->response_own, (size_t)n};
    send_begin(f);
}

void stream_refuse_answer(struct stream_full *f, enum http_reject_reason reason)
{
    f->refusal = http_reject_of(reason);
    refusal_send(f);
}

bool stream_answer(struct stream_full *f)
{
    CHECK(!f->responded && (f->body.state != BODY_READ || f->body.sink == SINK_RELAY));
    f->responded = true;
    if (f->gone) {
        ring_ready(f->s.ring, &f->s); /* finished at its turn: the caller may still look at the stream */
        return false;
    }
    stream_move(f, STREAM_SEND);
    if (f->refusal.status)
        refusal_send(f);
    return f->refusal.status == 0;
}

static void send_bytes(struct stream_full *f, const void *bytes, size_t len, uint64_t content_length)
{
    if (!http_status_bodyless(f->status))
        http_response_field_u64(&f->response, "Content-Length", content_length);
    ssize_t head = stream_finish_head(f);
    if (head < 0) { /* a head that does not fit its room: the answer is ours to make */
        stream_refuse_answer(f, HTTP_REJECT_BUSY);
        return;
    }
    bool with_body = len > 0 && f->s.req.method != HTTP_HEAD;
    f->send.kind = SEND_BYTES;
    f->send.iov[0] = (struct iovec){f->response_own, (size_t)head};
    f->send.iov[1] = (struct iovec){(void *)(uintptr_t)bytes, with_body ? len : 0};
    f->content_sent = f->send.iov[1].iov_len;
    send_begin(f);
}

void stream_send(struct stream *s)
{
    if (stream_answer(stream_full(s)))
        send_bytes(stream_full(s), NULL, 0, 0);
}

void stream_send_length(struct stream *s, uint64_t len)
{
    if (stream_answer(stream_full(s)))
        send_bytes(stream_full(s), NULL, 0, len);
}

void stream_send_bytes(struct stream *s, const void *bytes, size_t len)
{
    if (stream_answer(stream_full(s)))
        send_bytes(stream_full(s), bytes, len, len);
}

void stream_send_blob(struct stream *s, struct blob *b, uint64_t offset, uint64_t len)
{
    struct stream_full *f = stream_full(s);
    f->send.blob = b; /* given back when the stream is finished, whatever happens */
    if (!stream_answer(f))
        return;
    if (b->bytes || s->req.method == HTTP_HEAD || len == 0) {
        send_bytes(f, b->bytes ? b->bytes + offset : NULL, s->req.method == HTTP_HEAD ? 0 : (size_t)len, len);
        return;
    }
    http_response_field_u64(&f->response, "Content-Length", len);
    ssize_t head = stream_finish_head(f);
    CHECK(head > 0);
    f->send.kind = SEND_FILE;
    f->send.iov[0] = (struct iovec){f->response_own, (size_t)head};
    f->send.offset = offset;
    f->send.left = len;
    f->content_sent = len;
    f->technique = "sendfile";
    send_begin(f);
}

void stream_send_fill(struct stream *s, stream_fill *fill)
{
    struct stream_full *f = stream_full(s);
    if (!stream_answer(f))
        return;
    f->send.kind = SEND_FILL;
    f->send.fill = fill;
    ring_ready(s->ring, s); /* the first part decides about the framing */
}

/* ------------------------------------------------------------------ the end */

static void count_answer(struct stream_full *f)
{
    ring_count(f->s.ring, CTR_REQUESTS, 1);
    if (f->status >= 200 && f->status < 600)
        ring_count(f->s.ring, (enum counter_id)(CTR_RESPONSES_2XX + f->status / 100 - 2), 1);
    if (!f->first_byte_us)
        return;
    struct ring_counters *ctr = f->s.ring->counters;
    uint64_t us = f->first_byte_us - f->start_us;
    unsigned bucket = us ? 64 - (unsigned)__builtin_clzll(us) : 0;
    if (bucket >= LATENCY_BUCKETS)
        bucket = LATENCY_BUCKETS - 1;
    counter_add(&ctr->latency[f->s.class][bucket], 1);
    counter_add(&ctr->latency_sum_us[f->s.class], us);
}

void stream_sent(struct stream_full *f)
{
    stream_move(f, STREAM_DONE);
    stream_step_end(f);
}

void stream_step_end(struct stream_full *f)
{
    if (!f->responded || f->in_ready || f->held || f->holds || !send_idle(f) || !body_idle(f))
        return;
    if (f->state != STREAM_DONE) {
        if (!f->gone)
            return;
        stream_move(f, STREAM_DONE);
    }
    struct conn *c = f->s.conn;
    if (f->in_starved)
        ring_body_leave(f->s.ring, &f->s);
    relay_unwatch(f);
    count_answer(f);
    access_log(f);
    pull_log(f);
    f->s.handler->end(&f->s);
    send_release(f);
    body_release(f);
    ring_count(f->s.ring, CTR_STREAMS_OPEN, (uint64_t)-1);
    stream_release(f);
    conn_exchange_done(c);
}

void stream_abort(struct stream_full *f)
{
    f->gone = true;
    f->cut = true;
    f->abort_due = true;
    if (f->body.state == BODY_READ && f->body.sink != SINK_RELAY)
        body_fail(f, -ECONNRESET, (struct http_reject){0});
    ring_ready(f->s.ring, &f->s);
}

void stream_fed(struct stream *s)
{
    ring_ready(s->ring, s);
}

/* What the handler has under way ends, then the stream does. */
static void tell_abort(struct stream_full *f)
{
    f->abort_told = true;
    f->held = true;
    f->s.handler->abort(&f->s);
    f->held = false;
    stream_step_end(f);
}

/* The response's head is out. */
static void relay_ready(struct stream_full *f)
{
    void (*ready)(struct stream *) = f->send.ready;
    f->send.ready = NULL;
    f->held = true;
    ready(&f->s);
    f->held = false;
    stream_step_end(f);
}

void stream_turn(struct stream *s)
{
    struct stream_full *f = stream_full(s);
    if (f->abort_due && !f->abort_told && s->handler->abort)
        tell_abort(f);
    else if (f->send.head_out && f->send.ready && !f->gone)
        relay_ready(f);
    else if (f->body.sink != SINK_RELAY &&
             (f->body.state == BODY_READ || (f->body.error && !f->body.told) ||
              (f->body.state == BODY_COMPLETE && f->body.sink && !f->body.told)))
        body_step(f);
    else if (f->state == STREAM_SEND && !f->gone)
        send_turn(f);
    else
        stream_step_end(f);
}
