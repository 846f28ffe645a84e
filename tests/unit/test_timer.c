/* SPDX-License-Identifier: Apache-2.0 */
/* The timing wheel against a naive list, and pools. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "check.h"
#include "dataplane/pool.h"
#include "dataplane/timer.h"

enum { TIMERS = 500, SEED = 20240611 };

struct entry {
    struct timer timer;
    uint64_t expected_ms; /* 0: not set */
    unsigned fired;
};

static struct entry entries[TIMERS];
static struct timer_wheel wheel;

static void fired(struct timer *t, uint64_t now_ms)
{
    struct entry *e = container_of(t, struct entry, timer);
    assert_true(e->expected_ms != 0);
    assert_true(e->expected_ms <= now_ms);
    assert_true(now_ms <= e->expected_ms + 2 * TIMER_TICK_MS + 500); /* the test's largest step is 500 */
    assert_false(timer_is_set(t));
    e->expected_ms = 0;
    e->fired++;
}

static void random_step(uint64_t now_ms)
{
    struct entry *e = &entries[random() % TIMERS];
    switch (random() % 4) {
    case 0:
        timer_clear(&e->timer);
        e->expected_ms = 0;
        break;
    default: /* up to two turns of the wheel away */
        e->expected_ms = now_ms + (uint64_t)random() % (2ull * TIMER_SLOTS * TIMER_TICK_MS) + 1;
        timer_set(&wheel, &e->timer, e->expected_ms);
    }
}

static void nothing_is_late(uint64_t now_ms)
{
    for (size_t i = 0; i < TIMERS; i++)
        if (entries[i].expected_ms)
            assert_true(now_ms < entries[i].expected_ms + 2 * TIMER_TICK_MS);
}

static void test_against_list(void **state)
{
    (void)state;
    uint64_t now_ms = 123456789;
    srandom(SEED);
    memset(entries, 0, sizeof(entries));
    for (size_t i = 0; i < TIMERS; i++)
        entries[i].timer.fire = fired;
    timer_wheel_init(&wheel, now_ms);
    for (unsigned step = 0; step < 20000; step++) {
        for (unsigned i = 0; i < 3; i++)
            random_step(now_ms);
        now_ms += (uint64_t)random() % 500;
        uint64_t next = timer_wheel_run(&wheel, now_ms);
        assert_true(next > now_ms);
        nothing_is_late(now_ms);
    }
}

static unsigned late_count;

static void late_fire(struct timer *t, uint64_t now_ms)
{
    (void)t;
    (void)now_ms;
    late_count++;
}

/* The machine was asleep for days: everything due fires, once, and the call ends soon. */
static void test_long_sleep(void **state)
{
    (void)state;
    struct timer timers[64] = {{0}};
    late_count = 0;
    timer_wheel_init(&wheel, 1000);
    for (unsigned i = 0; i < 64; i++) {
        timers[i].fire = late_fire;
        timer_set(&wheel, &timers[i], 1000 + i * 7919);
    }
    (void)timer_wheel_run(&wheel, 1000 + 7ull * 86400 * 1000);
    assert_int_equal(late_count, 64);
}

static struct timer second_timer;

static void clears_the_other(struct timer *t, uint64_t now_ms)
{
    (void)t;
    (void)now_ms;
    late_count++;
    timer_clear(&second_timer);
}

/* A timer that fires may clear one that is due in the same slot. */
static void test_clear_while_firing(void **state)
{
    (void)state;
    struct timer first = {.fire = clears_the_other};
    second_timer = (struct timer){.fire = late_fire};
    late_count = 0;
    timer_wheel_init(&wheel, 0);
    timer_set(&wheel, &second_timer, 100);
    timer_set(&wheel, &first, 100); /* the later one stands first in its slot */
    (void)timer_wheel_run(&wheel, 1000);
    assert_int_equal(late_count, 1);
    assert_false(timer_is_set(&second_timer));
}

static void test_pool(void **state)
{
    (void)state;
    struct pool pool;
    void *taken[10];
    assert_int_equal(pool_init(&pool, 100, 10), 0);
    for (unsigned i = 0; i < 10; i++) {
        taken[i] = pool_take(&pool);
        assert_non_null(taken[i]);
        memset(taken[i], (int)i, 100);
    }
    assert_null(pool_take(&pool));
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(*(unsigned char *)taken[i], i);
    pool_give(&pool, taken[3]);
    assert_ptr_equal(pool_take(&pool), taken[3]); /* the last one given is the next one taken */
    for (unsigned i = 0; i < 10; i++)
        pool_give(&pool, taken[i]);
    pool_trim(&pool, 100); /* what was in use since the last time stays */
    pool_trim(&pool, 100);
    for (unsigned i = 0; i < 10; i++) {
        void *again = pool_take(&pool);
        assert_ptr_equal(again, taken[9 - i]);
        memset(again, 1, 100);
    }
    assert_null(pool_take(&pool));
    pool_fini(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_list),
        cmocka_unit_test(test_long_sleep),
        cmocka_unit_test(test_clear_while_firing),
        cmocka_unit_test(test_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
