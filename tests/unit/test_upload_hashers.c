/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions whose large pieces are hashed by another thread while they are written. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "store_fixture.h"

#define REPO     "library/alpine"
#define REPO_LEN (sizeof(REPO) - 1)

enum { LARGE = 2 * HASHERS_LEAST_BYTES, WAIT_MS = 120000 };

static struct fixture fx;
static uint8_t bytes[4 * LARGE + 1000];

static int setup_with(unsigned hashers)
{
    fixture_new(&fx, 1);
    fixture_close(&fx);
    fx.tuning.hashers = hashers;
    fixture_open(&fx, 1);
    assert_int_equal(store_start(fx.store), 0);
    fill(bytes, sizeof(bytes), 7);
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return setup_with(1);
}

static int setup_none(void **state)
{
    (void)state;
    return setup_with(0);
}

static int teardown(void **state)
{
    (void)state;
    store_stop(fx.store);
    fixture_free(&fx);
    return 0;
}

static struct upload *create(void)
{
    struct wait_test w = waiting();
    struct upload *u = NULL;
    int res = upload_create(fx.ring, REPO, REPO_LEN, DIGEST_SHA256, &u, &w.waiter);
    assert_int_equal(settled(fx.loop, res, &w), 0);
    return u;
}

/* What the other thread has had is back with the ring. */
static void take_back(unsigned woken)
{
    uint64_t end = loop_clock_us() / 1000 + WAIT_MS;
    while (atomic_load(&fx.loop->woken) < woken) {
        assert_true(loop_clock_us() / 1000 < end);
        sched_yield();
    }
    store_ring_turn(fx.ring);
}

static int append(struct upload *u, const uint8_t *from, size_t len)
{
    struct wait_test w = waiting();
    unsigned woken = atomic_load(&fx.loop->woken);
    assert_int_equal(upload_append(u, from, len, &w.waiter), 0);
    fake_run(fx.loop);
    if (!w.woken)
        take_back(woken + 1);
    assert_int_equal(w.woken, 1);
    return w.res;
}

static void commit(struct upload *u, size_t len)
{
    struct wait_test w = waiting();
    struct digest d = digest_of(DIGEST_SHA256, bytes, len);
    assert_int_equal(taken(fx.loop, upload_commit(u, &d, &w.waiter), &w), 0);
    assert_true(blob_durable(&fx, &d));
    assert_int_equal(check_blobs(&fx), 1);
}

/* Pieces of both kinds in any order: one hash, and nothing is read again. */
static void test_in_order(void **state)
{
    static const size_t piece[] = {1000, LARGE, LARGE, 10, HASHERS_LEAST_BYTES - 1, HASHERS_LEAST_BYTES};
    size_t at = 0;
    (void)state;
    struct upload *u = create();
    for (size_t i = 0; i < sizeof(piece) / sizeof(piece[0]); at += piece[i++])
        assert_int_equal(append(u, bytes + at, piece[i]), 0);
    assert_int_equal(upload_offset(u), at);
    assert_int_equal(atomic_load(&fx.loop->woken), 3);
    commit(u, at);
    assert_int_equal(fx.loop->count[FAKE_READ], 0);
}

/* Without a thread the ring hashes by itself. */
static void test_none(void **state)
{
    (void)state;
    struct upload *u = create();
    assert_int_equal(append(u, bytes, LARGE), 0);
    assert_int_equal(atomic_load(&fx.loop->woken), 0);
    commit(u, LARGE);
    assert_int_equal(fx.loop->count[FAKE_READ], 0);
}

/* The bytes are the caller's again when both are over, whichever is the last. */
static void test_written_first(void **state)
{
    (void)state;
    struct wait_test w = waiting();
    struct upload *u = create();
    assert_int_equal(upload_append(u, bytes, LARGE, &w.waiter), 0);
    fake_run(fx.loop);
    assert_int_equal(w.woken, 0);
    assert_false(store_ring_idle(fx.ring)); /* a ring does not end meanwhile */
    take_back(1);
    assert_int_equal(w.woken, 1);
    assert_int_equal(w.res, 0);
    assert_true(store_ring_idle(fx.ring));
    commit(u, LARGE);
}

