/* SPDX-License-Identifier: Apache-2.0 */
/* The answer on its way to the client: its head as a proxy passes it on, its body by a pump; or our own,
 * where no backend had one. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/exchange.h"

enum {
    HEAD_ADDED_BYTES = 512,             /* at most, to a backend's head, */
    HEAD_END_BYTES = 128,               /* of these by the client's connection, at the end */
    HOST_SAID_MAX = PLAN_DOMAIN_MAX + 5 /* a domain's name, ':' and a port */
};

/* ------------------------------------------------------------------ a backend's answer */

static bool is_server_error(const struct exchange *ex, int status)
{
    /* Docker says 500 for what its caller did wrong, too. */
    return status == 502 || status == 503 || status == 504 || (status == 500 && ex->p.kind != PROXY_DOCKER);
}

/* What a trusted balancer before us says of its client's request: the first of a list, and present if it is
 * there. What is longer than a host with its port is neither that nor a scheme. */
static struct view said_outside(const struct exchange *ex, enum http_known known)
{
    struct view rest, value = ex->s->req.known[known];
    if (!ex->p.trust_forwarded || !view_present(value))
        return (struct view){0};
    value = view_trim(view_split(value, ',', &rest));
    return value.len && value.len <= HOST_SAID_MAX ? value : (struct view){0};
}

static struct http_backward backward_from(struct attempt *a)
{
    struct exchange *ex = a->ex;
    struct stream *s = ex->s;
    struct view authority = view_of_str(a->authority);
    struct view host = said_outside(ex, HTTP_KNOWN_X_FORWARDED_HOST);
    struct view scheme = said_outside(ex, HTTP_KNOWN_X_FORWARDED_PROTO);
    bool is_scheme = view_ilit(scheme, "https") || view_ilit(scheme, "http");
    return (struct http_backward){
        .scheme = is_scheme ? scheme : stream_scheme(s),
        .host = view_present(host) ? host : s->req.host,
        .backend = authority,
        .sent_host = ex->p.host_of_backend || !view_present(s->req.host) ? authority : s->req.host,
    };
}

void exchange_interim(struct attempt *a)
{
    struct exchange *ex = a->ex;
    struct http_response res;
    size_t cap;
    if (a->answer.status == 100) {
        stream_continue(ex->s);
        return;
    }
    char *buf = stream_interim_room(ex->s, &cap);
    struct http_backward how = backward_from(a);
    if (buf)
        http_forward_response(&res, buf, cap, &a->answer, &how);
    ssize_t len = buf ? http_response_end(&res) : -ENOBUFS;
    if (len > 0)
        stream_interim(ex->s, (size_t)len);
    else
        ring_count(ex->ring, CTR_PROXY_INTERIM_DROPPED, 1);
}

/* False: it does not fit, or not with what the client's connection adds to it. */
static bool write_head(struct attempt *a, struct http_response *res)
{
    struct exchange *ex = a->ex;
    struct stream *s = ex->s;
    size_t cap;
    struct http_backward how = backward_from(a);
    /* A URL may become longer, once a line. */
    size_t room = a->used + HEAD_ADDED_BYTES + a->answer.fields_count * (how.host.len + 16);
    char *buf = stream_relay_head(s, room, &cap);
    if (!buf)
        return false;
    how.request_id = view_of(ex->id, sizeof(ex->id));
    http_forward_response(res, buf, cap, &a->answer, &how);
    if (!view_present(a->answer.known[HTTP_KNOWN_DATE]) && a->answer.status != 101)
        http_response_field(res, "Date", view_of(ring_date(ex->ring), HTTP_DATE_LEN));
    return res->error == 0 && res->cap - res->len >= HEAD_END_BYTES;
}

/* An error that comes before the request's body has: nobody wants the rest. */
static bool ends_connection(const struct exchange *ex, const struct http_answer *answer)
{
    return !exchange_body_complete(ex) && (answer->status >= 400 || !answer->keep_alive);
}

static void response_done(struct pump *p, enum pump_end end, int err)
{
    struct exchange *ex = container_of(p, struct exchange, response);
    enum close_reason why = CLOSE_BACKEND_CUT;
    standing_leave(ex);
    if (end == PUMP_DONE && pump_rest(p).len)
        ex->keep = false; /* said more than its answer */
    if (end == PUMP_DONE)
        exchange_done(ex, true, CLOSE_NONE);
    else if (end == PUMP_SINK_ERROR || end == PUMP_STOPPED)
        exchange_done(ex, false, CLOSE_CLIENT_ABORT);
    else if (!exchange_goes_on(ex, end, err, &why))
        exchange_done(ex, false,
                      ex->halted && why == CLOSE_BACKEND_CUT ? (enum close_reason)ex->halted : why);
}

