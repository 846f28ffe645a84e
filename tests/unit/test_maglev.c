/* SPDX-License-Identifier: Apache-2.0 */
/* Maglev tables: balance and disruption against the paper's figures, weights, and what candidates are worth.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "check.h"
#include "control/compile/maglev.h"

enum { MOST = 4096, NOBODY = -1 };

static uint32_t weight_one(uint32_t i)
{
    (void)i;
    return 1;
}

static uint32_t weight_mixed(uint32_t i)
{
    return 1 + i % 8;
}

/* Backends b0, b1, ... without one of them. */
static uint32_t backends(struct maglev_backend *out, uint32_t count, int without,
                         uint32_t (*weight)(uint32_t))
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++) {
        char name[16];
        int len = snprintf(name, sizeof(name), "b%u", i);
        if ((int)i != without)
            out[n++] = (struct maglev_backend){maglev_hash(7, name, (size_t)len), i, weight(i)};
    }
    return n;
}

static struct abi_row *table(uint32_t count, int without, uint32_t (*weight)(uint32_t), uint32_t rows)
{
    static struct maglev_backend list[MOST];
    struct abi_row *row = malloc(rows * sizeof(*row));
    assert_non_null(row);
    maglev_fill(row, rows, list, backends(list, count, without, weight));
    return row;
}

static void shares(const struct abi_row *row, uint32_t rows, uint32_t *owned, uint32_t count)
{
    memset(owned, 0, count * sizeof(*owned));
    for (uint32_t i = 0; i < rows; i++) {
        assert_true(row[i].backend[0] < count);
        owned[row[i].backend[0]]++;
    }
}

static bool is_prime(uint32_t n)
{
    for (uint32_t d = 2; d * d <= n; d++)
        if (n % d == 0)
            return false;
    return n > 1;
}

/* Section 3.4: "M is a prime number", large against N. */
static void test_sizes(void **state)
{
    struct maglev_backend list[MOST];
    (void)state;
    for (uint32_t count = 1; count <= MOST; count = count * 3 / 2 + 1) {
        backends(list, count, NOBODY, weight_one);
        uint32_t rows = maglev_rows(list, count, 100);
        assert_true(is_prime(rows) && rows > count && rows >= count * 100 && rows < count * 200 + 130);
        assert_true(maglev_rows(list, count, 2) > count);
        assert_true(is_prime(maglev_rows(list, count, 2)));
    }
    /* One more does not change the size, as a rule: 100 lists from 400 to 499 have one or two sizes. */
    uint32_t sizes = 0, last = 0;
    for (uint32_t count = 400; count < 500; count++) {
        backends(list, count, NOBODY, weight_one);
        uint32_t rows = maglev_rows(list, count, 100);
        sizes += rows != last;
        last = rows;
    }
    assert_true(sizes <= 2);
}

/* Section 3.4: the backends take turns, so that shares differ by one row; with M above 100 N that is within 1
 * % of an even share. */
static void test_balance(void **state)
{
    static const uint32_t counts[] = {1, 2, 3, 10, 100, 1000, MOST};
    static uint32_t owned[MOST];
    (void)state;
    for (size_t c = 0; c < ARRAY_SIZE(counts); c++) {
        struct maglev_backend list[MOST];
        uint32_t count = counts[c], low = UINT32_MAX, high = 0;
        uint32_t rows = maglev_rows(list, backends(list, count, NOBODY, weight_one), 100);
        struct abi_row *row = table(count, NOBODY, weight_one, rows);
        shares(row, rows, owned, count);
        for (uint32_t i = 0; i < count; i++) {
            low = owned[i] < low ? owned[i] : low;
            high = owned[i] > high ? owned[i] : high;
        }
        assert_true(high - low <= 1);
        assert_true((double)high / low <= 1.02);
        free(row);
    }
}

static void test_weights(void **state)
{
    static uint32_t owned[MOST];
    struct maglev_backend list[200];
    uint32_t total = 0, rows = maglev_rows(list, backends(list, 200, NOBODY, weight_mixed), 100);
    struct abi_row *row = table(200, NOBODY, weight_mixed, rows);
    (void)state;
    shares(row, rows, owned, 200);
    for (uint32_t i = 0; i < 200; i++)
        total += weight_mixed(i);
    for (uint32_t i = 0; i < 200; i++) {
        double fair = (double)rows * weight_mixed(i) / total;
        assert_true(owned[i] > fair * 0.97 - 1 && owned[i] < fair * 1.03 + 1);
    }
    free(row);
}

static uint32_t weight_extreme(uint32_t i)
{
    return i ? 1 : 256;
}

/* Nobody gets nothing, however small its weight beside the others. */
static void test_extreme_weights(void **state)
{
    static uint32_t owned[MOST];
    (void)state;
    for (uint32_t count = 2; count <= 512; count *= 4) {
        struct maglev_backend list[512];
        uint32_t rows = maglev_rows(list, backends(list, count, NOBODY, weight_extreme), 100);
        struct abi_row *row = table(count, NOBODY, weight_extreme, rows);
        shares(row, rows, owned, count);
        for (uint32_t i = 0; i < count; i++)
            assert_true(owned[i] > 0);
        free(row);
    }
}

