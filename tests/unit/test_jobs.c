/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "control/jobs.h"

enum { RINGS = 3, SENT_MAX = 4096 };

/* A data plane that keeps what it is sent. */
static struct {
    bool away;
    struct {
        uint32_t ring;
        uint64_t id;
        struct frame_job job;
    } sent[SENT_MAX];
    size_t count;
    unsigned done;
    enum job_result result;
    uint64_t detail;
    struct jobs *jobs;
    unsigned ask_again;
} t;

static int on_send(void *arg, uint32_t ring, uint64_t id, const struct frame_job *job)
{
    (void)arg;
    if (t.away)
        return -ENOTCONN;
    CHECK(t.count < SENT_MAX && ring < RINGS);
    t.sent[t.count].ring = ring;
    t.sent[t.count].id = id;
    t.sent[t.count++].job = *job;
    return 0;
}

static void ask(enum job_kind kind, uint8_t which);

static void on_done(void *arg, enum job_result result, uint64_t detail)
{
    (void)arg;
    t.done++;
    t.result = result;
    t.detail = detail;
    if (t.ask_again) {
        t.ask_again--;
        ask(JOB_KEEP, 9);
    }
}

static struct job_order order_of(enum job_kind kind, uint8_t which)
{
    struct job_order o = {.kind = kind, .arg = which, .done = on_done};
    o.digest.alg = DIGEST_SHA256;
    memset(o.digest.bytes, which, 32);
    return o;
}

static void ask(enum job_kind kind, uint8_t which)
{
    struct job_order o = order_of(kind, which);
    assert_int_equal(jobs_ask(t.jobs, &o), 0);
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    t.jobs = jobs_new(&(struct jobs_config){.send = on_send, .rings = RINGS});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    jobs_free(t.jobs);
    return 0;
}

static void test_asked_and_answered(void **state)
{
    (void)state;
    struct digest d;
    ask(JOB_VERIFY, 7);
    assert_int_equal(t.count, 1);
    assert_int_equal(t.sent[0].job.kind, JOB_VERIFY);
    assert_int_equal(t.sent[0].job.arg, 7);
    assert_int_equal(digest_unpack(t.sent[0].job.digest, sizeof(t.sent[0].job.digest), &d), 33);
    assert_int_equal(d.bytes[31], 7);
    assert_int_equal(jobs_waiting(t.jobs, JOB_VERIFY), 1);
    jobs_answer(t.jobs, t.sent[0].id + 1, JOB_OK, 0); /* nobody's */
    assert_int_equal(t.done, 0);
    jobs_answer(t.jobs, t.sent[0].id, JOB_DAMAGED, 11);
    assert_int_equal(t.done, 1);
    assert_int_equal(t.result, JOB_DAMAGED);
    assert_int_equal(t.detail, 11);
    assert_int_equal(jobs_waiting(t.jobs, JOB_VERIFY), 0);
    jobs_answer(t.jobs, t.sent[0].id, JOB_OK, 0); /* said twice */
    assert_int_equal(t.done, 1);
}

/* No kind has more than its share in the data plane, none is kept back by another one, and rings share. */
static void test_bounds(void **state)
{
    (void)state;
    unsigned rings[RINGS] = {0};
    for (int i = 0; i < JOBS_MAX - 1; i++)
        ask(JOB_KEEP, (uint8_t)i);
    size_t keeps = t.count;
    assert_true(keeps > 0 && keeps < 64);
    for (size_t i = 0; i < keeps; i++)
        rings[t.sent[i].ring]++;
    for (int i = 0; i < RINGS; i++)
        assert_in_range(rings[i], keeps / RINGS, keeps / RINGS + 1);
    ask(JOB_VERIFY, 1);
    assert_int_equal(t.count, keeps + 1);
    struct job_order o = order_of(JOB_VERIFY, 2);
    assert_int_equal(jobs_ask(t.jobs, &o), -EBUSY);
    jobs_answer(t.jobs, t.sent[3].id, JOB_OK, 0); /* makes room for the next one of its kind */
    assert_int_equal(t.count, keeps + 2);
    assert_int_equal(t.sent[keeps + 1].job.kind, JOB_KEEP);
    assert_int_equal(jobs_ask(t.jobs, &o), 0);
}

/* A data plane that ends answers nothing: all is asked of the next one, under other ids, in the same order.
 */
static void test_next_data_plane(void **state)
{
    (void)state;
    t.away = true;
    ask(JOB_KEEP, 1);
    ask(JOB_KEEP, 2);
    assert_int_equal(t.count, 0);
    t.away = false;
    jobs_ready(t.jobs);
    assert_int_equal(t.count, 2);
    assert_int_equal(t.sent[0].job.arg, 1);
    uint64_t old = t.sent[0].id;
    ask(JOB_KEEP, 3);
    jobs_answer(t.jobs, t.sent[1].id, JOB_CANCELLED, 0); /* it ends: its word does not count */
    assert_int_equal(t.done, 0);
    t.count = 0;
    jobs_ready(t.jobs);
    assert_int_equal(t.count, 3);
    assert_int_equal(t.sent[0].job.arg + t.sent[1].job.arg + t.sent[2].job.arg, 6);
    jobs_answer(t.jobs, old, JOB_OK, 0); /* of the one before */
    assert_int_equal(t.done, 0);
    for (size_t i = 0; i < 3; i++)
        jobs_answer(t.jobs, t.sent[i].id, JOB_OK, 0);
    assert_int_equal(t.done, 3);
    assert_int_equal(jobs_waiting(t.jobs, JOB_KEEP), 0);
}

static void test_asks_from_done(void **state)
{
    (void)state;
    t.ask_again = 100;
    ask(JOB_KEEP, 1);
    for (size_t i = 0; i < t.count; i++)
        jobs_answer(t.jobs, t.sent[i].id, JOB_OK, 0);
    assert_int_equal(t.done, 101);
    for (int i = 0; i < JOB_RESULT_COUNT; i++)
        assert_string_not_equal(job_result_name(i), "unknown");
}

static void on_other(void *arg, enum job_result result, uint64_t detail)
{
    (void)result;
    (void)detail;
    ++*(unsigned *)arg;
}

/* Sent or in line, of any kind: told at once and not answered any more; those of others go on. */
static void test_cancelled(void **state)
{
    (void)state;
    unsigned others = 0;
    struct job_order o = order_of(JOB_VERIFY, 2);
    o.done = on_other;
    o.done_arg = &others;
    ask(JOB_VERIFY, 1);
    ask(JOB_KEEP, 1);
    assert_int_equal(jobs_ask(t.jobs, &o), 0);
    t.away = true;
    ask(JOB_VERIFY, 3);
    jobs_cancel(t.jobs, on_done);
    assert_int_equal(t.done, 3);
    assert_int_equal(t.result, JOB_CANCELLED);
    assert_int_equal(jobs_waiting(t.jobs, JOB_VERIFY), 1);
    assert_int_equal(jobs_waiting(t.jobs, JOB_KEEP), 0);
    jobs_answer(t.jobs, t.sent[0].id, JOB_OK, 0);
    assert_int_equal(t.done, 3);
    jobs_answer(t.jobs, t.sent[2].id, JOB_OK, 0);
    assert_int_equal(others, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_asked_and_answered), TEST(test_bounds),    TEST(test_next_data_plane),
        TEST(test_asks_from_done),     TEST(test_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
