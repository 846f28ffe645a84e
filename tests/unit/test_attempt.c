/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An attempt in its service's line: how long it waits in all, and that what this node is short of is nothing
 * to wait for. The choice of backends and their connections are played.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "check.h"
#include "shared.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/ask.h"
#include "dataplane/proxy/exchange.h"

enum { QUEUE_MS = 1000 };

static struct plan plan;
static struct plan_service service;
static struct ring ring;
static struct ring_counters counters;
static struct proxy proxy;
static struct stream stream;
static struct exchange ex;
static struct target target;
static struct upstream taking;
static uint64_t clock_ms, deadline_ms;
static bool timer_on, all_busy;
static unsigned waits, takes, failures;
static enum balance_outcome outcome;
static upstream_got *got;

/* ------------------------------------------------------------------ played */

uint64_t loop_now_ms(const struct loop *loop)
{
    (void)loop;
    return clock_ms;
}

uint64_t loop_clock_us(void)
{
    return clock_ms * 1000;
}

void timer_set(struct timer_wheel *w, struct timer *t, uint64_t at_ms)
{
    (void)w;
    assert_ptr_equal(t, &ex.attempt.timer);
    timer_on = true;
    deadline_ms = at_ms;
}

void timer_clear(struct timer *t)
{
    (void)t;
    timer_on = false;
}

struct target *balance_choose(struct balance *b, const struct balance_ask *ask, enum balance_why *why)
{
    (void)b, (void)ask;
    *why = all_busy ? BALANCE_BUSY : BALANCE_OK;
    return all_busy ? NULL : &target;
}

bool balance_wait(struct balance *b, uint32_t service_index, struct balance_waiter *w, uint32_t queue_max)
{
    (void)b, (void)service_index, (void)w, (void)queue_max;
    waits++;
    return true;
}

void balance_leave(struct balance *b, struct balance_waiter *w)
{
    (void)b, (void)w;
}

void balance_finish(struct balance *b, struct target *t, enum balance_outcome how, uint64_t latency_us,
                    uint64_t now_ms)
{
    (void)b, (void)t, (void)latency_us, (void)now_ms;
    outcome = how;
}

struct target *target_get(struct target *t)
{
    return t;
}

void target_put(struct balance *b, struct target *t)
{
    (void)b, (void)t;
}

struct upstream *upstream_idle(struct upstreams *us, struct target *t, const struct plan_service *s,
                               bool http1)
{
    (void)us, (void)t, (void)s, (void)http1;
    return NULL;
}

struct upstream *upstream_take(struct upstreams *us, struct target *t, const struct plan_service *s,
                               uint32_t service_index, const struct proxy_header *client, bool http1,
                               upstream_got *done, void *arg)
{
    (void)us, (void)t, (void)s, (void)service_index, (void)client, (void)http1;
    assert_ptr_equal(arg, &ex.attempt);
    takes++;
    got = done;
    return &taking;
}

enum balance_outcome upstream_blame(int err)
{
    assert_int_equal(err, -ENOBUFS);
    return BALANCE_CANCELLED;
}

enum fault exchange_fault(int err)
{
    assert_int_equal(err, -ENOBUFS);
    return FAULT_NO_MEMORY;
}

const struct plan_service *exchange_service(const struct exchange *e)
{
    (void)e;
    return &service;
}

/* Not on these ways. */
bool balance_is_down(const struct balance *b, const struct target *t)
{
    (void)b, (void)t;
    return false;
}

void balance_relayed(struct target *t)
{
    (void)t;
}

void target_authority(const struct target *t, char out[AUTHORITY_MAX])
{
    (void)t;
    out[0] = '\0';
}

void ask_release(struct ask *a)
{
    (void)a;
}

uint64_t proxy_random(struct proxy *p)
{
    (void)p;
    return 0;
}

void upstream_forget(struct upstream *u)
{
    (void)u;
}

void upstream_give(struct upstream *u, bool keep)
{
    (void)u, (void)keep;
}

bool upstream_stale(struct upstream *u)
{
    (void)u;
    return false;
}

struct view exchange_key(const struct exchange *e)
{
    (void)e;
    return (struct view){0};
}

uint32_t exchange_prefers(const struct exchange *e)
{
    (void)e;
    return 0;
}

void exchange_chosen(struct exchange *e, const struct target *t)
{
    (void)e, (void)t;
}

void exchange_body_begin(struct exchange *e)
{
    (void)e;
}

bool exchange_body_complete(const struct exchange *e)
{
    (void)e;
    return true;
}

uint64_t exchange_body_stuck_ms(const struct exchange *e)
{
    (void)e;
    return 0;
}

void exchange_interim(struct attempt *a)
{
    (void)a;
}

bool exchange_may_repeat(const struct exchange *e, const struct attempt *a)
{
    (void)e, (void)a;
    return false;
}

ssize_t exchange_request_head(struct exchange *e, struct attempt *a, char **out)
{
    (void)e, (void)a, (void)out;
    return -ENOBUFS;
}

void exchange_step_end(struct exchange *e)
{
    (void)e;
}

