/* SPDX-License-Identifier: Apache-2.0 */
/* Sources: fields, bytes, rows, who may change them, and what a model says of many changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "control/state/source.h"
#include "state_fixture.h"

static void field(struct source *s, const char *key, const char *text)
{
    char err[SOURCE_ERROR_MAX];
    if (source_field_set(s, key, text, err))
        fail_msg("%s", err);
}

static struct source behind(const char *prefix, const char *key, const char *text)
{
    struct source s;
    source_init(&s, prefix);
    field(&s, key, text);
    return s;
}

static struct source of_service(const char *prefix)
{
    return behind(prefix, "service", "hub");
}

static enum cmd_status set_as(struct fixture *f, const struct source *s, uint64_t revision,
                              enum source_origin origin)
{
    size_t len;
    void *cmd = source_cmd_set("tester", "here", revision, origin, s, &len);
    return fixture_apply_made(f, cmd, len);
}

static enum cmd_status set(struct fixture *f, const struct source *s)
{
    return set_as(f, s, CMD_REVISION_ANY, SOURCE_FROM_API);
}

static enum cmd_status rm_as(struct fixture *f, const char *prefix, enum source_origin origin)
{
    size_t len;
    void *cmd = source_cmd_rm("tester", "here", origin, prefix, &len);
    return fixture_apply_made(f, cmd, len);
}

static enum cmd_status rm(struct fixture *f, const char *prefix)
{
    return rm_as(f, prefix, SOURCE_FROM_API);
}

static size_t count_of(struct fixture *f)
{
    struct source_table t;
    assert_int_equal(state_sources_read(&f->m.kv, &t), 0);
    size_t count = t.count;
    source_table_fini(&t);
    return count;
}

static void test_rows(void **state)
{
    struct fixture *f = *state;
    struct source hub = of_service("hub/"),
                  quay = behind("aquay/", "backends", "quay.example,quay.example:444");
    struct source_table t;
    assert_int_equal(set(f, &hub), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(set(f, &hub), CMD_OK);
    assert_false(f->ev.changed);
    field(&quay, "tls", "true");
    field(&quay, "upstream", "library/");
    field(&quay, "credentials", "robot");
    field(&quay, "token_server", "https://auth.example/");
    field(&quay, "redirect_hosts", "cdn.example,*.example");
    field(&quay, "push", "true");
    assert_int_equal(set(f, &quay), CMD_OK);
    assert_int_equal(state_sources_read(&f->m.kv, &t), 0);
    assert_int_equal(t.count, 2);
    assert_string_equal(t.list[0].prefix, "aquay/");
    assert_int_equal(t.list[0].revision, 3);
    assert_int_equal(t.list[0].origin, SOURCE_FROM_API);
    assert_true(source_same(&t.list[0], &quay));
    assert_true(source_same(source_find(&t, "hub/"), &hub));
    assert_int_not_equal(source_id(&t.list[0]), source_id(&t.list[1]));
    for (size_t i = 0; i < source_field_count(); i++)
        assert_string_equal(source_field_text(&quay, source_field_key(i)),
                            source_field_text(&t.list[0], source_field_key(i)));
    source_table_fini(&t);
    assert_int_equal(rm(f, "other/"), CMD_SOURCE_UNKNOWN);
    assert_int_equal(rm(f, "hub/"), CMD_OK);
    assert_int_equal(rm(f, "hub/"), CMD_SOURCE_UNKNOWN);
    assert_int_equal(rm(f, "hub"), CMD_INVALID);
    assert_int_equal(count_of(f), 1);
}

/* Who looked before somebody else changed it is told. */
static void test_revisions(void **state)
{
    struct fixture *f = *state;
    struct source s = of_service("hub/");
    assert_int_equal(set_as(f, &s, 7, SOURCE_FROM_API), CMD_CONFLICT);
    assert_int_equal(set_as(f, &s, 0, SOURCE_FROM_API), CMD_OK);
    uint64_t made = f->index;
    field(&s, "upstream", "library/");
    assert_int_equal(set_as(f, &s, 0, SOURCE_FROM_API), CMD_CONFLICT);
    assert_int_equal(set_as(f, &s, made, SOURCE_FROM_API), CMD_OK);
    assert_int_equal(set_as(f, &s, made, SOURCE_FROM_API), CMD_CONFLICT);
}

