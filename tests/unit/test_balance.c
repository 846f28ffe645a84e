/* SPDX-License-Identifier: Apache-2.0 */
/* The choice of a backend: policies, ranks, limits, queue, ejection, budget; and a random walk in which no
 * count is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "abi.h"
#include "check.h"
#include "dataplane/proxy/balance.h"
#include "dataplane/proxy/balance_private.h"

enum { SERVICES = 3, BACKENDS_MAX = 256, ROWS = 1009, AT = 2, IDS = 1024, SEED = 20240611 };

static struct ring_counters counters;
static uint64_t verdicts[IDS];
static struct balance *balance;
static struct plan *plan;
static uint64_t now_ms, seed;

static uint64_t any(void)
{
    seed = seed * 6364136223846793005 + 1442695040888963407;
    return seed >> 16;
}

/* A plan whose service AT has these backends: ids from 10 on, and rows dealt at random. */
static struct plan *make_plan(uint32_t backends, uint8_t policy, uint64_t generation)
{
    size_t services = (sizeof(struct plan) + 7) & ~7ul,
           at = services + SERVICES * sizeof(struct plan_service);
    size_t rows_at = at + BACKENDS_MAX * sizeof(struct plan_backend),
           bytes = rows_at + ROWS * sizeof(uint16_t);
    struct plan *p = calloc(1, bytes);
    *p = (struct plan){.magic = PLAN_MAGIC,
                       .version = PLAN_VERSION,
                       .bytes = bytes,
                       .generation = generation,
                       .service_count = SERVICES,
                       .backend_count = backends,
                       .row_count = backends ? ROWS : 0,
                       .service_at = services,
                       .listener_at = at,
                       .backend_at = at,
                       .row_at = rows_at,
                       .name_at = rows_at,
                       .source_at = rows_at,
                       .member_at = rows_at};
    struct plan_service *s = (struct plan_service *)plan_service(p, AT);
    s->kind = SERVICE_PROXY;
    s->incarnation = 7;
    s->backend_count = backends;
    s->row_count = policy == PROXY_MAGLEV || policy == PROXY_DIGEST ? p->row_count : 0;
    s->proxy = (struct plan_proxy){
        .kind = PROXY_HTTP, .policy = policy, .backend_http = 1, .connections_max = 1000, .retry_budget = 20};
    uint16_t *row = (uint16_t *)plan_rows(p, 0);
    for (uint32_t i = 0; i < backends; i++)
        *(struct plan_backend *)plan_backend(p, i) =
            (struct plan_backend){.id = 10 + i, .generation = 1, .weight = 1, .checked = 1};
    for (uint32_t i = 0; i < p->row_count; i++)
        row[i] = (uint16_t)(any() % backends);
    assert_true(plan_check(p, bytes));
    return p;
}

static struct plan_proxy *proxy(void)
{
    return &((struct plan_service *)plan_service(plan, AT))->proxy;
}

static struct plan_backend *backend(uint32_t i)
{
    return (struct plan_backend *)plan_backend(plan, i);
}

static void give_plan(uint32_t backends, uint8_t policy)
{
    struct plan *before = plan;
    plan = make_plan(backends, policy, 1);
    balance_plan(balance, plan, now_ms);
    free(before);
}

static void set_state(uint32_t i, uint32_t state)
{
    verdicts[10 + i] = ABI_VERDICT(state, ABI_PROBE_OK, 1, 1);
}

static int setup(void **state)
{
    (void)state;
    memset(verdicts, 0, sizeof(verdicts));
    memset(&counters, 0, sizeof(counters));
    now_ms = 1000000;
    seed = SEED;
    plan = NULL;
    assert_int_equal(balance_new(&counters, &balance), 0);
    balance_verdicts(balance, verdicts, IDS);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    balance_free(balance);
    free(plan);
    return 0;
}

static struct balance_ask ask_now(const char *key)
{
    return (struct balance_ask){.service = plan_service(plan, AT),
                                .service_index = AT,
                                .key = {.p = key, .len = strlen(key)},
                                .random = any(),
                                .now_ms = now_ms};
}