static void test_hashed_first(void **state)
{
    (void)state;
    struct wait_test w = waiting();
    struct upload *u = create();
    fx.loop->hold[FAKE_WRITE] = true;
    assert_int_equal(upload_append(u, bytes, LARGE, &w.waiter), 0);
    take_back(1);
    assert_int_equal(w.woken, 0);
    fx.loop->hold[FAKE_WRITE] = false;
    fake_run(fx.loop);
    assert_int_equal(w.woken, 1);
    assert_int_equal(w.res, 0);
    commit(u, LARGE);
    assert_int_equal(fx.loop->count[FAKE_READ], 0);
}

/* A write fails while its bytes are away: told when they are back, and the hash has seen too much. */
static void test_write_fails(void **state)
{
    (void)state;
    struct wait_test w = waiting();
    struct upload *u = create();
    assert_int_equal(append(u, bytes, LARGE), 0);
    fake_fault(fx.loop, FAULT_EIO, 1);
    assert_int_equal(upload_append(u, bytes + LARGE, LARGE, &w.waiter), 0);
    fake_run(fx.loop);
    fake_fault_end(fx.loop);
    assert_int_equal(w.woken, 0);
    take_back(2);
    assert_int_equal(w.woken, 1);
    assert_int_equal(w.res, -EIO);
    assert_int_equal(upload_offset(u), LARGE);
    assert_int_equal(append(u, bytes + LARGE, LARGE), 0);
    commit(u, 2 * LARGE);
    assert_true(fx.loop->count[FAKE_READ] > 0);
}

/* Wrong bytes are found as ever. */
static void test_mismatch(void **state)
{
    (void)state;
    struct wait_test w = waiting();
    struct digest d = digest_of(DIGEST_SHA256, bytes + 1, LARGE);
    struct upload *u = create();
    assert_int_equal(append(u, bytes, LARGE), 0);
    assert_false(upload_is(u, &d));
    assert_int_equal(taken(fx.loop, upload_commit(u, &d, &w.waiter), &w), -EBADMSG);
    assert_false(blob_there(&fx, &d));
}

/* Two sessions and one thread: whatever it has no time for, the ring does. */
static void test_more_than_threads(void **state)
{
    (void)state;
    struct wait_test w[2] = {waiting(), waiting()};
    struct upload *u[2] = {create(), create()};
    uint64_t end = loop_clock_us() / 1000 + WAIT_MS;
    struct digest d = digest_of(DIGEST_SHA256, bytes, 4 * LARGE);
    for (int i = 0; i < 2; i++)
        assert_int_equal(upload_append(u[i], bytes, 4 * LARGE, &w[i].waiter), 0);
    while (!w[0].woken || !w[1].woken) {
        assert_true(loop_clock_us() / 1000 < end);
        fake_run(fx.loop);
        store_ring_turn(fx.ring);
    }
    for (int i = 0; i < 2; i++)
        assert_true(w[i].res == 0 && upload_is(u[i], &d));
    w[1] = waiting();
    assert_int_equal(taken(fx.loop, upload_cancel(u[1], &w[1].waiter), &w[1]), 0);
    commit(u[0], 4 * LARGE);
}

static void test_wanted(void **state)
{
    cpu_set_t set;
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
    assert_true(hashers_wanted(1) <= 1);
    assert_true(hashers_wanted(1000) <= HASHERS_MAX);
    assert_true(hashers_wanted(1000) < (unsigned)CPU_COUNT(&set));
    struct hashers *h = hashers_new(3);
    assert_non_null(h);
    assert_false(hashers_give(h, &(struct hash_job){0})); /* nobody is there to take it */
    hashers_stop(h);
    hashers_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_in_order),
        TEST(test_written_first),
        TEST(test_hashed_first),
        TEST(test_write_fails),
        TEST(test_mismatch),
        TEST(test_more_than_threads),
        cmocka_unit_test_setup_teardown(test_none, setup_none, teardown),
        cmocka_unit_test(test_wanted),
#undef TEST
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
