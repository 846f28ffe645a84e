/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker may ask managers for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "control/sources_declare.h"
#include "control/state/mirror.h"
#include "control/state/notice.h"
#include "control/worker_rule.h"

enum { WORKER = 7 };

/* Frees cmd. */
static bool is_refused(void *cmd, size_t len)
{
    const char *why = worker_refused(WORKER, cmd, len);
    free(cmd);
    if (why)
        assert_non_null(strstr(why, "on managers alone"));
    return why != NULL;
}

static struct source source_of(const char *prefix, const char *credentials)
{
    struct source s;
    source_init(&s, prefix);
    snprintf(s.backends, sizeof(s.backends), "hub.example");
    snprintf(s.credentials, sizeof(s.credentials), "%s", credentials);
    return s;
}

static bool source_refused(const char *credentials)
{
    struct source s = source_of("hub/", credentials);
    size_t len;
    void *cmd = source_cmd_set("tester", "here", CMD_REVISION_ANY, SOURCE_FROM_API, &s, &len);
    return is_refused(cmd, len);
}

/* A file with two, as one transaction. */
static bool sources_refused(const char *credentials)
{
    struct source_table none = {.count = 0}, file = {.count = 0};
    struct source first = source_of("a/", ""), second = source_of("b/", credentials);
    size_t changes, len;
    source_table_add(&file, &first);
    source_table_add(&file, &second);
    void *cmd = sources_diff(&none, &file, &changes, &len);
    source_table_fini(&file);
    return is_refused(cmd, len);
}

static bool mirror_refused(const char *credentials)
{
    struct mirror_rule m;
    char err[MIRROR_ERROR_MAX];
    size_t len;
    mirror_init(&m, "hub");
    assert_int_equal(mirror_field_set(&m, "url", "https://hub.example", err), 0);
    assert_int_equal(mirror_field_set(&m, "repos", "team/*", err), 0);
    assert_int_equal(mirror_field_set(&m, "credentials", credentials, err), 0);
    void *cmd = mirror_cmd_set("tester", "here", &m, &len);
    return is_refused(cmd, len);
}

static bool notify_refused(const char *credentials)
{
    struct cmd_build b;
    struct endpoint e = {.name = "ci", .url = "https://ci.example/hook"};
    snprintf(e.credentials, sizeof(e.credentials), "%s", credentials);
    e.row.actions = ENDPOINT_ACTIONS_DEFAULT;
    cmd_begin(&b, CMD_NOTIFY_SET, 1);
    endpoint_put(&b.w, &e);
    return worker_refused(WORKER, b.buf, b.w.len) != NULL;
}

static void test_credentials(void **state)
{
    (void)state;
    assert_false(source_refused(""));
    assert_true(source_refused("robot"));
    assert_false(sources_refused(""));
    assert_true(sources_refused("robot"));
    assert_false(mirror_refused(""));
    assert_true(mirror_refused("/etc/robot"));
    assert_false(notify_refused(""));
    assert_true(notify_refused("robot"));
}

static void test_others(void **state)
{
    struct cmd_build b;
    struct digest d = digest_make(1, 5);
    (void)state;
    cmd_blob_link(&b, 1, "team/app", &d, 10);
    assert_null(worker_refused(WORKER, b.buf, b.w.len));
    assert_non_null(worker_refused(WORKER, b.buf, b.w.len - 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_credentials), cmocka_unit_test(test_others)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
