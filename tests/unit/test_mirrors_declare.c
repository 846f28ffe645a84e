/* SPDX-License-Identifier: Apache-2.0 */
/* What the configuration file's rules of mirroring change in the state, and what is left alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "control/config.h"
#include "control/mirrors_declare.h"
#include "state_fixture.h"

/* Returns how many rules the file changed. */
static size_t declare(struct fixture *f, const char *text)
{
    struct config config;
    struct config_report report = {.count = 0};
    struct mirror_table now;
    size_t changes, len;
    config_init(&config, NULL);
    assert_int_equal(config_parse(&config, "f.yaml", text, strlen(text), &report), 0);
    assert_int_equal(state_mirrors_read(&f->m.kv, &now), 0);
    void *cmd = mirrors_diff(&now, &config.mirrors, &changes, &len);
    assert_true((cmd != NULL) == (changes > 0));
    if (cmd) {
        assert_int_equal(state_version_needed(cmd, len), 4);
        assert_int_equal(fixture_apply_made(f, cmd, len), CMD_OK);
    }
    mirror_table_fini(&now);
    config_report_fini(&report);
    config_fini(&config);
    return changes;
}

static enum cmd_status set(struct fixture *f, const char *name, const char *repos)
{
    struct mirror_rule m;
    char err[MIRROR_ERROR_MAX];
    size_t len;
    mirror_init(&m, name);
    assert_int_equal(mirror_field_set(&m, "url", "https://hub.example", err), 0);
    assert_int_equal(mirror_field_set(&m, "repos", repos, err), 0);
    void *cmd = mirror_cmd_set("tester", "here", &m, &len);
    return fixture_apply_made(f, cmd, len);
}

static enum cmd_status rm(struct fixture *f, const char *name)
{
    size_t len;
    void *cmd = mirror_cmd_rm("tester", "here", name, false, &len);
    return fixture_apply_made(f, cmd, len);
}

/* "a b" of the names; '*' behind those of the file. */
static const char *names(struct fixture *f, char out[128])
{
    struct mirror_table t;
    size_t used = 0;
    out[0] = '\0';
    assert_int_equal(state_mirrors_read(&f->m.kv, &t), 0);
    for (size_t i = 0; i < t.count; i++)
        used += (size_t)snprintf(out + used, 128 - used, "%s%.20s%s", i ? " " : "", t.list[i].name,
                                 t.list[i].declared ? "*" : "");
    mirror_table_fini(&t);
    return out;
}

#define TWO                                                                                                  \
    "mirrors:\n"                                                                                             \
    "- {name: a, url: 'https://hub.example', repos: [team/*, tools], every: 1h}\n"                           \
    "- {name: b, url: 'https://hub.example', repos: x, direction: push, on_event: true}\n"

static void test_the_file_says_its_own(void **state)
{
    struct fixture *f = *state;
    char text[128];
    assert_int_equal(set(f, "mine", "y"), CMD_OK);
    assert_int_equal(declare(f, TWO), 2);
    assert_string_equal(names(f, text), "a* b* mine");
    assert_int_equal(declare(f, TWO), 0);
    assert_int_equal(set(f, "a", "y"), CMD_DECLARED);
    assert_int_equal(rm(f, "b"), CMD_DECLARED);
    assert_int_equal(declare(f, "mirrors:\n- {name: a, url: 'https://hub.example', repos: z}\n"), 2);
    assert_string_equal(names(f, text), "a* mine");
    assert_int_equal(declare(f, "log: {}\n"), 1);
    assert_string_equal(names(f, text), "mine");
    assert_int_equal(set(f, "a", "y"), CMD_OK);
}

/* One that was made by hand, and that the file says, too, is the file's from then on. */
static void test_the_file_takes_over(void **state)
{
    struct fixture *f = *state;
    char text[128];
    assert_int_equal(set(f, "a", "y"), CMD_OK);
    assert_int_equal(declare(f, "mirrors: [{name: a, url: 'https://hub.example', repos: y}]\n"), 1);
    assert_string_equal(names(f, text), "a*");
    assert_int_equal(rm(f, "a"), CMD_DECLARED);
}

/* Whoever insists removes what a file has set, which may be gone. */
static void test_somebody_insists(void **state)
{
    struct fixture *f = *state;
    char text[128];
    size_t len;
    assert_int_equal(declare(f, TWO), 2);
    assert_int_equal(rm(f, "a"), CMD_DECLARED);
    void *cmd = mirror_cmd_rm("root", "control-socket", "a", true, &len);
    assert_int_equal(fixture_apply_made(f, cmd, len), CMD_OK);
    assert_string_equal(names(f, text), "b*");
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_the_file_says_its_own), T(test_the_file_takes_over),
                                       T(test_somebody_insists)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