static struct target *choose_for(const char *key)
{
    enum balance_why why;
    struct balance_ask ask = ask_now(key);
    struct target *t = balance_choose(balance, &ask, &why);
    assert_int_equal(t ? BALANCE_OK : why, why);
    return t;
}

static enum balance_why why_not(void)
{
    enum balance_why why;
    struct balance_ask ask = ask_now("");
    assert_null(balance_choose(balance, &ask, &why));
    return why;
}

static void finish(struct target *t, enum balance_outcome outcome)
{
    balance_finish(balance, t, outcome, 0, now_ms);
}

/* How often each backend is chosen, one request after the other. */
static void draw_many(unsigned times, unsigned *got, const char *key)
{
    memset(got, 0, BACKENDS_MAX * sizeof(*got));
    for (unsigned i = 0; i < times; i++) {
        struct target *t = choose_for(key);
        got[t->id - 10]++;
        finish(t, BALANCE_GOOD);
    }
}

static void assert_about(unsigned got, unsigned expected)
{
    if (got < expected * 9 / 10 || got > expected * 11 / 10)
        fail_msg("%u is not about %u", got, expected);
}

static void test_random_by_weight(void **state)
{
    (void)state;
    unsigned got[BACKENDS_MAX];
    give_plan(3, PROXY_RANDOM);
    backend(1)->weight = 2;
    backend(2)->weight = 7;
    balance_plan(balance, plan, now_ms);
    draw_many(20000, got, "");
    assert_about(got[0], 2000);
    assert_about(got[1], 4000);
    assert_about(got[2], 14000);
    /* And of so many that they are not all looked at. */
    give_plan(200, PROXY_RANDOM);
    for (unsigned i = 0; i < 200; i++)
        backend(i)->weight = i < 100 ? 1 : 3;
    balance_plan(balance, plan, now_ms);
    draw_many(40000, got, "");
    unsigned light = 0;
    for (unsigned i = 0; i < 200; i++) {
        assert_true(got[i] > 0);
        light += i < 100 ? got[i] : 0;
    }
    assert_about(light, 10000);
}

static void test_least(void **state)
{
    (void)state;
    struct target *t[300];
    give_plan(4, PROXY_LEAST);
    backend(3)->weight = 2;
    balance_plan(balance, plan, now_ms);
    for (unsigned i = 0; i < 100; i++)
        t[i] = choose_for("");
    unsigned heavy = 0;
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(t[i]->requests, t[i]->id == 13 ? 40 : 20);
        heavy += t[i]->id == 13;
    }
    assert_int_equal(heavy, 40);
    for (unsigned i = 0; i < 100; i++)
        finish(t[i], BALANCE_GOOD);
    /* One at a time: by weight, and not always the heaviest. */
    unsigned got[BACKENDS_MAX];
    draw_many(10000, got, "");
    assert_about(got[0], 2000);
    assert_about(got[3], 4000);
    /* Two choices: nobody has much more than the average. */
    give_plan(100, PROXY_LEAST);
    for (unsigned i = 0; i < 300; i++)
        t[i] = choose_for("");
    for (unsigned i = 0; i < 300; i++)
        assert_true(t[i]->requests <= 3 + 3);
    for (unsigned i = 0; i < 300; i++)
        finish(t[i], BALANCE_GOOD);
}

