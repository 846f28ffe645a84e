/* SPDX-License-Identifier: Apache-2.0 */
/* Which replicas keep a blob: the same answer everywhere, even shares, and little that moves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "placement.h"

enum { NODES = 7, BLOBS = 20000 };

static struct digest blob(unsigned i)
{
    struct digest d = digest_make(DIGEST_SHA256, i);
    uint64_t head = placement_mix(i + 1);
    memcpy(d.bytes, &head, sizeof(head));
    return d;
}

static void test_wanted(void **state)
{
    (void)state;
    assert_int_equal(placement_wanted(0, 0), 1);
    assert_int_equal(placement_wanted(0, 1), 1);
    assert_int_equal(placement_wanted(0, 5), 2);
    assert_int_equal(placement_wanted(1, 5), 1);
    assert_int_equal(placement_wanted(3, 2), 2);
    assert_int_equal(placement_wanted(64, 100), BLOB_HOLDERS_MAX);
}

/* Another program, another machine: the same. A change of these numbers moves every blob of every cluster. */
static void test_weights_are_a_format(void **state)
{
    (void)state;
    struct digest d = {.alg = DIGEST_SHA256, .bytes = {1, 2, 3, 4, 5, 6, 7, 8, 9}};
    assert_true(placement_weight(&d, 1) == 0xb2eb36a387ce51bcull);
    d.alg = DIGEST_SHA512;
    assert_true(placement_weight(&d, 77) == 0x544eb41dbaeded28ull);
}

static void test_best_is_the_head_of_the_order(void **state)
{
    (void)state;
    uint64_t node[NODES] = {3, 9, 1, 12, 7, 40, 5}, all[NODES], some[NODES];
    for (unsigned i = 0; i < 100; i++) {
        struct digest d = blob(i);
        assert_int_equal(placement_best(&d, node, NODES, NODES, all), NODES);
        for (unsigned k = 1; k < NODES; k++)
            assert_true(placement_before(&d, all[k - 1], all[k]));
        for (unsigned want = 0; want <= NODES; want++) {
            assert_int_equal(placement_best(&d, node, NODES, want, some), want);
            assert_memory_equal(some, all, want * sizeof(*all));
        }
        assert_int_equal(placement_best(&d, node, 2, 5, some), 2);
        assert_int_equal(placement_best(&d, node, 0, 5, some), 0);
    }
}

static void test_shares_are_even_and_stay(void **state)
{
    (void)state;
    uint64_t node[NODES] = {1, 2, 3, 4, 5, 6, 7}, before[2], after[2];
    unsigned share[NODES + 1] = {0}, moved = 0;
    for (unsigned i = 0; i < BLOBS; i++) {
        struct digest d = blob(i);
        placement_best(&d, node, NODES, 2, before);
        placement_best(&d, node, NODES - 1, 2, after);
        for (unsigned k = 0; k < 2; k++) {
            share[before[k]]++;
            moved += before[k] != NODES && before[k] != after[0] && before[k] != after[1];
        }
    }
    assert_int_equal(moved, 0);
    for (unsigned i = 1; i <= NODES; i++) {
        assert_true(share[i] > 2 * BLOBS / NODES * 9 / 10);
        assert_true(share[i] < 2 * BLOBS / NODES * 11 / 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wanted),
        cmocka_unit_test(test_weights_are_a_format),
        cmocka_unit_test(test_best_is_the_head_of_the_order),
        cmocka_unit_test(test_shares_are_even_and_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
