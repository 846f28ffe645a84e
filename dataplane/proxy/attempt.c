/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One attempt to have a request answered by one backend: chosen, connected, asked, until the head of its
 * answer is here. What to do about a failure is not decided here.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/http2/http2.h"
#include "dataplane/proxy/exchange.h"

static void attempt_choose(struct attempt *a);
static void attempt_connect(struct attempt *a);
static void attempt_queue(struct attempt *a);

/* An answer that makes a tunnel may be out before the request is. */
static void tunnel_waits(struct attempt *a)
{
    if (a->ex->tunnelled && a->ex->head_out)
        exchange_tunnel_begin(a->ex->s);
}

void attempt_init(struct attempt *a, struct exchange *ex)
{
    *a = (struct attempt){.ex = ex};
    a->buf = ex->head;
    a->cap = sizeof(ex->head);
    a->answer.fields = ex->fields;
    a->answer.fields_max = ANSWER_FIELDS;
}

bool attempt_quiet(const struct attempt *a)
{
    return a->state == ATTEMPT_IDLE;
}

void attempt_release(struct attempt *a)
{
    struct proxy *proxy = a->ex->proxy;
    CHECK(a->state == ATTEMPT_IDLE && !a->up);
    if (a->large)
        pool_give(&a->ex->ring->heads, a->buf);
    if (a->target)
        target_put(proxy->balance, a->target);
    a->target = NULL;
}

/* ------------------------------------------------------------------ the end */

static void target_done(struct attempt *a, enum balance_outcome outcome)
{
    struct exchange *ex = a->ex;
    if (!a->chosen)
        return;
    a->chosen = false;
    if (a->relay)
        balance_relayed(a->target);
    a->relay = false;
    balance_finish(ex->proxy->balance, a->target, outcome, a->answer_us, ring_now_ms(ex->ring));
}

static void asked_enter(struct attempt *a)
{
    struct proxy *p = a->ex->proxy;
    a->next_asked = p->asked;
    a->prev_asked = &p->asked;
    if (a->next_asked)
        a->next_asked->prev_asked = &a->next_asked;
    p->asked = a;
}

static void asked_leave(struct attempt *a)
{
    if (!a->prev_asked)
        return;
    *a->prev_asked = a->next_asked;
    if (a->next_asked)
        a->next_asked->prev_asked = a->prev_asked;
    a->prev_asked = NULL;
}

/* The connection's way out, once nothing of ours is under way on it: the request's head is sent from our
 * memory, its body by a pump that has an order on the connection. */
static void leave(struct attempt *a, bool keep)
{
    struct upstream *u = a->up;
    timer_clear(&a->timer);
    asked_leave(a);
    if (u && (u->out.inflight || a->ex->body_active)) {
        a->state = ATTEMPT_LEAVING;
        if (u->out.inflight)
            wire_cancel(&u->wire, &u->out);
        if (a->ex->body_active)
            pump_stop(&a->ex->request);
        return;
    }
    a->up = NULL;
    a->state = ATTEMPT_IDLE;
    if (u)
        upstream_give(u, keep);
}

void attempt_end(struct attempt *a, bool keep, enum balance_outcome outcome)
{
    if (a->state == ATTEMPT_IDLE)
        return;
    if (a->state == ATTEMPT_LEAVING) {
        target_done(a, outcome); /* not again, either */
        return;
    }
    if (a->taking)
        upstream_forget(a->taking);
    a->taking = NULL;
    balance_leave(a->ex->proxy->balance, &a->waiter);
    target_done(a, outcome);
    leave(a, keep && a->state == ATTEMPT_ANSWERED);
}

struct upstream *attempt_hand_over(struct attempt *a)
{
    struct upstream *u = a->up;
    CHECK(a->state == ATTEMPT_ANSWERED && a->chosen && !u->in.inflight && !u->out.inflight);
    a->up = NULL;
    a->chosen = false;
    a->state = ATTEMPT_IDLE;
    return u;
}

