/* SPDX-License-Identifier: Apache-2.0 */
/* Who has most of an upload whose node is away: who is asked, again, and for how long. The questions are
 * played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/fetch.h"
#include "dataplane/http/response_reader.h"
#include "dataplane/registry/api.h"
#include "dataplane/registry/heirs.h"
#include "dataplane/registry/keep.h"

enum { ME = 1, OWNER = 2, REPLICAS = 12, ASKED_MAX = 8, BEGIN_MS = 1000 };

#define SESSION "0123456789abcdef0123456789abcdef0000000000000002"

static struct scene {
    struct plan plan;
    struct plan_service service;
    struct plan_backend backend[REPLICAS];
} plan;
static struct ring ring;
static struct ring_counters counters;
static struct stream stream;
static struct api api;
static uint64_t clock_ms;
static struct question *asked[ASKED_MAX + 1];
static unsigned asked_count, ended;
static struct http_answer answer;
static char size_said[32];
static bool has_session;         /* whoever answers has gone on already */
static int here;                 /* what this node's store says */
static uint64_t here_size, gone; /* gone: it has ceased to be a replica */
static int result;               /* 1: the search is not over */
static struct heir best;
static struct upload_origin origin;
static unsigned adopted; /* how often control was told */

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
    return node == gone ? 0 : (uint32_t)node + 1;
}

void question_ask(struct question *q)
{
    assert_true(asked_count < ASKED_MAX);
    asked[asked_count++] = q;
}

void question_end(struct question *q, enum question_outcome outcome, bool keep)
{
    (void)q, (void)outcome, (void)keep;
    ended++;
}

void question_forgive(struct question *q)
{
    (void)q;
}

struct view http_answer_field(const struct http_answer *a, const char *name)
{
    (void)a;
    bool session = strcmp(name, KEEP_HAS_FIELD) == 0;
    if (!session)
        assert_string_equal(name, KEEP_SIZE_FIELD);
    return session == has_session ? view_of_str(size_said) : (struct view){0};
}

struct store_ring *stream_store(struct stream *s)
{
    (void)s;
    return NULL;
}

int upload_look(struct store_ring *r, const char *name, size_t len, struct upload_found *found)
{
    (void)r;
    assert_int_equal(len, UPLOAD_NAME_LEN);
    assert_memory_equal(name, SESSION ".", UPLOAD_ID_LEN + 1);
    *found = (struct upload_found){here_size, false};
    return here;
}

void upload_name_write(const char *id, const char *repo, size_t repo_len, char name[UPLOAD_NAME_LEN + 1])
{
    assert_int_equal(repo_len, 8);
    assert_memory_equal(repo, "team/app", 8);
    (void)snprintf(name, UPLOAD_NAME_LEN + 1, "%.48s.0123456789abcdef", id);
}

struct upload_origin *upload_origin(struct upload *u)
{
    (void)u;
    return &origin;
}

uint64_t upload_offset(const struct upload *u)
{
    (void)u;
    return 77;
}

void channel_adopted(struct channel *c, uint64_t node, uint64_t bytes, const char *repo, size_t repo_len)
{
    (void)c;
    assert_int_equal(node, OWNER);
    assert_int_equal(bytes, 77);
    assert_int_equal(repo_len, 8);
    assert_memory_equal(repo, "team/app", 8);
    adopted++;
}

/* ------------------------------------------------------------------ the scene */

static void found(struct api *a, int err, const struct heir *heir)
{
    assert_ptr_equal(a, &api);
    result = err;
    best = *heir;
}

static void begin(unsigned replicas)
{
    memset(&plan, 0, sizeof(plan));
    plan.plan.node_id = ME;
    plan.plan.service_count = 1;
    plan.plan.service_at = offsetof(struct scene, service);
    plan.plan.backend_at = offsetof(struct scene, backend);
    plan.service.kind = SERVICE_PROXY;
    plan.service.backend_count = replicas;
    for (unsigned i = 0; i < replicas; i++)
        plan.backend[i].node = OWNER + i;
    clock_ms = BEGIN_MS;
    asked_count = ended = adopted = 0;
    origin = (struct upload_origin){0};
    here = -ENOENT;
    result = 1;
    gone = 0;
    has_session = false;
    memset(&ring, 0, sizeof(ring));
    ring.plan = &plan.plan;
    ring.counters = &counters;
    timer_wheel_init(&ring.wheel, clock_ms);
    assert_int_equal(heirs_new(&ring, &ring.heirs), 0);
    stream.ring = &ring;
    api = (struct api){.s = &stream};
    api.route.reference = VIEW_LIT(SESSION);
    api.route.repo = VIEW_LIT("team/app");
}

