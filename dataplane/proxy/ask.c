/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/ask.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/pool.h"
#include "dataplane/ring.h"

enum { TRIM_MOST = 64 };

enum state {
    ASK_IDLE,    /* taken, not started */
    ASK_CONNECT, /* got comes */
    ASK_SEND,    /* an order is under way */
    ASK_RECV,    /* an order is under way */
    ASK_ANSWERED,
    ASK_FAILED,
};

struct asks {
    struct ring *ring;
    struct balance *balance;
    struct upstreams *upstreams;
    struct pool pool;
    struct http_field fields[REQUEST_FIELDS_MAX]; /* of the answer being looked at */
};

int asks_new(struct ring *ring, struct balance *balance, struct upstreams *upstreams, struct asks **out)
{
    struct asks *asks = calloc(1, sizeof(*asks));
    if (!asks)
        return -ENOMEM;
    *asks = (struct asks){.ring = ring, .balance = balance, .upstreams = upstreams};
    int err = pool_init(&asks->pool, sizeof(struct ask), ASKS_MAX);
    if (err) {
        free(asks);
        return err;
    }
    *out = asks;
    return 0;
}

void asks_free(struct asks *asks)
{
    pool_fini(&asks->pool);
    free(asks);
}

void asks_tick(struct asks *asks)
{
    pool_trim(&asks->pool, TRIM_MOST);
}

struct ask *ask_take(struct asks *asks)
{
    struct ask *a = pool_take(&asks->pool);
    if (!a)
        return NULL;
    memset(a, 0, offsetof(struct ask, buffer));
    a->asks = asks;
    return a;
}

/* ------------------------------------------------------------------ the end */

static void let_go(struct ask *a, enum balance_outcome outcome)
{
    timer_clear(&a->timer);
    if (a->upstream)
        upstream_give(a->upstream, false);
    if (a->target)
        balance_finish(a->asks->balance, a->target, outcome, 0, ring_now_ms(a->asks->ring));
    a->upstream = NULL;
    a->target = NULL;
}

static void fail(struct ask *a, int err, enum balance_outcome outcome)
{
    let_go(a, outcome);
    a->state = ASK_FAILED;
    a->done(a, err);
}

static void free_dropped(struct ask *a)
{
    let_go(a, BALANCE_CANCELLED);
    pool_give(&a->asks->pool, a);
}

/* Not connected yet: what it has is a handle, not a connection; NULL if there was no memory for one. */
static void forget(struct ask *a)
{
    if (a->upstream)
        upstream_forget(a->upstream);
    a->upstream = NULL;
}

void ask_release(struct ask *a)
{
    CHECK(a->state == ASK_ANSWERED && a->upstream);
    a->upstream = NULL;
    a->target = NULL;
}

void ask_refuse(struct ask *a, enum balance_outcome outcome)
{
    CHECK(a->state == ASK_ANSWERED);
    let_go(a, outcome);
}

void ask_drop(struct ask *a)
{
    timer_clear(&a->timer);
    if (a->state == ASK_CONNECT)
        forget(a);
    if (a->state != ASK_SEND && a->state != ASK_RECV) {
        free_dropped(a);
        return;
    }
    a->dropped = true;
    wire_cancel(&a->upstream->wire, a->state == ASK_SEND ? &a->upstream->out : &a->upstream->in);
}

/* ------------------------------------------------------------------ the connection */

static void got(struct upstream *u, int err, void *arg);

static void connect_new(struct ask *a, const struct plan_service *service)
{
    struct asks *asks = a->asks;
    const struct proxy_header *client = a->for_client ? &a->client : NULL;
    a->state = ASK_CONNECT;
    a->upstream = upstream_take(asks->upstreams, a->target, service, a->service_index, client, false, got, a);
    if (!a->upstream) /* no memory: the timer, which is due at once, says so */
        timer_set(&asks->ring->wheel, &a->timer, ring_now_ms(asks->ring));
}

/* ------------------------------------------------------------------ the answer */

/* A kept connection may still be watched: then that is waited for first. */
static void receive(struct ask *a)
{
    a->state = ASK_RECV;
    if (!a->upstream->in.inflight)
        wire_recv_into(&a->upstream->wire, &a->upstream->in, a->buffer + a->len, ASK_BYTES - a->len, 0);
}

/* The next head in the buffer: 1, 0 (more is needed), or -errno. Interim answers are passed over. */
static int read_head(struct ask *a)
{
    static const struct http_limits limits = {.header_bytes_max = ASK_BYTES,
                                              .headers_max = REQUEST_FIELDS_MAX};
    for (;;) {
        struct http_reject reject;
        const char *from = (const char *)a->buffer + a->at;
        a->answer = (struct http_answer){.fields = a->asks->fields, .fields_max = REQUEST_FIELDS_MAX};
        ssize_t used =
            http_answer_read(from, a->len - a->at, a->last_len, &limits, a->method, &a->answer, &reject);
        if (used == -EAGAIN && a->len < ASK_BYTES) {
            a->last_len = a->len - a->at;
            return 0;
        }
        if (used <= 0 || a->answer.status == 101)
            return -EBADMSG;
        a->at += (size_t)used;
        a->last_len = 0;
        if (a->answer.status >= 200) {
            a->all = view_of(from, a->len - (size_t)(from - (const char *)a->buffer));
            return 1;
        }
    }
}

