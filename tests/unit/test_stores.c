/* SPDX-License-Identifier: Apache-2.0 */
/* Replicas that share a store: one holder, one who cleans, and what rows of before say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "control/state/stores.h"

enum { NODES = 6 };

/* 1, 2 and 4 share store A; 3 has its own; 5 shares store B; 6 is no replica, and has A before its eyes. */
struct cluster {
    struct node node[NODES];
    struct node_table table;
};

static void make(struct cluster *c)
{
    static const char store[NODES] = {'A', 'A', 'C', 'A', 'B', 'A'};
    memset(c, 0, sizeof(*c));
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &c->node[i];
        *n = (struct node){.id = i + 1, .availability = NODE_ACTIVE, .replica = i != 5, .shares = i != 2};
        memset(n->store, store[i], sizeof(n->store));
    }
    c->table = (struct node_table){.node = c->node, .count = NODES};
}

static struct names_blob row_of(unsigned count, const uint64_t *id)
{
    struct names_blob b = {.links = 1, .version = NAMES_BLOB_VERSION, .holder_count = (uint8_t)count};
    memcpy(b.holder, id, count * sizeof(*id));
    return b;
}

static void test_one_holder(void **state)
{
    struct cluster c;
    (void)state;
    make(&c);
    uint64_t a = stores_holder(&c.node[0]), b = stores_holder(&c.node[4]);
    assert_true(a & STORES_NUMBER);
    assert_true(b & STORES_NUMBER);
    assert_int_not_equal(a, b);
    assert_int_equal(stores_holder(&c.node[1]), a);
    assert_int_equal(stores_holder(&c.node[2]), 3);
    assert_int_equal(stores_count(&c.table), 3);
    /* It lives on in the table with whoever is left. */
    assert_int_equal(stores_fold(&c.table, 2), a);
    assert_int_equal(stores_fold(&c.table, 3), 3);
    assert_int_equal(stores_fold(&c.table, a), a);
    assert_int_equal(stores_fold(&c.table, 77), 77);
    /* One that has not said an id has a store of its own, whatever it is set to. */
    memset(c.node[1].store, 0, sizeof(c.node[1].store));
    assert_int_equal(stores_holder(&c.node[1]), 2);
    assert_int_equal(stores_count(&c.table), 4);
}

static void test_rows(void **state)
{
    struct cluster c;
    (void)state;
    make(&c);
    uint64_t a = stores_holder(&c.node[0]);
    const uint64_t mixed[] = {1, 2, 3, a}, other[] = {3, 77};
    struct names_blob row = row_of(4, mixed);
    stores_fold_blob(&c.table, &row);
    assert_int_equal(row.holder_count, 2);
    assert_int_equal(row.holder[0], 3);
    assert_int_equal(row.holder[1], a);
    assert_int_equal(row.holder[2], 0);
    row = row_of(2, other);
    stores_fold_blob(&c.table, &row);
    assert_memory_equal(row.holder, other, sizeof(other));
}

static void test_what_is_said(void **state)
{
    struct cluster c;
    (void)state;
    make(&c);
    uint64_t a = stores_holder(&c.node[0]);
    const uint64_t old[] = {1, 3, 4}, own[] = {3, a};
    struct names_blob row = row_of(3, old);
    struct stores_saying lost = {.lost = {1, {a}}, .needed = {1, {3}}};
    stores_unfold(&c.table, &row, &lost);
    assert_true(cmd_holders_has(&lost.lost, 1) && cmd_holders_has(&lost.lost, 4));
    assert_int_equal(lost.needed.count, 1);
    assert_int_equal(lost.needed.id[0], 3);
    struct stores_saying relied = {.lost = {1, {3}}, .needed = {1, {a}}};
    stores_unfold(&c.table, &row, &relied);
    assert_int_equal(relied.lost.count, 1);
    assert_true(relied.needed.id[0] == 1 || relied.needed.id[0] == 4);
    struct stores_saying gained = {.gained = {1, {a}}};
    stores_unfold(&c.table, &row, &gained);
    assert_int_equal(gained.lost.count, 2);
    assert_false(cmd_holders_has(&gained.lost, a));
    row = row_of(2, own);
    struct stores_saying plain = {.lost = {1, {a}}, .needed = {1, {a}}};
    stores_unfold(&c.table, &row, &plain);
    assert_int_equal(plain.lost.count, 1);
    assert_int_equal(plain.needed.id[0], a);
}

static void test_one_cleans(void **state)
{
    struct cluster c;
    (void)state;
    make(&c);
    for (unsigned id = 1; id <= 4; id++)
        assert_int_equal(stores_cleaner(&c.table, id), id == 3 ? 3 : 1);
    assert_int_equal(stores_cleaner(&c.table, 5), 5);
    assert_int_equal(stores_cleaner(&c.table, 99), 0);
    c.node[0].store_state = NODE_STORE_LOST; /* it is not mounted there */
    assert_int_equal(stores_cleaner(&c.table, 1), 2);
    c.node[0].store_state = NODE_STORE_WELL;
    c.node[0].availability = NODE_DRAIN;
    assert_int_equal(stores_cleaner(&c.table, 1), 2);
    c.node[1].replica = false;
    assert_int_equal(stores_cleaner(&c.table, 4), 4);
    c.node[3].availability = NODE_DRAIN;
    assert_int_equal(stores_cleaner(&c.table, 4), 1);
    /* Removed: the others agree without it. */
    c.table.node = c.node + 1;
    c.table.count = NODES - 1;
    assert_int_equal(stores_cleaner(&c.table, 4), 4);
}

static void test_strangers(void **state)
{
    struct cluster c;
    (void)state;
    make(&c);
    assert_null(stores_stranger(&c.table, 1));
    c.node[1].shares = false;
    assert_ptr_equal(stores_stranger(&c.table, 1), &c.node[1]);
    assert_ptr_equal(stores_stranger(&c.table, 2), &c.node[0]);
    assert_null(stores_stranger(&c.table, 3));
    memset(c.node[1].store, 0, sizeof(c.node[1].store)); /* it has not said one: nobody knows */
    assert_null(stores_stranger(&c.table, 1));
    assert_null(stores_stranger(&c.table, 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_holder),   cmocka_unit_test(test_rows),
        cmocka_unit_test(test_what_is_said), cmocka_unit_test(test_one_cleans),
        cmocka_unit_test(test_strangers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
