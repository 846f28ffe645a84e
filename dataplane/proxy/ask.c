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

/* ------------------------------------------------------------------ the answer */

static void receive(struct ask *a)
{
    a->state = ASK_RECV;
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

static void received(struct op *op, const struct event *ev)
{
    struct upstream *u = container_of(op, struct upstream, in);
    struct ask *a = u->user;
    if (a->dropped) {
        free_dropped(a);
        return;
    }
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

static void sent(struct op *op, const struct event *ev)
{
    struct upstream *u = container_of(op, struct upstream, out);
    struct ask *a = u->user;
    if (a->dropped) {
        free_dropped(a);
        return;
    }
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
        fail(a, err, BALANCE_UNREACHABLE);
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

void ask_start(struct ask *a, const struct ask_config *c)
{
    struct asks *asks = a->asks;
    CHECK(a->state == ASK_IDLE && c->request_bytes <= ASK_BYTES);
    a->target = c->target;
    a->len = c->request_bytes;
    a->method = c->method;
    a->done = c->done;
    a->arg = c->arg;
    a->began_us = loop_clock_us();
    a->timer.fire = expired;
    a->state = ASK_CONNECT;
    timer_set(&asks->ring->wheel, &a->timer, ring_now_ms(asks->ring) + c->timeout_ms);
    a->upstream = upstream_take(asks->upstreams, c->target, c->service, c->service_index, c->client, got, a);
    if (!a->upstream) /* no memory: the timer, which is due at once, says so */
        timer_set(&asks->ring->wheel, &a->timer, ring_now_ms(asks->ring));
}
