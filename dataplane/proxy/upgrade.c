/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An exchange that stops being one: the backend has switched to what the client asked for (docker exec and
 * attach, BuildKit's sessions, WebSocket, SPDY), or answers with Docker's raw stream. From then on the two
 * connections are a tunnel.
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

static void count_up(struct exchange *ex)
{
    uint64_t moved = ex->tunnel.up.moved;
    stream_count_received(ex->s, moved - ex->tunnel_counted);
    ex->tunnel_counted = moved;
}

/* A tunnel lives long, and needs nothing of what the request and its answer needed. */
static void make_thin(struct exchange *ex)
{
    if (ex->thin || pump_early_left(&ex->tunnel.up) || pump_early_left(&ex->tunnel.down))
        return;
    ex->thin = true;
    stream_thin(ex->s);
    pool_thin(ex->fields, sizeof(ex->fields) + sizeof(ex->head));
}

static void tunnel_look(struct tunnel *t)
{
    count_up(t->c.arg);
    make_thin(t->c.arg);
}

static void tunnel_done(struct tunnel *t, enum close_reason reason)
{
    struct exchange *ex = t->c.arg;
    count_up(ex);
    ex->relaying = false;
    ex->keep = false;
    exchange_done(ex, reason == CLOSE_TUNNEL_END, reason);
}

/* What the client sent behind its request is the tunnel's. False: no memory for it. */
static bool take_early(struct exchange *ex, struct view *early)
{
    size_t cap;
    char *at = exchange_room(ex, stream_input_here(ex->s), &cap);
    if (at)
        *early = view_of(at, stream_input_take(ex->s, at, cap));
    return at != NULL;
}

void exchange_tunnel_begin(struct stream *s)
{
    struct exchange *ex = s->ctx;
    struct attempt *a = &ex->attempt;
    struct view early;
    ex->head_out = true;
    if (ex->aborted || ex->body_active)
        return;
    if (!take_early(ex, &early)) {
        exchange_done(ex, false, CLOSE_NO_STREAM);
        return;
    }
    struct tunnel_config config = {
        .ring = ex->ring,
        .client = stream_wire(s),
        .server = &a->up->wire,
        .early_client = early,
        .early_server = attempt_early(a),
        .technique = (enum pump_technique)ex->p.technique,
        .idle_timeout_ms = ex->facts.longlived ? 0 : ex->p.idle_timeout_ms,
        .balance = ex->proxy->balance,
        .target = a->target,
        .done = tunnel_done,
        .look = tunnel_look,
        .arg = ex,
    };
    ring_count(ex->ring, CTR_PROXY_TUNNELS, 1);
    ex->relaying = true;
    tunnel_start(&ex->tunnel, &config);
}

void exchange_tunnel(struct attempt *a, struct stream_relay *relay)
{
    struct exchange *ex = a->ex;
    ex->tunnelled = true;
    relay->body = RELAY_TUNNEL;
    relay->pump = &ex->tunnel.down;
    relay->unlimited = true;
    relay->ready = exchange_tunnel_begin;
}