/* Kept, and closed by the backend meanwhile: the same question again, on a new connection. */
static bool repeat(struct ask *a)
{
    const struct plan_service *service = plan_service_of(a->asks->ring->plan, a->service_index);
    if (!a->upstream->reused || a->repeated || a->got_any || !service ||
        service->incarnation != a->incarnation)
        return false;
    ring_count(a->asks->ring, CTR_UPSTREAM_STALE, 1);
    upstream_give(a->upstream, false);
    a->repeated = true;
    a->len = a->request_bytes;
    a->at = 0;
    connect_new(a, service);
    return true;
}

static void received(struct op *op, const struct event *ev)
{
    struct upstream *u = container_of(op, struct upstream, in);
    struct ask *a = u->user;
    if (a->dropped) {
        free_dropped(a);
        return;
    }
    if (ev->res <= 0 && ev->res != -ECANCELED && repeat(a))
        return;
    a->got_any = true;
    if (ev->res <= 0) {
        fail(a, ev->res ? ev->res : -ECONNRESET, BALANCE_FAILED);
        return;
    }
    a->len += (size_t)ev->res;
    int got = read_head(a);
    if (got < 0) {
        fail(a, got, BALANCE_FAILED);
    } else if (got == 0) {
        receive(a);
    } else {
        timer_clear(&a->timer);
        a->state = ASK_ANSWERED;
        a->latency_us = loop_clock_us() - a->began_us;
        a->early = view_of((const char *)a->buffer + a->at, a->len - a->at);
        a->done(a, 0);
    }
}

/* ------------------------------------------------------------------ the question */

static void send_rest(struct ask *a)
{
    a->state = ASK_SEND;
    wire_send(&a->upstream->wire, &a->upstream->out, a->buffer + a->at, a->len - a->at, 0);
}

/* The watch over a kept connection has ended. */
static void readable(struct op *op, const struct event *ev)
{
    struct ask *a = container_of(op, struct upstream, in)->user;
    a->upstream->in.done = received;
    if (a->state != ASK_RECV) /* what it is about is received when the question is out */
        return;
    if (a->dropped || ev->res < 0)
        received(op, ev);
    else
        receive(a);
}

static void sent(struct op *op, const struct event *ev)
{
    struct upstream *u = container_of(op, struct upstream, out);
    struct ask *a = u->user;
    if (a->dropped) {
        free_dropped(a);
        return;
    }
    if (ev->res <= 0 && ev->res != -ECANCELED && repeat(a))
        return;
    if (ev->res <= 0) {
        fail(a, ev->res ? ev->res : -EPIPE, BALANCE_FAILED);
        return;
    }
    a->at += (size_t)ev->res;
    if (a->at < a->len) {
        send_rest(a);
        return;
    }
    a->len = a->at = 0; /* the answer takes the request's place */
    receive(a);
}

static void got(struct upstream *u, int err, void *arg)
{
    struct ask *a = arg;
    a->upstream = u;
    if (err) {
        fail(a, err, upstream_blame(err));
        return;
    }
    u->user = a;
    u->out.done = sent;
    u->in.done = received;
    send_rest(a);
}

/* The order under way completes, and with it the ask. */
static void expired(struct timer *t, uint64_t now_ms)
{
    struct ask *a = container_of(t, struct ask, timer);
    (void)now_ms;
    if (a->state == ASK_CONNECT) {
        enum balance_outcome outcome = a->upstream ? BALANCE_UNREACHABLE : BALANCE_CANCELLED;
        forget(a);
        fail(a, -ETIMEDOUT, outcome);
        return;
    }
    wire_cancel(&a->upstream->wire, a->state == ASK_SEND ? &a->upstream->out : &a->upstream->in);
}

/* One that an answer was read to its end on, in HTTP/1.1: over HTTP/2 all share a session anyway. */
static bool take_kept(struct ask *a, const struct plan_service *service)
{
    struct upstream *u = NULL;
    if (service->proxy.backend_http == 2)
        return false;
    while ((u = upstream_idle(a->asks->upstreams, a->target, service, false)) != NULL && upstream_stale(u))
        upstream_give(u, false);
    if (!u)
        return false;
    a->upstream = u;
    u->user = a;
    u->out.done = sent;
    u->in.done = u->in.inflight ? readable : received;
    send_rest(a);
    return true;
}

void ask_start(struct ask *a, const struct ask_config *c)
{
    struct asks *asks = a->asks;
    CHECK(a->state == ASK_IDLE && c->request_bytes <= ASK_BYTES);
    a->target = c->target;
    a->len = c->request_bytes;
    a->method = c->method;
    a->done = c->done;
    a->arg = c->arg;
    a->service_index = c->service_index;
    a->incarnation = c->service->incarnation;
    a->request_bytes = c->request_bytes;
    a->began_us = loop_clock_us();
    a->for_client = c->client != NULL;
    if (c->client)
        a->client = *c->client;
    a->timer.fire = expired;
    a->state = ASK_CONNECT;
    timer_set(&asks->ring->wheel, &a->timer, ring_now_ms(asks->ring) + c->timeout_ms);
    if (!take_kept(a, c->service))
        connect_new(a, c->service);
}