/* A kept connection that the backend closed meanwhile says nothing about it: the same again on a new one. */
static bool is_stale(const struct attempt *a, enum fault fault)
{
    return fault == FAULT_CLOSED && a->on_reused && !a->got_any && exchange_may_repeat(a->ex, a);
}

static void repeat(struct attempt *a)
{
    ring_count(a->ex->ring, CTR_UPSTREAM_STALE, 1);
    a->fresh = true;
    leave(a, false);
    if (a->state == ATTEMPT_IDLE)
        attempt_connect(a);
}

static void fail_as(struct attempt *a, enum fault fault, enum balance_outcome outcome)
{
    a->fault = (uint8_t)fault;
    attempt_end(a, false, outcome);
    if (a->state == ATTEMPT_IDLE)
        a->ask.failed(a);
}

static void fail(struct attempt *a, enum fault fault)
{
    bool ours = fault == FAULT_NO_MEMORY || fault == FAULT_NO_BACKEND;
    if (is_stale(a, fault))
        repeat(a);
    else
        fail_as(a, fault, ours ? BALANCE_CANCELLED : BALANCE_FAILED);
}

static void left(struct attempt *a)
{
    leave(a, false);
    if (a->state == ATTEMPT_LEAVING)
        return;
    if (a->chosen)
        attempt_connect(a);
    else if (a->fault)
        a->ask.failed(a);
    else
        exchange_step_end(a->ex);
}

bool attempt_body_ended(struct attempt *a)
{
    if (a->state != ATTEMPT_LEAVING)
        return false;
    left(a);
    return true;
}

/* ------------------------------------------------------------------ time */

static void attempt_timer(struct timer *t, uint64_t now_ms);

static void set_timer(struct attempt *a, uint64_t after_ms)
{
    a->timer.fire = attempt_timer;
    timer_set(&a->ex->ring->wheel, &a->timer, ring_now_ms(a->ex->ring) + after_ms);
}

/* A body that still comes keeps the answer from being due; one that the backend does not take does not. */
static void attempt_timer(struct timer *t, uint64_t now_ms)
{
    struct attempt *a = container_of(t, struct attempt, timer);
    struct exchange *ex = a->ex;
    uint64_t stuck_ms = ex->body_active ? exchange_body_stuck_ms(ex) : 0;
    if (a->state == ATTEMPT_QUEUED)
        fail(a, FAULT_QUEUE_TIMEOUT);
    else if (ex->body_active && (!stuck_ms || now_ms < stuck_ms + ex->p.response_timeout_ms))
        set_timer(a, ex->p.response_timeout_ms);
    else
        fail(a, FAULT_TIMEOUT);
}

void attempt_deadline(struct attempt *a)
{
    const struct exchange *ex = a->ex;
    if (a->state == ATTEMPT_WAIT && !ex->facts.longlived && !ex->upgrade && ex->p.response_timeout_ms)
        set_timer(a, exchange_body_complete(ex) ? ex->answer_timeout_ms : ex->p.response_timeout_ms);
}

/* ------------------------------------------------------------------ the answer's head */

struct view attempt_early(const struct attempt *a)
{
    return view_of(a->buf + a->used, a->len - a->used);
}

static int grow(struct attempt *a)
{
    struct ring *ring = a->ex->ring;
    char *large = a->large ? NULL : pool_take(&ring->heads);
    if (!large)
        return -ENOBUFS;
    memcpy(large, a->buf, a->len);
    a->buf = large;
    a->cap = HEADER_BYTES_CEILING;
    a->large = true;
    return 0;
}

/* Not one of them is waited for until its time is up, or for ever. */
void attempts_look(struct proxy *p)
{
    for (struct attempt *a = p->asked, *next; a; a = next) {
        next = a->next_asked;
        if (balance_is_down(p->balance, a->target))
            fail(a, FAULT_DOWN);
    }
}

