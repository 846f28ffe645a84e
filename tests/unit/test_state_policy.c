/* SPDX-License-Identifier: Apache-2.0 */
/* What policies allow, decided by the state machine; and patterns and prefixes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "control/state/policy.h"
#include "state_fixture.h"

static enum cmd_status apply(struct fixture *f)
{
    assert_false(f->b.w.failed);
    return fixture_apply(f, f->b.w.buf, f->b.w.len);
}

/* "key=value key=value" */
static enum cmd_status set_policy(struct fixture *f, const char *prefix, const char *fields)
{
    struct policy p;
    char text[256], err[POLICY_ERROR_MAX], *save = NULL;
    size_t len;
    policy_init(&p);
    snprintf(p.prefix, sizeof(p.prefix), "%s", prefix);
    snprintf(text, sizeof(text), "%s", fields);
    for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        char *value = strchr(word, '=');
        *value++ = '\0';
        assert_int_equal(policy_field_set(&p, word, value, err), 0);
    }
    void *cmd = policy_cmd_set("root", "control-socket", CMD_REVISION_ANY, NULL, 0, &p, 1, &len);
    memcpy(f->b.buf, cmd, len);
    free(cmd);
    f->b.w = (struct wire_writer){.buf = f->b.buf, .cap = sizeof(f->b.buf), .len = len};
    return apply(f);
}

static enum cmd_status rm_policy(struct fixture *f, const char *prefix)
{
    cmd_begin(&f->b, CMD_POLICY_RM, 5);
    cmd_text(&f->b, prefix);
    return apply(f);
}

static enum cmd_status link_blob(struct fixture *f, const char *repo, unsigned seed, uint64_t size)
{
    struct digest d = digest_make(DIGEST_SHA256, seed);
    cmd_blob_link(&f->b, 1000 + f->index, repo, &d, size);
    return apply(f);
}

static enum cmd_status push(struct fixture *f, const char *repo, unsigned seed, const char *tag)
{
    const char *tags[] = {tag};
    struct cmd_build_manifest m = {.repo = repo,
                                   .media_type = "application/vnd.oci.image.manifest.v1+json",
                                   .digest = digest_make(DIGEST_SHA256, seed),
                                   .size = 500,
                                   .tags = tags,
                                   .tags_count = 1};
    cmd_manifest_put(&f->b, 2000 + f->index, &m);
    return apply(f);
}

static enum cmd_status delete_tag(struct fixture *f, const char *repo, const char *tag)
{
    cmd_begin(&f->b, CMD_TAG_DELETE, 7);
    cmd_text(&f->b, repo);
    cmd_text(&f->b, tag);
    return apply(f);
}

static enum cmd_status delete_manifest(struct fixture *f, const char *repo, unsigned seed)
{
    struct digest d = digest_make(DIGEST_SHA256, seed);
    cmd_repo_digest(&f->b, CMD_MANIFEST_DELETE, 8, repo, &d);
    return apply(f);
}

static enum cmd_status of_repo(struct fixture *f, uint16_t type, const char *repo)
{
    cmd_begin(&f->b, type, 9);
    cmd_text(&f->b, repo);
    return apply(f);
}

static bool detail_has(const struct fixture *f, const char *text)
{
    return memmem(f->ev.detail, f->ev.detail_len, text, strlen(text)) != NULL;
}

