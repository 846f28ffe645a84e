/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An exchange that stops being one: the backend has switched to what the client asked for (docker exec and
 * attach, BuildKit's sessions, WebSocket, SPDY), or answers with Docker's raw stream. From then on the two
 * connections are a tunnel, like those of a service of kind tcp, and the exchange ends.
 */
#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/exchange.h"

bool exchange_stops_being_http(const struct exchange *ex)
{
    return ex->upgrade || ex->facts.hijack;
}

bool exchange_upgrades(const struct attempt *a)
{
    if (a->answer.status == 101)
        return true;
    return a->ex->facts.hijack && a->answer.status == 200 && a->answer.framing == HTTP_BODY_CLOSE;
}

/* What the client sent behind its request is the tunnel's. False: no memory for it. */
static bool take_early(struct exchange *ex)
{
    size_t len = stream_input_here(ex->s);
    uint8_t *at = len ? tcp_early(ex->tunnel, len) : NULL;
    if (at)
        CHECK(stream_input_take(ex->s, (char *)at, len) == len);
    return at || len == 0;
}

/* From here on nothing of the exchange is needed: neither its memory nor the stream's. */
static void begin(struct exchange *ex)
{
    struct stream *s = ex->s;
    struct attempt *a = &ex->attempt;
    struct proxy_header addresses;
    struct tcp *tunnel = ex->tunnel;
    const struct plan_service *service = stream_service(s);
    static const char gone[PLAN_NAME_MAX] = "";
    stream_addresses(s, &addresses);
    struct tcp_upgrade u = {
        .target = a->target,
        .upstream = attempt_hand_over(a),
        .p = &ex->p,
        .addresses = &addresses,
        .service = service ? service->name : gone,
        .backend = ex->name,
        .id = s->id,
        .idle_timeout_ms = ex->facts.longlived ? 0 : ex->p.idle_timeout_ms,
    };
    ex->tunnel = NULL;
    ex->finished = true;
    stream_hand_over(s, &u.client);
    ring_count(ex->ring, CTR_PROXY_TUNNELS, 1);
    tcp_upgraded(tunnel, &u);
    exchange_step_end(ex);
}

void exchange_tunnel_begin(struct stream *s)
{
    struct exchange *ex = s->ctx;
    ex->head_out = true;
    if (ex->aborted || ex->body_active || ex->finished || stream_gone(s))
        return;
    if (ex->attempt.up->out.inflight) /* it answered before it had all: attempt_sent comes back here */
        return;
    if (take_early(ex))
        begin(ex);
    else
        exchange_done(ex, false, CLOSE_NO_STREAM);
}

/* Reserved before the client is promised one. What the backend said behind its answer goes with that. */
bool exchange_tunnel(struct attempt *a, struct stream_relay *relay)
{
    struct exchange *ex = a->ex;
    ex->tunnel = tcp_reserve(ex->ring);
    if (!ex->tunnel)
        return false;
    ex->tunnelled = true;
    ex->content_early = attempt_early(a).len;
    relay->body = RELAY_TUNNEL;
    relay->content = attempt_early(a);
    relay->unlimited = true;
    relay->ready = exchange_tunnel_begin;
    return true;
}
