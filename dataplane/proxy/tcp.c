/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"
#include "dataplane/access.h"
#include "dataplane/conn.h"
#include "dataplane/ring.h"
#include "dataplane/http/proxy_header.h"
#include "dataplane/proxy/balance.h"
#include "dataplane/proxy/proxy.h"
#include "dataplane/proxy/tunnel.h"
#include "dataplane/proxy/upstream.h"

enum { TRIED_MAX = 8, TRIM_MOST = 64 };

enum tcp_state {
    TCP_RESERVED,
    TCP_CHOOSE,  /* waits in the service's queue, or not for long */
    TCP_CONNECT, /* to the target */
    TCP_OPEN,
    TCP_CLOSING, /* the client's socket is being closed */
};

struct tcp {
    struct tcp *next, **prev; /* in tcp_ring.list */
    struct ring *ring;
    struct wire client;
    struct upstream *taking, *upstream;
    struct target *target;           /* chosen: counts a request of ours */
    struct target *tried[TRIED_MAX]; /* held */
    struct balance_waiter waiter;
    struct timer timer; /* of the queue */
    struct op close_op;
    uint8_t *early; /* a small buffer; NULL: none */
    size_t early_len;
    struct proxy_header addresses;
    uint64_t id, start_us, open_us;
    uint64_t counted_in, counted_out;
    uint32_t retries, queue_max, queue_timeout_ms, idle_timeout_ms, half_closed_ms, incarnation;
    uint16_t service;
    uint8_t technique, policy, tried_count;
    uint8_t state;  /* enum tcp_state */
    uint8_t reason; /* enum close_reason, once it closes */
    char name[PLAN_NAME_MAX], backend[PLAN_NAME_MAX];
    struct tunnel tunnel;
};

struct tcp_ring {
    struct pool pool;
    struct tcp *list;
};

static void choose(struct tcp *t, bool retry);

int tcp_ring_new(struct ring *ring, struct tcp_ring **out)
{
    struct tcp_ring *tr = calloc(1, sizeof(*tr));
    if (!tr)
        return -ENOMEM;
    int err = pool_init(&tr->pool, sizeof(struct tcp), (uint32_t)ring_setting(ring, SET_PROXY_TUNNELS_MAX));
    if (err) {
        free(tr);
        return err;
    }
    *out = tr;
    return 0;
}

void tcp_ring_free(struct tcp_ring *tr)
{
    pool_fini(&tr->pool);
    free(tr);
}

static void list_enter(struct tcp *t)
{
    struct tcp_ring *tr = t->ring->tcp;
    t->next = tr->list;
    t->prev = &tr->list;
    if (t->next)
        t->next->prev = &t->next;
    tr->list = t;
}

static struct balance *balance_of(const struct tcp *t)
{
    return t->ring->proxy->balance;
}

/* ------------------------------------------------------------------ books */

static void client_text(const struct tcp *t, char out[SOURCE_TEXT_MAX])
{
    const struct proxy_header *a = &t->addresses;
    char text[INET6_ADDRSTRLEN] = "?";
    if (a->family != PROXY_HEADER_NONE)
        (void)inet_ntop(a->family == PROXY_HEADER_IPV4 ? AF_INET : AF_INET6, a->source, text, sizeof(text));
    (void)snprintf(out, SOURCE_TEXT_MAX, a->family == PROXY_HEADER_IPV6 ? "[%s]:%u" : "%s:%u", text,
                   a->source_port);
}

static void log_it(struct tcp *t)
{
    char client[SOURCE_TEXT_MAX];
    uint64_t now_us = loop_clock_us();
    client_text(t, client);
    struct access_tunnel line = {
        .id = t->id,
        .client = client,
        .service = t->name,
        .backend = t->backend,
        .bytes_in = t->tunnel.up.moved,
        .bytes_out = t->tunnel.down.moved,
        .connect_us = t->open_us ? t->open_us - t->start_us : 0,
        .duration_us = now_us - t->start_us,
        .attempts = t->tried_count + (t->open_us != 0),
        .technique = t->open_us ? tunnel_technique_name(&t->tunnel) : "none",
        .reason = t->reason,
    };
    access_log_tunnel(t->ring, &line);
}