static void test_ranks(void **state)
{
    (void)state;
    unsigned got[BACKENDS_MAX];
    give_plan(3, PROXY_RANDOM);
    set_state(0, ABI_UP);
    set_state(1, ABI_SUSPECT); /* 2 is unknown: as good as up */
    draw_many(1000, got, "");
    assert_int_equal(got[1], 0);
    assert_about(got[0], 500);
    set_state(0, ABI_DOWN);
    set_state(2, ABI_DOWN);
    draw_many(100, got, "");
    assert_int_equal(got[1], 100);
    set_state(1, ABI_DOWN);
    assert_int_equal(why_not(), BALANCE_NONE);
    proxy()->all_down = 1;
    draw_many(900, got, "");
    assert_true(got[0] > 200 && got[1] > 200 && got[2] > 200);
    proxy()->all_down = 0;
    /* A verdict on another generation says nothing; nor one without a check. */
    verdicts[10] = ABI_VERDICT(ABI_DOWN, ABI_PROBE_TIMEOUT, 9, 1);
    draw_many(10, got, "");
    assert_int_equal(got[0], 10);
    set_state(0, ABI_DOWN);
    backend(1)->checked = 0;
    balance_plan(balance, plan, now_ms);
    draw_many(10, got, "");
    assert_int_equal(got[1], 10);
    backend(1)->draining = 1;
    balance_plan(balance, plan, now_ms);
    assert_int_equal(why_not(), BALANCE_NONE);
}

static void test_tried(void **state)
{
    (void)state;
    enum balance_why why;
    give_plan(2, PROXY_LEAST);
    struct target *first = choose_for("");
    struct balance_ask ask = ask_now("");
    const struct target *tried[] = {first};
    ask.tried = tried;
    ask.tried_count = 1;
    for (unsigned i = 0; i < 20; i++) {
        struct target *t = balance_choose(balance, &ask, &why);
        assert_ptr_not_equal(t, first);
        finish(t, BALANCE_GOOD);
    }
    set_state(first->id == 10 ? 1 : 0, ABI_SUSPECT); /* rather one that is suspect than one that failed */
    struct target *t = balance_choose(balance, &ask, &why);
    assert_ptr_not_equal(t, first);
    finish(t, BALANCE_GOOD);
    set_state(first->id == 10 ? 1 : 0, ABI_DOWN);
    t = balance_choose(balance, &ask, &why);
    assert_ptr_equal(t, first);
    finish(t, BALANCE_GOOD);
    finish(first, BALANCE_GOOD);
}

static void test_rows(void **state)
{
    (void)state;
    char key[32];
    unsigned moved = 0, got[BACKENDS_MAX] = {0};
    give_plan(5, PROXY_DIGEST);
    uint32_t owner[1000];
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "sha256:%u", i);
        struct target *t = choose_for(key), *again = choose_for(key);
        assert_ptr_equal(t, again);
        owner[i] = t->id;
        got[t->id - 10]++;
        finish(t, BALANCE_GOOD);
        finish(again, BALANCE_GOOD);
    }
    for (unsigned i = 0; i < 5; i++)
        assert_true(got[i] > 120 && got[i] < 280);
    set_state(2, ABI_DOWN);
    memset(got, 0, sizeof(got));
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "sha256:%u", i);
        struct target *t = choose_for(key);
        assert_true(t->id != 12);
        assert_true(owner[i] == 12 || owner[i] == t->id);
        moved += owner[i] == 12;
        got[t->id - 10] += owner[i] == 12;
        finish(t, BALANCE_GOOD);
    }
    for (unsigned i = 0; i < 5; i++) /* and what it had is dealt to all */
        assert_true(i == 2 || got[i] > moved / 10);
}

static void test_bounded_load(void **state)
{
    (void)state;
    struct target *t[100];
    give_plan(5, PROXY_DIGEST);
    for (unsigned i = 0; i < 100; i++)
        t[i] = choose_for("sha256:hot");
    for (unsigned i = 0; i < 100; i++)
        assert_true(t[i]->requests <= 26);
    for (unsigned i = 0; i < 100; i++)
        finish(t[i], BALANCE_GOOD);
    /* The client's address is kept to its backend, whatever the load. */
    give_plan(5, PROXY_MAGLEV);
    for (unsigned i = 0; i < 100; i++) {
        t[i] = choose_for("10.0.0.1");
        assert_ptr_equal(t[i], t[0]);
    }
    for (unsigned i = 0; i < 100; i++)
        finish(t[i], BALANCE_GOOD);
}

