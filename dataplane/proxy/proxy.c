/* SPDX-License-Identifier: Apache-2.0 */
/* A proxied exchange from its beginning to its end (exchange.h has the picture), and what a ring has for it.
 */
#include "dataplane/kernel_words.h"
#include "dataplane/proxy/proxy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/affinity.h"
#include "dataplane/proxy/exchange.h"

/* ------------------------------------------------------------------ of a ring */

/* Chance, of the whole process: set before its threads. */
static uint64_t marks_from;

int proxy_new(struct ring *ring, struct proxy **out)
{
    struct proxy *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->ring = ring;
    if (getrandom(&p->random, sizeof(p->random), 0) != (ssize_t)sizeof(p->random))
        p->random = loop_clock_us();
    p->random |= 1;
    if (!marks_from)
        marks_from = p->random;
    affinity_init();
    int err = balance_new(ring->counters, &p->balance);
    if (err)
        goto err_balance;
    err = upstreams_new(ring, p->balance, &p->upstreams);
    if (err)
        goto err_upstreams;
    err = asks_new(ring, p->balance, p->upstreams, &p->asks);
    if (err)
        goto err_asks;
    err = coalesce_new(ring, &p->coalesce);
    if (err)
        goto err_coalesce;
    balance_plan(p->balance, ring->plan, 0);
    *out = p;
    return 0;

err_coalesce:
    asks_free(p->asks);
err_asks:
    upstreams_free(p->upstreams);
err_upstreams:
    balance_free(p->balance);
err_balance:
    free(p);
    return err;
}

void proxy_free(struct proxy *p)
{
    coalesce_free(p->coalesce);
    asks_free(p->asks);
    upstreams_free(p->upstreams);
    balance_free(p->balance);
    free(p);
}

void proxy_plan(struct proxy *p, const struct plan *plan, uint64_t now_ms)
{
    balance_plan(p->balance, plan, now_ms);
}

void proxy_words(struct proxy *p, const struct kernel_words *words)
{
    balance_verdicts(p->balance, words->verdicts, words->count);
    balance_evidence(p->balance, words->evidence);
}

void proxy_run(struct proxy *p, uint64_t now_ms)
{
    balance_run(p->balance, now_ms);
}

void proxy_tick(struct proxy *p)
{
    upstreams_tick(p->upstreams);
    coalesce_tick(p->coalesce);
    attempts_look(p);
    standing_look(p);
    asks_tick(p->asks);
}

/* xorshift64* (Vigna 2016): for choices, not for secrets. */
uint64_t proxy_random(struct proxy *p)
{
    p->random ^= p->random >> 12;
    p->random ^= p->random << 25;
    p->random ^= p->random >> 27;
    return p->random * 0x2545f4914f6cdd1d;
}

