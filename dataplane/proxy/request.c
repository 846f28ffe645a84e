/* SPDX-License-Identifier: Apache-2.0 */
/* The request on its way to a backend: its head as a proxy sends it, its body by a pump. */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/http/number.h"
#include "dataplane/proxy/client_cert.h"
#include "dataplane/proxy/exchange.h"

enum { BODY_SMALL_MAX = 4096 /* goes with the head */ };

/* ------------------------------------------------------------------ the head */

void exchange_addresses(struct exchange *ex)
{
    char digits[NUMBER_DIGITS_MAX];
    const char *text = stream_peer(ex->s);
    const char *end = strrchr(text, ':');
    stream_id_text(ex->s, ex->id);
    struct view port = number_write(stream_local_port(ex->s), digits);
    memcpy(ex->port, port.p, port.len);
    ex->port[port.len] = '\0';
    if (text[0] == '[') { /* "[v6]:port" */
        text++;
        end--;
    }
    if (text[0] == '?' || end <= text)
        return;
    ex->peer_len = (size_t)(end - text);
    memcpy(ex->peer, text, ex->peer_len);
}

static struct view spare_room(struct exchange *ex)
{
    size_t cap = STREAM_SPARE_BYTES - (ex->body_small ? ex->small_len : 0);
    return view_of(stream_spare(ex->s), cap);
}

static struct http_forward forward_to(struct exchange *ex, const char *authority, struct client_cert *cert)
{
    const struct plan_proxy *p = &ex->p;
    struct http_forward how = {
        .host_default = view_of_str(authority),
        .peer = view_of(ex->peer, ex->peer_len),
        .port = ex->port[0] != '0' ? view_of_str(ex->port) : (struct view){NULL, 0},
        .scheme = stream_scheme(ex->s),
        .request_id = view_of(ex->id, sizeof(ex->id)),
        .mark = view_of(ex->mark, sizeof(ex->mark)),
        .x_forwarded = p->forwarded & PROXY_FORWARDED_X,
        .forwarded = p->forwarded & PROXY_FORWARDED_RFC7239,
        .trust = p->trust_forwarded,
        .upgrade = ex->upgrade,
        .h2c = ex->facts.h2c,
        .extra = cert->field,
    };
    if (p->host_of_backend)
        how.host = view_of_str(authority);
    client_cert_fields(ex->s, cert);
    how.extra_count = cert->count;
    return how;
}

ssize_t exchange_request_rest(struct exchange *ex, const struct target *t, struct view range,
                              struct view if_range, char *buf, size_t cap)
{
    char authority[AUTHORITY_MAX];
    target_authority(t, authority);
    struct client_cert cert;
    struct http_forward how = forward_to(ex, authority, &cert);
    how.range = range;
    if (view_present(if_range))
        cert.field[how.extra_count++] = (struct http_extra){VIEW_LIT("If-Range"), if_range};
    return http_forward_request(buf, cap, &ex->s->req, &how);
}

ssize_t exchange_request_head(struct exchange *ex, struct attempt *a, char **out)
{
    struct client_cert cert;
    struct http_forward how = forward_to(ex, a->authority, &cert);
    how.range = a->ask.range;
    struct view room = spare_room(ex);
    *out = stream_spare(ex->s);
    ssize_t n = http_forward_request(*out, room.len, &ex->s->req, &how);
    if (n != -ENOBUFS)
        return n;
    if (!ex->request_large)
        ex->request_large = pool_take(&ex->ring->heads);
    *out = ex->request_large;
    return *out ? http_forward_request(*out, HEADER_BYTES_CEILING, &ex->s->req, &how) : -ENOBUFS;
}

/* ------------------------------------------------------------------ the body */

void exchange_small_body(struct exchange *ex)
{
    struct stream *s = ex->s;
    uint64_t len = s->req.content_length;
    ex->body = stream_has_body(s);
    if (ex->order.refuse) /* its handler may want it after all */
        return;
    if (!ex->body || s->req.framing != HTTP_BODY_LENGTH || len > BODY_SMALL_MAX || stream_body_here(s) < len)
        return;
    char *at = stream_spare(s) + STREAM_SPARE_BYTES - len;
    CHECK(stream_body_early(s, at, (size_t)len) == len);
    stream_body_taken(s);
    ex->body_small = true;
    ex->small_len = (size_t)len;
}

