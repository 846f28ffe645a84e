/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/compile/plan_peers.h"

static struct node node_make(uint64_t id, const char *name, bool replica, uint16_t port)
{
    struct node n = {.id = id, .replica = replica, .availability = NODE_ACTIVE, .data.port = port};
    n.data.ip[10] = n.data.ip[11] = 0xff;
    n.data.ip[12] = 10;
    n.data.ip[15] = (uint8_t)id;
    strncpy(n.name, name, sizeof(n.name) - 1);
    return n;
}

/* Those that keep blobs and say where, but not this node itself. */
static void test_who_is_asked(void **state)
{
    (void)state;
    struct node nodes[] = {node_make(1, "a", true, 5011), node_make(2, "b", true, 5012),
                           node_make(3, "worker", false, 5013), node_make(4, "silent", true, 0),
                           node_make(5, "c", true, 5015)};
    nodes[4].availability = NODE_DRAIN;
    struct node_table table = {.node = nodes, .count = 5};
    struct plan_peers *p = plan_peers_compile(&table, 1);
    assert_non_null(p);
    assert_int_equal(p->proxied.place, PLAN_PLACE_PEERS);
    assert_int_equal(p->proxied.service.backend_count, 2);
    assert_string_equal(p->backend[0].name, "b");
    assert_int_equal(p->backend[0].port, 5012);
    assert_int_equal(p->backend[0].ip[15], 2);
    assert_false(p->backend[0].draining);
    assert_string_equal(p->backend[1].name, "c");
    assert_true(p->backend[1].draining);
    assert_int_not_equal(p->backend[0].id, p->backend[1].id);
    assert_false(p->backend[0].checked); /* the kernel has no word on it */
    assert_int_equal(p->source.kind, PLAN_SOURCE_PEERS);
    assert_int_equal(p->source.service, PLAN_PLACE_PEERS);
    assert_int_equal(p->source.prefix_len, 0);
    const struct plan_proxy *way = &p->proxied.service.proxy;
    assert_true(way->backend_tls && way->backend_verify);
    assert_string_equal(way->backend_ca, PLAN_PEERS_CA);
    assert_string_equal(way->backend_certificate, PLAN_PEERS_CERTIFICATE);
    plan_peers_free(p);
}

/* Nothing new for a store that is not well: as little as for a drained node. */
static void test_stores_that_are_not_well(void **state)
{
    (void)state;
    for (uint8_t i = NODE_STORE_WELL; i <= NODE_STORE_FAILING; i++) {
        struct node nodes[] = {node_make(1, "a", true, 5011), node_make(2, "b", true, 5012)};
        struct node_table table = {.node = nodes, .count = 2};
        nodes[1].store_state = i;
        struct plan_peers *p = plan_peers_compile(&table, 1);
        assert_int_equal(p->backend[0].draining, i != NODE_STORE_WELL);
        plan_peers_free(p);
    }
}

/* A drained node's copy is none of those that are wanted, but where nobody else could have one. */
static void test_own_copies(void **state)
{
    (void)state;
    struct node nodes[] = {node_make(1, "a", true, 5011), node_make(2, "b", true, 5012),
                           node_make(3, "worker", false, 5013)};
    struct node_table table = {.node = nodes, .count = 3};
    assert_true(plan_copies_compile(&table, 1).counts && plan_copies_compile(&table, 1).keeps);
    assert_false(plan_copies_compile(&table, 3).counts || plan_copies_compile(&table, 3).keeps);
    assert_false(plan_copies_compile(&table, 9).counts);
    nodes[0].availability = NODE_DRAIN;
    assert_false(plan_copies_compile(&table, 1).counts);
    assert_true(plan_copies_compile(&table, 1).keeps && plan_copies_compile(&table, 2).counts);
    nodes[1].store_state = NODE_STORE_LOST;
    assert_true(plan_copies_compile(&table, 1).counts);
    nodes[1].store_state = NODE_STORE_WELL;
    nodes[1].availability = NODE_DRAIN;
    assert_true(plan_copies_compile(&table, 1).counts && plan_copies_compile(&table, 2).counts);
    nodes[1].availability = NODE_ACTIVE;
    nodes[0].availability = NODE_ACTIVE;
    nodes[0].store_state = NODE_STORE_READ_ONLY; /* what is there stays there */
    assert_true(plan_copies_compile(&table, 1).counts);
    nodes[0].store_state = NODE_STORE_FAILING;
    assert_false(plan_copies_compile(&table, 1).counts);
    assert_true(plan_copies_compile(&table, 1).keeps && plan_copies_compile(&table, 2).counts);
    nodes[1].store_state = NODE_STORE_FAILING;
    assert_true(plan_copies_compile(&table, 1).counts && plan_copies_compile(&table, 2).counts);
    nodes[1].store_state = NODE_STORE_WELL;
    for (unsigned i = 0; i < 2; i++) {
        memset(nodes[i].store, 's', sizeof(nodes[i].store));
        nodes[i].shares = true;
    }
    assert_true(plan_copies_compile(&table, 1).counts);
}

static void test_alone(void **state)
{
    (void)state;
    struct node self = node_make(7, "a", true, 5011);
    struct node_table table = {.node = &self, .count = 1}, empty = {0};
    assert_null(plan_peers_compile(&table, 7));
    assert_null(plan_peers_compile(&empty, 7));
    plan_peers_free(NULL);
}

/* All nodes, but those whose certificate is of a CA that is not trusted any more. */
static void test_members(void **state)
{
    (void)state;
    struct node nodes[] = {node_make(1, "a", true, 5011), node_make(4, "worker", false, 0),
                           node_make(9, "c", true, 5015)};
    struct node_table table = {.node = nodes, .count = 3};
    size_t count;
    memset(nodes[0].ca, 'n', sizeof(nodes[0].ca));
    memset(nodes[2].ca, 'o', sizeof(nodes[2].ca));
    uint64_t *id = plan_members_compile(&table, &count);
    assert_int_equal(count, 3);
    assert_true(id[0] == 1 && id[1] == 4 && id[2] == 9);
    free(id);
    memset(table.ca, 'n', sizeof(table.ca));
    id = plan_members_compile(&table, &count);
    assert_int_equal(count, 2);
    assert_true(id[0] == 1 && id[1] == 4); /* the second one has not said which one it has */
    free(id);
    table.count = 0;
    id = plan_members_compile(&table, &count);
    assert_int_equal(count, 0);
    free(id);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_who_is_asked), cmocka_unit_test(test_alone),
                                       cmocka_unit_test(test_stores_that_are_not_well),
                                       cmocka_unit_test(test_own_copies), cmocka_unit_test(test_members)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