bool exchange_stops_being_http(const struct exchange *e)
{
    (void)e;
    return false;
}

void exchange_tunnel_begin(struct stream *s)
{
    (void)s;
}

ssize_t http_answer_read(const char *buf, size_t len, size_t seen, const struct http_limits *limits,
                         enum http_method method, struct http_answer *out, struct http_reject *reject)
{
    (void)buf, (void)len, (void)seen, (void)limits, (void)method, (void)out, (void)reject;
    return -EAGAIN;
}

void pump_stop(struct pump *p)
{
    (void)p;
}

void stream_addresses(struct stream *s, struct proxy_header *out)
{
    (void)s, (void)out;
}

char *stream_spare(struct stream *s)
{
    (void)s;
    return NULL;
}

void wire_cancel(struct wire *w, struct op *op)
{
    (void)w, (void)op;
}

void wire_poll(struct wire *w, struct op *op, short events)
{
    (void)w, (void)op, (void)events;
}

ssize_t wire_recv_now(struct wire *w, void *buf, size_t len)
{
    (void)w, (void)buf, (void)len;
    return -EAGAIN;
}

void wire_send(struct wire *w, struct op *op, const void *buf, size_t len, int flags)
{
    (void)w, (void)op, (void)buf, (void)len, (void)flags;
}

void wire_sendmsg(struct wire *w, struct op *op, const struct msghdr *msg, int flags)
{
    (void)w, (void)op, (void)msg, (void)flags;
}

/* ------------------------------------------------------------------ tests */

static void attempt_failed(struct attempt *a)
{
    assert_ptr_equal(a, &ex.attempt);
    failures++;
}

static int setup(void **state)
{
    (void)state;
    memset(&ex, 0, sizeof(ex));
    ring.plan = &plan;
    ring.counters = &counters;
    ex.s = &stream;
    ex.ring = &ring;
    ex.proxy = &proxy;
    ex.p.queue_timeout_ms = QUEUE_MS;
    ex.attempt.ex = &ex;
    clock_ms = 5000;
    timer_on = all_busy = false;
    waits = takes = failures = 0;
    got = NULL;
    return 0;
}

static void begin(void)
{
    attempt_begin(&ex.attempt, &(struct attempt_ask){.failed = attempt_failed});
}

static void told(int err)
{
    upstream_got *done = got;
    assert_non_null(done);
    got = NULL;
    done(NULL, err, &ex.attempt);
}

static void wake(void)
{
    ex.attempt.waiter.wake(&ex.attempt.waiter);
}

/* A stream that cannot be had for want of memory is no line to stand in: there is room with the backend, and
 * whoever waits for that is woken at once, again and again. */
static void test_no_memory(void **state)
{
    (void)state;
    begin();
    assert_int_equal(takes, 1);
    told(-ENOBUFS);
    assert_int_equal(waits, 0);
    assert_int_equal(failures, 1);
    assert_int_equal(ex.attempt.fault, FAULT_NO_MEMORY);
    assert_int_equal(outcome, BALANCE_CANCELLED); /* the backend is not to blame */
    assert_int_equal(ex.attempt.state, ATTEMPT_IDLE);
}

/* The same behind a wait: it does not go back into the line. */
static void test_no_memory_after_waiting(void **state)
{
    (void)state;
    all_busy = true;
    begin();
    assert_int_equal(waits, 1);
    all_busy = false;
    wake();
    told(-ENOBUFS);
    assert_int_equal(waits, 1);
    assert_int_equal(failures, 1);
    assert_false(timer_on);
}

/* However often it comes back to the line, it waits for queue.timeout in all. */
static void test_one_time(void **state)
{
    (void)state;
    all_busy = true;
    begin();
    assert_true(timer_on && deadline_ms == 5000 + QUEUE_MS);
    for (unsigned i = 1; i <= 3; i++) { /* somebody else was faster */
        clock_ms += 300;
        all_busy = i % 2;
        wake();
        if (!all_busy)
            told(-EBUSY);
        assert_int_equal(waits, 1 + i);
        assert_true(timer_on && deadline_ms == 5000 + QUEUE_MS);
    }
    clock_ms = 5000 + QUEUE_MS + 100; /* the turn was a long one */
    all_busy = true;
    wake();
    assert_true(timer_on && deadline_ms <= clock_ms);
    ex.attempt.timer.fire(&ex.attempt.timer, clock_ms);
    assert_int_equal(failures, 1);
    assert_int_equal(ex.attempt.fault, FAULT_QUEUE_TIMEOUT);
}

/* The next attempt of the same request has a time of its own. */
static void test_next_attempt(void **state)
{
    (void)state;
    all_busy = true;
    begin();
    clock_ms += 900;
    ex.attempt.timer.fire(&ex.attempt.timer, clock_ms);
    begin();
    assert_true(timer_on && deadline_ms == clock_ms + QUEUE_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_no_memory, setup),
        cmocka_unit_test_setup(test_no_memory_after_waiting, setup),
        cmocka_unit_test_setup(test_one_time, setup),
        cmocka_unit_test_setup(test_next_attempt, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
