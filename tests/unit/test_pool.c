/* SPDX-License-Identifier: Apache-2.0 */
/* Work for libuv's threads: what is under way has a name, and what has not begun can be taken back. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "control/daemon_end.h"
#include "control/pool.h"

static sem_t begun, go_on;
static uv_loop_t loop;
static int status_of[2];
static unsigned ran;

static void on_hang(uv_work_t *work)
{
    (void)work;
    sem_post(&begun);
    while (sem_wait(&go_on))
        continue;
}

static void on_run(uv_work_t *work)
{
    (void)work;
    ran++;
}

static void on_done(uv_work_t *work, int status)
{
    *(int *)work->data = status;
}

static int setup(void **state)
{
    (void)state;
    return sem_init(&begun, 0, 0) || sem_init(&go_on, 0, 0);
}

/* The end of the process waits for its threads. */
static int let_go(void **state)
{
    (void)state;
    return sem_post(&go_on);
}

static void test_what_is_under_way_is_told(void **state)
{
    char names[128], small[12];
    uv_work_t work[2];
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(pool_list(names, sizeof(names)), 0);
    assert_string_equal(names, "");
    assert_int_equal(pool_oldest_ms(), 0);
    for (unsigned i = 0; i < 2; i++) {
        status_of[i] = 1;
        work[i].data = &status_of[i];
    }
    assert_int_equal(pool_queue(&loop, &work[0], "a look", on_hang, on_done), 0);
    assert_int_equal(pool_queue(&loop, &work[1], "a list", on_run, on_done), 0);
    assert_int_equal(pool_list(names, sizeof(names)), 2);
    assert_non_null(strstr(names, "a look ("));
    assert_non_null(strstr(names, "a list ("));
    assert_non_null(strstr(names, "), "));
    assert_int_equal(pool_list(small, sizeof(small)), 2); /* what does not fit is left out, whole */
    assert_true(strcmp(small, "") == 0 || strchr(small, ')'));
    while (pool_oldest_ms() < 5)
        uv_sleep(1);
    while (sem_wait(&begun))
        continue;
    /* The only thread is taken: the second one has not begun. */
    pool_cancel(&work[1]);
    pool_cancel(&work[0]);
    while (status_of[1] == 1)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(status_of[1], UV_ECANCELED);
    assert_int_equal(ran, 0);
    assert_int_equal(status_of[0], 1);
    assert_int_equal(pool_list(names, sizeof(names)), 1);
    sem_post(&go_on);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(status_of[0], 0);
    assert_int_equal(pool_list(names, sizeof(names)), 0);
    assert_int_equal(pool_oldest_ms(), 0);
    assert_int_equal(uv_loop_close(&loop), 0);
}

/* What has begun only now may be quick; and what is slow was perhaps not waited for yet. */
static void test_when_the_end_gives_up(void **state)
{
    (void)state;
    assert_false(daemon_end_is_late(DAEMON_END_MS, 0, false));
    assert_false(daemon_end_is_late(DAEMON_END_MS, DAEMON_END_MS - 1, false));
    assert_false(daemon_end_is_late(DAEMON_END_MS - 1, 10 * DAEMON_END_MS, false));
    assert_true(daemon_end_is_late(DAEMON_END_MS, DAEMON_END_MS, false));
    assert_true(daemon_end_is_late(2 * DAEMON_END_MS, 10 * DAEMON_END_MS, false));
    assert_false(daemon_end_is_late(DAEMON_END_RESTART_MS - 1, DAEMON_END_RESTART_MS, true));
    assert_true(daemon_end_is_late(DAEMON_END_RESTART_MS, DAEMON_END_RESTART_MS, true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_under_way_is_told, setup, let_go),
        cmocka_unit_test(test_when_the_end_gives_up),
    };
    setenv("UV_THREADPOOL_SIZE", "1", 1); /* read when the first work is queued */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
