/* SPDX-License-Identifier: Apache-2.0 */
/* Clients' sessions: each request gets a connection (conn.h) on its stream. */
#include <string.h>
#include <sys/socket.h>

#include "dataplane/http/number.h"
#include "dataplane/http2/session.h"

/* An answer without content, in place of what the request would have got. */
static void answer_only(struct h2_session *s, int32_t id, const char *status)
{
    nghttp2_nv nv[] = {
        {(uint8_t *)(uintptr_t) ":status", (uint8_t *)(uintptr_t)status, 7, strlen(status), 0},
        {(uint8_t *)(uintptr_t) "content-length", (uint8_t *)(uintptr_t) "0", 14, 1, 0},
    };
    ring_count(s->ring, CTR_REQUESTS_REFUSED, 1);
    ring_count(s->ring, status[0] == '4' ? CTR_RESPONSES_4XX : CTR_RESPONSES_5XX, 1);
    (void)nghttp2_submit_response(s->ng, id, nv, 2, NULL);
}

static void turn_away(struct h2_session *s, int32_t id, enum h2_fault fault)
{
    switch (fault) {
    case H2_FAULT_TOO_LARGE:
        answer_only(s, id, "431");
        return;
    case H2_FAULT_TARGET_TOO_LONG:
        answer_only(s, id, "414");
        return;
    case H2_FAULT_CONNECT:
        answer_only(s, id, "501");
        return;
    default:
        ring_count(s->ring, CTR_REQUESTS_REFUSED, 1);
        (void)nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, id, NGHTTP2_PROTOCOL_ERROR);
        return;
    }
}

/* RFC 9113, 8.7: nothing was done with it, the client may try again. */
static void refuse(struct h2_session *s, int32_t id)
{
    ring_count(s->ring, CTR_H2_REFUSED, 1);
    (void)nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, id, NGHTTP2_REFUSED_STREAM);
}

static bool has_room(const struct h2_session *s)
{
    const struct pool *p = &s->ring->streams;
    return !s->stale && s->stream_count < s->streams_max && p->used < p->count;
}

void h2_request_begin(struct h2_session *s, int32_t id, bool end_stream)
{
    enum h2_fault fault = h2_head_end(&s->head, end_stream);
    if (fault) {
        turn_away(s, id, fault);
        return;
    }
    struct h2_stream *st = has_room(s) ? h2_stream_make(s, id) : NULL;
    if (!st) {
        refuse(s, id);
        return;
    }
    (void)nghttp2_session_set_stream_user_data(s->ng, id, st);
    st->framing = s->head.framing;
    st->end_received = end_stream;
    st->final_head = true;
    st->reader.head_request = s->head.head_request;
    if (++s->requests >= ring_setting(s->ring, SET_HTTP_REQUESTS_MAX))
        h2_session_drain(s);
    struct wire wire = {.loop = s->ring->loop, .over = &st->over, .fd = -1};
    if (!conn_start(s->ring, &wire, s->service, &s->peer, s->head.buf, s->head.len)) {
        refuse(s, id);
        st->released = true; /* goes when nghttp2 has closed it */
    }
}

static void peer_learn(int fd, struct conn_peer *peer)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    if (fd < 0 || getpeername(fd, (struct sockaddr *)&ss, &len))
        return;
    peer->family = (uint8_t)ss.ss_family;
    if (ss.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&ss;
        memcpy(peer->addr, &in->sin_addr, 4);
        peer->port = ntohs(in->sin_port);
    } else if (ss.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)&ss;
        memcpy(peer->addr, &in->sin6_addr, 16);
        peer->port = ntohs(in->sin6_port);
    }
}

bool h2_accepted(struct ring *ring, const struct wire *wire, uint16_t service, const struct conn_peer *peer,
                 const void *early, size_t early_len)
{
    struct h2_session *s = h2_session_make(ring->http2, wire, false);
    if (!s)
        return false;
    s->service = service;
    /* A client that vanished under streams which say nothing is found out by nobody else. */
    wire_keepalive(&s->wire);
    if (peer)
        s->peer = *peer;
    else
        peer_learn(wire->fd, &s->peer);
    if (early_len)
        h2_session_feed(s, early, early_len);
    s->input_due = true;
    h2_session_ready(s);
    return true;
}