static void count(struct tunnel *tunnel)
{
    struct tcp *t = tunnel->c.arg;
    uint64_t in = tunnel->up.moved - t->counted_in, out = tunnel->down.moved - t->counted_out;
    t->counted_in += in;
    t->counted_out += out;
    ring_count(t->ring, CTR_BYTES_RECEIVED, in);
    ring_count(t->ring, CTR_BYTES_SENT, out);
    target_count(t->target, TARGET_BYTES_TO, in);
    target_count(t->target, TARGET_BYTES_FROM, out);
}

/* ------------------------------------------------------------------ the end */

static void early_drop(struct tcp *t)
{
    if (t->early)
        buffers_give(t->ring, t->early);
    t->early = NULL;
}

static void closed(struct op *op, const struct event *ev)
{
    struct tcp *t = container_of(op, struct tcp, close_op);
    (void)ev;
    log_it(t);
    early_drop(t);
    for (unsigned i = 0; i < t->tried_count; i++)
        target_put(balance_of(t), t->tried[i]);
    *t->prev = t->next;
    if (t->next)
        t->next->prev = t->prev;
    pool_give(&t->ring->tcp->pool, t);
}

static void target_done(struct tcp *t, enum balance_outcome outcome)
{
    struct target *target = t->target;
    t->target = NULL;
    if (target)
        balance_finish(balance_of(t), target, outcome, 0, ring_now_ms(t->ring));
}

/* Nothing of the tunnel is under way any more, or there never was one. */
static void tcp_close(struct tcp *t, enum close_reason reason, enum balance_outcome outcome)
{
    counter_add(&t->ring->counters->closed[reason], 1);
    t->state = TCP_CLOSING;
    t->reason = (uint8_t)reason;
    timer_clear(&t->timer);
    balance_leave(balance_of(t), &t->waiter);
    if (t->taking)
        upstream_forget(t->taking);
    if (t->upstream)
        upstream_give(t->upstream, false);
    t->taking = t->upstream = NULL;
    target_done(t, outcome);
    wire_close(&t->client, &t->close_op);
}

/* Without any answer of a backend: the client is to see that there was none. */
static void refuse(struct tcp *t, enum close_reason reason)
{
    tunnel_reset_at_close(&t->client);
    tcp_close(t, reason, BALANCE_CANCELLED);
}

static void tunnel_done(struct tunnel *tunnel, enum close_reason reason)
{
    struct tcp *t = tunnel->c.arg;
    bool failed = reason == CLOSE_BACKEND_LOST || reason == CLOSE_BACKEND_DOWN;
    count(tunnel);
    tcp_close(t, reason, failed ? BALANCE_FAILED : BALANCE_GOOD);
}

void tcp_drain_end(struct ring *ring)
{
    for (struct tcp *t = ring->tcp->list, *next; t; t = next) {
        next = t->next;
        if (t->state == TCP_OPEN)
            tunnel_stop(&t->tunnel, CLOSE_DRAIN_TIMEOUT);
        else if (t->state != TCP_CLOSING)
            refuse(t, CLOSE_DRAIN_TIMEOUT);
    }
}

bool tcp_idle(const struct ring *ring)
{
    return !ring->tcp->list;
}

void tcp_tick(struct ring *ring)
{
    pool_trim(&ring->tcp->pool, TRIM_MOST);
}

/* ------------------------------------------------------------------ the connection to a backend */

static void look(struct tunnel *tunnel)
{
    struct tcp *t = tunnel->c.arg;
    count(tunnel);
    if (pump_early_left(&tunnel->up) == 0)
        early_drop(t);
}

static void open_tunnel(struct tcp *t, struct upstream *u)
{
    t->upstream = u;
    t->state = TCP_OPEN;
    t->open_us = loop_clock_us();
    struct tunnel_config c = {
        .ring = t->ring,
        .client = &t->client,
        .server = &u->wire,
        .early_client = view_of((const char *)t->early, t->early_len),
        .technique = (enum pump_technique)t->technique,
        .idle_timeout_ms = t->idle_timeout_ms,
        .half_closed_ms = t->half_closed_ms,
        .balance = balance_of(t),
        .target = t->target,
        .done = tunnel_done,
        .look = look,
        .arg = t,
    };
    tunnel_start(&t->tunnel, &c);
    if (pump_early_left(&t->tunnel.up) == 0)
        early_drop(t);
}