static void pump_body(struct stream *s)
{
    struct exchange *ex = s->ctx;
    struct attempt *a = &ex->attempt;
    const struct http_answer *answer = &a->answer;
    struct view early = attempt_early(a);
    if (ex->aborted || ex->finished)
        return;
    struct pump_config config = {
        .ring = ex->ring,
        .from = ex->follower ? &ex->follower->wire : &a->up->wire,
        .to = stream_wire(s),
        .in = answer->framing == HTTP_BODY_LENGTH    ? PUMP_LENGTH
              : answer->framing == HTTP_BODY_CHUNKED ? PUMP_CHUNKED
                                                     : PUMP_RAW,
        .out = answer->framing == HTTP_BODY_LENGTH ? PUMP_LENGTH
               : stream_relay_chunks(s)            ? PUMP_CHUNKED
                                                   : PUMP_RAW,
        .length = answer->content_length - ex->content_early,
        .early = view_skip(early, (size_t)ex->content_early),
        .technique = (enum pump_technique)ex->p.technique,
        .trailers = true,
        .done = response_done,
    };
    ex->resume.before = ex->content_early;
    resume_pump(&ex->resume, &config);
    standing_enter(ex);
    pump_start(&ex->response, &config);
}

/* How the client gets the body, and whether a pump is needed for it. */
static void plan_body(struct exchange *ex, struct attempt *a, struct stream_relay *relay)
{
    const struct http_answer *answer = &a->answer;
    struct view early = attempt_early(a);
    switch (answer->framing) {
    case HTTP_BODY_NONE:
        relay->body =
            ex->s->req.method == HTTP_HEAD && answer->length_told && !http_status_bodyless(answer->status)
                ? RELAY_HEAD
                : RELAY_NOTHING;
        relay->length = answer->content_length;
        ex->keep = ex->keep && early.len == 0;
        return;
    case HTTP_BODY_LENGTH:
        relay->body = RELAY_LENGTH;
        relay->length = answer->content_length;
        if (early.len > answer->content_length) {
            early.len = (size_t)answer->content_length;
            ex->keep = false; /* said more than its answer */
        }
        if (resume_checks(&ex->resume)) /* by the pump, before the client gets it */
            break;
        relay->content = early;
        ex->content_early = early.len;
        if (early.len == answer->content_length)
            return;
        break;
    default:
        relay->body = RELAY_CHUNKED;
        break;
    }
    relay->pump = &ex->response;
    relay->ready = pump_body;
}

/* Server-sent events: silent until there is one. */
static bool is_event_stream(const struct http_answer *answer)
{
    struct view rest, type = view_split(answer->known[HTTP_KNOWN_CONTENT_TYPE], ';', &rest);
    return view_ilit(view_trim(type), "text/event-stream");
}

/* The answer is of no use: said once the connection is given back. */
static void answer_refused(struct attempt *a, enum fault fault, enum balance_outcome outcome)
{
    a->fault = (uint8_t)fault;
    attempt_end(a, false, outcome);
    if (attempt_quiet(a))
        exchange_failed(a);
}

void exchange_respond(struct attempt *a)
{
    struct exchange *ex = a->ex;
    struct http_response res;
    struct stream_relay relay = {.status = a->answer.status, .head = &res};
    if (ex->finished) { /* given up while the body's pump still writes to the connection: nobody asks any more
                         */
        exchange_step_end(ex);
        return;
    }
    hedge_end(ex);
    if (a->answer.status == 101 && !ex->upgrade) {
        a->reject = http_reject_of(HTTP_REJECT_UNASKED_UPGRADE);
        answer_refused(a, FAULT_BAD_ANSWER, BALANCE_FAILED);
        return;
    }
    if (!write_head(a, &res) || (exchange_upgrades(a) && !exchange_tunnel(a, &relay))) {
        answer_refused(a, FAULT_NO_MEMORY, BALANCE_CANCELLED);
        return;
    }
    ex->keep = a->answer.keep_alive && a->sent_all;
    ex->outcome = is_server_error(ex, a->answer.status) ? BALANCE_SERVER_ERROR : BALANCE_GOOD;
    stream_note_upstream(ex->s, ex->name, a->answer_us, ex->attempts);
    exchange_note(ex, a);
    if (!ex->tunnelled) {
        exchange_resume_begin(ex);
        exchange_share(ex);
        plan_body(ex, a, &relay);
        relay.close = ends_connection(ex, &a->answer);
        relay.unlimited = ex->facts.longlived;
        ex->unlimited = ex->facts.longlived || is_event_stream(&a->answer);
    }
    ex->answered = true;
    ex->relayed = relay.ready != NULL;
    if (exchange_stops_being_http(ex) && !ex->tunnelled && exchange_body_complete(ex))
        stream_watch(ex->s, !ex->facts.longlived);
    if (ex->facts.longlived && !ex->tunnelled)
        wire_keepalive(stream_wire(ex->s));
    stream_send_relay(ex->s, &relay);
    if (!relay.ready)
        exchange_done(ex, true, CLOSE_NONE);
}

/* ------------------------------------------------------------------ our own answer */