void proxy_mark(uint32_t service_index, uint64_t incarnation, char out[PROXY_MARK_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    uint64_t mark = (marks_from + (incarnation << 16 | service_index)) * 0x9e3779b97f4a7c15u; /* one to one */
    memcpy(out, "fl-", 3);
    for (unsigned i = 0; i < 16; i++)
        out[3 + i] = digits[mark >> (60 - 4 * i) & 15];
}

/* ------------------------------------------------------------------ attempts */

enum fault exchange_fault(int err)
{
    switch (-err) {
    case ETIMEDOUT:
        return FAULT_CONNECT_TIMEOUT;
    case EKEYREJECTED:
    case ENOKEY:
    case EPROTO:
        return FAULT_TLS;
    case EADDRNOTAVAIL:
        return FAULT_NO_PORT;
    default:
        return upstream_blame(err) == BALANCE_CANCELLED ? FAULT_NO_MEMORY : FAULT_CONNECT;
    }
}

/*
 * The budget keeps retries from multiplying the work of backends that have too much of it: they answer late,
 * or badly. Where nothing could be asked, nothing is multiplied; and a process that dies takes all its
 * requests with it, far more at once than a share of the traffic, so each of them may go elsewhere once.
 */
static bool retry_is_free(const struct exchange *ex)
{
    if (ex->last_fault == FAULT_CONNECT || ex->last_fault == FAULT_NO_PORT)
        return true;
    return (ex->last_fault == FAULT_CLOSED || ex->last_fault == FAULT_DOWN) && ex->tried_count == 1;
}

void exchange_try(struct exchange *ex, bool retry)
{
    struct attempt_ask ask = {.retry = retry,
                              .free = retry && retry_is_free(ex),
                              .answered = exchange_respond,
                              .failed = exchange_failed};
    attempt_begin(&ex->attempt, &ask);
}

/* The first attempt. */
void exchange_ask(struct exchange *ex)
{
    hedge_begin(ex);
    exchange_try(ex, false);
}

/* What was sent may be sent again: nothing of a body is lost, and nobody can have acted on it, or may twice.
 */
bool exchange_may_repeat(const struct exchange *ex, const struct attempt *a)
{
    if (ex->answered || ex->aborted || ex->finished || ex->body_begun)
        return false;
    return ex->facts.idempotent || !a->sent_any;
}

static void remember_tried(struct exchange *ex, struct target *t)
{
    if (t && ex->tried_count < TRIED_MAX)
        ex->tried[ex->tried_count++] = target_get(t);
}

static bool may_try_another(const struct exchange *ex, const struct attempt *a)
{
    switch (a->fault) {
    case FAULT_NO_PORT:
    case FAULT_CONNECT:
    case FAULT_CONNECT_TIMEOUT:
    case FAULT_TLS:
    case FAULT_CLOSED:
    case FAULT_DOWN:
    case FAULT_TIMEOUT:
        return ex->tried_count < ex->p.retries && ex->tried_count < TRIED_MAX && exchange_may_repeat(ex, a);
    default:
        return false;
    }
}

void exchange_failed(struct attempt *a)
{
    struct exchange *ex = a->ex;
    if (ex->aborted || ex->answered) {
        exchange_step_end(ex);
        return;
    }
    if (hedge_awaited(ex))
        return;
    if (may_try_another(ex, a)) {
        remember_tried(ex, a->target);
        ex->last_fault = a->fault;
        ring_count(ex->ring, CTR_PROXY_RETRIES, 1);
        ex->attempts++;
        exchange_try(ex, true);
        return;
    }
    if (a->fault == FAULT_NO_BACKEND && ex->tried_count) /* nor was one left to try, or it was too much */
        a->fault = ex->last_fault;
    exchange_refuse(ex, a);
    exchange_step_end(ex);
}

/* ------------------------------------------------------------------ the end */

/* The answer's body has ended: all of it is with the client, or it never will be. */
void exchange_done(struct exchange *ex, bool good, enum close_reason reason)
{
    struct attempt *a = &ex->attempt;
    bool cut = !good && (reason == CLOSE_BACKEND_CUT || reason == CLOSE_BACKEND_DOWN ||
                         reason == CLOSE_BACKEND_SILENT);
    if (cut)
        ring_count(ex->ring, CTR_PROXY_CUT, 1);
    ex->finished = true;
    hedge_end(ex);
    exchange_share_end(ex);
    resume_end(&ex->resume);
    ex->keep = ex->keep && good && (!ex->body || ex->body_small || (ex->body_begun && !ex->body_active));
    attempt_end(a, ex->keep, cut ? BALANCE_FAILED : good ? ex->outcome : BALANCE_CANCELLED);
    if (ex->relayed)
        stream_relayed(ex->s, pump_technique_name(&ex->response), good, reason);
    exchange_step_end(ex);
}

static void proxy_end(struct stream *s);

/* The stream to the handler that it came from; it is held until that has done its part. */
static void give_back(struct exchange *ex)
{
    struct stream *s = ex->s;
    void (*refuse)(struct stream *, enum proxy_refusal) = ex->order.refuse;
    enum proxy_refusal why = (enum proxy_refusal)ex->why;
    proxy_end(s);
    s->arena.used = 0;
    refuse(s, why);
    stream_release_hold(s);
}

void exchange_step_end(struct exchange *ex)
{
    if (!ex->finished || ex->body_active || ex->relaying || ex->resuming)
        return;
    attempt_end(&ex->attempt, false, ex->outcome);
    if (!attempt_quiet(&ex->attempt) || ex->released)
        return;
    ex->released = true;
    if (ex->refused && !ex->answered)
        give_back(ex);
    else
        stream_release_hold(ex->s);
}

static void proxy_abort(struct stream *s)
{
    struct exchange *ex = s->ctx;
    if (!ex)
        return;
    ex->aborted = ex->finished = true;
    hedge_end(ex);
    if (!ex->relaying)
        exchange_share_end(ex);
    if (ex->relaying)
        pump_stop(&ex->response);
    if (ex->resuming)
        resume_abandon(&ex->resume);
    ex->outcome = BALANCE_CANCELLED;
    if (!ex->relaying)
        attempt_end(&ex->attempt, false, BALANCE_CANCELLED);
    else if (ex->body_active)
        pump_stop(&ex->request);
    if (!ex->answered) {
        ex->answered = true;
        (void)stream_response(s, 499);
        stream_send(s);
    }
    exchange_step_end(ex);
}

/* All of a body that several backends gave is the last one's. */
static void count_bytes(const struct exchange *ex, struct target *t)
{
    uint64_t from = ex->response.moved + ex->content_early, to = ex->request.moved + ex->small_len;
    target_count(t, TARGET_BYTES_FROM, from);
    target_count(t, TARGET_BYTES_TO, to);
}

static void proxy_end(struct stream *s)
{
    struct exchange *ex = s->ctx;
    if (!ex)
        return;
    CHECK(attempt_quiet(&ex->attempt) && !ex->body_active && !ex->relaying && !ex->resuming);
    CHECK(!ex->flight && !ex->follower);
    if (ex->attempt.target)
        count_bytes(ex, ex->attempt.target);
    attempt_release(&ex->attempt);
    for (unsigned i = 0; i < ex->tried_count; i++)
        target_put(ex->proxy->balance, ex->tried[i]);
    if (ex->request_large)
        pool_give(&ex->ring->heads, ex->request_large);
    if (ex->tunnel)
        tcp_unreserve(ex->tunnel);
    s->ctx = NULL;
}

/* ------------------------------------------------------------------ the beginning */

const struct plan_service *exchange_service(const struct exchange *ex)
{
    if (!ex->order.refuse)
        return stream_service(ex->s);
    const struct plan_service *s = plan_service_of(ex->ring->plan, ex->service_index);
    return s && s->kind == SERVICE_PROXY && s->incarnation == ex->incarnation ? s : NULL;
}

struct view exchange_key(const struct exchange *ex)
{
    if (ex->p.policy == PROXY_MAGLEV)
        return view_of(ex->peer, ex->peer_len);
    return ex->facts.digest;
}

static struct exchange *exchange_make(struct stream *s, const struct plan_service *service,
                                      uint32_t service_index)
{
    _Static_assert(sizeof(struct exchange) <= STREAM_ARENA_BYTES, "it is all that the arena has to hold");
    struct exchange *ex = arena_alloc(&s->arena, sizeof(*ex));
    CHECK(ex);
    memset(ex, 0, offsetof(struct exchange, fields));
    s->ctx = ex;
    ex->s = s;
    ex->ring = s->ring;
    ex->proxy = s->ring->proxy;
    ex->p = service->proxy;
    ex->service_index = service_index;
    ex->incarnation = service->incarnation;
    ex->outcome = BALANCE_CANCELLED;
    ex->attempts = 1;
    ex->answer_timeout_ms = ex->p.response_timeout_ms;
    proxy_mark(ex->service_index, service->incarnation, ex->mark);
    return ex;
}

static void exchange_begin(struct exchange *ex)
{
    struct stream *s = ex->s;
    kind_judge(ex->p.kind, &s->req, &ex->facts);
    ex->upgrade = !ex->order.refuse && http_asks_upgrade(&s->req, ex->facts.h2c);
    attempt_init(&ex->attempt, ex);
    stream_hold(s);
    exchange_addresses(ex);
    if (http_goes_round(&s->req, view_of(ex->mark, sizeof(ex->mark)))) {
        ex->attempt.fault = FAULT_LOOP;
        exchange_refuse(ex, &ex->attempt);
        exchange_step_end(ex);
        return;
    }
    exchange_small_body(ex);
    if ((!ex->body || ex->body_small) && !exchange_stops_being_http(ex))
        stream_watch(s, !ex->facts.longlived);
    if (!exchange_follows(ex))
        exchange_ask(ex);
}

static void proxy_begin(struct stream *s)
{
    ring_count(s->ring, CTR_PROXY_REQUESTS, 1);
    exchange_begin(exchange_make(s, stream_service(s), stream_service_index(s)));
}

bool proxy_relay(struct stream *s, const struct proxy_order *order)
{
    const struct plan_service *service = plan_service_of(s->ring->plan, order->service);
    if (!service || service->kind != SERVICE_PROXY)
        return false;
    s->arena.used = 0;
    s->handler = &proxy_handler;
    struct exchange *ex = exchange_make(s, service, order->service);
    ex->order = *order;
    ex->p.kind = PROXY_REGISTRY;
    ex->p.forwarded = PROXY_FORWARDED_X;
    ex->p.retries = 0;
    ex->answer_timeout_ms = order->answer_timeout_ms;
    exchange_begin(ex);
    return true;
}

static void proxy_body_done(struct stream *s, int err)
{
    (void)s;
    (void)err;
    IMPOSSIBLE("a proxied body is relayed");
}

const struct handler proxy_handler = {"proxy", proxy_begin, proxy_body_done, proxy_end, proxy_abort};
