/* SPDX-License-Identifier: Apache-2.0 */
/* What the configuration file's policies change in the state, and what is left alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "control/config.h"
#include "control/policies.h"
#include "control/state/state.h"
#include "kv_memory.h"

struct fixture {
    struct kv_memory m;
    uint64_t index;
    enum cmd_status status;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    kv_memory_init(&f->m);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kv_memory_fini(&f->m);
    free(f);
    return 0;
}

/* Takes cmd. */
static enum cmd_status apply(struct fixture *f, void *cmd, size_t len)
{
    struct state_tx tx = {.kv = &f->m.kv};
    struct state_event *ev = calloc(1, sizeof(*ev));
    assert_int_equal(state_apply(&tx, ++f->index, cmd, len, ev), 0);
    f->status = ev->status;
    free(ev);
    free(cmd);
    return f->status;
}

static void read_file(struct config *config, const char *text)
{
    struct config_report report = {.count = 0};
    config_init(config, NULL);
    assert_int_equal(config_parse(config, "f.yaml", text, strlen(text), &report), 0);
    config_report_fini(&report);
}

/* Returns how many policies the file changed. */
static size_t declare(struct fixture *f, const char *text)
{
    struct config config;
    struct policy_table state;
    size_t changes, len;
    read_file(&config, text);
    assert_int_equal(state_policies_read(&f->m.kv, &state, NULL), 0);
    void *cmd = policies_diff(&state, &config.policies, &changes, &len);
    assert_int_equal(cmd != NULL, changes > 0);
    if (cmd)
        assert_int_equal(apply(f, cmd, len), CMD_OK);
    policy_table_fini(&state);
    config_fini(&config);
    return changes;
}

static enum cmd_status set_by_hand(struct fixture *f, const char *prefix, const char *key, const char *value)
{
    struct policy p;
    char err[POLICY_ERROR_MAX];
    size_t len;
    policy_init(&p);
    snprintf(p.prefix, sizeof(p.prefix), "%s", prefix);
    assert_int_equal(policy_field_set(&p, key, value, err), 0);
    void *cmd = policy_cmd_set("root", "control-socket", CMD_REVISION_ANY, NULL, 0, &p, 1, &len);
    return apply(f, cmd, len);
}

static enum cmd_status remove_by_hand(struct fixture *f, const char *prefix)
{
    const char *gone[] = {prefix};
    size_t len;
    void *cmd = policy_cmd_set("root", "control-socket", CMD_REVISION_ANY, gone, 1, NULL, 0, &len);
    return apply(f, cmd, len);
}

/* "*:file team:api", in the order of the prefixes. */
static void expect(struct fixture *f, const char *wanted)
{
    struct policy_table t;
    char text[256] = "";
    size_t used = 0;
    assert_int_equal(state_policies_read(&f->m.kv, &t, NULL), 0);
    for (size_t i = 0; i < t.count; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s:%s", i ? " " : "",
                                 policy_prefix_text(t.list[i].prefix),
                                 policy_origin_name(t.list[i].rules.origin));
    policy_table_fini(&t);
    assert_string_equal(text, wanted);
}

#define TWO "policies:\n- {prefix: '*', read_only: true}\n- {prefix: team, quota: {bytes: 1GiB}}\n"

static void test_the_state_says_what_the_file_says(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(declare(f, ""), 0);
    assert_int_equal(declare(f, TWO), 2);
    expect(f, "*:file team:file");
    assert_int_equal(declare(f, TWO), 0);
    assert_int_equal(declare(f, "policies:\n- {prefix: '*', read_only: false}\n"), 2);
    expect(f, "*:file");
    assert_int_equal(declare(f, "policies:\n"), 1);
    expect(f, "");
}

static void test_only_the_file_changes_what_it_says(void **state)
{
    struct fixture *f = *state;
    declare(f, TWO);
    assert_int_equal(set_by_hand(f, "team", "create", "existing"), CMD_DECLARED);
    assert_int_equal(remove_by_hand(f, "team"), CMD_DECLARED);
    assert_int_equal(set_by_hand(f, "other", "create", "existing"), CMD_OK);
    expect(f, "*:file other:api team:file");
}

static void test_what_others_say_stays(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(set_by_hand(f, "other", "create", "existing"), CMD_OK);
    assert_int_equal(set_by_hand(f, "team", "quota.bytes", "1GiB"), CMD_OK);
    /* The same words: they are the file's from now on. */
    assert_int_equal(declare(f, TWO), 2);
    expect(f, "*:file other:api team:file");
    assert_int_equal(declare(f, "policies: []\n"), 2);
    expect(f, "other:api");
    assert_int_equal(remove_by_hand(f, "other"), CMD_OK);
    expect(f, "");
}

/* Between the look at the state and the command somebody made the policy his. */
static void test_what_came_to_be_another_s_does_not_go(void **state)
{
    struct fixture *f = *state;
    const char *gone[] = {"other", "nobody"};
    size_t len;
    assert_int_equal(set_by_hand(f, "other", "create", "existing"), CMD_OK);
    void *cmd = policy_cmd_declare(gone, 2, NULL, 0, &len);
    assert_int_equal(apply(f, cmd, len), CMD_OK);
    expect(f, "other:api");
}

/* Whoever insists removes what a file has set, which may be gone, and nothing else. */
static void test_somebody_insists(void **state)
{
    struct fixture *f = *state;
    size_t len;
    declare(f, TWO);
    assert_int_equal(set_by_hand(f, "other", "create", "existing"), CMD_OK);
    void *cmd = policy_cmd_withdraw("root", "control-socket", "team", &len);
    assert_int_equal(apply(f, cmd, len), CMD_OK);
    expect(f, "*:file other:api");
    cmd = policy_cmd_withdraw("root", "control-socket", "other", &len);
    assert_int_equal(apply(f, cmd, len), CMD_OK);
    expect(f, "*:file other:api");
}

static void test_a_command_that_says_something_else_behind_it(void **state)
{
    struct fixture *f = *state;
    size_t len;
    uint8_t *cmd = policy_cmd_declare(NULL, 0, NULL, 0, &len);
    cmd[len - 1] = POLICY_FROM_API;
    assert_int_equal(apply(f, cmd, len), CMD_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_state_says_what_the_file_says, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_the_file_changes_what_it_says, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_others_say_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_came_to_be_another_s_does_not_go, setup, teardown),
        cmocka_unit_test_setup_teardown(test_somebody_insists, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_command_that_says_something_else_behind_it, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
