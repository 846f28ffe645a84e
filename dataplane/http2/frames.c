/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What nghttp2 tells of the frames that come and go. Nothing here asks it for output; what these functions
 * begin (a request, a completion) is carried on by the end of the batch.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/http2/session.h"

static struct h2_stream *stream_of(struct h2_session *s, int32_t id)
{
    return nghttp2_session_get_stream_user_data(s->ng, id);
}

/* ------------------------------------------------------------------ blocks of fields */

void h2_head_drop(struct h2_session *s)
{
    if (s->head_memory)
        pool_give(&s->h->heads, s->head_memory);
    s->head_memory = NULL;
    s->head_stream = 0;
    s->head_since_ms = 0;
}

static enum h2_kind block_kind(const struct h2_session *s, const struct h2_stream *st)
{
    if (!st)
        return H2_REQUEST;
    return s->client && !st->final_head ? H2_RESPONSE : H2_TRAILERS;
}

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    struct h2_session *s = user;
    struct h2_stream *st = stream_of(s, frame->hd.stream_id);
    struct http_limits limits = {
        .header_bytes_max = (uint32_t)ring_setting(s->ring, SET_HTTP_HEADER_BYTES_MAX),
        .headers_max = (uint32_t)ring_setting(s->ring, SET_HTTP_HEADERS_MAX),
        .target_bytes_max = (uint32_t)ring_setting(s->ring, SET_HTTP_TARGET_BYTES_MAX),
    };
    (void)ng;
    h2_head_drop(s);
    if (frame->hd.type != NGHTTP2_HEADERS || (s->client && !st))
        return 0;
    s->head_memory = pool_take(&s->h->heads);
    CHECK(s->head_memory); /* there is one for each session */
    s->head_stream = frame->hd.stream_id;
    s->head_since_ms = ring_now_ms(s->ring);
    h2_head_begin(&s->head, block_kind(s, st), st && st->head_request, &limits, s->head_memory,
                  HEADER_BYTES_CEILING);
    h2_session_time(s);
    return 0;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name, size_t name_len,
                     const uint8_t *value, size_t value_len, uint8_t flags, void *user)
{
    struct h2_session *s = user;
    (void)ng;
    (void)flags;
    if (!s->head_memory || s->head_stream != frame->hd.stream_id)
        return 0;
    h2_head_field(&s->head, view_of((const char *)name, name_len), view_of((const char *)value, value_len));
    /* What goes on far beyond the limit is made to cost memory and time: 64 times what is sent. */
    if (s->head.list_bytes > 4 * (uint64_t)s->head.limits.header_bytes_max + HEADER_BYTES_CEILING) {
        s->guard.reason = s->guard.reason ? s->guard.reason : (uint8_t)CLOSE_H2_HEADERS;
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

/* nghttp2 would leave such a field out; it makes the message malformed. */
static int on_invalid_header(nghttp2_session *ng, const nghttp2_frame *frame, const uint8_t *name,
                             size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                             void *user)
{
    struct h2_session *s = user;
    (void)ng;
    (void)flags;
    if (s->head_memory && s->head_stream == frame->hd.stream_id)
        h2_head_field(&s->head, view_of((const char *)name, name_len),
                      view_of((const char *)value, value_len));
    return 0;
}

static void refuse(struct h2_session *s, int32_t id, uint32_t code)
{
    ring_count(s->ring, CTR_REQUESTS_REFUSED, 1);
    (void)nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, id, code);
}

static void answer_head(struct h2_session *s, struct h2_stream *st, bool end_stream)
{
    enum h2_fault fault = h2_head_end(&s->head, end_stream);
    if (fault || !h2_queue_put(st, s->head.buf, s->head.len)) {
        h2_stream_reset(st, fault ? NGHTTP2_PROTOCOL_ERROR : NGHTTP2_INTERNAL_ERROR);
        st->in_error = st->in_error ? st->in_error : -EPROTO;
        h2_stream_input(st);
        return;
    }
    st->final_head = s->head.status >= 200;
    st->framing = s->head.framing;
    st->end_received = end_stream && st->final_head;
    h2_stream_input(st);
}

static void end_content(struct h2_stream *st, const char *trailers, size_t len)
{
    bool ok = true;
    if (st->framing == H2_FRAMING_CHUNKED) {
        ok = h2_queue_put(st, "0\r\n", 3);
        ok = ok && (len ? h2_queue_put(st, trailers, len) : h2_queue_put(st, "\r\n", 2));
    }
    if (ok)
        st->end_received = true;
    else
        h2_stream_reset(st, NGHTTP2_INTERNAL_ERROR);
    h2_stream_input(st);
}

static void trailers_end(struct h2_session *s, struct h2_stream *st, bool end_stream)
{
    if (h2_head_end(&s->head, end_stream)) {
        refuse(s, st->id, NGHTTP2_PROTOCOL_ERROR);
        return;
    }
    end_content(st, s->head.buf, s->head.len);
}

static void headers_end(struct h2_session *s, const nghttp2_frame *frame)
{
    bool end_stream = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    struct h2_stream *st = stream_of(s, frame->hd.stream_id);
    if (!s->head_memory || s->head_stream != frame->hd.stream_id)
        return;
    h2_guard_work(&s->guard);
    if (!st && !s->client)
        h2_request_begin(s, frame->hd.stream_id, end_stream);
    else if (st && s->head.kind == H2_RESPONSE)
        answer_head(s, st, end_stream);
    else if (st)
        trailers_end(s, st, end_stream);
    h2_head_drop(s);
    h2_session_time(s);
}

/* ------------------------------------------------------------------ frames */

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *data, size_t len,
                   void *user)
{
    struct h2_session *s = user;
    struct h2_stream *st = stream_of(s, id);
    (void)flags;
    h2_guard_work(&s->guard);
    if (!st || st->released || st->end_received || st->framing == H2_FRAMING_NONE) {
        (void)nghttp2_session_consume(ng, id, len);
        return 0;
    }
    if (!h2_queue_content(st, data, len)) {
        ring_count(s->ring, CTR_BUFFERS_EXHAUSTED, 1);
        h2_stream_reset(st, NGHTTP2_INTERNAL_ERROR);
        return 0;
    }
    h2_stream_input(st);
    return 0;
}

