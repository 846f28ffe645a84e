/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/tunnel.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/balance.h"

enum {
    LOOK_MS = 500,       /* between two looks at the verdict, the time, and ends that nobody reads from */
    LINGER_LOOK_MS = 64, /* at what has not arrived yet, */
    LINGER_MS = 10000,   /* for as long as some of it does now and then */
    KEEPALIVE_S = 30,    /* of silence, then every */
    KEEPALIVE_EACH_S = 10,
    KEEPALIVE_COUNT = 3, /* without an answer: broken */
};

/* ------------------------------------------------------------------ the sockets */

/* A peer that is gone without a word is noticed also when nobody has anything to say. */
static void keep_alive(const struct wire *w)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_EACH_S},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT},
    };
    for (size_t i = 0; w->fd >= 0 && i < ARRAY_SIZE(options); i++) /* a Unix socket knows none of it */
        (void)setsockopt(w->fd, options[i].level, options[i].name, &options[i].value,
                         sizeof(options[i].value));
}

void tunnel_reset_at_close(const struct wire *w)
{
    struct linger now = {.l_onoff = 1};
    if (w->fd >= 0)
        (void)setsockopt(w->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

/* ------------------------------------------------------------------ the end */

static void finish(struct tunnel *t)
{
    timer_clear(&t->timer);
    t->lingering = false;
    if (t->broken && t->down_end != PUMP_DONE)
        tunnel_reset_at_close(t->c.client);
    if (t->broken && t->up_end != PUMP_DONE)
        tunnel_reset_at_close(t->c.server);
    ring_count(t->c.ring, CTR_TUNNELS_OPEN, (uint64_t)-1);
    t->c.done(t, t->broken ? (enum close_reason)t->reason : CLOSE_TUNNEL_END);
}

static void break_off(struct tunnel *t, enum close_reason reason)
{
    if (!t->broken)
        t->reason = (uint8_t)reason;
    t->broken = true;
}

void tunnel_stop(struct tunnel *t, enum close_reason reason)
{
    if (!tunnel_active(t))
        return;
    break_off(t, reason);
    t->stopped = true; /* one that lingers ends at its next look */
    pump_stop(&t->up);
    pump_stop(&t->down);
}

/* What those who are there have not acknowledged yet. */
static size_t unsent_of(const struct tunnel *t)
{
    return (t->client_gone ? 0 : wire_unsent(t->c.client)) + (t->server_gone ? 0 : wire_unsent(t->c.server));
}

/*
 * Closing drops what is on its way, where it is a reset or where there is input that nobody has read. So this
 * waits until it has arrived, within bounds.
 */
static void linger(struct timer *timer, uint64_t now_ms)
{
    struct tunnel *t = container_of(timer, struct tunnel, timer);
    size_t unsent = unsent_of(t);
    if (unsent != t->unsent || !t->lingering)
        t->unsent_ms = now_ms;
    t->unsent = unsent;
    t->lingering = unsent && !t->stopped && now_ms < t->unsent_ms + LINGER_MS;
    if (t->lingering)
        timer_set(&t->c.ring->wheel, timer, now_ms + LINGER_LOOK_MS);
    else
        finish(t);
}

static void both_ended(struct tunnel *t)
{
    timer_clear(&t->timer);
    t->timer.fire = linger;
    if ((t->up_end != PUMP_DONE || t->down_end != PUMP_DONE) && !t->stopped)
        linger(&t->timer, ring_now_ms(t->c.ring));
    else
        finish(t);
}

/* What an end that takes no more had sent before can still be read: that direction goes on until it ends. */
static void pump_ended(struct pump *p, enum pump_end end, int err)
{
    struct tunnel *t = p->c.arg;
    bool up = p == &t->up, by_client = up == (end != PUMP_SINK_ERROR);
    struct pump *other = up ? &t->down : &t->up;
    (void)err;
    *(up ? &t->up_end : &t->down_end) = (uint8_t)end;
    if (end == PUMP_DONE)
        wire_shutdown(p->c.to);
    if (end != PUMP_DONE && end != PUMP_STOPPED) {
        break_off(t, by_client ? CLOSE_CLIENT_ABORT : CLOSE_BACKEND_LOST);
        *(by_client ? &t->client_gone : &t->server_gone) = true;
    }
    if (end == PUMP_SOURCE_ERROR)
        pump_stop(other);
    if (!pump_active(other))
        both_ended(t);
}

/* ------------------------------------------------------------------ time */

static uint64_t latest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t progress_ms(const struct tunnel *t)
{
    return latest(latest(t->up.progress_ms, t->up.sink_progress_ms),
                  latest(t->down.progress_ms, t->down.sink_progress_ms));
}

/* There is nobody any more to whom that direction goes: a good end, if nothing was on its way there. */
static void lost(struct tunnel *t, struct pump *to, enum close_reason reason)
{
    if (pump_waits_for_sink(to))
        break_off(t, reason);
    pump_stop(to);
}

/* Both directions may go on: neither end has gone. Else the one that is left is ended. */
static void look_at_ends(struct tunnel *t)
{
    if (!pump_active(&t->up) && wire_broken(t->c.client)) {
        t->client_gone = true;
        lost(t, &t->down, CLOSE_CLIENT_ABORT);
    } else if (!pump_active(&t->down) && wire_broken(t->c.server)) {
        t->server_gone = true;
        lost(t, &t->up, CLOSE_BACKEND_LOST);
    }
}

static bool idle_too_long(const struct tunnel *t, uint64_t now_ms)
{
    bool half = !pump_active(&t->up) || !pump_active(&t->down);
    uint32_t most_ms = half && t->c.half_closed_ms ? t->c.half_closed_ms : t->c.idle_timeout_ms;
    return most_ms && now_ms >= progress_ms(t) + most_ms;
}

static void look(struct timer *timer, uint64_t now_ms)
{
    struct tunnel *t = container_of(timer, struct tunnel, timer);
    if (t->c.look)
        t->c.look(t);
    if (t->c.target && balance_is_down(t->c.balance, t->c.target))
        tunnel_stop(t, CLOSE_BACKEND_DOWN);
    else if (idle_too_long(t, now_ms))
        tunnel_stop(t, CLOSE_TUNNEL_IDLE);
    else
        look_at_ends(t);
    timer_set(&t->c.ring->wheel, timer, now_ms + LOOK_MS);
}

/* ------------------------------------------------------------------ the beginning */

static void start_pump(struct tunnel *t, struct pump *p, struct wire *from, struct wire *to,
                       struct view early)
{
    struct pump_config c = {.ring = t->c.ring,
                            .from = from,
                            .to = to,
                            .in = PUMP_RAW,
                            .out = PUMP_RAW,
                            .early = early,
                            .technique = t->c.technique,
                            .done = pump_ended,
                            .arg = t};
    pump_start(p, &c);
}

void tunnel_start(struct tunnel *t, const struct tunnel_config *config)
{
    t->c = *config;
    t->timer = (struct timer){.fire = look};
    t->reason = CLOSE_NONE;
    t->up_end = t->down_end = PUMP_STOPPED;
    t->broken = t->stopped = t->lingering = t->client_gone = t->server_gone = false;
    t->unsent = 0;
    keep_alive(config->client);
    keep_alive(config->server);
    ring_count(config->ring, CTR_TUNNELS_OPEN, 1);
    start_pump(t, &t->up, config->client, config->server, config->early_client);
    start_pump(t, &t->down, config->server, config->client, config->early_server);
    timer_set(&config->ring->wheel, &t->timer, ring_now_ms(config->ring) + LOOK_MS);
}

const char *tunnel_technique_name(const struct tunnel *t)
{
    const char *up = pump_technique_name(&t->up), *down = pump_technique_name(&t->down);
    if (t->up.moved == 0 || strcmp(up, down) == 0)
        return down;
    return t->down.moved ? "mixed" : up;
}