static struct http_limits answer_limits(const struct ring *ring)
{
    return (struct http_limits){
        .header_bytes_max = (uint32_t)ring_setting(ring, SET_HTTP_HEADER_BYTES_MAX),
        .headers_max = ANSWER_FIELDS,
    };
}

/* An interim answer: the real one follows it. */
static bool take_interim(struct attempt *a)
{
    if (++a->interims > INTERIM_MAX) {
        a->reject = (struct http_reject){502, HTTP_REJECT_INFORMATIONAL_FLOOD};
        return false;
    }
    exchange_interim(a);
    a->len -= a->used;
    memmove(a->buf, a->buf + a->used, a->len);
    a->used = a->seen = 0;
    return true;
}

/* 1: an answer is here; 0: more is needed; -EBADMSG. */
static int read_answer(struct attempt *a)
{
    struct http_limits limits = answer_limits(a->ex->ring);
    for (;;) {
        ssize_t used =
            http_answer_read(a->buf, a->len, a->seen, &limits, a->ex->s->req.method, &a->answer, &a->reject);
        if (used == -EAGAIN) {
            a->seen = a->len;
            return 0;
        }
        if (used < 0)
            return -EBADMSG;
        a->used = (size_t)used;
        if (a->answer.status >= 200 || a->answer.status == 101)
            return 1;
        if (!take_interim(a))
            return -EBADMSG;
    }
}

static void answered(struct attempt *a)
{
    timer_clear(&a->timer);
    asked_leave(a);
    a->state = ATTEMPT_ANSWERED;
    a->answer_us = loop_clock_us() - a->start_us;
    if (a->answer_us == 0)
        a->answer_us = 1;
    a->ask.answered(a);
}

static void bad_answer(struct attempt *a)
{
    ring_count(a->ex->ring, CTR_PROXY_BAD_ANSWERS, 1);
    fail(a, FAULT_BAD_ANSWER);
}

static void attempt_readable(struct op *op, const struct event *ev)
{
    struct attempt *a = container_of(op, struct upstream, in)->user;
    (void)ev; /* what it is about, the receive will tell */
    while (a->state == ATTEMPT_WAIT) {
        if (a->len == a->cap && grow(a)) {
            fail(a, FAULT_NO_MEMORY);
            return;
        }
        ssize_t n = wire_recv_now(&a->up->wire, a->buf + a->len, a->cap - a->len);
        if (n == -EAGAIN) {
            wire_poll(&a->up->wire, &a->up->in, POLLIN);
            return;
        }
        if (n <= 0) {
            if (n == H2_UNPROCESSED) /* the backend says so: as if it had never got it */
                a->sent_any = false;
            fail(a, FAULT_CLOSED);
            return;
        }
        a->got_any = true;
        a->len += (size_t)n;
        int ret = read_answer(a);
        if (ret) {
            ret > 0 ? answered(a) : bad_answer(a);
            return;
        }
    }
}

/* ------------------------------------------------------------------ the request */

static void send_request(struct attempt *a)
{
    struct upstream *u = a->up;
    if (a->iov[1].iov_len == 0) {
        wire_send(&u->wire, &u->out, a->iov[0].iov_base, a->iov[0].iov_len, 0);
        return;
    }
    a->msg = (struct msghdr){.msg_iov = a->iov, .msg_iovlen = 2};
    wire_sendmsg(&u->wire, &u->out, &a->msg, 0);
}

static void request_skip(struct attempt *a, size_t n)
{
    for (int i = 0; i < 2; i++) {
        size_t part = n < a->iov[i].iov_len ? n : a->iov[i].iov_len;
        a->iov[i].iov_base = (char *)a->iov[i].iov_base + part;
        a->iov[i].iov_len -= part;
        n -= part;
    }
    if (a->iov[0].iov_len == 0) {
        a->iov[0] = a->iov[1];
        a->iov[1].iov_len = 0;
    }
}