static void test_patterns(void **state)
{
    static const struct {
        const char *list, *text;
        bool yes;
    } rows[] = {
        {"", "v1", false},
        {"*", "v1", true},
        {"v*", "v1", true},
        {"v*", "1", false},
        {"*,!latest", "a", true},
        {"*,!latest", "latest", false},
        {"v?.?", "v1.2", true},
        {"v?.?", "v1.22", false},
        {"a*b*c", "aXbYbZc", true},
        {"a*b*c", "aXbYbZ", false},
        {"release", "release", true},
        {"!v*", "v1", false},
        {"v*,!*-rc?,v2-rc1", "v2-rc1", true},
        {"v*,!*-rc?,v2-rc1", "v2-rc2", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(pattern_match(rows[i].list, rows[i].text, strlen(rows[i].text)), rows[i].yes);
    assert_true(policy_patterns_valid("v*,!latest", 10));
    assert_false(policy_patterns_valid("v*,", 3));
    assert_false(policy_patterns_valid("a,,b", 4));
    assert_false(policy_patterns_valid("a!b", 3));
    assert_false(policy_patterns_valid("a b", 3));
}

static void test_fields_are_texts(void **state)
{
    static const char *const rows[][3] = {
        {"read_only", "true", "true"},
        {"create", "existing", "existing"},
        {"immutable", "v*,!v0", "v*,!v0"},
        {"immutable", "none", "none"},
        {"quota.bytes", "1024KiB", "1MiB"},
        {"quota.bytes", "5", "5B"},
        {"quota.tags", "0", "0"},
        {"total.bytes", "2TiB", "2TiB"},
        {"retention.keep_for", "48h", "2d"},
        {"retention.keep_last", "10", "10"},
    };
    struct policy p;
    char err[POLICY_ERROR_MAX], text[POLICY_TEXT_MAX];
    (void)state;
    policy_init(&p);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(policy_field_set(&p, rows[i][0], rows[i][1], err), 0);
        assert_string_equal(policy_field_text(&p, rows[i][0], text), rows[i][2]);
        assert_int_equal(policy_field_set(&p, rows[i][0], "inherit", err), 0);
        assert_string_equal(policy_field_text(&p, rows[i][0], text), "");
    }
    assert_int_equal(p.rules.has, 0);
    assert_int_equal(policy_field_set(&p, "read_only", "maybe", err), -EINVAL);
    assert_int_equal(policy_field_set(&p, "quota.bytes", "1EB", err), -EINVAL);
    assert_int_equal(policy_field_set(&p, "quota.bytes", "99999999999TiB", err), -EINVAL);
    assert_int_equal(policy_field_set(&p, "nothing", "1", err), -ENOENT);
}

static void test_prefixes_end_at_components_and_the_longest_wins(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(set_policy(f, "", "read_only=true"), CMD_OK);
    assert_int_equal(link_blob(f, "a/b", 1, 10), CMD_DENIED);
    assert_true(detail_has(f, "'a/b'") && detail_has(f, "policy of '*'"));
    assert_int_equal(set_policy(f, "a", "read_only=false"), CMD_OK);
    assert_int_equal(link_blob(f, "a/b", 1, 10), CMD_OK);
    assert_int_equal(link_blob(f, "a", 1, 10), CMD_OK);
    assert_int_equal(link_blob(f, "ab", 1, 10), CMD_DENIED);
    assert_int_equal(link_blob(f, "a-b/c", 1, 10), CMD_DENIED);
    /* What it says nothing about comes from the wider one. */
    assert_int_equal(set_policy(f, "a/b", "quota.tags=5"), CMD_OK);
    assert_int_equal(link_blob(f, "a/b", 2, 10), CMD_OK);
    assert_int_equal(rm_policy(f, "a"), CMD_OK);
    assert_int_equal(link_blob(f, "a/b", 3, 10), CMD_DENIED);
    assert_int_equal(rm_policy(f, "a"), CMD_POLICY_UNKNOWN);
    assert_int_equal(delete_manifest(f, "a/b", 3), CMD_MANIFEST_UNKNOWN);
    assert_int_equal(of_repo(f, CMD_REPO_DELETE, "a/b"), CMD_DENIED);
    assert_int_equal(rm_policy(f, ""), CMD_OK);
    assert_int_equal(of_repo(f, CMD_REPO_DELETE, "a/b"), CMD_OK);
}

static void test_immutable_tags(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(push(f, "app", 1, "v1"), CMD_OK);
    assert_int_equal(push(f, "app", 1, "latest"), CMD_OK);
    assert_int_equal(set_policy(f, "app", "immutable=v*"), CMD_OK);
    assert_int_equal(push(f, "app", 2, "latest"), CMD_OK);
    assert_int_equal(push(f, "app", 2, "v1"), CMD_DENIED);
    assert_true(detail_has(f, "'v1'") && detail_has(f, "'app'"));
    assert_int_equal(push(f, "app", 1, "v1"), CMD_OK);
    assert_false(f->ev.changed);
    assert_int_equal(push(f, "app", 2, "v2"), CMD_OK);
    assert_int_equal(delete_tag(f, "app", "v1"), CMD_DENIED);
    assert_int_equal(delete_manifest(f, "app", 1), CMD_DENIED);
    assert_int_equal(delete_tag(f, "app", "latest"), CMD_OK);
    assert_int_equal(set_policy(f, "app", "immutable=none"), CMD_OK);
    assert_int_equal(delete_manifest(f, "app", 1), CMD_OK);
}

static void test_quotas_of_a_repository(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(set_policy(f, "q", "quota.bytes=1000 quota.tags=2"), CMD_OK);
    assert_int_equal(link_blob(f, "q/a", 1, 400), CMD_OK);
    assert_int_equal(link_blob(f, "q/a", 2, 601), CMD_DENIED);
    assert_true(detail_has(f, "1000 bytes"));
    assert_int_equal(link_blob(f, "q/b", 2, 601), CMD_OK);
    assert_int_equal(link_blob(f, "q/a", 1, 400), CMD_OK);
    assert_int_equal(push(f, "q/a", 10, "one"), CMD_OK); /* 900 now */
    assert_int_equal(push(f, "q/a", 10, "two"), CMD_OK);
    assert_int_equal(push(f, "q/a", 10, "two"), CMD_OK);
    assert_int_equal(push(f, "q/a", 10, "three"), CMD_DENIED);
    assert_int_equal(push(f, "q/a", 11, "two"), CMD_DENIED); /* bytes */
    assert_int_equal(delete_tag(f, "q/a", "one"), CMD_OK);
    assert_int_equal(push(f, "q/a", 10, "three"), CMD_OK);
}

static struct names_policy_use use_of(struct fixture *f, const char *prefix)
{
    struct policy_table t;
    struct names_policy_use *use, out = {0};
    assert_int_equal(state_policies_read(&f->m.kv, &t, &use), 0);
    const struct policy *p = policy_find(&t, prefix);
    if (p)
        out = use[p - t.list];
    policy_table_fini(&t);
    free(use);
    return out;
}

static void test_totals_below_a_prefix(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(link_blob(f, "t", 1, 100), CMD_OK);
    assert_int_equal(link_blob(f, "t-x", 9, 5000), CMD_OK); /* between "t" and "t/..." */
    assert_int_equal(link_blob(f, "t/a", 1, 100), CMD_OK);
    assert_int_equal(push(f, "t/a", 20, "x"), CMD_OK);
    assert_int_equal(set_policy(f, "t", "total.bytes=1000 total.tags=2"), CMD_OK);
    assert_int_equal(use_of(f, "t").bytes, 700);
    assert_int_equal(use_of(f, "t").tags, 1);
    assert_int_equal(set_policy(f, "", "total.bytes=6000"), CMD_OK);
    assert_int_equal(use_of(f, "").bytes, 5700);
    assert_int_equal(link_blob(f, "t/b", 2, 301), CMD_DENIED);
    assert_int_equal(link_blob(f, "other", 2, 301), CMD_DENIED);
    assert_true(detail_has(f, "'*'"));
    assert_int_equal(link_blob(f, "t/b", 2, 300), CMD_OK);
    assert_int_equal(use_of(f, "t").bytes, 1000);
    assert_int_equal(of_repo(f, CMD_REPO_DELETE, "t/a"), CMD_OK);
    assert_int_equal(use_of(f, "t").bytes, 400);
    assert_int_equal(use_of(f, "t").tags, 0);
    assert_int_equal(use_of(f, "").bytes, 5400);
    assert_int_equal(set_policy(f, "t", "quota.tags=1"), CMD_OK);
    assert_int_equal(use_of(f, "t").bytes, 0);
    assert_int_equal(set_policy(f, "t", "total.tags=1"), CMD_OK);
    assert_int_equal(use_of(f, "t").bytes, 400);
}

static void test_only_existing_repositories(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(set_policy(f, "", "create=existing"), CMD_OK);
    assert_int_equal(link_blob(f, "new", 1, 1), CMD_REPO_UNKNOWN);
    assert_int_equal(push(f, "new", 40, "v1"), CMD_REPO_UNKNOWN);
    assert_int_equal(of_repo(f, CMD_REPO_CREATE, "new"), CMD_OK);
    assert_true(f->ev.changed);
    assert_int_equal(of_repo(f, CMD_REPO_CREATE, "new"), CMD_OK);
    assert_false(f->ev.changed);
    assert_int_equal(link_blob(f, "new", 1, 1), CMD_OK);
    assert_int_equal(push(f, "new", 40, "v1"), CMD_OK);
}

static void expire_by(struct fixture *f, const char *repo, const char *tag, unsigned seed, uint64_t time_ms,
                      uint64_t keep_last, enum cmd_status status)
{
    struct digest d = digest_make(DIGEST_SHA256, seed);
    cmd_begin(&f->b, CMD_TAGS_EXPIRE, 3);
    cmd_text(&f->b, repo);
    wire_put_u64(&f->b.w, keep_last);
    wire_put_u64(&f->b.w, 0);
    wire_put_u32(&f->b.w, 1);
    cmd_text(&f->b, tag);
    cmd_put_digest(&f->b.w, &d);
    wire_put_u64(&f->b.w, time_ms);
    assert_int_equal(apply(f), status);
}

static void expire(struct fixture *f, const char *repo, const char *tag, unsigned seed, uint64_t time_ms)
{
    expire_by(f, repo, tag, seed, time_ms, 1, CMD_OK);
}

static void test_retention_removes_what_is_as_it_was(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(push(f, "r", 1, "old"), CMD_OK); /* at 2000 */
    assert_int_equal(push(f, "r", 1, "v1"), CMD_OK);
    expire_by(f, "r", "old", 1, 2000, 1, CMD_CONFLICT); /* no policy says so (any more) */
    assert_int_equal(set_policy(f, "r", "immutable=v* retention.keep_last=1"), CMD_OK);
    /* They were chosen by what held before. */
    expire_by(f, "r", "old", 1, 2000, 2, CMD_CONFLICT);
    assert_false(f->ev.changed);
    expire(f, "r", "old", 1, 1999);
    assert_false(f->ev.changed);
    expire(f, "r", "old", 2, 2000);
    assert_false(f->ev.changed);
    expire(f, "r", "v1", 1, 2001);
    assert_false(f->ev.changed);
    expire(f, "r", "old", 1, 2000);
    assert_true(f->ev.changed);
    assert_int_equal(f->ev.cmd.tags_count, 1);
    expire(f, "r", "old", 1, 2000);
    assert_false(f->ev.changed);
    assert_int_equal(set_policy(f, "r", "immutable=v* retention.keep_last=1 retention.immutable=true"),
                     CMD_OK);
    expire(f, "r", "v1", 1, 2001);
    assert_true(f->ev.changed);
}

static void test_revisions(void **state)
{
    struct fixture *f = *state;
    struct policy p;
    size_t len;
    policy_init(&p);
    p.rules.has = 1u << POLICY_READ_ONLY;
    void *cmd = policy_cmd_set("root", "x", 0, NULL, 0, &p, 1, &len);
    assert_int_equal(fixture_apply(f, cmd, len), CMD_OK);
    assert_int_equal(fixture_apply(f, cmd, len), CMD_CONFLICT);
    free(cmd);
    const char *gone[] = {""};
    cmd = policy_cmd_set("root", "x", CMD_REVISION_ANY, gone, 1, NULL, 0, &len);
    assert_int_equal(fixture_apply(f, cmd, len), CMD_OK);
    assert_int_equal(f->m.db[NAMES_POLICIES].count, 0);
    free(cmd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_fields_are_texts),
        cmocka_unit_test_setup_teardown(test_prefixes_end_at_components_and_the_longest_wins, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_immutable_tags, setup, teardown),
        cmocka_unit_test_setup_teardown(test_quotas_of_a_repository, setup, teardown),
        cmocka_unit_test_setup_teardown(test_totals_below_a_prefix, setup, teardown),
        cmocka_unit_test_setup_teardown(test_only_existing_repositories, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retention_removes_what_is_as_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(test_revisions, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
