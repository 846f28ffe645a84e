/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "check.h"
#include "control/unseen.h"

enum { LONG_MS = 60000, LOOK_MS = 2000, NODES = 4 };

static struct {
    struct unseen unseen;
    struct node node[NODES];
    struct node_table table;
    bool seen[NODES + 1];
    uint64_t now_ms, term;
} t;

static bool on_seen(void *arg, uint64_t node)
{
    (void)arg;
    return t.seen[node];
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    for (unsigned i = 0; i < NODES; i++)
        t.node[i].id = i + 1;
    t.table.node = t.node;
    t.table.count = NODES;
    t.now_ms = 5000000;
    t.term = 3;
    t.seen[1] = true;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unseen_free(&t.unseen);
    return 0;
}

static void look(uint64_t ms)
{
    for (uint64_t end = t.now_ms + ms; t.now_ms < end;) {
        t.now_ms += LOOK_MS;
        unseen_look(&t.unseen, t.term, &t.table, on_seen, NULL, t.now_ms);
    }
}

static bool is_away(uint64_t node)
{
    return unseen_for(&t.unseen, node, LONG_MS);
}

/* Right after the start nobody is there, and nobody is away. */
static void test_the_first_look(void **state)
{
    (void)state;
    assert_false(is_away(2));
    look(LOOK_MS);
    for (unsigned i = 1; i <= NODES; i++)
        assert_false(is_away(i));
    look(LONG_MS - LOOK_MS);
    assert_false(is_away(2));
    t.seen[3] = true; /* it comes late */
    look(LOOK_MS);
    assert_true(!is_away(1) && is_away(2) && !is_away(3) && is_away(4));
}

static void test_seen_meanwhile(void **state)
{
    (void)state;
    look(LONG_MS);
    t.seen[2] = true;
    look(LOOK_MS);
    t.seen[2] = false;
    look(LONG_MS);
    assert_true(!is_away(2) && is_away(4));
    look(LOOK_MS);
    assert_true(is_away(2));
}

/* What an earlier leader saw, and what nobody looked at, says nothing. */
static void test_another_term_and_a_gap(void **state)
{
    (void)state;
    look(2 * LONG_MS);
    assert_true(is_away(2));
    t.term++;
    look(LONG_MS);
    assert_false(is_away(2));
    look(LOOK_MS);
    assert_true(is_away(2));
    t.now_ms += LONG_MS;
    look(LOOK_MS);
    assert_false(is_away(2));
    look(LONG_MS);
    assert_true(is_away(2));
}

/* Nodes come and go. */
static void test_other_nodes(void **state)
{
    (void)state;
    look(2 * LONG_MS);
    t.node[1].id = 3;
    t.node[2].id = 4;
    t.table.count = 3;
    look(LOOK_MS);
    assert_true(!is_away(2) && is_away(3) && is_away(4));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_the_first_look),
        T(test_seen_meanwhile),
        T(test_another_term_and_a_gap),
        T(test_other_nodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