static void unreachable(struct tcp *t, enum balance_outcome blame)
{
    if (t->tried_count < TRIED_MAX)
        t->tried[t->tried_count++] = target_get(t->target);
    target_done(t, blame);
    if (t->tried_count > t->retries || t->tried_count == TRIED_MAX) {
        refuse(t, blame == BALANCE_CANCELLED ? CLOSE_UPSTREAM_SHORTAGE : CLOSE_BACKEND_UNREACHABLE);
        return;
    }
    ring_count(t->ring, CTR_PROXY_RETRIES, 1);
    choose(t, true);
}

static void got(struct upstream *u, int err, void *arg)
{
    struct tcp *t = arg;
    t->taking = NULL;
    if (u)
        open_tunnel(t, u);
    else
        unreachable(t, upstream_blame(err)); /* whatever it was, nothing was sent */
}

/* As the plan says now; NULL: it is gone. */
static const struct plan_service *service_of(const struct tcp *t)
{
    const struct plan_service *s = plan_service_of(t->ring->plan, t->service);
    return s && s->incarnation == t->incarnation ? s : NULL;
}

static void connect_to(struct tcp *t, const struct plan_service *s)
{
    t->state = TCP_CONNECT;
    memcpy(t->backend, t->target->where.name, sizeof(t->backend));
    t->taking =
        upstream_take(t->ring->proxy->upstreams, t->target, s, t->service, &t->addresses, false, got, t);
    if (!t->taking)
        refuse(t, CLOSE_NO_CONNECTION);
}

/* ------------------------------------------------------------------ the choice */

static void queue_too_long(struct timer *timer, uint64_t now_ms)
{
    (void)now_ms;
    refuse(container_of(timer, struct tcp, timer), CLOSE_BACKENDS_BUSY);
}

static void woken(struct balance_waiter *w)
{
    choose(container_of(w, struct tcp, waiter), false);
}

static void wait_in_queue(struct tcp *t)
{
    t->waiter.wake = woken;
    if (!balance_wait(balance_of(t), t->service, &t->waiter, t->queue_max))
        refuse(t, CLOSE_BACKENDS_BUSY);
    else if (!timer_is_set(&t->timer))
        timer_set(&t->ring->wheel, &t->timer, ring_now_ms(t->ring) + t->queue_timeout_ms);
}

static void choose(struct tcp *t, bool retry)
{
    const struct plan_service *s = service_of(t);
    enum balance_why why;
    size_t key_len = t->addresses.family == PROXY_HEADER_IPV4 ? 4 : 16;
    t->state = TCP_CHOOSE;
    if (!s) {
        refuse(t, CLOSE_SERVICE_GONE);
        return;
    }
    struct balance_ask ask = {
        .service = s,
        .service_index = t->service,
        .key = view_of((const char *)t->addresses.source, t->policy == PROXY_MAGLEV ? key_len : 0),
        .random = proxy_random(t->ring->proxy),
        .now_ms = ring_now_ms(t->ring),
        .tried = (const struct target *const *)t->tried,
        .tried_count = t->tried_count,
        .retry = retry,
        .free = true, /* nothing was sent */
    };
    t->target = balance_choose(balance_of(t), &ask, &why);
    if (!t->target && why == BALANCE_BUSY) {
        wait_in_queue(t);
        return;
    }
    timer_clear(&t->timer);
    if (t->target)
        connect_to(t, s);
    else
        refuse(t, t->tried_count ? CLOSE_BACKEND_UNREACHABLE : CLOSE_NO_BACKEND);
}

/* ------------------------------------------------------------------ upgraded */

struct tcp *tcp_reserve(struct ring *ring)
{
    struct tcp *t = pool_take(&ring->tcp->pool);
    if (!t) {
        ring_count(ring, CTR_BUFFERS_EXHAUSTED, 1);
        return NULL;
    }
    memset(t, 0, sizeof(*t));
    t->ring = ring;
    t->state = TCP_RESERVED;
    return t;
}

void tcp_unreserve(struct tcp *t)
{
    CHECK(t->state == TCP_RESERVED);
    early_drop(t);
    pool_give(&t->ring->tcp->pool, t);
}

uint8_t *tcp_early(struct tcp *t, size_t len)
{
    uint32_t capacity;
    CHECK(t->state == TCP_RESERVED && !t->early);
    t->early = buffers_take(t->ring, len, &capacity);
    if (t->early && capacity < len)
        early_drop(t);
    if (!t->early)
        ring_count(t->ring, CTR_BUFFERS_EXHAUSTED, 1);
    t->early_len = t->early ? len : 0;
    return t->early;
}