static void test_slow_start(void **state)
{
    (void)state;
    unsigned got[BACKENDS_MAX];
    give_plan(2, PROXY_RANDOM);
    proxy()->slow_start_ms = 10000;
    set_state(0, ABI_UP);
    set_state(1, ABI_DOWN);
    draw_many(10, got, "");
    now_ms += 1000;
    set_state(1, ABI_UP);
    draw_many(1, got, ""); /* the way up is seen */
    draw_many(11000, got, "");
    assert_about(got[1], 1000);
    now_ms += 5000;
    draw_many(15500, got, "");
    assert_about(got[1], 5500);
    now_ms += 5000;
    draw_many(10000, got, "");
    assert_about(got[1], 5000);
    /* One that is added, too. */
    struct plan *before = plan;
    plan = make_plan(3, PROXY_RANDOM, 2);
    proxy()->slow_start_ms = 10000;
    balance_plan(balance, plan, now_ms);
    free(before);
    draw_many(21000, got, "");
    assert_about(got[2], 1000);
    assert_about(got[0], 10000);
}

static void test_limits(void **state)
{
    (void)state;
    struct target *t[6];
    give_plan(2, PROXY_LEAST);
    proxy()->requests_max = 3;
    for (unsigned i = 0; i < 6; i++)
        t[i] = choose_for("");
    assert_int_equal(why_not(), BALANCE_BUSY);
    proxy()->requests_max = 0;
    proxy()->connections_max = 3;
    assert_int_equal(why_not(), BALANCE_BUSY);
    proxy()->backend_http = 2; /* many on one connection */
    finish(choose_for(""), BALANCE_GOOD);
    struct balance_ask ask = ask_now(""); /* but not for what becomes a tunnel: three that carry no HTTP/2 */
    enum balance_why why;
    ask.alone = true;
    for (unsigned i = 0; i < 6; i++) {
        t[i]->connections = 6;
        t[i]->carriers = 2;
        t[i]->idle_count = 1;
    }
    assert_null(balance_choose(balance, &ask, &why));
    assert_int_equal(why, BALANCE_FULL);
    t[0]->idle_count = 2; /* one that is taken again makes no new one */
    struct target *alone = balance_choose(balance, &ask, &why);
    assert_ptr_equal(alone, t[0]);
    finish(alone, BALANCE_GOOD);
    finish(choose_for(""), BALANCE_GOOD); /* others do not wait behind them */
    for (unsigned i = 0; i < 6; i++)
        t[i]->connections = t[i]->carriers = t[i]->idle_count = 0;
    for (unsigned i = 0; i < 6; i++)
        finish(t[i], BALANCE_GOOD);
}

/* ------------------------------------------------------------------ the queue */

struct waiting {
    struct balance_waiter w;
    struct target *got;
    enum balance_why why;
    unsigned woken, order;
};

static unsigned served;

static void woken(struct balance_waiter *w)
{
    struct waiting *x = container_of(w, struct waiting, w);
    struct balance_ask ask = ask_now("");
    x->woken++;
    x->got = balance_choose(balance, &ask, &x->why);
    if (x->got)
        x->order = ++served;
    else if (x->why == BALANCE_BUSY)
        assert_true(balance_wait(balance, AT, w, 1));
}

