/* SPDX-License-Identifier: Apache-2.0 */
/* What the configuration file's sources, and a file of changes, change in the state; and what is left alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "check.h"
#include "control/changes.h"
#include "control/cluster.h"
#include "control/cluster_policy.h"
#include "control/config.h"
#include "control/journal.h"
#include "control/sources_declare.h"
#include "control/state/state.h"
#include "kv_memory.h"

struct fixture {
    struct kv_memory m;
    uint64_t index;
    struct config config;
    struct config_changes given;
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
    enum cmd_status status = ev->status;
    free(ev);
    free(cmd);
    return status;
}

static void read_file(struct fixture *f, const char *text, bool changes)
{
    struct config_report report = {.count = 0};
    config_init(&f->config, NULL);
    int err = changes ? config_parse_changes(&f->config, "f.yaml", text, strlen(text), &f->given, &report)
                      : config_parse(&f->config, "f.yaml", text, strlen(text), &report);
    if (err)
        fail_msg("%s", report.lines[0]);
    config_report_fini(&report);
}

/* Returns how many sources the file changed. */
static size_t declare(struct fixture *f, const char *text)
{
    struct source_table state;
    size_t changes, len;
    read_file(f, text, false);
    assert_int_equal(state_sources_read(&f->m.kv, &state), 0);
    void *cmd = sources_diff(&state, &f->config.sources.table, &changes, &len);
    assert_int_equal(cmd != NULL, changes > 0);
    if (cmd)
        assert_int_equal(apply(f, cmd, len), CMD_OK);
    source_table_fini(&state);
    config_fini(&f->config);
    return changes;
}

/* The same of a file of changes, with what is told of it. *status: what applying says. */
static json_t *change(struct fixture *f, const char *text, bool prune, enum cmd_status *status)
{
    struct source_table state;
    struct changes changes;
    read_file(f, text, true);
    assert_int_equal(state_sources_read(&f->m.kv, &state), 0);
    const struct changes_input in = {.state_sources = &state,
                                     .file_sources = &f->config.sources.table,
                                     .has_sources = f->given.sources,
                                     .prune = prune,
                                     .actor = "tester",
                                     .source = "here"};
    changes_make(&in, &changes);
    assert_false(changes.too_large);
    *status = CMD_OK;
    if (changes.cmd)
        *status = apply(f, changes.cmd, changes.len);
    changes.cmd = NULL;
    json_t *list = json_incref(changes.list);
    changes_fini(&changes);
    source_table_fini(&state);
    config_fini(&f->config);
    return list;
}

static void expect(struct fixture *f, const char *prefix, const char *backends, enum source_origin origin)
{
    struct source_table t;
    assert_int_equal(state_sources_read(&f->m.kv, &t), 0);
    const struct source *s = source_find(&t, prefix);
    assert_int_equal(s != NULL, backends != NULL);
    if (s) {
        assert_string_equal(s->backends, backends);
        assert_int_equal(s->origin, origin);
    }
    source_table_fini(&t);
}

static void test_the_file(void **state)
{
    struct fixture *f = *state;
    struct source own;
    size_t len;
    source_init(&own, "own/");
    snprintf(own.backends, sizeof(own.backends), "own.example");
    void *cmd = source_cmd_set("tester", "here", CMD_REVISION_ANY, SOURCE_FROM_API, &own, &len);
    assert_int_equal(apply(f, cmd, len), CMD_OK);
    assert_int_equal(
        declare(f, "sources:\n  - {prefix: hub/, backends: [a.example, 'a.example:444'], tls: true}\n"
                   "  - {prefix: x/, backends: b.example}\n"),
        2);
    expect(f, "hub/", "a.example,a.example:444", SOURCE_FROM_FILE);
    expect(f, "own/", "own.example", SOURCE_FROM_API);
    assert_int_equal(
        declare(f, "sources:\n  - {prefix: hub/, backends: [a.example, 'a.example:444'], tls: true}\n"
                   "  - {prefix: x/, backends: b.example}\n"),
        0);
    assert_int_equal(declare(f, "sources: [{prefix: x/, backends: c.example}]\n"), 2);
    expect(f, "hub/", NULL, 0);
    expect(f, "x/", "c.example", SOURCE_FROM_FILE);
    assert_int_equal(declare(f, "sources: [{prefix: own/, backends: own.example}]\n"), 2);
    expect(f, "own/", "own.example", SOURCE_FROM_FILE);
    assert_int_equal(declare(f, "settings: {}\n"), 1);
    expect(f, "own/", NULL, 0);
}

/* Whoever insists removes what a file has set, which may be gone, and nothing else. */
static void test_somebody_insists(void **state)
{
    struct fixture *f = *state;
    size_t len;
    assert_int_equal(declare(f, "sources: [{prefix: hub/, backends: a.example}]\n"), 1);
    void *cmd = source_cmd_rm("root", "control-socket", SOURCE_FROM_API, "hub/", &len);
    assert_int_equal(apply(f, cmd, len), CMD_DECLARED);
    cmd = source_cmd_rm("root", "control-socket", SOURCE_FROM_FILE, "hub/", &len);
    assert_int_equal(apply(f, cmd, len), CMD_OK);
    expect(f, "hub/", NULL, 0);
}

