/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/hedge.h"

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/exchange.h"

enum { HEAD_MS = 60000, SERVER_ERROR = 500, NOT_MODIFIED = 304 };

static void drop(struct exchange *ex)
{
    if (ex->hedge.ask)
        ask_drop(ex->hedge.ask);
    ex->hedge.ask = NULL;
}

void hedge_end(struct exchange *ex)
{
    timer_clear(&ex->hedge.timer);
    drop(ex);
    ex->hedge.awaited = false;
}

bool hedge_awaited(struct exchange *ex)
{
    timer_clear(&ex->hedge.timer);
    ex->hedge.awaited = ex->hedge.ask != NULL;
    return ex->hedge.awaited;
}

/* The second question is of no use. */
static void failed(struct exchange *ex)
{
    bool awaited = ex->hedge.awaited;
    hedge_end(ex);
    if (awaited)
        exchange_failed(&ex->attempt);
}

/* What ends the race while the first question is open: a backend that has not got it says so sooner than one
 * that has it gives it. */
static bool is_good(int status)
{
    return (status >= 200 && status < 300) || status == NOT_MODIFIED;
}

static void answered(struct ask *ask, int err)
{
    struct exchange *ex = ask->arg;
    struct attempt *a = &ex->attempt;
    int status = err ? 0 : ask->answer.status;
    if (err || (!is_good(status) && !ex->hedge.awaited)) {
        if (!err)
            ask_refuse(ask, status >= SERVER_ERROR ? BALANCE_SERVER_ERROR : BALANCE_GOOD);
        failed(ex);
        return;
    }
    if (!ex->hedge.awaited)
        attempt_end(a, false, BALANCE_CANCELLED);
    /* Not gone yet (it is still sending), or no memory for the answer: the first question stays the one. */
    if (!attempt_quiet(a) || attempt_take_answer(a, ask)) {
        a->fault = attempt_quiet(a) ? FAULT_NO_MEMORY : FAULT_CLOSED;
        ex->hedge.awaited = ex->hedge.awaited || attempt_quiet(a);
        failed(ex);
        return;
    }
    ring_count(ex->ring, CTR_PROXY_HEDGES_WON, 1);
    hedge_end(ex);
    exchange_respond(a);
}

/* Another one than has the question already; counted as at work. */
static struct target *choose(struct exchange *ex, const struct plan_service *service)
{
    const struct target *tried[TRIED_MAX + 1];
    unsigned count = 0;
    enum balance_why why;
    for (; count < ex->tried_count; count++)
        tried[count] = ex->tried[count];
    tried[count++] = ex->attempt.target;
    struct balance_ask ask = {.service = service,
                              .service_index = ex->service_index,
                              .key = exchange_key(ex),
                              .random = proxy_random(ex->proxy),
                              .now_ms = ring_now_ms(ex->ring),
                              .tried = tried,
                              .tried_count = count,
                              .retry = true};
    struct target *t = balance_choose(ex->proxy->balance, &ask, &why);
    for (unsigned i = 0; t && i < count; i++)
        if (tried[i] == t) {
            balance_finish(ex->proxy->balance, t, BALANCE_CANCELLED, 0, ask.now_ms);
            return NULL;
        }
    return t;
}

static void ask_second(struct timer *timer, uint64_t now_ms)
{
    struct exchange *ex = container_of(timer, struct exchange, hedge.timer);
    const struct plan_service *service = exchange_service(ex);
    struct view none = {NULL, 0};
    struct proxy_header client;
    uint8_t state = ex->attempt.state;
    if (!service || ex->answered || ex->aborted || (state != ATTEMPT_CONNECT && state != ATTEMPT_WAIT))
        return;
    struct target *t = choose(ex, service);
    struct ask *ask = t ? ask_take(ex->proxy->asks) : NULL;
    ssize_t bytes = ask ? exchange_request_rest(ex, t, none, none, (char *)ask->buffer, ASK_BYTES) : -1;
    if (bytes < 0) {
        if (t)
            balance_finish(ex->proxy->balance, t, BALANCE_CANCELLED, 0, now_ms);
        if (ask)
            ask_drop(ask);
        return;
    }
    if (ex->p.proxy_protocol)
        stream_addresses(ex->s, &client);
    ring_count(ex->ring, CTR_PROXY_HEDGES, 1);
    ex->hedge.ask = ask;
    ask_start(ask, &(struct ask_config){.target = t,
                                        .service = service,
                                        .service_index = ex->service_index,
                                        .client = ex->p.proxy_protocol ? &client : NULL,
                                        .method = ex->s->req.method,
                                        .request_bytes = (size_t)bytes,
                                        .timeout_ms =
                                            ex->p.response_timeout_ms ? ex->p.response_timeout_ms : HEAD_MS,
                                        .done = answered,
                                        .arg = ex});
}

void hedge_begin(struct exchange *ex)
{
    enum http_method method = ex->s->req.method;
    if (ex->p.hedge_ms == 0 || (method != HTTP_GET && method != HTTP_HEAD) || ex->body || ex->upgrade ||
        ex->facts.longlived)
        return;
    ex->hedge.timer.fire = ask_second;
    timer_set(&ex->ring->wheel, &ex->hedge.timer, ring_now_ms(ex->ring) + ex->p.hedge_ms);
}