static void test_queue(void **state)
{
    (void)state;
    struct waiting w[4] = {0};
    served = 0;
    give_plan(1, PROXY_LEAST);
    proxy()->requests_max = 2;
    struct target *a = choose_for(""), *b = choose_for("");
    for (unsigned i = 0; i < 4; i++)
        w[i].w.wake = woken;
    for (unsigned i = 0; i < 3; i++)
        assert_true(balance_wait(balance, AT, &w[i].w, 3));
    assert_false(balance_wait(balance, AT, &w[3].w, 3));
    balance_run(balance, now_ms);
    balance_run(balance, now_ms);
    assert_int_equal(served, 0);
    finish(a, BALANCE_GOOD);
    assert_int_equal(why_not(), BALANCE_BUSY); /* others came first */
    balance_run(balance, now_ms);
    assert_int_equal(w[0].order, 1);
    assert_int_equal(served, 1);
    assert_true(balance_wait(balance, AT, &w[3].w, 3));
    balance_leave(balance, &w[1].w); /* its time is over */
    balance_leave(balance, &w[1].w);
    finish(b, BALANCE_GOOD);
    finish(w[0].got, BALANCE_GOOD);
    balance_run(balance, now_ms);
    assert_int_equal(w[2].order, 2);
    assert_int_equal(w[3].order, 3);
    finish(w[2].got, BALANCE_GOOD);
    finish(w[3].got, BALANCE_GOOD);
    finish(choose_for(""), BALANCE_GOOD);
}

/* A backend whose connections carry no more, for now: waited for, and taken when they do. */
static void test_full(void **state)
{
    (void)state;
    struct waiting w = {.w.wake = woken};
    served = 0;
    give_plan(1, PROXY_LEAST);
    proxy()->backend_http = 2;
    struct target *t = choose_for("");
    t->full = true;
    assert_int_equal(why_not(), BALANCE_BUSY);
    assert_true(balance_wait(balance, AT, &w.w, 1));
    finish(t, BALANCE_GOOD); /* an end elsewhere does not help */
    balance_run(balance, now_ms);
    assert_int_equal(served, 0);
    balance_room(balance, t);
    balance_run(balance, now_ms);
    assert_int_equal(served, 1);
    finish(w.got, BALANCE_GOOD);
    t->full = true;
    give_plan(1, PROXY_LEAST); /* which may allow more connections: asked again */
    proxy()->backend_http = 2;
    finish(choose_for(""), BALANCE_GOOD);
}

static void test_queue_without_service(void **state)
{
    (void)state;
    struct waiting w = {.w.wake = woken};
    give_plan(1, PROXY_LEAST);
    proxy()->requests_max = 1;
    struct target *t = choose_for("");
    assert_true(balance_wait(balance, AT, &w.w, 3));
    /* All down: nobody waits for ever. */
    set_state(0, ABI_DOWN);
    balance_run(balance, now_ms + 1000);
    assert_int_equal(w.why, BALANCE_NONE);
    set_state(0, ABI_UP);
    assert_true(balance_wait(balance, AT, &w.w, 3));
    give_plan(0, PROXY_LEAST);
    balance_run(balance, now_ms);
    assert_int_equal(w.why, BALANCE_NONE);
    finish(t, BALANCE_GOOD); /* its record has outlived its backend */
}

/* ------------------------------------------------------------------ outliers, budget */

static void fail_times(uint32_t id, unsigned times)
{
    while (times) {
        struct target *t = choose_for("");
        finish(t, t->id == id ? BALANCE_FAILED : BALANCE_GOOD);
        times -= t->id == id;
    }
}

static void test_ejection(void **state)
{
    (void)state;
    unsigned got[BACKENDS_MAX];
    give_plan(4, PROXY_RANDOM);
    proxy()->eject_failures = 5;
    proxy()->eject_ms = 1000;
    fail_times(10, 5);
    draw_many(100, got, "");
    assert_int_equal(got[0], 0);
    fail_times(11, 5);
    draw_many(100, got, "");
    assert_int_equal(got[1], 0);
    fail_times(12, 20); /* half of them are out already */
    draw_many(100, got, "");
    assert_true(got[2] > 20);
    assert_int_equal(counters.counter[CTR_PROXY_EJECTIONS], 2);
    /* Each time for longer, up to ten times. */
    static const unsigned times[] = {1, 2, 4, 8, 10, 10};
    for (unsigned i = 0; i < ARRAY_SIZE(times); i++) {
        if (i)
            fail_times(10, 5);
        now_ms += 1000 * times[i] - 1;
        draw_many(100, got, "");
        assert_int_equal(got[0], 0);
        now_ms += 1;
        fail_times(10, 1);
        struct target *t;
        while ((t = choose_for(""))->id != 10)
            finish(t, BALANCE_GOOD);
        finish(t, BALANCE_GOOD);
    }
    /* Rather one of those than none. */
    fail_times(10, 5);
    for (unsigned i = 1; i < 4; i++)
        set_state(i, ABI_DOWN);
    draw_many(10, got, "");
    assert_int_equal(got[0], 10);
}

