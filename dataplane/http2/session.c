/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session's life, in either role. Its end has three steps, so that the peer learns why: GOAWAY goes out,
 * then this side's end of the stream of bytes, while what still comes is read and dropped, then the wire is
 * closed.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/http2/session.h"

enum { PING_BYTES = 8 };

static const uint8_t may_move[] = {
    [H2_OPEN] = 1 << H2_CLOSING | 1 << H2_GONE,
    [H2_CLOSING] = 1 << H2_LINGER | 1 << H2_GONE,
    [H2_LINGER] = 1 << H2_GONE,
    [H2_GONE] = 0,
};

static void session_move(struct h2_session *s, enum h2_session_state to)
{
    CHECK(may_move[s->state] & 1 << to);
    s->state = (uint8_t)to;
}

/* ------------------------------------------------------------------ beginning */

static void expired(struct timer *t, uint64_t now_ms);

static void count_open(struct h2_session *s, int change)
{
    ring_count(s->ring, CTR_H2_SESSIONS_OPEN, (uint64_t)(int64_t)change);
    if (s->client)
        return;
    s->h->accepted += (uint32_t)change;
    ring_count(s->ring, CTR_CONNECTIONS_OPEN, (uint64_t)(int64_t)change);
}

static void link_session(struct h2_session *s)
{
    s->next = s->h->session_list;
    s->prev = &s->h->session_list;
    if (s->next)
        s->next->prev = &s->next;
    s->h->session_list = s;
    ring_count(s->ring, CTR_H2_SESSIONS, 1);
    count_open(s, 1);
}

static int submit_settings(struct h2_session *s)
{
    nghttp2_settings_entry entry[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, s->client ? 0 : s->streams_max},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)ring_setting(s->ring, SET_HTTP_HEADER_BYTES_MAX)},
        {s->client ? NGHTTP2_SETTINGS_ENABLE_PUSH : NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES,
         s->client ? 0 : 1},
    };
    int err = nghttp2_submit_settings(s->ng, NGHTTP2_FLAG_NONE, entry, ARRAY_SIZE(entry));
    if (!err)
        err = nghttp2_session_set_local_window_size(s->ng, NGHTTP2_FLAG_NONE, 0, H2_SESSION_WINDOW);
    return err;
}

static int start_nghttp2(struct h2_session *s)
{
    nghttp2_mem mem = h2_memory_for(&s->allowance);
    int err = s->client ? nghttp2_session_client_new3(&s->ng, s->h->callbacks, s, s->h->client_option, &mem)
                        : nghttp2_session_server_new3(&s->ng, s->h->callbacks, s, s->h->server_option, &mem);
    if (err)
        return err;
    err = submit_settings(s);
    if (err)
        nghttp2_session_del(s->ng);
    return err;
}

/* nghttp2 copies each head, and makes a block of it when its turn comes. What waits towards a backend is
 * ours, of many clients: there is memory for as many of the largest heads as there may be streams. A client
 * that lets large answers wait is another matter. */
static size_t allowance(const struct h2_session *s)
{
    size_t head = (size_t)ring_setting(s->ring, SET_HTTP_HEADER_BYTES_MAX);
    size_t stream = H2_ALLOWANCE_STREAM + (s->client ? H2_ALLOWANCE_REQUEST * head : 0);
    return H2_ALLOWANCE_BASE + H2_ALLOWANCE_HEADS * head + s->streams_max * stream;
}

struct h2_session *h2_session_make(struct http2 *h, const struct wire *wire, bool client)
{
    struct h2_session *s = pool_take(&h->sessions);
    if (!s)
        return NULL;
    memset(s, 0, sizeof(*s));
    s->h = h;
    s->ring = h->ring;
    s->wire = *wire;
    s->client = client;
    s->streams_max = (uint32_t)ring_setting(h->ring, SET_HTTP2_STREAMS_MAX);
    s->allowance.memory = &h->memory;
    s->allowance.most = allowance(s);
    s->idle_since_ms = ring_now_ms(h->ring);
    h2_guard_init(&s->guard, client, s->idle_since_ms);
    s->timer.fire = expired;
    h2_session_io_init(s);
    if (start_nghttp2(s)) {
        pool_give(&h->sessions, s);
        return NULL;
    }
    link_session(s);
    h2_session_time(s);
    h2_session_ready(s);
    return s;
}