/* The peer's windows have grown, or what it said about them has changed. */
static void windows_changed(struct h2_session *s)
{
    h2_session_ready(s);
}

static int on_frame(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    struct h2_session *s = user;
    struct h2_stream *st;
    (void)ng;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        headers_end(s, frame);
        return 0;
    case NGHTTP2_DATA:
        st = stream_of(s, frame->hd.stream_id);
        if (st && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) && !st->end_received)
            end_content(st, NULL, 0);
        return 0;
    case NGHTTP2_GOAWAY:
        s->peer_goaway = true;
        s->tell_changed = true;
        return 0;
    case NGHTTP2_SETTINGS:
        s->tell_changed = true;
        windows_changed(s);
        return 0;
    case NGHTTP2_WINDOW_UPDATE:
        windows_changed(s);
        return 0;
    case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) && s->goaway_at_ms) { /* the peer has seen the notice */
            s->goaway_at_ms = ring_now_ms(s->ring);
            h2_session_time(s);
        }
        return 0;
    default:
        return 0;
    }
}

/* A stream that the peer made wrong, and that is reset for it. */
static int on_invalid_frame(nghttp2_session *ng, const nghttp2_frame *frame, int error, void *user)
{
    struct h2_session *s = user;
    struct h2_stream *st = stream_of(s, frame->hd.stream_id);
    (void)ng;
    (void)error;
    if (!s->client)
        ring_count(s->ring, CTR_REQUESTS_REFUSED, 1);
    if (st && s->client && !st->in_error)
        st->in_error = -EPROTO;
    return 0;
}

/* After the end of an answer: whether the rest of the request is still coming, and for nothing. */
static bool stop_peer(const struct h2_session *s, const struct h2_stream *st, int32_t id)
{
    if (st)
        return st->stop_wanted && !st->end_received;
    return !s->client && nghttp2_session_get_stream_remote_close(s->ng, id) == 0;
}

static int on_frame_sent(nghttp2_session *ng, const nghttp2_frame *frame, void *user)
{
    struct h2_session *s = user;
    struct h2_stream *st;
    /* Towards a backend it is most often a client that has left: not the backend's doing. */
    if (frame->hd.type == NGHTTP2_RST_STREAM && frame->rst_stream.error_code != NGHTTP2_NO_ERROR &&
        !s->client)
        h2_guard_note(&s->guard, H2_ABUSE_RESETS, ring_now_ms(s->ring));
    /* Frames of a byte, too: where several streams share a connection's window, and the peer opens it as it
     * reads, such rests come about by themselves. */
    if (frame->hd.type == NGHTTP2_DATA || (s->client && frame->hd.type == NGHTTP2_HEADERS))
        h2_guard_work(&s->guard);
    if (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    bool end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    st = stream_of(s, frame->hd.stream_id);
    if (st) {
        st->head_out = true;
        st->end_sent = end;
    }
    if (end && stop_peer(s, st, frame->hd.stream_id))
        (void)nghttp2_submit_rst_stream(ng, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
}

static int on_stream_close(nghttp2_session *ng, int32_t id, uint32_t code, void *user)
{
    struct h2_session *s = user;
    struct h2_stream *st = stream_of(s, id);
    int error = -ECONNRESET;
    if (s->head_stream == id)
        h2_head_drop(s);
    if (!st)
        return 0;
    if (s->client && (code == NGHTTP2_REFUSED_STREAM || !st->head_out))
        error = H2_UNPROCESSED;
    (void)nghttp2_session_set_stream_user_data(ng, id, NULL);
    h2_stream_gone(st, error);
    return 0;
}

nghttp2_session_callbacks *h2_callbacks_new(void)
{
    nghttp2_session_callbacks *c = NULL;
    if (nghttp2_session_callbacks_new(&c))
        return NULL;
    nghttp2_session_callbacks_set_on_begin_headers_callback(c, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(c, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(c, on_invalid_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(c, on_invalid_frame);
    nghttp2_session_callbacks_set_on_frame_send_callback(c, on_frame_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(c, on_stream_close);
    nghttp2_session_callbacks_set_send_data_callback(c, h2_send_data);
    return c;
}
