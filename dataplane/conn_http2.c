/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/2 by prior knowledge (RFC 9113, 3.3): a connection whose first bytes are its preface is a session. */
#include <string.h>

#include "dataplane/conn.h"
#include "dataplane/http2/http2.h"
#include "dataplane/ring.h"
#include "dataplane/stream_private.h"

enum { EARLY_MAX = STREAM_HEAD_BYTES + RECV_BUFFER_BYTES };

static bool speaks_http2(const struct conn *c)
{
    const struct plan_service *service = plan_service_of(c->ring->plan, c->service);
    return service && service->tls.http2 && !c->wire.over && c->requests == 0 && !c->ring->draining;
}

static bool is_preface(const char *bytes, size_t len)
{
    size_t line = sizeof("PRI * HTTP/2.0\r\n") - 1, n = len < HTTP2_PREFACE_LEN ? len : HTTP2_PREFACE_LEN;
    return len >= line && memcmp(bytes, HTTP2_PREFACE, n) == 0;
}

bool conn_becomes_session(struct conn *c, const char *head, size_t len, size_t seen)
{
    char early[EARLY_MAX];
    struct conn_peer peer = {.family = c->peer_family, .port = c->peer_port};
    size_t copied = len - seen, rest = c->input_len > copied ? c->input_len - copied : 0;
    if (!speaks_http2(c) || !is_preface(head, len) || len + rest > sizeof(early))
        return false;
    memcpy(peer.addr, c->peer, sizeof(peer.addr));
    memcpy(early, head, len);
    if (rest)
        memcpy(early + len, loop_buffer(c->ring->loop, c->input_buffer) + c->input_at + copied, rest);
    return h2_accepted(c->ring, &c->wire, c->service, c->peer_known ? &peer : NULL, early, len + rest);
}
