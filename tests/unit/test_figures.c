/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "control/socket/figures.h"

static void test_percentiles(void **state)
{
    (void)state;
    uint64_t bucket[LATENCY_BUCKETS] = {0};
    assert_true(figures_percentile(bucket, 0.5) == 0);
    bucket[0] = 100; /* below 1 us */
    assert_true(figures_percentile(bucket, 0.5) == 0.5);
    assert_true(figures_percentile(bucket, 1.0) == 1);
    bucket[10] = 100; /* from 512 to 1024 us */
    assert_true(figures_percentile(bucket, 0.25) == 0.5);
    assert_true(figures_percentile(bucket, 0.75) == 768);
    assert_true(figures_percentile(bucket, 1.0) == 1024);
    memset(bucket, 0, sizeof(bucket));
    bucket[LATENCY_BUCKETS - 1] = 1;
    assert_true(figures_percentile(bucket, 0.99) > 1e9);
    for (int i = 0; i < LATENCY_BUCKETS; i++)
        bucket[i] = 1ull << 62;
    double before = 0;
    for (int i = 1; i <= 100; i++) {
        double value = figures_percentile(bucket, i / 100.0);
        assert_true(value >= before);
        before = value;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_percentiles)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