void tcp_upgraded(struct tcp *t, const struct tcp_upgrade *u)
{
    CHECK(t->state == TCP_RESERVED);
    t->client = u->client;
    t->close_op.done = closed;
    t->target = u->target;
    t->addresses = *u->addresses;
    t->id = u->id;
    t->start_us = loop_clock_us();
    t->technique = u->p->technique;
    t->idle_timeout_ms = u->idle_timeout_ms;
    t->half_closed_ms = u->p->half_closed_ms;
    memcpy(t->name, u->service, sizeof(t->name));
    memcpy(t->backend, u->backend, sizeof(t->backend));
    list_enter(t);
    open_tunnel(t, u->upstream);
}

/* ------------------------------------------------------------------ in */

bool tcp_serves(const struct plan_service *s)
{
    return s->kind == SERVICE_PROXY && (s->proxy.kind == PROXY_TCP || s->tls.mode == PLAN_TLS_PASSTHROUGH);
}

static uint8_t address_learn(const struct sockaddr_storage *ss, uint8_t *addr, uint16_t *port)
{
    if (ss->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)ss;
        memcpy(addr, &in->sin_addr, 4);
        *port = ntohs(in->sin_port);
        return PROXY_HEADER_IPV4;
    }
    if (ss->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)ss;
        memcpy(addr, &in->sin6_addr, 16);
        *port = ntohs(in->sin6_port);
        return PROXY_HEADER_IPV6;
    }
    return PROXY_HEADER_NONE;
}

static void addresses_learn(const struct wire *wire, const struct conn_peer *known, struct proxy_header *out)
{
    struct sockaddr_storage peer = {0}, local = {0};
    socklen_t peer_len = sizeof(peer), local_len = sizeof(local);
    *out = (struct proxy_header){.family = PROXY_HEADER_NONE};
    if (wire->fd >= 0 && getsockname(wire->fd, (struct sockaddr *)&local, &local_len) == 0)
        (void)address_learn(&local, out->destination, &out->destination_port);
    if (known) {
        out->family = known->family == AF_INET ? PROXY_HEADER_IPV4 : PROXY_HEADER_IPV6;
        memcpy(out->source, known->addr, sizeof(out->source));
        out->source_port = known->port;
    } else if (wire->fd >= 0 && getpeername(wire->fd, (struct sockaddr *)&peer, &peer_len) == 0) {
        out->family = address_learn(&peer, out->source, &out->source_port);
    }
}

static struct tcp *tcp_open(struct ring *ring, const struct wire *wire, const struct plan_service *s,
                            uint16_t service)
{
    struct tcp_ring *tr = ring->tcp;
    struct tcp *t = pool_take(&tr->pool);
    if (!t)
        return NULL;
    memset(t, 0, sizeof(*t));
    t->ring = ring;
    t->client = *wire;
    t->close_op.done = closed;
    t->timer.fire = queue_too_long;
    t->id = ++ring->next_id << 8 | ring->index;
    t->start_us = loop_clock_us();
    t->service = service;
    t->incarnation = s->incarnation;
    t->retries = s->proxy.retries;
    t->queue_max = s->proxy.queue_max;
    t->queue_timeout_ms = s->proxy.queue_timeout_ms;
    t->idle_timeout_ms = s->proxy.idle_timeout_ms;
    t->half_closed_ms = s->proxy.half_closed_ms;
    t->technique = s->proxy.technique;
    t->policy = s->proxy.policy;
    memcpy(t->name, s->name, sizeof(t->name));
    list_enter(t);
    return t;
}

bool tcp_accepted(struct ring *ring, const struct wire *wire, uint16_t service, const struct conn_peer *peer,
                  const void *early, size_t early_len)
{
    const struct plan_service *s = plan_service_of(ring->plan, service);
    uint32_t capacity;
    uint8_t *buffer = early_len ? buffers_take(ring, 0, &capacity) : NULL;
    struct tcp *t = s && early_len <= SMALL_BUFFER_BYTES && (buffer || !early_len)
                        ? tcp_open(ring, wire, s, service)
                        : NULL;
    if (!t) {
        ring_count(ring, CTR_BUFFERS_EXHAUSTED, 1);
        if (buffer)
            buffers_give(ring, buffer);
        return false;
    }
    addresses_learn(wire, peer, &t->addresses);
    t->early = buffer;
    t->early_len = early_len;
    if (early_len)
        memcpy(buffer, early, early_len);
    choose(t, false);
    return true;
}