/* The client broke off or broke the rules; or the backend takes no more, and may say why. */
static void request_done(struct pump *p, enum pump_end end, int err)
{
    struct exchange *ex = p->c.arg;
    struct stream *s = ex->s;
    (void)err;
    ex->body_active = false;
    stream_body_relayed(s, end == PUMP_DONE, end == PUMP_DONE ? pump_rest(p) : (struct view){NULL, 0});
    if (end == PUMP_DONE && !exchange_stops_being_http(ex))
        stream_watch(s, !ex->facts.longlived);
    if (end == PUMP_DONE && ex->tunnelled && ex->head_out)
        exchange_tunnel_begin(s);
    if (end == PUMP_DONE || end == PUMP_SINK_ERROR) {
        attempt_deadline(&ex->attempt);
    } else if (end != PUMP_STOPPED && !ex->aborted) {
        ex->keep = false;
        stream_body_broken(s,
                           end == PUMP_SOURCE_BAD ? p->reject : http_reject_of(HTTP_REJECT_BODY_TRUNCATED));
    }
    if (!attempt_body_ended(&ex->attempt))
        exchange_step_end(ex);
}

char *exchange_room(struct exchange *ex, size_t len, size_t *cap)
{
    *cap = STREAM_SPARE_BYTES;
    if (len <= *cap)
        return stream_spare(ex->s);
    *cap = HEADER_BYTES_CEILING;
    if (!ex->request_large)
        ex->request_large = pool_take(&ex->ring->heads);
    return len <= *cap ? ex->request_large : NULL;
}

/* The beginning of the body that is here already; false: no memory for it. */
static bool take_early(struct exchange *ex, struct view *early)
{
    size_t cap;
    char *at = exchange_room(ex, stream_body_here(ex->s), &cap);
    if (at)
        *early = view_of(at, stream_body_early(ex->s, at, cap));
    return at != NULL;
}

/* The body cannot be sent, for want of memory of ours; the backend may have begun to answer all the same. */
static void no_room(struct exchange *ex)
{
    ring_count(ex->ring, CTR_BUFFERS_EXHAUSTED, 1);
    if (ex->relaying) {
        ex->halted = CLOSE_NO_STREAM;
        pump_fail_source(&ex->response);
    } else if (ex->answered) {
        exchange_done(ex, false, CLOSE_NO_STREAM);
    } else {
        attempt_end(&ex->attempt, false, BALANCE_CANCELLED);
        ex->attempt.fault = FAULT_NO_MEMORY;
        exchange_failed(&ex->attempt);
    }
}

void exchange_body_begin(struct exchange *ex)
{
    struct stream *s = ex->s;
    struct view early;
    if (!ex->body || ex->body_small || ex->body_begun || ex->finished || ex->aborted || !ex->attempt.up)
        return;
    ex->body_begun = true;
    if (!take_early(ex, &early)) {
        no_room(ex);
        return;
    }
    bool chunked = s->req.framing == HTTP_BODY_CHUNKED;
    struct pump_config config = {
        .ring = ex->ring,
        .from = stream_wire(s),
        .to = &ex->attempt.up->wire,
        .in = chunked ? PUMP_CHUNKED : PUMP_LENGTH,
        .out = chunked ? PUMP_CHUNKED : PUMP_LENGTH,
        .length = s->req.content_length,
        .early = early,
        .technique = (enum pump_technique)ex->p.technique,
        .trailers = true,
        .done = request_done,
        .arg = ex,
    };
    ex->body_active = true;
    stream_body_relay(s, &ex->request, ex->facts.longlived);
    pump_start(&ex->request, &config);
}

bool exchange_body_complete(const struct exchange *ex)
{
    return !ex->body || ex->body_small || (ex->body_begun && !ex->body_active);
}

uint64_t exchange_body_stuck_ms(const struct exchange *ex)
{
    const struct pump *p = &ex->request;
    return pump_waits_for_sink(p) ? p->sink_progress_ms : 0;
}