static void attempt_sent(struct op *op, const struct event *ev)
{
    struct attempt *a = container_of(op, struct upstream, out)->user;
    if (a->state == ATTEMPT_LEAVING) {
        left(a);
        return;
    }
    if (ev->res < 0) { /* it may have answered all the same: reading tells */
        a->iov[0].iov_len = 0;
        tunnel_waits(a);
        return;
    }
    a->sent_any = true;
    request_skip(a, (size_t)ev->res);
    if (a->iov[0].iov_len) {
        send_request(a);
        return;
    }
    a->sent_all = true;
    if (a->state == ATTEMPT_WAIT)
        attempt_deadline(a);
    if (!a->ask.bare)
        exchange_body_begin(a->ex);
    tunnel_waits(a);
}

/* Writes the request; the answer, or the end, is awaited at the same time. */
static void ask_backend(struct attempt *a, struct upstream *u)
{
    struct exchange *ex = a->ex;
    char *head;
    a->up = u;
    a->state = ATTEMPT_WAIT;
    a->on_reused = u->reused;
    a->start_us = loop_clock_us();
    asked_enter(a);
    u->user = a;
    u->in.done = attempt_readable;
    u->out.done = attempt_sent;
    ssize_t n = exchange_request_head(ex, a, &head);
    if (n < 0) {
        fail(a, FAULT_NO_MEMORY);
        return;
    }
    a->iov[0] = (struct iovec){head, (size_t)n};
    a->iov[1] = (struct iovec){0};
    if (ex->body_small && !a->ask.bare)
        a->iov[1] = (struct iovec){stream_spare(ex->s) + STREAM_SPARE_BYTES - ex->small_len, ex->small_len};
    send_request(a);
    attempt_deadline(a);
    if (!u->in.inflight)
        wire_poll(&u->wire, &u->in, POLLIN);
}

/* ------------------------------------------------------------------ the connection */

static void attempt_got(struct upstream *u, int err, void *arg)
{
    struct attempt *a = arg;
    a->taking = NULL;
    if (u) {
        ask_backend(a, u);
    } else if (err == -EBUSY) { /* another one was faster */
        target_done(a, BALANCE_CANCELLED);
        attempt_queue(a);
    } else {
        fail_as(a, exchange_fault(err), upstream_blame(err));
    }
}

static void learn_target(struct attempt *a)
{
    memcpy(a->ex->name, a->target->where.name, sizeof(a->ex->name));
    if (!a->target->authority[0])
        target_authority(a->target, a->target->authority);
    memcpy(a->authority, a->target->authority, sizeof(a->authority));
}

/* A kept connection that is still good, or NULL. What cannot be sent twice is not sent over a closed one. */
static struct upstream *idle_one(struct attempt *a, const struct plan_service *service)
{
    struct exchange *ex = a->ex;
    struct upstream *u;
    if (a->fresh)
        return NULL;
    while ((u = upstream_idle(ex->proxy->upstreams, a->target, service, exchange_stops_being_http(ex))) !=
           NULL) {
        if ((ex->facts.idempotent && !ex->body) || !upstream_stale(u))
            return u;
        upstream_give(u, false);
    }
    return NULL;
}

static void attempt_connect(struct attempt *a)
{
    struct exchange *ex = a->ex;
    const struct plan_service *service = exchange_service(ex);
    struct proxy_header client;
    a->state = ATTEMPT_CONNECT;
    if (!service) {
        fail(a, FAULT_NO_BACKEND);
        return;
    }
    learn_target(a);
    struct upstream *u = idle_one(a, service);
    if (u) {
        ask_backend(a, u);
        return;
    }
    if (service->proxy.proxy_protocol)
        stream_addresses(ex->s, &client);
    a->taking = upstream_take(ex->proxy->upstreams, a->target, service, ex->service_index,
                              service->proxy.proxy_protocol ? &client : NULL, exchange_stops_being_http(ex),
                              attempt_got, a);
    if (!a->taking)
        fail(a, FAULT_NO_MEMORY);
}

/* ------------------------------------------------------------------ the choice */

static void attempt_wake(struct balance_waiter *w)
{
    attempt_choose(container_of(w, struct attempt, waiter));
}