static void test_latency(void **state)
{
    (void)state;
    unsigned got[BACKENDS_MAX];
    give_plan(5, PROXY_RANDOM);
    proxy()->eject_latency = 300;
    proxy()->eject_ms = 1000;
    for (unsigned i = 0; i < 500; i++) {
        struct target *t = choose_for("");
        balance_finish(balance, t, BALANCE_GOOD, t->id == 12 ? 90000 : 20000 + t->id * 100, now_ms);
    }
    now_ms += 2000;
    draw_many(500, got, "");
    assert_int_equal(got[2], 0);
    for (unsigned i = 0; i < 5; i++)
        assert_true(i == 2 || got[i] > 50);
    now_ms += 1000;
    draw_many(500, got, "");
    assert_true(got[2] > 50);
}

static void test_budget(void **state)
{
    (void)state;
    enum balance_why why;
    unsigned got[BACKENDS_MAX], allowed = 0;
    give_plan(2, PROXY_RANDOM);
    draw_many(1000, got, "");
    for (unsigned i = 0; i < 1000; i++) {
        struct balance_ask ask = ask_now("");
        ask.retry = true;
        struct target *t = balance_choose(balance, &ask, &why);
        assert_true(t || why == BALANCE_SPENT);
        allowed += t != NULL;
        if (t)
            finish(t, BALANCE_GOOD);
    }
    assert_int_equal(allowed, 200); /* 20 of 100 */
    struct balance_ask free_one = ask_now("");
    free_one.retry = free_one.free = true;
    struct target *free_target = balance_choose(balance, &free_one, &why);
    assert_non_null(free_target);
    finish(free_target, BALANCE_GOOD);
    now_ms += 11000;
    for (unsigned i = 0; i < 20; i++) {
        struct balance_ask ask = ask_now("");
        ask.retry = true;
        struct target *t = balance_choose(balance, &ask, &why);
        assert_true(!t == (i >= 10));
        if (t)
            finish(t, BALANCE_GOOD);
    }
}

/* Every id can be preferred, the first one, too. */
static void test_preferred(void **state)
{
    (void)state;
    enum balance_why why;
    give_plan(3, PROXY_RANDOM);
    backend(0)->id = 0;
    backend(0)->checked = 0;
    balance_plan(balance, plan, now_ms);
    for (unsigned i = 0; i < 60; i++) {
        struct balance_ask ask = ask_now("");
        uint32_t id = backend(i % 3)->id;
        ask.prefer = id + 1;
        struct target *t = balance_choose(balance, &ask, &why);
        assert_non_null(t);
        assert_int_equal(t->id, id);
        finish(t, BALANCE_GOOD);
    }
}

/* What only one has is asked of it alone: whatever is held against it, but not if it is down or unknown. */
static void test_only(void **state)
{
    (void)state;
    enum balance_why why;
    give_plan(3, PROXY_RANDOM);
    proxy()->requests_max = 1;
    balance_plan(balance, plan, now_ms);
    struct balance_ask ask = ask_now("");
    ask.only = true;
    ask.prefer = backend(1)->id + 1;
    struct target *t = balance_choose(balance, &ask, &why);
    assert_int_equal(t->id, backend(1)->id);
    assert_null(balance_choose(balance, &ask, &why));
    assert_int_equal(why, BALANCE_BUSY);
    finish(t, BALANCE_FAILED);
    t->ejected_until_ms = now_ms + 1000;
    t = balance_choose(balance, &ask, &why);
    assert_int_equal(t->id, backend(1)->id);
    finish(t, BALANCE_GOOD);
    ask.tried = (const struct target *const[]){t};
    ask.tried_count = 1;
    assert_null(balance_choose(balance, &ask, &why));
    assert_int_equal(why, BALANCE_NONE);
    ask.tried_count = 0;
    ask.prefer = 4711;
    assert_null(balance_choose(balance, &ask, &why));
    assert_int_equal(why, BALANCE_NONE);
}

