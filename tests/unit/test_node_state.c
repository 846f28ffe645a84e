/* SPDX-License-Identifier: Apache-2.0 */
/* What is said of a node, for everything that can be known of it: a table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control/state/node_state.h"

enum { NOW_MS = 1000000, OLD_MS = 1000, NEW_MS = NOW_MS - 12000 };

#define MANAGER .role = NODE_MANAGER, .availability = NODE_ACTIVE, .joined_ms = OLD_MS
#define WORKER  .role = NODE_WORKER, .availability = NODE_ACTIVE, .joined_ms = OLD_MS
#define UP      .expected = true, .connected = true, .ever = true
#define GONE    .expected = true, .ever = true

static const struct row {
    const char *name;
    struct node node;
    struct node_seen seen;
    enum node_state state;
    const char *reason; /* what the reason has in it; "": there is none */
} rows[] = {
    {"a manager that votes", {MANAGER}, {UP, .raft = NODE_RAFT_VOTER}, NODE_STATE_READY, ""},
    {"the leader itself",
     {MANAGER},
     {.self = true, .leader = true, .raft = NODE_RAFT_VOTER},
     NODE_STATE_READY,
     ""},
    {"a worker", {WORKER}, {UP, .raft = NODE_RAFT_NONE}, NODE_STATE_READY, ""},
    {"nothing known of Raft", {WORKER}, {UP}, NODE_STATE_READY, ""},
    {"drained", {.role = NODE_WORKER, .availability = NODE_DRAIN}, {UP}, NODE_STATE_READY, "drained"},
    {"its store is gone",
     {MANAGER, .store_state = NODE_STORE_LOST},
     {UP, .raft = NODE_RAFT_VOTER},
     NODE_STATE_READY,
     "its store is missing"},
    {"without a leader",
     {MANAGER},
     {.self = true, .leaderless = true, .raft = NODE_RAFT_VOTER},
     NODE_STATE_LEADERLESS,
     "nothing can be changed"},
    {"another one, without a leader",
     {MANAGER},
     {UP, .leaderless = true, .raft = NODE_RAFT_VOTER},
     NODE_STATE_READY,
     ""},
    {"two workers do not know each other", {WORKER}, {.why = "x"}, NODE_STATE_UNKNOWN, "ask a manager"},
    {"added just now",
     {.role = NODE_WORKER, .joined_ms = NEW_MS},
     {.expected = true, .since_ms = 12000},
     NODE_STATE_JOINING,
     "added 12 s ago"},
    {"added just now, and came and went",
     {.role = NODE_WORKER, .joined_ms = NEW_MS},
     {GONE, .since_ms = 5000, .why = "reset"},
     NODE_STATE_DOWN,
     "not connected for 5 s: reset"},
    {"added, and never came",
     {WORKER},
     {.expected = true, .since_ms = 31000},
     NODE_STATE_DOWN,
     "nobody answers"},
    {"a blip", {MANAGER}, {GONE, .since_ms = 300, .why = "reset"}, NODE_STATE_UNREACHABLE, "just now: reset"},
    {"its host is gone",
     {MANAGER},
     {GONE, .since_ms = 300, .heartbeat = NODE_HEARTBEAT_DOWN, .why = "silence"},
     NODE_STATE_DOWN,
     "does not answer heartbeats; not connected for 0 s: silence"},
    {"its host lives",
     {MANAGER},
     {GONE, .since_ms = 9000, .heartbeat = NODE_HEARTBEAT_UP, .why = ""},
     NODE_STATE_UNREACHABLE,
     "answers heartbeats"},
    {"heartbeats are missing",
     {MANAGER},
     {UP, .heartbeat = NODE_HEARTBEAT_DOWN, .raft = NODE_RAFT_VOTER},
     NODE_STATE_READY,
     "heartbeats are missing"},
    {"promoted, not begun", {MANAGER}, {UP, .raft = NODE_RAFT_NONE}, NODE_STATE_RECONFIGURING, "its turn"},
    {"promoted, copying",
     {MANAGER},
     {UP, .raft = NODE_RAFT_STANDBY},
     NODE_STATE_RECONFIGURING,
     "once it has all entries"},
    {"promoted, with a snapshot on its way",
     {MANAGER},
     {UP, .raft = NODE_RAFT_STANDBY, .snapshot = true},
     NODE_STATE_CATCHING_UP,
     "a copy of the whole state"},
    {"demoted, votes still", {WORKER}, {UP, .raft = NODE_RAFT_VOTER}, NODE_STATE_RECONFIGURING, "a worker"},
    {"demoted, stands by", {WORKER}, {UP, .raft = NODE_RAFT_STANDBY}, NODE_STATE_RECONFIGURING, "a worker"},
    {"far behind",
     {WORKER},
     {UP, .progress = true, .applied = 10, .commit = 5010},
     NODE_STATE_CATCHING_UP,
     "5000 entries behind"},
    {"a little behind",
     {WORKER},
     {UP, .progress = true, .applied = 10, .commit = 1010},
     NODE_STATE_READY,
     ""},
    {"ahead of what is known here",
     {WORKER},
     {UP, .progress = true, .applied = 10, .commit = 5},
     NODE_STATE_READY,
     ""},
};

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct node_verdict v;
        memset(&v, 0xff, sizeof(v));
        node_judge(&rows[i].node, &rows[i].seen, NOW_MS, &v);
        if (v.state != rows[i].state ||
            (*rows[i].reason ? !strstr(v.reason, rows[i].reason) : *v.reason != '\0'))
            fail_msg("%s: %s (%s)", rows[i].name, node_state_name(v.state), v.reason);
    }
}

/* The states that mean that a manager does not vote. */
static void test_who_counts_as_down(void **state)
{
    (void)state;
    for (int s = 0; s < NODE_STATE_COUNT; s++) {
        assert_true(strlen(node_state_name((enum node_state)s)) > 0);
        assert_int_equal(node_state_is_down((enum node_state)s),
                         s == NODE_STATE_DOWN || s == NODE_STATE_UNREACHABLE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_who_counts_as_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
