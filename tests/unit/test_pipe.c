/* SPDX-License-Identifier: Apache-2.0 */
/* Pipes of the pool: bounded, never given out dirty, and within what the kernel allows a user. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "limits.h"
#include "dataplane/move/pipe.h"

enum { MOST = 64 };

static uint64_t soft_pages(void)
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/sys/fs/pipe-user-pages-soft", "re");
    if (f) {
        assert_int_equal(fscanf(f, "%llu", &pages), 1);
        (void)fclose(f);
    }
    return pages ? pages : 16384;
}

/* Whatever the number of rings, all of them together stay below the allowance. */
static void test_share(void **state)
{
    (void)state;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (unsigned rings = 1; rings <= RINGS_MAX; rings++) {
        struct pipes *p;
        assert_int_equal(pipes_new(rings, &p), 0);
        assert_true(pipes_bytes(p) >= (64 << 10) && pipes_bytes(p) <= (1 << 20));
        assert_true(pipes_count(p) * rings * (pipes_bytes(p) / page) < soft_pages());
        pipes_free(p);
    }
}

static void test_all_and_again(void **state)
{
    (void)state;
    struct pipes *p;
    struct pipe_pair *pair[MOST];
    uint32_t n = 0;
    assert_int_equal(pipes_new(4, &p), 0);
    while (n < MOST && (pair[n] = pipes_take(p)))
        n++;
    assert_true(n > 0 && n <= pipes_count(p));
    for (uint32_t i = 0; i < n; i++)
        assert_true(pair[i]->bytes >= (64 << 10));
    assert_null(pipes_take(p));
    pipes_give(p, pair[0], false);
    assert_ptr_equal(pipes_take(p), pair[0]);
    for (uint32_t i = 0; i < n; i++)
        pipes_give(p, pair[i], i % 2);
    pipes_free(p);
}

static void test_dirty_is_never_seen_again(void **state)
{
    (void)state;
    struct pipes *p;
    assert_int_equal(pipes_new(1, &p), 0);
    struct pipe_pair *pair = pipes_take(p);
    assert_non_null(pair);
    assert_int_equal(write(pair->wr, "left", 4), 4);
    pipes_give(p, pair, true);
    for (int i = 0; i < 2; i++) {
        int bytes = -1;
        pair = pipes_take(p);
        assert_non_null(pair);
        assert_int_equal(ioctl(pair->rd, FIONREAD, &bytes), 0);
        assert_int_equal(bytes, 0);
        assert_int_equal(fcntl(pair->rd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
        pipes_give(p, pair, i == 0);
    }
    pipes_free(p);
}

/* No descriptor left: an ordinary answer, and good again later. */
static void test_no_descriptor(void **state)
{
    (void)state;
    struct pipes *p;
    struct rlimit before, none;
    assert_int_equal(pipes_new(1, &p), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_null(pipes_take(p));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    struct pipe_pair *pair = NULL;
    for (int i = 0; i < 1000 && !pair; i++)
        pair = pipes_take(p);
    assert_non_null(pair);
    pipes_give(p, pair, false);
    pipes_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_all_and_again),
        cmocka_unit_test(test_dirty_is_never_seen_again),
        cmocka_unit_test(test_no_descriptor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
