/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of a push on other replicas: who is asked, again, and instead. The questions are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/fetch.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/registry/copies.h"
#include "dataplane/registry/keep.h"
#include "dataplane/registry/others.h"

#define STORES_NUMBER (1ull << 63) /* as control/state/stores.h has it */

enum { ME = 1, REPLICAS = 3, ASKED_MAX = 64, MIB = 1 << 20, LIMIT_MS = 5000 };

#define SESSION "0123456789abcdef0123456789abcdef0000000000000002"
#define NAME    "fedcba9876543210fedcba98765432100000000000000001.0123456789abcdef"

struct upload {
    uint64_t size;
    struct upload_copies copies;
};

static struct scene {
    struct plan plan;
    struct plan_service service;
    struct plan_backend backend[REPLICAS];
} plan;
static struct ring ring;
static struct ring_counters counters;
static struct stream stream;
static struct upload upload;
static struct api api;
static uint64_t clock_ms;
static struct question *asked[ASKED_MAX];
static unsigned asked_count;
static struct http_answer answer;
static int went_on; /* what the step behind the wait was told; 1: it was not called */

/* ------------------------------------------------------------------ played */

uint64_t loop_now_ms(const struct loop *loop)
{
    (void)loop;
    return clock_ms;
}

uint16_t fetch_peers_service(const struct plan *p)
{
    (void)p;
    return 0;
}

uint32_t fetch_peer_of(const struct plan *p, uint64_t node)
{
    (void)p;
    return (uint32_t)node + 1;
}

void question_ask(struct question *q)
{
    assert_true(asked_count < ASKED_MAX);
    asked[asked_count++] = q;
}

void question_end(struct question *q, enum question_outcome outcome, bool keep)
{
    (void)outcome, (void)keep;
    for (unsigned i = 0; i < asked_count; i++)
        if (asked[i] == q)
            memmove(asked + i, asked + i + 1, (--asked_count - i) * sizeof(asked[0]));
}

void question_forgive(struct question *q)
{
    (void)q;
}

struct view http_answer_field(const struct http_answer *a, const char *name)
{
    (void)a, (void)name;
    return VIEW_LIT(SESSION);
}

struct upload_copies *upload_copies(struct upload *u)
{
    return &u->copies;
}

const char *upload_name(const struct upload *u)
{
    (void)u;
    return NAME;
}

uint64_t upload_offset(const struct upload *u)
{
    return u->size;
}

struct view api_digest_text(const struct api *a)
{
    (void)a;
    return VIEW_LIT("sha256:00");
}

uint64_t stream_setting(const struct stream *s, int setting)
{
    (void)s, (void)setting;
    return LIMIT_MS;
}

void stream_count(struct stream *s, enum counter_id c, uint64_t n)
{
    (void)s, (void)c, (void)n;
}

void error_answer_later(struct stream *s, int status, const char *message)
{
    (void)s, (void)status, (void)message;
}

/* ------------------------------------------------------------------ the scene */

static void begin(unsigned replicas, unsigned wanted, unsigned least)
{
    memset(&plan, 0, sizeof(plan));
    memset(&ring, 0, sizeof(ring));
    memset(&upload, 0, sizeof(upload));
    memset(&api, 0, sizeof(api));
    plan.plan.node_id = ME;
    plan.plan.copies = (struct plan_copies){
        .told = 1, .keeps = 1, .counts = 1, .wanted = (uint8_t)wanted, .least = (uint8_t)least, .holder = ME};
    plan.plan.service_count = 1;
    plan.plan.service_at = offsetof(struct scene, service);
    plan.plan.backend_at = offsetof(struct scene, backend);
    plan.service.kind = SERVICE_PROXY;
    plan.service.backend_count = replicas;
    plan.service.proxy.connections_max = 8;
    for (unsigned i = 0; i < replicas; i++)
        plan.backend[i].node = plan.backend[i].holder = ME + 1 + i;
    clock_ms = 1000;
    asked_count = 0;
    ring.plan = &plan.plan;
    ring.counters = &counters;
    timer_wheel_init(&ring.wheel, clock_ms);
    assert_int_equal(copying_new(&ring, &ring.copying), 0);
    stream.ring = &ring;
    api.s = &stream;
    api.upload = &upload;
    copies_begin(&api);
    assert_non_null(api.copies);
}

static void end(void)
{
    copies_end(&api);
    copying_stop(ring.copying);
    assert_int_equal(asked_count, 0);
    copying_free(ring.copying);
}