static void attempt_queue(struct attempt *a)
{
    struct exchange *ex = a->ex;
    uint64_t now_ms = ring_now_ms(ex->ring);
    a->state = ATTEMPT_QUEUED;
    a->waiter.wake = attempt_wake;
    if (!a->queue_until_ms)
        a->queue_until_ms = now_ms + ex->p.queue_timeout_ms;
    if (!balance_wait(ex->proxy->balance, ex->service_index, &a->waiter, ex->p.queue_max))
        fail(a, FAULT_QUEUE_FULL);
    else
        set_timer(a, a->queue_until_ms > now_ms ? a->queue_until_ms - now_ms : 0);
}

static void attempt_take(struct attempt *a, struct target *t)
{
    struct balance *b = a->ex->proxy->balance;
    if (a->target)
        target_put(b, a->target);
    a->target = target_get(t);
    a->chosen = true;
}

void attempt_adopt(struct attempt *a, struct target *t, struct upstream *u)
{
    CHECK(a->state == ATTEMPT_IDLE && !a->up);
    attempt_take(a, t);
    learn_target(a);
    a->answer_us = 0; /* not an answer to the client's question */
    a->up = u;
    a->state = ATTEMPT_ANSWERED;
    a->sent_all = a->got_any = true;
    u->user = a;
    u->in.done = attempt_readable;
    u->out.done = attempt_sent;
}

int attempt_read(struct attempt *a, struct view bytes)
{
    a->len = a->seen = a->used = 0;
    if (bytes.len > a->cap && grow(a))
        return -ENOBUFS;
    memcpy(a->buf, bytes.p, bytes.len);
    a->len = bytes.len;
    return read_answer(a) == 1 ? 0 : -EBADMSG;
}

int attempt_take_answer(struct attempt *a, struct ask *ask)
{
    int err = attempt_read(a, ask->all);
    if (err)
        return err;
    attempt_adopt(a, ask->target, ask->upstream);
    a->answer_us = ask->latency_us;
    ask_release(ask);
    return 0;
}

static void attempt_choose(struct attempt *a)
{
    struct exchange *ex = a->ex;
    const struct plan_service *service = exchange_service(ex);
    if (!service) {
        a->state = ATTEMPT_CONNECT;
        fail(a, FAULT_NO_BACKEND);
        return;
    }
    struct balance_ask ask = {
        .service = service,
        .service_index = ex->service_index,
        .key = exchange_key(ex),
        .random = proxy_random(ex->proxy),
        .now_ms = ring_now_ms(ex->ring),
        .tried = (const struct target *const *)ex->tried,
        .tried_count = ex->tried_count,
        .prefer = exchange_prefers(ex),
        .only = ex->order.refuse != NULL,
        .relay = ex->order.refuse != NULL,
        .alone = exchange_stops_being_http(ex),
        .retry = a->ask.retry,
        .free = a->ask.free,
    };
    enum balance_why why;
    struct target *t = balance_choose(ex->proxy->balance, &ask, &why);
    if (!t && why == BALANCE_BUSY) {
        attempt_queue(a);
        return;
    }
    timer_clear(&a->timer);
    a->state = ATTEMPT_CONNECT;
    if (!t) {
        fail(a, why == BALANCE_FULL ? FAULT_QUEUE_FULL : FAULT_NO_BACKEND);
        return;
    }
    exchange_chosen(ex, t);
    attempt_take(a, t);
    a->relay = ask.relay;
    attempt_connect(a);
}

void attempt_begin(struct attempt *a, const struct attempt_ask *ask)
{
    CHECK(a->state == ATTEMPT_IDLE && !a->up && !a->taking);
    a->ask = *ask;
    a->fault = FAULT_NONE;
    a->sent_any = a->sent_all = a->got_any = a->on_reused = a->fresh = false;
    a->interims = 0;
    a->answer_us = a->queue_until_ms = 0;
    a->len = a->seen = a->used = 0;
    attempt_choose(a);
}