void h2_session_ready(struct h2_session *s)
{
    if (s->in_ready)
        return;
    s->in_ready = true;
    s->next_ready = NULL;
    *s->h->ready_tail = s;
    s->h->ready_tail = &s->next_ready;
}

void h2_session_count_stream(struct h2_session *s, int change)
{
    s->stream_count += (uint32_t)change;
    ring_count(s->ring, CTR_H2_STREAMS_OPEN, (uint64_t)(int64_t)change);
    if (change > 0)
        ring_count(s->ring, CTR_H2_STREAMS, 1);
    if (change < 0 && s->user.changed) {
        s->tell_changed = true;
        h2_session_ready(s);
    }
    if (s->stream_count)
        return;
    s->idle_since_ms = ring_now_ms(s->ring);
    h2_session_time(s);
    h2_session_ready(s);
}

/* ------------------------------------------------------------------ the end */

static void orphan_streams(struct h2_session *s, int error)
{
    h2_head_drop(s);
    while (s->streams) {
        struct h2_stream *st = s->streams;
        bool unprocessed = s->client && !st->head_out;
        if (st->open)
            (void)nghttp2_session_set_stream_user_data(s->ng, st->id, NULL);
        h2_stream_orphan(st, unprocessed ? H2_UNPROCESSED : error);
    }
}

static void begin_end(struct h2_session *s, enum close_reason reason)
{
    s->reason = (uint8_t)reason;
    counter_add(&s->ring->counters->closed[reason], 1);
    h2_session_moisten(s);
    orphan_streams(s, -ECONNRESET);
}

void h2_session_close(struct h2_session *s, enum close_reason reason, uint32_t code)
{
    if (s->state != H2_OPEN)
        return;
    session_move(s, H2_CLOSING);
    begin_end(s, reason);
    s->close_by_ms = ring_now_ms(s->ring) + ring_setting(s->ring, SET_HTTP_LINGER_TIMEOUT);
    s->allowance.most += H2_ALLOWANCE_BASE; /* for these last words */
    if (nghttp2_session_terminate_session(s->ng, code))
        h2_session_lost(s, reason);
    h2_session_time(s);
    h2_session_ready(s);
}

void h2_session_lost(struct h2_session *s, enum close_reason reason)
{
    if (s->state == H2_GONE)
        return;
    bool open = s->state == H2_OPEN;
    session_move(s, H2_GONE);
    if (open)
        begin_end(s, reason);
    timer_clear(&s->timer);
    wire_cancel(&s->wire, &s->in);
    wire_cancel(&s->wire, &s->out);
    h2_session_ready(s); /* the last steps are its turn's */
}

static enum close_reason reason_of(const struct h2_session *s, int ng_error)
{
    if (s->allowance.exhausted)
        return CLOSE_H2_MEMORY;
    if (s->guard.reason)
        return s->guard.reason;
    if (ng_error == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS)
        return CLOSE_H2_HEADERS;
    if (ng_error == NGHTTP2_ERR_FLOODED)
        return CLOSE_H2_CONTROL;
    return CLOSE_H2_ERROR;
}