static void end(void)
{
    assert_int_not_equal(result, 1);
    assert_int_equal(asked_count, 0);
    heirs_free(ring.heirs);
}

static void pass(uint64_t ms)
{
    for (uint64_t by = clock_ms + ms; clock_ms < by;) {
        clock_ms += TIMER_TICK_MS;
        (void)timer_wheel_run(&ring.wheel, clock_ms);
    }
}

/* The first that was asked answers. */
static uint64_t settle(enum question_end how, int status, const char *size)
{
    assert_true(asked_count > 0);
    struct question *q = asked[0];
    memmove(asked, asked + 1, --asked_count * sizeof(asked[0]));
    uint64_t node = q->only - 1;
    assert_int_equal(q->method, HTTP_GET);
    q->path[q->path_len] = '\0';
    assert_string_equal(q->path, "/copies?of=" SESSION ".0123456789abcdef");
    answer = (struct http_answer){.status = status};
    (void)snprintf(size_said, sizeof(size_said), "%s", size);
    q->status = status;
    q->answer = how == QUESTION_ANSWERED ? &answer : NULL;
    q->done(q, how);
    return node;
}

/* ------------------------------------------------------------------ tests */

static void test_the_one_that_has_most(void **state)
{
    (void)state;
    begin(4);
    heirs_find(&api, 0, found);
    assert_int_equal(asked_count, 3); /* not the one that is away */
    (void)settle(QUESTION_ANSWERED, 200, "70");
    uint64_t node = settle(QUESTION_ANSWERED, 200, "700");
    assert_int_equal(result, 1);
    (void)settle(QUESTION_ANSWERED, 404, "");
    assert_int_equal(result, 0);
    assert_int_equal(best.node, node);
    assert_int_equal(best.size, 700);
    assert_int_equal(ended, 3);
    end();
}

static void test_here(void **state)
{
    (void)state;
    for (int more = 0; more < 2; more++) {
        begin(2);
        here = 0;
        here_size = 10;
        heirs_find(&api, 0, found);
        uint64_t node = settle(QUESTION_ANSWERED, 200, more ? "11" : "10");
        assert_int_equal(result, 0);
        assert_int_equal(best.node, more ? node : ME);
        assert_int_equal(best.size, 10 + more);
        end();
    }
}

/* Who has gone on with it goes on, so that it does not fork once more. */
static void test_session_first(void **state)
{
    (void)state;
    for (int has_more = 0; has_more < 2; has_more++) {
        begin(4);
        here = 0;
        here_size = 10;
        heirs_find(&api, 0, found);
        (void)settle(QUESTION_ANSWERED, 200, "12");
        has_session = true;
        uint64_t node = settle(QUESTION_ANSWERED, 200, has_more ? "20" : "3");
        has_session = false;
        (void)settle(QUESTION_ANSWERED, 200, "11");
        assert_int_equal(result, 0);
        assert_int_equal(best.node, node);
        assert_true(best.session);
        assert_int_equal(best.size, has_more ? 20 : 3);
        end();
    }
}

static void test_nobody(void **state)
{
    (void)state;
    begin(5);
    heirs_find(&api, 0, found);
    (void)settle(QUESTION_ANSWERED, 404, "");
    (void)settle(QUESTION_FAILED, 0, "");
    (void)settle(QUESTION_NOBODY, 0, "");
    (void)settle(QUESTION_REFUSED, 503, "7"); /* of an older version, or one that does not know us */
    assert_int_equal(result, -ENOENT);
    end();
    begin(0);
    heirs_find(&api, 0, found);
    assert_int_equal(result, -ENOENT);
    end();
}

static void test_nonsense(void **state)
{
    (void)state;
    static const char *const sizes[] = {"", "-1", "99999999999999999999", "1 ", "0x1"};
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        begin(2);
        heirs_find(&api, 0, found);
        (void)settle(QUESTION_ANSWERED, 200, sizes[i]);
        assert_int_equal(result, -ENOENT);
        end();
    }
}