/* Requests that last as long as their clients like leave room for the others. */
static void test_relays(void **state)
{
    (void)state;
    enum balance_why why;
    give_plan(2, PROXY_RANDOM);
    proxy()->connections_max = 4;
    struct balance_ask ask = ask_now("");
    ask.only = ask.relay = true;
    ask.prefer = backend(1)->id + 1;
    struct target *t[4];
    for (int i = 0; i < 2; i++)
        assert_non_null(t[i] = balance_choose(balance, &ask, &why));
    assert_null(balance_choose(balance, &ask, &why));
    assert_int_equal(why, BALANCE_FULL);
    ask.relay = false;
    for (int i = 2; i < 4; i++)
        assert_non_null(t[i] = balance_choose(balance, &ask, &why));
    assert_null(balance_choose(balance, &ask, &why));
    assert_int_equal(why, BALANCE_BUSY);
    for (int i = 0; i < 4; i++) {
        if (i < 2)
            balance_relayed(t[i]);
        finish(t[i], BALANCE_GOOD);
    }
    ask.relay = true;
    assert_non_null(t[0] = balance_choose(balance, &ask, &why));
    balance_relayed(t[0]);
    finish(t[0], BALANCE_GOOD);
}

static void test_evidence(void **state)
{
    (void)state;
    uint64_t slots[ABI_EVIDENCE_SLOTS] = {0}, soft = ABI_EVIDENCE_WORD(10, 1, ABI_EVIDENCE_SOFT);
    give_plan(1, PROXY_RANDOM);
    balance_evidence(balance, slots);
    finish(choose_for(""), BALANCE_GOOD);
    finish(choose_for(""), BALANCE_CANCELLED);
    assert_int_equal(slots[10], 0);
    finish(choose_for(""), BALANCE_FAILED);
    assert_int_equal(slots[10], soft);
    finish(choose_for(""), BALANCE_UNREACHABLE); /* the clock has not come by yet */
    assert_int_equal(slots[10], soft);
    slots[10] = 0;
    finish(choose_for(""), BALANCE_UNREACHABLE);
    assert_int_equal(slots[10], ABI_EVIDENCE_WORD(10, 1, ABI_EVIDENCE_HARD));
}

/* ------------------------------------------------------------------ everything at once */

enum { AT_WORK_MAX = 400, STEPS = 60000, WAITERS = 16 };

static struct target *at_work[AT_WORK_MAX];
static unsigned at_work_count;
static struct waiting waiters[WAITERS];

static void random_plan(void)
{
    uint32_t n = (uint32_t)(any() % (any() % 8 ? 12 : BACKENDS_MAX));
    struct plan *before = plan;
    plan = make_plan(n, (uint8_t)(1 + any() % 4), 2);
    struct plan_service *s = (struct plan_service *)plan_service(plan, AT);
    s->incarnation = 7 + (any() % 10 == 0);
    s->proxy.requests_max = (uint32_t)(any() % 5);
    s->proxy.eject_failures = (uint32_t)(any() % 4);
    s->proxy.eject_ms = 500;
    s->proxy.eject_latency = 200;
    s->proxy.slow_start_ms = 300;
    s->proxy.all_down = any() % 2;
    for (uint32_t i = 0; i < n; i++) {
        backend(i)->generation = (uint16_t)(1 + any() % 2);
        backend(i)->weight = (uint16_t)(1 + any() % 256);
        backend(i)->draining = any() % 10 == 0;
    }
    balance_plan(balance, plan, now_ms);
    free(before);
}