void h2_session_fail(struct h2_session *s, int ng_error)
{
    enum close_reason reason = reason_of(s, ng_error);
    if (s->state != H2_OPEN || ng_error == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
        h2_session_lost(s, reason);
    else
        h2_session_close(s, reason,
                         reason == CLOSE_H2_ERROR ? NGHTTP2_PROTOCOL_ERROR : NGHTTP2_ENHANCE_YOUR_CALM);
}

/* nghttp2 has said GOAWAY for good, or both sides have no more to say. */
static void ended(struct h2_session *s)
{
    enum close_reason reason = CLOSE_H2_ERROR;
    if (s->ring->draining || s->draining)
        reason = s->client ? CLOSE_H2_STREAM : CLOSE_DRAIN;
    else if (s->guard.reason)
        reason = s->guard.reason;
    else if (s->peer_goaway)
        reason = CLOSE_H2_GOAWAY;
    h2_session_close(s, reason, NGHTTP2_NO_ERROR);
}

void h2_session_flushed(struct h2_session *s)
{
    if (s->state == H2_OPEN && s->last_goaway && s->stream_count == 0)
        h2_session_close(s, s->client ? CLOSE_H2_STREAM : CLOSE_DRAIN, NGHTTP2_NO_ERROR);
    else if (s->state == H2_OPEN && !nghttp2_session_want_read(s->ng) && !nghttp2_session_want_write(s->ng))
        ended(s);
    if (s->state != H2_CLOSING || nghttp2_session_want_write(s->ng))
        return;
    session_move(s, H2_LINGER);
    wire_shutdown(&s->wire);
    h2_session_wait_input(s);
}

static void free_session(struct h2_session *s)
{
    struct h2_user user = s->user;
    struct http2 *h = s->h;
    enum close_reason reason = s->reason;
    nghttp2_session_del(s->ng);
    h2_session_out_drop(s);
    *s->prev = s->next;
    if (s->next)
        s->next->prev = s->prev;
    count_open(s, -1);
    if (user.gone)
        user.gone(user.arg, s, reason);
    pool_give(&h->sessions, s);
}

void h2_session_step_gone(struct h2_session *s)
{
    if (s->state != H2_GONE || s->in.inflight || s->out.inflight || s->in_ready)
        return;
    if (!s->wire_closed) {
        s->wire_closed = true;
        wire_close(&s->wire, &s->out);
        return;
    }
    free_session(s);
}

/* ------------------------------------------------------------------ draining */

/* RFC 9113, 6.8: first a notice, so that requests which are on their way are still taken. */
void h2_session_drain(struct h2_session *s)
{
    static const uint8_t opaque[PING_BYTES] = "drain";
    if (s->state != H2_OPEN || s->draining)
        return;
    s->draining = true;
    if (s->client) {
        s->last_goaway = true;
    } else {
        (void)nghttp2_submit_shutdown_notice(s->ng);
        (void)nghttp2_submit_ping(s->ng, NGHTTP2_FLAG_NONE, opaque);
        s->goaway_at_ms = ring_now_ms(s->ring) + H2_DRAIN_MS;
    }
    h2_session_time(s);
    h2_session_ready(s);
}

static void last_goaway(struct h2_session *s)
{
    s->goaway_at_ms = 0;
    s->last_goaway = true;
    (void)nghttp2_submit_goaway(s->ng, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(s->ng),
                                NGHTTP2_NO_ERROR, NULL, 0);
    h2_session_ready(s);
}

/* ------------------------------------------------------------------ time */

static uint64_t after(const struct h2_session *s, uint64_t since, enum setting_id setting)
{
    return since ? since + ring_setting(s->ring, setting) : UINT64_MAX;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t head_deadline(const struct h2_session *s)
{
    uint64_t since = s->guard.begun || s->client ? s->head_since_ms : s->idle_since_ms;
    return after(s, since, SET_HTTP_HEADER_TIMEOUT);
}

static uint64_t idle_deadline(const struct h2_session *s)
{
    enum setting_id setting = s->client ? SET_PROXY_IDLE_TIMEOUT : SET_HTTP_IDLE_TIMEOUT;
    return s->stream_count ? UINT64_MAX : after(s, s->idle_since_ms, setting);
}

void h2_session_time(struct h2_session *s)
{
    uint64_t at = s->close_by_ms;
    if (s->state == H2_GONE)
        return;
    if (s->state == H2_OPEN) {
        at = least(head_deadline(s), idle_deadline(s));
        at = least(at, after(s, s->out_since_ms, SET_HTTP_SEND_TIMEOUT));
        at = least(at, s->goaway_at_ms ? s->goaway_at_ms : UINT64_MAX);
        at = least(at, h2_rooms_deadline(s));
    }
    if (at != UINT64_MAX)
        timer_set(&s->ring->wheel, &s->timer, at);
}

static void expired(struct timer *t, uint64_t now_ms)
{
    struct h2_session *s = container_of(t, struct h2_session, timer);
    if (s->state != H2_OPEN)
        h2_session_lost(s, s->reason);
    else if (now_ms >= after(s, s->out_since_ms, SET_HTTP_SEND_TIMEOUT))
        h2_session_lost(s, CLOSE_SEND_TIMEOUT);
    else if (now_ms >= head_deadline(s))
        h2_session_close(s, CLOSE_HEADER_TIMEOUT, NGHTTP2_NO_ERROR);
    else if (now_ms >= idle_deadline(s))
        h2_session_close(s, CLOSE_IDLE, NGHTTP2_NO_ERROR);
    else if (s->goaway_at_ms && now_ms >= s->goaway_at_ms)
        last_goaway(s);
    else if (now_ms >= h2_rooms_deadline(s))
        h2_rooms_expire(s);
    h2_session_time(s);
}