/* Also one that had nothing yet. */
static void test_empty(void **state)
{
    (void)state;
    begin(2);
    heirs_find(&api, 0, found);
    (void)settle(QUESTION_ANSWERED, 200, "0");
    assert_int_equal(result, 0);
    assert_int_equal(best.size, 0);
    end();
}

/* A copy waits for its node still: it is asked again, however good another one is. */
static void test_busy(void **state)
{
    (void)state;
    begin(3);
    heirs_find(&api, 0, found);
    for (unsigned i = 0; i < 5; i++) {
        (void)settle(QUESTION_ANSWERED, 200, "7");
        (void)settle(QUESTION_ANSWERED, KEEP_AGAIN, "");
        assert_int_equal(result, 1);
        assert_int_equal(asked_count, 0);
        pass(300);
        assert_int_equal(asked_count, 2);
    }
    (void)settle(QUESTION_ANSWERED, 200, "7");
    uint64_t node = settle(QUESTION_ANSWERED, 200, "8");
    assert_int_equal(result, 0);
    assert_int_equal(best.node, node);
    end();
}

static void test_busy_for_too_long(void **state)
{
    (void)state;
    for (int others = 0; others < 2; others++) {
        begin(others ? 3 : 2);
        here = others ? -ENOENT : -EBUSY;
        heirs_find(&api, 0, found);
        for (unsigned i = 0; i < 200 && result == 1; i++) {
            (void)settle(QUESTION_ANSWERED, others ? KEEP_AGAIN : 404, "");
            if (others)
                (void)settle(QUESTION_ANSWERED, 200, "5");
            pass(300);
        }
        assert_int_equal(result, others ? 0 : -EBUSY);
        assert_true(clock_ms > 6000 && clock_ms < 20000);
        end();
    }
}

/* ------------------------------------------------------------------ gone on here */

#define HERE "0123456789abcdef0123456789abcdef0000000000000001"

/* A request that has the session in its hands, by either name. */
static void request(const char *name)
{
    api.up.origin = 0;
    api.route.reference = view_of_str(name);
    memcpy(api.up.id, HERE, UPLOAD_ID_LEN);
    heirs_adopted(&api);
}

/* It says how old it is; it was left at the test's begin, and asked for within the last pause. */
static void settle_drop(enum question_end how, int status)
{
    unsigned long long idle_ms;
    uint64_t since_ms = clock_ms - BEGIN_MS;
    assert_int_equal(asked_count, 1);
    struct question *q = asked[--asked_count];
    assert_int_equal(q->only, OWNER + 1);
    assert_int_equal(q->method, HTTP_DELETE);
    q->path[q->path_len] = '\0';
    assert_int_equal(sscanf(q->path, "/copies/" SESSION "?idle=%llu", &idle_ms), 1);
    assert_true(idle_ms <= since_ms && idle_ms + 10000 + TIMER_TICK_MS >= since_ms);
    answer = (struct http_answer){.status = status};
    q->status = status;
    q->answer = how == QUESTION_ANSWERED ? &answer : NULL;
    q->done(q, how);
}

/* Control is told once; the other node when the client has shown that it knows the new name. */
static void test_adopted(void **state)
{
    (void)state;
    begin(2);
    origin.news = true;
    request(SESSION);
    request(SESSION);
    assert_int_equal(adopted, 1);
    assert_int_equal(asked_count, 0);
    request(HERE);
    settle_drop(QUESTION_ANSWERED, 204);
    request(HERE);
    request(SESSION);
    heirs_linked(&api);
    assert_int_equal(asked_count, 0); /* once is enough */
    assert_int_equal(adopted, 1);
    heirs_free(ring.heirs);
}

/* The client was told the new name before it was one. */
static void test_adopted_by_the_new_name(void **state)
{
    (void)state;
    begin(2);
    origin = (struct upload_origin){.node = OWNER, .news = true}; /* a copy knows of whom */
    request(HERE);
    assert_int_equal(adopted, 1);
    settle_drop(QUESTION_ANSWERED, 204);
    request(HERE);
    heirs_linked(&api);
    assert_int_equal(adopted, 1);
    assert_int_equal(asked_count, 0);
    heirs_free(ring.heirs);
}

/* This node was started anew since: it was told before, and the other one's is left alone by the new name. */
static void test_adopted_before(void **state)
{
    (void)state;
    begin(2);
    request(HERE);
    assert_int_equal(asked_count, 0);
    request(SESSION);
    request(HERE);
    settle_drop(QUESTION_ANSWERED, 204);
    assert_int_equal(adopted, 0);
    heirs_free(ring.heirs);
}