static void test_changes(void **state)
{
    struct fixture *f = *state;
    enum cmd_status status;
    json_t *list =
        change(f, "sources: [{prefix: hub/, backends: a.example, credentials: robot}]\n", false, &status);
    char *text = json_dumps(list, JSON_COMPACT);
    assert_int_equal(status, CMD_OK);
    assert_string_equal(text, "[{\"action\":\"add\",\"kind\":\"source\",\"name\":\"hub/\",\"fields\":["
                              "{\"key\":\"backends\",\"old\":null,\"new\":\"a.example\"},"
                              "{\"key\":\"tls\",\"old\":null,\"new\":\"false\"},"
                              "{\"key\":\"push\",\"old\":null,\"new\":\"false\"},"
                              "{\"key\":\"credentials\",\"old\":null,\"new\":\"robot\"}]}]");
    free(text);
    json_decref(list);
    list = change(f, "sources: [{prefix: hub/, backends: b.example}]\n", false, &status);
    text = json_dumps(list, JSON_COMPACT);
    assert_string_equal(text, "[{\"action\":\"change\",\"kind\":\"source\",\"name\":\"hub/\",\"fields\":["
                              "{\"key\":\"backends\",\"old\":\"a.example\",\"new\":\"b.example\"},"
                              "{\"key\":\"credentials\",\"old\":\"robot\",\"new\":null}]}]");
    free(text);
    json_decref(list);
    list = change(f, "sources: [{prefix: hub/, backends: b.example}]\n", true, &status);
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    list = change(f, "sources: []\n", false, &status);
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    list = change(f, "sources: []\n", true, &status);
    assert_int_equal(json_array_size(list), 1);
    json_decref(list);
    expect(f, "hub/", NULL, 0);
}

/* What the configuration file says, a file of changes leaves alone, or is refused. */
static void test_changes_of_what_is_declared(void **state)
{
    struct fixture *f = *state;
    enum cmd_status status;
    assert_int_equal(declare(f, "sources: [{prefix: hub/, backends: a.example}]\n"), 1);
    json_decref(change(f, "sources: []\n", true, &status));
    expect(f, "hub/", "a.example", SOURCE_FROM_FILE);
    json_decref(change(f,
                       "sources: [{prefix: x/, backends: x.example}, {prefix: hub/, backends: b.example}]\n",
                       false, &status));
    assert_int_equal(status, CMD_DECLARED);
    expect(f, "x/", NULL, 0);
    expect(f, "hub/", "a.example", SOURCE_FROM_FILE);
}

static void test_peers_are_of_the_configuration(void **state)
{
    static const char text[] = "sources: [{peers: true, service: hub}]\n";
    struct fixture *f = *state;
    struct config_report report = {.count = 0};
    config_init(&f->config, NULL);
    assert_int_not_equal(
        config_parse_changes(&f->config, "f.yaml", text, sizeof(text) - 1, &f->given, &report), 0);
    assert_non_null(strstr(report.lines[0], "configuration file alone"));
    config_report_fini(&report);
    config_fini(&f->config);
    read_file(f, text, false);
    assert_string_equal(f->config.sources.peers, "hub");
    assert_int_equal(f->config.sources.table.count, 0);
    config_fini(&f->config);
}

/* ------------------------------------------------------------------ a cluster that is played */

static bool upgraded;
static unsigned proposed;

bool cluster_has_others(const struct cluster *c)
{
    (void)c;
    return true;
}

int cluster_sources(struct cluster *c, struct source_table *out)
{
    (void)c;
    *out = (struct source_table){.count = 0};
    return 0;
}

bool cluster_knows(struct cluster *c, uint32_t version)
{
    (void)c;
    assert_int_equal(version, CLUSTER_VERSION_SOURCES);
    return upgraded;
}

void cluster_propose(struct cluster *c, void *cmd, size_t len, cluster_done done, void *arg)
{
    (void)c;
    (void)len;
    free(cmd);
    proposed++;
    done(arg, CMD_INVALID, 0, "unknown", 7);
}

void journal_write(struct journal *j, enum journal_level level, const char *component, const char *format,
                   ...)
{
    (void)j;
    (void)level;
    (void)component;
    (void)format;
}

/* Who leads and is not upgraded yet is not asked: it would refuse it. */
static void test_it_waits_for_the_upgrade(void **state)
{
    struct fixture *f = *state;
    uv_loop_t loop;
    CHECK(uv_loop_init(&loop) == 0);
    read_file(f, "sources: [{prefix: hub/, backends: a.example}]\n", false);
    struct sources_declared *s = sources_declared_new(&loop, NULL, NULL);
    upgraded = false;
    proposed = 0;
    sources_declare(s, &f->config.sources.table);
    uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(proposed, 0);
    upgraded = true;
    uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(proposed, 1);
    sources_declared_close(s);
    uv_run(&loop, UV_RUN_DEFAULT);
    sources_declared_free(s);
    CHECK(uv_loop_close(&loop) == 0);
    config_fini(&f->config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_somebody_insists, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changes_of_what_is_declared, setup, teardown),
        cmocka_unit_test_setup_teardown(test_peers_are_of_the_configuration, setup, teardown),
        cmocka_unit_test_setup_teardown(test_it_waits_for_the_upgrade, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