/* What the configuration file says, only the file changes; it leaves alone what it does not say. */
static void test_the_file(void **state)
{
    struct fixture *f = *state;
    struct source s = of_service("hub/"), other = of_service("own/");
    struct source_table t;
    assert_int_equal(set(f, &s), CMD_OK);
    assert_int_equal(set(f, &other), CMD_OK);
    assert_int_equal(set_as(f, &s, CMD_REVISION_ANY, SOURCE_FROM_FILE), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(state_sources_read(&f->m.kv, &t), 0);
    assert_int_equal(source_find(&t, "hub/")->origin, SOURCE_FROM_FILE);
    source_table_fini(&t);
    field(&s, "upstream", "library/");
    assert_int_equal(set(f, &s), CMD_DECLARED);
    assert_int_equal(rm(f, "hub/"), CMD_DECLARED);
    assert_int_equal(rm_as(f, "own/", SOURCE_FROM_FILE), CMD_OK);
    assert_false(f->ev.changed);
    assert_int_equal(rm_as(f, "none/", SOURCE_FROM_FILE), CMD_OK);
    assert_int_equal(count_of(f), 2);
    assert_int_equal(rm_as(f, "hub/", SOURCE_FROM_FILE), CMD_OK);
    assert_int_equal(count_of(f), 1);
}

static void test_no_more_than_there_can_be(void **state)
{
    struct fixture *f = *state;
    char prefix[16];
    for (int i = 0; i < SOURCES_MAX; i++) {
        snprintf(prefix, sizeof(prefix), "s%d/", i);
        struct source s = i < SOURCES_OWN_MAX ? behind(prefix, "backends", "192.0.2.1") : of_service(prefix);
        assert_int_equal(set(f, &s), CMD_OK);
    }
    struct source more = of_service("more/"), own = behind("s200/", "backends", "192.0.2.1"),
                  old = behind("s3/", "backends", "192.0.2.2");
    assert_int_equal(set(f, &more), CMD_LIMIT);
    assert_int_equal(set(f, &own), CMD_LIMIT);
    assert_int_equal(set(f, &old), CMD_OK);
    assert_int_equal(rm(f, "s4/"), CMD_OK);
    assert_int_equal(set(f, &own), CMD_OK);
}

/* As a part of a transaction, and of the private file: what that has is not applied again. */
static void test_in_a_transaction(void **state)
{
    struct fixture *f = *state;
    struct source s = of_service("hub/");
    struct cmd_build b;
    uint8_t fields[4096];
    struct wire_writer w = {.buf = fields, .cap = sizeof(fields)};
    struct state_tx done = {.kv = &f->m.kv, .private_done = true}, tx = {.kv = &f->m.kv};
    wire_put_u64(&w, CMD_REVISION_ANY);
    wire_put_u8(&w, SOURCE_FROM_API);
    source_put(&w, &s);
    cmd_begin(&b, CMD_TRANSACTION, 1000);
    wire_put_u32(&b.w, 1);
    wire_put_u16(&b.w, CMD_SOURCE_SET);
    wire_put_bytes(&b.w, fields, w.len);
    assert_int_equal(state_apply(&done, 1, b.buf, b.w.len, &f->ev), 0);
    assert_int_equal(count_of(f), 0);
    assert_int_equal(state_apply(&tx, 1, b.buf, b.w.len, &f->ev), 0);
    assert_int_equal(f->ev.status, CMD_OK);
    assert_int_equal(count_of(f), 1);
    assert_int_equal(state_version_needed(b.buf, b.w.len), 4);
    assert_false(state_is_names_only(b.buf, b.w.len));
}

static void test_what_is_no_field(void **state)
{
    static const char *const wrong[][2] = {
        {"upstream", "library"},
        {"upstream", "/"},
        {"upstream", "A/"},
        {"upstream", "a//"},
        {"service", "a b"},
        {"backends", ","},
        {"backends", "a,"},
        {"backends", "a,,b"},
        {"backends", "a:0"},
        {"backends", "a:65536"},
        {"backends", "a:05"},
        {"backends", "a:"},
        {"backends", "[::1"},
        {"backends", "[::1]5000"},
        {"backends", "[hub.example]:5000"},
        {"backends", "::1"},
        {"backends", "a/b"},
        {"backends", "user@a"},
        {"backends", "1,2,3,4,5,6,7,8,9"},
        {"tls", "yes"},
        {"push", "1"},
        {"ca", "a/b"},
        {"server_name", "a:5"},
        {"credentials", "../x"},
        {"token_server", "auth.example"},
        {"token_server", "https://"},
        {"token_server", "https://a@b/"},
        {"token_server", "https://a b/"},
        {"redirect_hosts", "*"},
        {"redirect_hosts", "*example"},
        {"redirect_hosts", "a/b"},
        {"redirect_hosts", "a,"},
        {"redirect_hosts", "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a"},
    };
    char err[SOURCE_ERROR_MAX];
    struct source s = of_service("hub/"), same = s;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        if (source_field_set(&s, wrong[i][0], wrong[i][1], err) != -EINVAL)
            fail_msg("%s=%s is taken", wrong[i][0], wrong[i][1]);
        assert_memory_equal(&s, &same, sizeof(s));
    }
    assert_int_equal(source_field_set(&s, "colour", "red", err), -ENOENT);
    assert_null(source_field_text(&s, "colour"));
}