static void test_own_session(void **state)
{
    (void)state;
    begin(2);
    request(HERE);
    heirs_linked(&api);
    assert_int_equal(asked_count + adopted, 0);
    heirs_free(ring.heirs);
}

/* All in one request by the old name. */
static void test_adopted_and_linked(void **state)
{
    (void)state;
    begin(2);
    request(SESSION);
    heirs_linked(&api);
    settle_drop(QUESTION_ANSWERED, 404);
    pass(60000);
    assert_int_equal(asked_count, 0);
    heirs_free(ring.heirs);
}

/* It is away for a while, then at work on it still. */
static void test_told_when_back(void **state)
{
    (void)state;
    begin(2);
    request(SESSION);
    request(HERE);
    for (unsigned i = 0; i < 100; i++) {
        settle_drop(i % 2 ? QUESTION_FAILED : QUESTION_NOBODY, 0);
        pass(10000 + TIMER_TICK_MS);
    }
    settle_drop(QUESTION_ANSWERED, KEEP_AGAIN);
    pass(10000 + TIMER_TICK_MS);
    settle_drop(QUESTION_ANSWERED, 204);
    pass(60000);
    assert_int_equal(asked_count, 0);
    heirs_free(ring.heirs);
}

/* It does not come back; or is no replica any more; or this node ends. */
static void test_never_back(void **state)
{
    (void)state;
    begin(2);
    request(SESSION);
    request(HERE);
    for (unsigned i = 0; i < 1000 && asked_count; i++) {
        settle_drop(QUESTION_FAILED, 0);
        pass(10000 + TIMER_TICK_MS);
    }
    assert_true(clock_ms > 3600 * 1000 && clock_ms < 3700 * 1000);
    assert_int_equal(asked_count, 0);
    heirs_free(ring.heirs);

    begin(2);
    request(SESSION);
    request(HERE);
    settle_drop(QUESTION_FAILED, 0);
    gone = OWNER;
    pass(60000);
    assert_int_equal(asked_count, 0);
    heirs_free(ring.heirs);

    begin(2);
    request(SESSION);
    request(HERE);
    settle_drop(QUESTION_FAILED, 0);
    heirs_stop(ring.heirs);
    pass(60000);
    assert_int_equal(asked_count, 0);
    heirs_free(ring.heirs);
}

/* Of a broken request its own node is asked, too; of many replicas not all. */
static void test_bounds(void **state)
{
    (void)state;
    begin(REPLICAS);
    heirs_find(&api, OWNER, found);
    assert_int_equal(asked_count, ASKED_MAX);
    while (asked_count)
        (void)settle(QUESTION_FAILED, 0, "");
    end();
    begin(2);
    gone = OWNER + 1;
    heirs_find(&api, OWNER, found);
    assert_int_equal(asked_count, 2);
    uint64_t sum = settle(QUESTION_FAILED, 0, "");
    sum += settle(QUESTION_FAILED, 0, "");
    assert_int_equal(sum, (uint64_t)OWNER + UINT32_MAX -
                              1); /* nobody is asked by the number of one that is gone */
    end();
}

static void test_too_many(void **state)
{
    (void)state;
    begin(0);
    here = -EBUSY; /* so that they stay */
    for (unsigned i = 0; i < 64; i++)
        heirs_find(&api, 0, found);
    assert_int_equal(result, 1);
    heirs_find(&api, 0, found);
    assert_int_equal(result, -EAGAIN);
    pass(15000);
    assert_int_equal(result, -EBUSY);
    result = 1;
    here = 0;
    heirs_find(&api, 0, found);
    assert_int_equal(result, 0);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adopted),
        cmocka_unit_test(test_adopted_by_the_new_name),
        cmocka_unit_test(test_adopted_before),
        cmocka_unit_test(test_own_session),
        cmocka_unit_test(test_adopted_and_linked),
        cmocka_unit_test(test_told_when_back),
        cmocka_unit_test(test_never_back),
        cmocka_unit_test(test_the_one_that_has_most),
        cmocka_unit_test(test_here),
        cmocka_unit_test(test_session_first),
        cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_busy_for_too_long),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_too_many),
    };
    return cmocka_run_group_tests_name("heirs", tests, NULL, NULL);
}