static void pass(uint64_t ms)
{
    for (uint64_t by = clock_ms + ms; clock_ms < by;) {
        clock_ms += TIMER_TICK_MS;
        (void)timer_wheel_run(&ring.wheel, clock_ms);
    }
}

static void goes_on(struct api *a, int res)
{
    (void)a;
    went_on = res;
}

/* All of an upload is there; nothing of it was copied yet, unless there is a session. */
static void finish(void)
{
    went_on = 1;
    api.digest.alg = DIGEST_SHA256;
    api.size = upload.size;
    copies_finish(&api, (struct view){0});
    copies_wait(&api, goes_on);
}

static void receive(uint64_t bytes)
{
    upload.size = bytes;
    copies_flow(&api);
    pass(100);
}

/* Ends the one question that is under way; the replica that it went to. */
static uint64_t settle(enum question_end how, int status)
{
    assert_int_equal(asked_count, 1);
    struct question *q = asked[0];
    uint64_t node = q->only - 1;
    answer = (struct http_answer){.status = status};
    q->status = status;
    q->answer = &answer;
    q->attempts = how != QUESTION_NOBODY;
    q->done(q, how);
    return node;
}

static bool order_has(const char *text)
{
    assert_int_equal(asked_count, 1);
    asked[0]->path[asked[0]->path_len] = 0;
    return strstr(asked[0]->path, text) != NULL;
}

/* ------------------------------------------------------------------ tests */

static void test_made(void **state)
{
    (void)state;
    begin(2, 2, 1);
    receive(3 * MIB);
    assert_true(order_has("&to=0")); /* a session, before there is something to lose */
    uint64_t node = settle(QUESTION_ANSWERED, 200);
    pass(100);
    assert_true(order_has("&to=3145728&session=" SESSION));
    assert_int_equal(settle(QUESTION_ANSWERED, 200), node);
    upload.size += 10;
    finish();
    assert_true(order_has("&to=3145738&session=" SESSION "&digest="));
    assert_int_equal(settle(QUESTION_ANSWERED, 201), node);
    assert_int_equal(went_on, 0);
    end();
}

/* Replicas that share a store get one copy between them, and the others of this node's own store none; but
 * one of the first fails in the other's favour. */
static void test_shared_stores(void **state)
{
    (void)state;
    begin(REPLICAS, 3, 1);
    for (unsigned i = 0; i < REPLICAS; i++)
        plan.backend[i].holder = i == 0 ? ME : STORES_NUMBER | 7;
    finish();
    uint64_t first = settle(QUESTION_FAILED, 0);
    assert_int_not_equal(first, plan.backend[0].node);
    uint64_t second = settle(QUESTION_ANSWERED, 201);
    assert_int_not_equal(second, plan.backend[0].node);
    assert_int_not_equal(second, first);
    assert_int_equal(went_on, 0);
    struct wire_writer w = {.buf = (uint8_t[64]){0}, .cap = 64};
    copies_put_holders(&api, &w);
    struct wire_reader r = {.buf = w.buf, .len = w.len};
    struct cmd_holders said;
    cmd_get_holders(&r, &said);
    assert_int_equal(said.count, 2);
    assert_int_equal(said.id[0], ME);
    assert_true(said.id[1] == (STORES_NUMBER | 7));
    end();
}

/* A drained node's own copy is one more than those that are wanted, and is said all the same. */
static void test_drained(void **state)
{
    (void)state;
    for (unsigned done = 0; done < 3; done++) {
        begin(2, 2, 2);
        plan.plan.copies.counts = 0;
        finish();
        assert_int_equal(asked_count, 2);
        for (unsigned i = 0; i < 2; i++) {
            struct question *q = asked[0];
            answer = (struct http_answer){.status = i < done ? 201 : 507};
            q->status = answer.status;
            q->answer = &answer;
            q->attempts = 1;
            q->done(q, i < done ? QUESTION_ANSWERED : QUESTION_REFUSED);
        }
        assert_int_equal(went_on, done < 2 ? -EAGAIN : 0);
        struct wire_writer w = {.buf = (uint8_t[64]){0}, .cap = 64};
        copies_put_holders(&api, &w);
        struct wire_reader r = {.buf = w.buf, .len = w.len};
        struct cmd_holders said;
        cmd_get_holders(&r, &said);
        assert_int_equal(said.count, done + 1);
        assert_true(cmd_holders_has(&said, ME));
        end();
    }
}

