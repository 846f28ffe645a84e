/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "control/config.h"

static struct config config;
static struct config_report report;

static int parse(const char *text)
{
    config_init(&config, NULL);
    memset(&report, 0, sizeof(report));
    return config_parse(&config, "f.yaml", text, strlen(text), &report);
}

static void done(void)
{
    config_report_fini(&report);
    config_fini(&config);
}

static void test_sources(void **state)
{
    (void)state;
    assert_int_equal(parse("sources:\n"
                           "  - {prefix: hub/, service: hub, upstream: library/, credentials: robot}\n"
                           "  - {prefix: hub/x/, service: hub, token_server: \"https://auth.example.com\"}\n"
                           "credentials:\n"
                           "  robot: {user: alice, password_file: /etc/fairlead/hub.password}\n"),
                     0);
    const struct source *s = config.sources.table.list;
    assert_int_equal(config.sources.table.count, 2);
    assert_string_equal(s[0].credentials, "robot");
    assert_string_equal(s[1].token_server, "https://auth.example.com");
    assert_true(source_id(&s[0]) && source_id(&s[1]) && source_id(&s[0]) != source_id(&s[1]));
    const struct config_credential *c = config_credential_find(&config.credentials, "robot");
    assert_string_equal(c->user, "alice");
    assert_string_equal(c->password_file, "/etc/fairlead/hub.password");
    assert_null(config_credential_find(&config.credentials, "other"));
    uint64_t id = source_id(&s[1]);
    done();
    assert_int_equal(parse("sources: [{prefix: hub/x/, service: other}]\n"), 0);
    assert_true(source_id(&config.sources.table.list[0]) == id); /* whoever stands beside it */
    done();
}

static void test_errors(void **state)
{
    static const struct {
        const char *text, *error;
    } rows[] = {
        {"sources: [{prefix: hub/, service: hub, credentials: robot}]\n",
         "f.yaml:1:10: the source hub/ has credentials"},
        {"credentials: [x]\n", "f.yaml:1:14: credentials must be a mapping"},
        {"credentials: {x: {user: a}}\n", "f.yaml:1:18: credentials 'x' have no password_file"},
        {"credentials: {x: {password_file: /p}}\n", "f.yaml:1:18: credentials 'x' have no user"},
        {"credentials: {x: {user: \"a:b\", password_file: /p}}\n", "f.yaml:1:25: 'a:b' is no user's name"},
        {"credentials: {\"x y\": {user: a, password_file: /p}}\n",
         "f.yaml:1:15: 'x y' cannot name credentials"},
        {"credentials: {x: {user: a, password: secret}}\n", "f.yaml:1:28: "},
        {"sources: [{prefix: hub/, service: hub, token_server: auth.example.com}]\n",
         "f.yaml:1:54: token_server: 'auth.example.com' is not allowed"},
        {"sources: [{prefix: hub/, service: hub, token_server: \"https://\"}]\n", "f.yaml:1:54: "},
        {"sources: [{prefix: hub/, service: hub, token_server: \"https://a@b/\"}]\n", "f.yaml:1:54: "},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_not_equal(parse(rows[i].text), 0);
        assert_true(report.count >= 1);
        if (strncmp(report.lines[0], rows[i].error, strlen(rows[i].error)) != 0)
            fail_msg("%s instead of %s", report.lines[0], rows[i].error);
        assert_null(strstr(report.lines[0], "secret"));
        done();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sources), cmocka_unit_test(test_errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