static void random_choice(void)
{
    enum balance_why why;
    struct balance_ask ask = ask_now(any() % 2 ? "sha256:some" : "");
    const struct target *tried[2] = {at_work[0], at_work[at_work_count / 2]};
    ask.tried = tried;
    ask.tried_count = at_work_count ? any() % 3 : 0;
    ask.retry = any() % 10 == 0;
    struct target *t = at_work_count < AT_WORK_MAX ? balance_choose(balance, &ask, &why) : NULL;
    if (t) {
        assert_false(t->where.draining);
        at_work[at_work_count++] = t;
    }
}

static void random_wait(void)
{
    struct waiting *w = &waiters[any() % WAITERS];
    if (w->w.prev && any() % 2)
        balance_leave(balance, &w->w);
    else if (!w->w.prev && !w->got)
        (void)balance_wait(balance, AT, &w->w, 8);
}

static void collect_waiters(void)
{
    for (unsigned i = 0; i < WAITERS; i++)
        if (waiters[i].got && at_work_count < AT_WORK_MAX) {
            at_work[at_work_count++] = waiters[i].got;
            waiters[i].got = NULL;
        }
}

static void random_finish(void)
{
    unsigned i = at_work_count ? (unsigned)(any() % at_work_count) : 0;
    if (!at_work_count)
        return;
    balance_finish(balance, at_work[i], (enum balance_outcome)(any() % 5), any() % 100000, now_ms);
    at_work[i] = at_work[--at_work_count];
}

static void counts_agree(void)
{
    uint64_t sum = 0, counted = 0;
    const struct balance_service *s = &balance->service[AT];
    for (uint32_t i = 0; i < s->count; i++)
        sum += balance->listed[s->first + i]->requests;
    assert_int_equal(sum, s->requests);
    for (unsigned i = 0; i < at_work_count; i++)
        counted += at_work[i]->listed;
    assert_int_equal(sum, counted);
    unsigned waiting = 0;
    for (unsigned i = 0; i < WAITERS; i++)
        waiting += waiters[i].w.prev != NULL;
    assert_int_equal(waiting, s->waiting);
    assert_int_equal(waiting > 0, balance->waited == s);
}

static void test_random_events(void **state)
{
    (void)state;
    memset(waiters, 0, sizeof(waiters));
    at_work_count = 0;
    for (unsigned i = 0; i < WAITERS; i++)
        waiters[i].w.wake = woken;
    random_plan();
    for (unsigned step = 0; step < STEPS; step++) {
        now_ms += any() % 40;
        switch (any() % 16) {
        case 0:
            if (any() % 20 == 0)
                random_plan();
            break;
        case 1:
            verdicts[10 + any() % 16] = ABI_VERDICT(any() % 4, any() % 4, 1 + any() % 2, step);
            break;
        case 2:
        case 3:
            random_wait();
            break;
        case 4:
        case 5:
            balance_run(balance, now_ms);
            collect_waiters();
            break;
        case 6:
        case 7:
        case 8:
        case 9:
        case 10:
            random_choice();
            break;
        default:
            random_finish();
        }
        if (step % 16 == 0)
            counts_agree();
    }
    for (unsigned i = 0; i < WAITERS; i++)
        balance_leave(balance, &waiters[i].w);
    while (at_work_count)
        random_finish();
    counts_agree();
    assert_int_equal(balance->service[AT].requests, 0);
    give_plan(0, PROXY_LEAST);
    assert_int_equal(balance->targets.used, 0); /* no record without a holder */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_random_by_weight, setup, teardown),
        cmocka_unit_test_setup_teardown(test_least, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ranks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tried, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounded_load, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_start, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queue, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_queue_without_service, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ejection, setup, teardown),
        cmocka_unit_test_setup_teardown(test_latency, setup, teardown),
        cmocka_unit_test_setup_teardown(test_budget, setup, teardown),
        cmocka_unit_test_setup_teardown(test_preferred, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_relays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_evidence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random_events, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
