/* SPDX-License-Identifier: Apache-2.0 */
/* From Raft's configuration to the wanted one: which step is next, and that the steps come to an end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/raft/members.h"

enum { SERVERS_MAX = CONSENSUS_MEMBERS_MAX, STEPS_MAX = 200 };

#define V true
#define S false

static struct members_step next(const struct members_server *servers, size_t count,
                                const struct consensus_member *wanted, size_t wanted_count, uint64_t self)
{
    return members_next(servers, count, wanted, wanted_count, self);
}

static void expect(struct members_step step, enum members_what what, enum consensus_change change,
                   uint64_t node)
{
    assert_int_equal(step.what, what);
    if (what == MEMBERS_CHANGE)
        assert_int_equal(step.change, change);
    if (what == MEMBERS_CHANGE || what == MEMBERS_TRANSFER)
        assert_int_equal(step.node, node);
}

static void test_joining(void **state)
{
    struct members_server one[] = {{1, V, true, true}};
    struct members_server standby[] = {{1, V, true, true}, {2, S, true, false}};
    struct consensus_member wanted[] = {{1, V}, {2, V}};
    (void)state;
    expect(next(one, 1, wanted, 1, 1), MEMBERS_DONE, 0, 0);
    expect(next(one, 1, wanted, 2, 1), MEMBERS_CHANGE, CONSENSUS_ADD, 2);
    expect(next(standby, 2, wanted, 2, 1), MEMBERS_WAIT, 0, 0);
    standby[1].caught_up = true;
    expect(next(standby, 2, wanted, 2, 1), MEMBERS_CHANGE, CONSENSUS_PROMOTE, 2);
    standby[1].online = false;
    expect(next(standby, 2, wanted, 2, 1), MEMBERS_WAIT, 0, 0);
    wanted[1].voter = false;
    expect(next(standby, 2, wanted, 2, 1), MEMBERS_DONE, 0, 0);
}

static void test_leaving(void **state)
{
    struct members_server three[] = {{1, V, true, true}, {2, V, true, true}, {3, V, false, false}};
    struct consensus_member without_3[] = {{1, V}, {2, V}, {4, V}};
    struct consensus_member without_2[] = {{1, V}, {3, V}};
    struct consensus_member demoted_2[] = {{1, V}, {2, S}, {3, V}};
    (void)state;
    /* The dead one first, then the one that replaces it. */
    expect(next(three, 3, without_3, 3, 1), MEMBERS_CHANGE, CONSENSUS_REMOVE, 3);
    /* Of the two that would be left one is dead: nothing could be agreed upon any more. */
    expect(next(three, 3, without_2, 2, 1), MEMBERS_WAIT, 0, 0);
    three[2].online = true;
    expect(next(three, 3, without_2, 2, 1), MEMBERS_CHANGE, CONSENSUS_REMOVE, 2);
    expect(next(three, 3, demoted_2, 3, 1), MEMBERS_CHANGE, CONSENSUS_DEMOTE, 2);
}

static void test_leader_leaves(void **state)
{
    struct members_server two[] = {{1, V, true, true}, {2, V, true, false}};
    struct members_server standby[] = {{1, V, true, true}, {2, S, true, false}};
    struct consensus_member only_2[] = {{2, V}};
    (void)state;
    expect(next(two, 2, only_2, 1, 1), MEMBERS_TRANSFER, 0, 2);
    /* The next leader does the rest. */
    expect(next(two, 2, only_2, 1, 2), MEMBERS_CHANGE, CONSENSUS_REMOVE, 1);
    expect(next(standby, 2, only_2, 1, 1), MEMBERS_WAIT, 0, 0);
    standby[1].caught_up = true;
    expect(next(standby, 2, only_2, 1, 1), MEMBERS_CHANGE, CONSENSUS_PROMOTE, 2);
    two[1].online = false;
    expect(next(two, 2, only_2, 1, 1), MEMBERS_WAIT, 0, 0);
}

static void test_valid(void **state)
{
    struct consensus_member many[CONSENSUS_MEMBERS_MAX + 1] = {{0}};
    struct consensus_member twice[] = {{1, V}, {2, V}, {1, S}};
    struct consensus_member nobody[] = {{1, S}};
    (void)state;
    assert_true(members_valid(twice, 2));
    assert_false(members_valid(twice, 3));
    assert_false(members_valid(nobody, 1));
    assert_false(members_valid(nobody, 0));
    for (size_t i = 0; i < CONSENSUS_MEMBERS_MAX + 1; i++)
        many[i] = (struct consensus_member){i + 1, V};
    assert_true(members_valid(many, CONSENSUS_MEMBERS_MAX));
    assert_false(members_valid(many, CONSENSUS_MEMBERS_MAX + 1));
    many[3].id = 0;
    assert_false(members_valid(many, CONSENSUS_MEMBERS_MAX));
}

/* --- any configuration to any other --- */

struct model {
    struct members_server server[SERVERS_MAX];
    size_t count;
    uint64_t self;
};

static struct members_server *find(struct model *m, uint64_t id)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->server[i].id == id)
            return &m->server[i];
    return NULL;
}

static size_t voters(const struct model *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->count; i++)
        n += m->server[i].voter;
    return n;
}

static void model_step(struct model *m, struct members_step step)
{
    struct members_server *s = find(m, step.node);
    if (step.what == MEMBERS_TRANSFER) {
        assert_true(s && s->voter && s->online);
        m->self = step.node;
        return;
    }
    if (step.change == CONSENSUS_ADD) {
        assert_null(s);
        m->server[m->count++] = (struct members_server){step.node, S, true, true};
        return;
    }
    assert_non_null(s);
    assert_int_equal(step.change == CONSENSUS_PROMOTE, !s->voter && step.change != CONSENSUS_REMOVE);
    assert_true(step.node != m->self);
    if (step.change == CONSENSUS_REMOVE)
        *s = m->server[--m->count];
    else
        s->voter = step.change == CONSENSUS_PROMOTE;
    assert_true(voters(m) > 0);
}

static void test_any_to_any(void **state)
{
    unsigned seed = 7;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        struct model m = {.self = 1};
        struct consensus_member wanted[SERVERS_MAX];
        size_t count = 0, steps = 0;
        struct members_step step;
        for (uint64_t id = 1; id <= 6; id++) {
            if (id == 1 || rand_r(&seed) % 3)
                m.server[m.count++] = (struct members_server){id, id == 1 || rand_r(&seed) % 2, true, true};
            if (rand_r(&seed) % 3)
                wanted[count++] = (struct consensus_member){id, rand_r(&seed) % 2};
        }
        if (!members_valid(wanted, count))
            continue;
        while ((step = next(m.server, m.count, wanted, count, m.self)).what != MEMBERS_DONE) {
            assert_int_not_equal(step.what, MEMBERS_WAIT);
            assert_true(++steps < STEPS_MAX);
            model_step(&m, step);
        }
        assert_int_equal(m.count, count);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(find(&m, wanted[i].id)->voter, wanted[i].voter);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_joining),       cmocka_unit_test(test_leaving),
        cmocka_unit_test(test_leader_leaves), cmocka_unit_test(test_valid),
        cmocka_unit_test(test_any_to_any),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