static const struct {
    int status;
    const char *text;
} faults[] = {
    [FAULT_NO_BACKEND] = {503, "no backend is up"},
    [FAULT_QUEUE_FULL] = {503, "all backends are at their limits, and as many requests wait as may"},
    [FAULT_QUEUE_TIMEOUT] = {503, "all backends were at their limits for too long"},
    [FAULT_NO_MEMORY] = {503, "no memory for this request now"},
    [FAULT_NO_PORT] = {503, "no local port is free for a connection to the backend"},
    [FAULT_CONNECT] = {502, "the backend cannot be reached"},
    [FAULT_CONNECT_TIMEOUT] = {504, "the backend could not be reached in time"},
    [FAULT_TLS] = {502, "TLS with the backend failed; its certificate, or ours, is not good"},
    [FAULT_CLOSED] = {502, "the backend closed the connection before it answered"},
    [FAULT_DOWN] = {502, "the backend went down before it answered"},
    [FAULT_TIMEOUT] = {504, "the backend did not answer in time"},
    [FAULT_LOOP] = {508, "the request goes round: it has passed this service before (its backend, or the "
                         "backend of a backend, leads back to it), or 16 others"},
    [FAULT_BAD_ANSWER] = {502, "the backend's answer broke the rules of HTTP"},
};

/* An upload's session may be gone on with at another backend, or at this one in a moment: the client is to
 * ask. */
static int status_of(const struct exchange *ex, const struct attempt *a)
{
    bool session = ex->p.kind == PROXY_REGISTRY && view_present(ex->facts.affinity);
    bool gone = a->fault == FAULT_CONNECT || a->fault == FAULT_CONNECT_TIMEOUT || a->fault == FAULT_CLOSED ||
                a->fault == FAULT_DOWN;
    return session && gone ? 503 : faults[a->fault].status;
}

/* The text has no character that JSON would have to escape: a service's name is a label. */
static int write_error(struct exchange *ex, int status, const char *text)
{
    const char *form =
        ex->p.kind == PROXY_DOCKER ? "{\"message\":\"%s\"}\n"
        : ex->p.kind == PROXY_REGISTRY
            ? "{\"errors\":[{\"code\":\"UNAVAILABLE\",\"message\":\"%s\",\"detail\":null}]}\n"
        : ex->p.kind == PROXY_KUBERNETES
            ? "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\","
              "\"message\":\"%s\",\"reason\":\"%s\",\"code\":%d}\n"
            : "%s\n";
    const char *reason = status == 503 ? "ServiceUnavailable" : status == 504 ? "Timeout" : "InternalError";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    return snprintf(ex->head, ERROR_BYTES, form, text, reason, status);
#pragma GCC diagnostic pop
}

/* Of another handler's request. */
static enum proxy_refusal refusal_of(const struct attempt *a)
{
    switch (a->fault) {
    case FAULT_NO_BACKEND:
    case FAULT_CONNECT:
    case FAULT_CONNECT_TIMEOUT:
    case FAULT_TLS:
        return a->sent_any && !a->ex->facts.idempotent ? PROXY_BROKE : PROXY_AWAY;
    case FAULT_QUEUE_FULL:
    case FAULT_QUEUE_TIMEOUT:
    case FAULT_NO_MEMORY:
    case FAULT_NO_PORT:
        return a->sent_any ? PROXY_SLOW : PROXY_BUSY;
    case FAULT_CLOSED:
    case FAULT_DOWN:
        return PROXY_BROKE;
    default:
        return PROXY_SLOW;
    }
}

void exchange_refuse(struct exchange *ex, const struct attempt *a)
{
    const struct plan_service *service = exchange_service(ex);
    int status = status_of(ex, a);
    char text[ERROR_BYTES / 2 + 64];
    const char *why = a->fault == FAULT_BAD_ANSWER ? http_reject_text(a->reject.reason) : NULL;
    (void)snprintf(text, sizeof(text), "service %s: %s%s%s%s%s", service ? service->name : "(removed)",
                   faults[a->fault].text, ex->name[0] ? ": " : "", ex->name, why ? ": " : "", why ? why : "");
    hedge_end(ex);
    exchange_share_end(ex);
    ex->finished = true;
    if (ex->order.refuse) { /* once nothing is under way */
        ex->refused = true;
        ex->why = (uint8_t)refusal_of(a);
        return;
    }
    ex->answered = true;
    ring_count(ex->ring, CTR_PROXY_UNANSWERED, 1);
    struct http_response *res = stream_response(ex->s, status);
    bool json = ex->p.kind != PROXY_HTTP;
    http_response_field(res, "Content-Type", json ? VIEW_LIT("application/json") : VIEW_LIT("text/plain"));
    if (status == 503)
        http_response_field(res, "Retry-After", VIEW_LIT("1"));
    int n = write_error(ex, status, text);
    CHECK(n > 0 && n < ERROR_BYTES);
    stream_note_upstream(ex->s, ex->name, a->answer_us, ex->attempts);
    stream_send_bytes(ex->s, ex->head, (size_t)n);
}
