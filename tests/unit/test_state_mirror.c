/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of mirroring: fields, bytes, rows, and when they are run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "control/mirror_due.h"
#include "control/state/mirror.h"
#include "state_fixture.h"

static struct mirror_rule rule(const char *name)
{
    struct mirror_rule m;
    char err[MIRROR_ERROR_MAX];
    mirror_init(&m, name);
    assert_int_equal(mirror_field_set(&m, "url", "https://registry.example:5000", err), 0);
    assert_int_equal(mirror_field_set(&m, "repos", "team/*,tools/app", err), 0);
    return m;
}

static enum cmd_status set(struct fixture *f, const struct mirror_rule *m)
{
    size_t len;
    void *cmd = mirror_cmd_set("tester", "here", m, &len);
    return fixture_apply_made(f, cmd, len);
}

static enum cmd_status rm(struct fixture *f, const char *name)
{
    size_t len;
    void *cmd = mirror_cmd_rm("tester", "here", name, false, &len);
    return fixture_apply_made(f, cmd, len);
}

static void test_rows(void **state)
{
    struct fixture *f = *state;
    struct mirror_rule a = rule("a"), b = rule("b");
    struct mirror_table t;
    char err[MIRROR_ERROR_MAX], text[MIRROR_TEXT_MAX];
    assert_int_equal(set(f, &b), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(set(f, &a), CMD_OK);
    assert_int_equal(mirror_field_set(&b, "rate", "20MiB", err), 0);
    assert_int_equal(mirror_field_set(&b, "every", "90m", err), 0);
    assert_int_equal(set(f, &b), CMD_OK);
    assert_int_equal(state_mirrors_read(&f->m.kv, &t), 0);
    assert_int_equal(t.count, 2);
    assert_string_equal(t.list[0].name, "a");
    assert_int_equal(t.list[0].revision, 2);
    assert_int_equal(t.list[1].revision, 3);
    assert_true(mirror_same(&t.list[1], &b));
    assert_false(mirror_same(&t.list[1], &a));
    assert_string_equal(mirror_field_text(&t.list[1], "rate", text), "20MiB");
    assert_string_equal(mirror_field_text(&t.list[1], "every", text), "90m");
    assert_string_equal(mirror_field_text(&t.list[1], "direction", text), "pull");
    assert_string_equal(mirror_field_text(&t.list[1], "tags", text), "*");
    mirror_table_fini(&t);
    assert_int_equal(rm(f, "c"), CMD_MIRROR_UNKNOWN);
    assert_int_equal(rm(f, "a"), CMD_OK);
    assert_int_equal(rm(f, "a"), CMD_MIRROR_UNKNOWN);
    assert_int_equal(state_mirrors_read(&f->m.kv, &t), 0);
    assert_int_equal(t.count, 1);
    mirror_table_fini(&t);
}

static void test_no_more_than_there_can_be(void **state)
{
    struct fixture *f = *state;
    char name[16];
    for (int i = 0; i < MIRRORS_MAX; i++) {
        snprintf(name, sizeof(name), "m%d", i);
        struct mirror_rule m = rule(name);
        assert_int_equal(set(f, &m), CMD_OK);
    }
    struct mirror_rule more = rule("more"), old = rule("m3");
    assert_int_equal(set(f, &more), CMD_LIMIT);
    assert_int_equal(set(f, &old), CMD_OK);
}

/* As a part of a transaction, and of the private file: what that has is not applied again. */
static void test_in_a_transaction(void **state)
{
    struct fixture *f = *state;
    struct mirror_rule m = rule("a");
    struct cmd_build b;
    uint8_t fields[2048];
    struct wire_writer w = {.buf = fields, .cap = sizeof(fields)};
    struct state_tx done = {.kv = &f->m.kv, .private_done = true}, tx = {.kv = &f->m.kv};
    struct mirror_table t;
    mirror_put(&w, &m);
    cmd_begin(&b, CMD_TRANSACTION, 1000);
    wire_put_u32(&b.w, 1);
    wire_put_u16(&b.w, CMD_MIRROR_SET);
    wire_put_bytes(&b.w, fields, w.len);
    assert_int_equal(state_apply(&done, 1, b.buf, b.w.len, &f->ev), 0);
    assert_int_equal(state_mirrors_read(&f->m.kv, &t), 0);
    assert_int_equal(t.count, 0);
    assert_int_equal(state_apply(&tx, 1, b.buf, b.w.len, &f->ev), 0);
    assert_int_equal(f->ev.status, CMD_OK);
    assert_int_equal(state_mirrors_read(&f->m.kv, &t), 0);
    assert_int_equal(t.count, 1);
    assert_int_equal(t.list[0].created_ms, 1000);
    mirror_table_fini(&t);
    assert_int_equal(state_version_needed(b.buf, b.w.len), 3);
    assert_false(state_is_names_only(b.buf, b.w.len));
}

static void test_what_is_no_rule(void **state)
{
    static const struct {
        const char *key, *value;
    } wrong[] = {
        {"url", ""},
        {"url", "registry.example"},
        {"url", "https://registry.example/path"},
        {"url", "https://user:secret@registry.example"},
        {"url", "ftp://registry.example"},
        {"repos", ""},
        {"repos", "a,,b"},
        {"repos", "a b"},
        {"tags", "~"},
        {"tags", "~^v[0-9]{1,9}$"},
        {"tags", "~(a)\\1"},
        {"tags", "a,"},
        {"strip", "Team"},
        {"prefix", "team/"},
        {"credentials", "relative"},
        {"ca", "~/ca.pem"},
        {"every", "1s"},
        {"on_event", "true"}, /* of a pull */
    };
    static const char *const refused[][2] = {
        {"direction", "both"},      {"every", "often"}, {"every", "5"},     {"rate", "fast"},
        {"rate", "99999999999GiB"}, {"parallel", "0"},  {"parallel", "17"}, {"parallel", "4x"},
        {"referrers", "maybe"},     {"paused", "1"}};
    char err[MIRROR_ERROR_MAX], text[MIRROR_TEXT_MAX];
    struct mirror_rule m = rule("a");
    (void)state;
    assert_int_equal(mirror_check(&m, err, sizeof(err)), 0);
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct mirror_rule bad = m;
        assert_int_equal(mirror_field_set(&bad, wrong[i].key, wrong[i].value, err), 0);
        assert_int_equal(mirror_check(&bad, err, sizeof(err)), -EINVAL);
        assert_true(err[0]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        struct mirror_rule same = m;
        assert_int_equal(mirror_field_set(&same, refused[i][0], refused[i][1], err), -EINVAL);
        assert_memory_equal(&same, &m, sizeof(m));
    }
    assert_int_equal(mirror_field_set(&m, "colour", "red", err), -ENOENT);
    assert_null(mirror_field_text(&m, "colour", text));
    struct mirror_rule nameless = rule("a name");
    assert_int_equal(mirror_check(&nameless, err, sizeof(err)), -EINVAL);
    assert_int_equal(mirror_field_set(&m, "tags", "~^v[0-9]+(-rc)?$", err), 0);
    assert_int_equal(mirror_check(&m, err, sizeof(err)), 0);
}

/* Every prefix of a command is refused, none is taken for a shorter one. */
static void test_cut_short(void **state)
{
    struct fixture *f = *state;
    struct mirror_rule m = rule("a");
    struct state_cmd *cmd = malloc(sizeof(*cmd));
    char err[128];
    size_t len;
    uint8_t *bytes = mirror_cmd_set("tester", "here", &m, &len);
    (void)f;
    for (size_t n = 0; n < len; n++)
        assert_int_not_equal(state_parse(bytes, n, cmd, err, sizeof(err)), 0);
    assert_int_equal(state_parse(bytes, len, cmd, err, sizeof(err)), 0);
    assert_memory_equal(cmd->service.data, "a", 1);
    free(bytes);
    free(cmd);
}

static void test_when(void **state)
{
    struct mirror_rule m = rule("a");
    struct mirror_clock c = {.since_ms = 5000};
    (void)state;
    assert_true(mirror_due_ms(&m, &c) == UINT64_MAX); /* by hand */
    m.every_s = 60;
    assert_int_equal(mirror_due_ms(&m, &c), 5000 + MIRROR_FIRST_MS);
    c.begun_ms = 10000;
    c.ended_ms = 20000;
    assert_int_equal(mirror_due_ms(&m, &c), 70000);
    c.event_ms = 30000;
    assert_int_equal(mirror_due_ms(&m, &c), 30000 + MIRROR_GATHER_MS);
    c.failures = 1;
    assert_int_equal(mirror_due_ms(&m, &c), 20000 + MIRROR_BACKOFF_MS);
    c.failures = 30; /* never later than by schedule */
    assert_int_equal(mirror_due_ms(&m, &c), 70000);
    m.every_s = 0;
    m.push = m.on_event = true;
    assert_int_equal(mirror_due_ms(&m, &c), 20000 + MIRROR_BACKOFF_MAX_MS);
    c.failures = 0;
    c.event_ms = 0;
    assert_true(mirror_due_ms(&m, &c) == UINT64_MAX);
    m.paused = true;
    c.event_ms = 30000;
    assert_true(mirror_due_ms(&m, &c) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_more_than_there_can_be, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_a_transaction, setup, teardown),
        cmocka_unit_test(test_what_is_no_rule),
        cmocka_unit_test_setup_teardown(test_cut_short, setup, teardown),
        cmocka_unit_test(test_when),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