static int check(const struct source *s)
{
    char err[SOURCE_ERROR_MAX] = "";
    int rc = source_check(s, err, sizeof(err));
    assert_true(rc == 0 || err[0]);
    return rc;
}

static void test_what_is_no_source(void **state)
{
    static const char *const prefixes[] = {"", "hub", "/hub/", "Hub/", "a//b/", "a b/"};
    struct source s;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
        s = of_service(prefixes[i]);
        assert_int_equal(check(&s), -EINVAL);
    }
    source_init(&s, "hub/");
    assert_int_equal(check(&s), -EINVAL); /* neither service nor backends */
    field(&s, "backends", "a.example,192.0.2.1:5000,[2001:db8::1]:5000,a.example:1");
    assert_int_equal(check(&s), 0);
    field(&s, "service", "hub"); /* both */
    assert_int_equal(check(&s), -EINVAL);
    field(&s, "service", "");
    field(&s, "ca", "x"); /* without tls */
    assert_int_equal(check(&s), -EINVAL);
    field(&s, "tls", "true");
    assert_int_equal(check(&s), 0);
    field(&s, "backends", "a.example,b.example");
    assert_int_equal(check(&s), -EINVAL);
    field(&s, "server_name", "c.example");
    assert_int_equal(check(&s), 0);
    s = of_service("hub/");
    field(&s, "tls", "true"); /* the service's own matter */
    assert_int_equal(check(&s), -EINVAL);
}

static void test_backends(void **state)
{
    struct source s = behind("hub/", "backends", "a.example,192.0.2.1:5000,[2001:db8::1],[::1]:444");
    struct source_backend b;
    size_t at = 0;
    (void)state;
    assert_true(source_backend_next(&s, &at, &b));
    assert_string_equal(b.host, "a.example");
    assert_true(b.port == 80 && !b.is_address);
    field(&s, "tls", "true");
    assert_true(source_backend_next(&s, &at, &b));
    assert_string_equal(b.host, "192.0.2.1");
    assert_true(b.port == 5000 && b.is_address);
    assert_true(source_backend_next(&s, &at, &b));
    assert_string_equal(b.host, "2001:db8::1");
    assert_true(b.port == 443 && b.is_address);
    assert_true(source_backend_next(&s, &at, &b));
    assert_true(b.port == 444 && b.is_address);
    assert_false(source_backend_next(&s, &at, &b));
}