/* Section 5.3 looks at about 65,000 rows and 1000 backends: what one death changes beyond the rows of the
 * dead one. The candidates foretell the table without it. */
static void test_disruption_and_candidates(void **state)
{
    static const struct {
        uint32_t count, rows;
        double moved_max, agree_min;
    } cases[] = {{10, 65521, 0.02, 0.95},
                 {100, 65521, 0.02, 0.95},
                 {1000, 65521, 0.02, 0.95},
                 {100, 16381, 0.02, 0.93}};
    (void)state;
    for (size_t c = 0; c < ARRAY_SIZE(cases); c++) {
        uint32_t count = cases[c].count, rows = cases[c].rows, moved = 0, agree = 0, lost = 0;
        struct abi_row *before = table(count, NOBODY, weight_one, rows);
        for (int dead = 0; dead < 5; dead++) {
            struct abi_row *after = table(count, dead, weight_one, rows);
            for (uint32_t i = 0; i < rows; i++) {
                bool was_dead = before[i].backend[0] == (uint32_t)dead;
                lost += was_dead;
                agree += was_dead && before[i].backend[1] == after[i].backend[0];
                moved += !was_dead && before[i].backend[0] != after[i].backend[0];
            }
            free(after);
        }
        free(before);
        print_message("%u backends, %u rows: %.2f%% moved without need, %.1f%% of second candidates right\n",
                      count, rows, moved * 100.0 / (5.0 * rows), agree * 100.0 / lost);
        assert_true(moved < cases[c].moved_max * 5 * rows);
        assert_true(agree > cases[c].agree_min * lost);
    }
}

/* A second death: the third candidates foretell the table without both. */
static void test_two_deaths(void **state)
{
    enum { COUNT = 50, ROWS = 16381 };
    static struct maglev_backend list[COUNT];
    struct abi_row *before = table(COUNT, NOBODY, weight_one, ROWS), *after = malloc(ROWS * sizeof(*after));
    uint32_t n = backends(list, COUNT, 3, weight_one), lost = 0, agree = 0;
    (void)state;
    assert_non_null(after);
    for (uint32_t i = 0; i < n; i++)
        if (list[i].id == 4)
            list[i] = list[--n];
    maglev_fill(after, ROWS, list, n);
    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t choice = 0;
        while (before[i].backend[choice] == 3 || before[i].backend[choice] == 4)
            choice++;
        lost += choice > 0;
        agree += choice > 0 && before[i].backend[choice] == after[i].backend[0];
    }
    assert_true(lost > 0 && agree > lost * 9 / 10);
    free(before);
    free(after);
}

/* Candidates of a row are all different and there are as many as there can be. */
static void test_candidates_are_distinct(void **state)
{
    (void)state;
    for (uint32_t count = 1; count < 40; count++) {
        struct abi_row *row = table(count, NOBODY, weight_mixed, 509);
        for (uint32_t i = 0; i < 509; i++) {
            for (uint32_t a = 0; a < ABI_CANDIDATES; a++) {
                assert_true((row[i].backend[a] < count) == (a < count));
                assert_true(a < count || row[i].backend[a] == ABI_NO_BACKEND);
                for (uint32_t b = 0; b < a && a < count; b++)
                    assert_true(row[i].backend[a] != row[i].backend[b]);
            }
        }
        free(row);
    }
}

/* The order in which they are given, and their ids, do not count: another node makes the same table. */
static void test_same_on_every_node(void **state)
{
    enum { COUNT = 100, ROWS = 16381, SHIFT = 5000 };
    static struct maglev_backend list[COUNT];
    struct abi_row *one = table(COUNT, NOBODY, weight_mixed, ROWS), *other = malloc(ROWS * sizeof(*other));
    (void)state;
    assert_non_null(other);
    backends(list, COUNT, NOBODY, weight_mixed);
    for (uint32_t i = 0; i < COUNT / 2; i++) {
        struct maglev_backend swap = list[i];
        list[i] = list[COUNT - 1 - i];
        list[COUNT - 1 - i] = swap;
    }
    for (uint32_t i = 0; i < COUNT; i++)
        list[i].id += SHIFT;
    maglev_fill(other, ROWS, list, COUNT);
    for (uint32_t i = 0; i < ROWS; i++)
        for (uint32_t c = 0; c < ABI_CANDIDATES; c++)
            assert_int_equal(one[i].backend[c] + SHIFT, other[i].backend[c]);
    free(one);
    free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_balance),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_extreme_weights),
        cmocka_unit_test(test_disruption_and_candidates),
        cmocka_unit_test(test_two_deaths),
        cmocka_unit_test(test_candidates_are_distinct),
        cmocka_unit_test(test_same_on_every_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