/* Where this node could not even ask, the other replica is none the worse for it. */
static void test_no_means_here(void **state)
{
    (void)state;
    for (int other_is_bad = 0; other_is_bad < 2; other_is_bad++) {
        begin(2, 2, 1);
        finish();
        uint64_t first = settle(other_is_bad ? QUESTION_FAILED : QUESTION_NOBODY, 0);
        assert_int_not_equal(settle(QUESTION_ANSWERED, 201), first);
        assert_int_equal(went_on, 0);
        copies_end(&api);
        copies_begin(&api);
        finish();
        assert_int_equal(settle(QUESTION_ANSWERED, 201) == first, !other_is_bad);
        end();
    }
}

static void test_full(void **state)
{
    (void)state;
    begin(2, 2, 2);
    finish();
    uint64_t full = settle(QUESTION_REFUSED, 507);
    assert_int_not_equal(settle(QUESTION_ANSWERED, 201), full);
    assert_int_equal(went_on, 0);
    end();
}

/* A step of the request before is under way there still: it is waited for. */
static void test_busy(void **state)
{
    (void)state;
    begin(2, 2, 1);
    receive(2 * MIB);
    uint64_t node = settle(QUESTION_ANSWERED, 200);
    pass(100);
    copies_end(&api); /* in the midst of a step */
    assert_int_equal(upload.copies.count, 1);
    assert_int_equal(asked_count, 0);
    copies_begin(&api);
    receive(2 * MIB);
    assert_true(order_has("&to=2097152&session=" SESSION));
    assert_int_equal(settle(QUESTION_ANSWERED, KEEP_AGAIN), node);
    finish();
    assert_int_equal(asked_count, 0);
    pass(300);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(order_has("&session=" SESSION "&digest="));
        assert_int_equal(settle(QUESTION_ANSWERED, KEEP_AGAIN), node);
        pass(300);
    }
    assert_int_equal(settle(QUESTION_ANSWERED, 201), node);
    assert_int_equal(went_on, 0);
    end();
}

/* A request that is over sooner than anybody has looked: what it brought is copied before it is answered. */
static void test_rests(void **state)
{
    (void)state;
    begin(2, 2, 1);
    upload.size = 3 * MIB;
    copies_flow(&api);
    went_on = 1;
    copies_rest(&api, goes_on);
    assert_true(order_has("&to=0"));
    uint64_t node = settle(QUESTION_ANSWERED, 200);
    assert_int_equal(went_on, 1);
    assert_true(order_has("&to=3145728&session=" SESSION));
    assert_int_equal(settle(QUESTION_ANSWERED, 200), node);
    assert_int_equal(went_on, 0);
    assert_int_equal(upload.copies.count, 1);
    assert_int_equal(upload.copies.at[0].size, 3 * MIB);
    /* Without enough to be worth it, or a body at all. */
    for (unsigned i = 0; i < 2; i++) {
        went_on = 1;
        copies_begin(&api);
        if (i)
            copies_flow(&api);
        upload.size += 10;
        copies_rest(&api, goes_on);
        assert_int_equal(went_on, 0);
    }
    end();
}

/* One that does not even say that it has a session is left alone, and waited for no longer than that once. */
static void test_rests_in_vain(void **state)
{
    (void)state;
    uint64_t node[2];
    begin(2, 2, 1);
    for (unsigned i = 0; i < 2; i++) {
        upload.size += 2 * MIB;
        copies_begin(&api);
        copies_flow(&api);
        went_on = 1;
        copies_rest(&api, goes_on);
        assert_int_equal(asked_count, 1);
        asked[0]->attempts = 1;
        node[i] = asked[0]->only - 1;
        pass(1000);
        assert_int_equal(went_on, 1);
        pass(1500);
        assert_int_equal(went_on, 0);
        assert_int_equal(asked_count, 0);
    }
    assert_int_not_equal(node[0], node[1]);
    end();
}

static void test_busy_for_too_long(void **state)
{
    (void)state;
    begin(1, 2, 1);
    finish();
    (void)settle(QUESTION_ANSWERED, KEEP_AGAIN);
    for (unsigned i = 0; went_on && i < 2 * LIMIT_MS / 300; i++) {
        pass(300);
        if (went_on)
            (void)settle(QUESTION_ANSWERED, KEEP_AGAIN);
    }
    assert_int_equal(went_on, 0);
    end();
}

/* The only other replica failed while the bytes came; at the end it is there. */
static void test_failed_in_the_middle(void **state)
{
    (void)state;
    begin(1, 2, 2);
    receive(2 * MIB);
    uint64_t node = settle(QUESTION_FAILED, 0);
    pass(300);
    assert_int_equal(asked_count, 0);
    finish();
    assert_int_equal(settle(QUESTION_ANSWERED, 201), node);
    assert_int_equal(went_on, 0);
    copies_end(&api);
    copies_begin(&api);
    finish();
    (void)settle(QUESTION_FAILED, 0);
    assert_int_equal(went_on, -EAGAIN);
    end();
}