/* Every prefix of a command is refused, none is taken for a shorter one. */
static void test_cut_short(void **state)
{
    struct source s = behind("hub/", "backends", "a.example:5000");
    struct state_cmd *cmd = malloc(sizeof(*cmd));
    char err[SOURCE_ERROR_MAX];
    size_t len;
    (void)state;
    for (int i = 0; i < 2; i++) {
        uint8_t *bytes = i ? source_cmd_rm("tester", "here", SOURCE_FROM_API, "hub/", &len)
                           : source_cmd_set("tester", "here", 5, SOURCE_FROM_FILE, &s, &len);
        for (size_t n = 0; n < len; n++)
            assert_int_not_equal(state_parse(bytes, n, cmd, err, sizeof(err)), 0);
        assert_int_equal(state_parse(bytes, len, cmd, err, sizeof(err)), 0);
        assert_memory_equal(cmd->repo.data, "hub/", 4);
        assert_int_equal(cmd->repo.len, 4);
        free(bytes);
    }
    free(cmd);
}

enum { PREFIXES = 5, STEPS = 3000 };

struct model {
    bool there, file;
    unsigned service;
    uint64_t revision;
};

static unsigned pick(uint64_t *random, unsigned n)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (unsigned)(*random >> 33) % n;
}

static enum cmd_status expect_set(struct model *m, unsigned service, uint64_t revision, bool file,
                                  uint64_t index)
{
    if (m->there && m->file && !file)
        return CMD_DECLARED;
    if (revision != CMD_REVISION_ANY && revision != (m->there ? m->revision : 0))
        return CMD_CONFLICT;
    if (!m->there || m->service != service || m->file != file)
        *m = (struct model){true, file, service, index};
    return CMD_OK;
}

static enum cmd_status expect_rm(struct model *m, bool file)
{
    if (m->there && m->file && !file)
        return CMD_DECLARED;
    if (!file && !m->there)
        return CMD_SOURCE_UNKNOWN;
    if (!file || m->file)
        m->there = false;
    return CMD_OK;
}

static void compare(struct fixture *f, const struct model model[PREFIXES])
{
    struct source_table t;
    size_t count = 0;
    assert_int_equal(state_sources_read(&f->m.kv, &t), 0);
    for (unsigned i = 0; i < PREFIXES; i++) {
        char prefix[8], service[8];
        snprintf(prefix, sizeof(prefix), "p%u/", i);
        snprintf(service, sizeof(service), "s%u", model[i].service);
        const struct source *s = source_find(&t, prefix);
        assert_int_equal(s != NULL, model[i].there);
        count += s != NULL;
        if (!s)
            continue;
        assert_string_equal(s->service, service);
        assert_int_equal(s->revision, model[i].revision);
        assert_int_equal(s->origin == SOURCE_FROM_FILE, model[i].file);
    }
    assert_int_equal(t.count, count);
    source_table_fini(&t);
}

static void test_a_model(void **state)
{
    struct fixture *f = *state;
    struct model model[PREFIXES] = {{.there = false}};
    uint64_t random = 88172645463325252;
    for (int step = 0; step < STEPS; step++) {
        unsigned i = pick(&random, PREFIXES), service = pick(&random, 3), how = pick(&random, 4);
        bool file = pick(&random, 2);
        char prefix[8], name[8];
        snprintf(prefix, sizeof(prefix), "p%u/", i);
        snprintf(name, sizeof(name), "s%u", service);
        enum source_origin origin = file ? SOURCE_FROM_FILE : SOURCE_FROM_API;
        struct source s = behind(prefix, "service", name);
        uint64_t revision = how == 1 ? model[i].revision : how == 2 ? 0 : CMD_REVISION_ANY;
        enum cmd_status got = how == 3 ? rm_as(f, prefix, origin) : set_as(f, &s, revision, origin);
        enum cmd_status wanted =
            how == 3 ? expect_rm(&model[i], file) : expect_set(&model[i], service, revision, file, f->index);
        assert_int_equal(got, wanted);
        compare(f, model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_revisions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_more_than_there_can_be, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_a_transaction, setup, teardown),
        cmocka_unit_test(test_what_is_no_field),
        cmocka_unit_test(test_what_is_no_source),
        cmocka_unit_test(test_backends),
        cmocka_unit_test(test_cut_short),
        cmocka_unit_test_setup_teardown(test_a_model, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