/* What is left on other replicas of a push that comes to nothing is dropped there, also if it takes a while.
 */
static void test_abandoned(void **state)
{
    (void)state;
    begin(1, 2, 1);
    receive(2 * MIB);
    (void)settle(QUESTION_ANSWERED, 200);
    copies_abandon(&api);
    assert_int_equal(upload.copies.count, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(asked[0]->method, HTTP_DELETE);
        assert_true(order_has(KEEP_PATH "/" SESSION));
        (void)settle(QUESTION_ANSWERED, i < 2 ? KEEP_AGAIN : 204);
        pass(1500);
    }
    assert_int_equal(asked_count, 0);
    end();
}

/* A session that is of no use any more, too. */
static void test_begun_anew(void **state)
{
    (void)state;
    begin(1, 2, 1);
    receive(2 * MIB);
    (void)settle(QUESTION_ANSWERED, 200);
    finish();
    answer = (struct http_answer){.status = 409};
    asked[0]->status = 409;
    asked[0]->answer = &answer;
    asked[0]->done(asked[0], QUESTION_ANSWERED);
    assert_int_equal(asked_count, 2);
    assert_int_equal(asked[0]->method, HTTP_DELETE);
    assert_int_equal(asked[1]->method, HTTP_POST);
    assert_null(strstr(asked[1]->path, "session"));
    end();
}

/* Orders leave most of the connections to the questions that they lead to. */
static void test_part_for_orders(void **state)
{
    (void)state;
    struct others others = {0};
    begin(2, 2, 1);
    assert_true(others_order(&others, &plan.plan, 2));
    assert_true(others_order(&others, &plan.plan, 2));
    assert_false(others_order(&others, &plan.plan, 2));
    assert_true(others_order(&others, &plan.plan, 3));
    others_order_end(&others, 2);
    assert_true(others_order(&others, &plan.plan, 2));
    assert_false(others_order(&others, &plan.plan, 2));
    end();
}

static void test_waits_for_its_turn(void **state)
{
    (void)state;
    struct api more[3];
    begin(1, 2, 1);
    for (unsigned i = 0; i < 3; i++) {
        more[i] = api;
        more[i].copies = NULL;
        more[i].digest.alg = DIGEST_SHA256;
        more[i].size = 1;
        copies_begin(&more[i]);
        copies_finish(&more[i], (struct view){0});
    }
    assert_int_equal(asked_count, 2);
    struct question *first = asked[0];
    answer = (struct http_answer){.status = 201};
    first->status = 201;
    first->answer = &answer;
    first->done(first, QUESTION_ANSWERED);
    assert_int_equal(asked_count, 1);
    pass(100);
    assert_int_equal(asked_count, 2);
    for (unsigned i = 0; i < 3; i++)
        copies_end(&more[i]);
    assert_int_equal(asked_count, 0);
    end();
}

static unsigned holders_said(void)
{
    uint8_t bytes[256];
    struct wire_writer w = {.buf = bytes, .cap = sizeof(bytes)};
    copies_put_holders(&api, &w);
    return w.len / sizeof(uint64_t);
}

/* What another node said too long ago does not count: its garbage collection may have taken it since. */
static void test_said_too_long_ago(void **state)
{
    (void)state;
    begin(2, 2, 1);
    upload.size = 1;
    finish();
    (void)settle(QUESTION_ANSWERED, 201);
    unsigned both = holders_said();
    pass(KEEP_RELIED_MS / 2);
    assert_int_equal(holders_said(), both);
    pass(KEEP_RELIED_MS / 2);
    assert_int_equal(holders_said(), both - 1);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared_stores),
        cmocka_unit_test(test_made),
        cmocka_unit_test(test_drained),
        cmocka_unit_test(test_no_means_here),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_rests),
        cmocka_unit_test(test_rests_in_vain),
        cmocka_unit_test(test_busy_for_too_long),
        cmocka_unit_test(test_failed_in_the_middle),
        cmocka_unit_test(test_abandoned),
        cmocka_unit_test(test_begun_anew),
        cmocka_unit_test(test_part_for_orders),
        cmocka_unit_test(test_waits_for_its_turn),
        cmocka_unit_test(test_said_too_long_ago),
    };
    return cmocka_run_group_tests_name("copies", tests, NULL, NULL);
}
