/* SPDX-License-Identifier: Apache-2.0 */
/* What waits for webhooks, and how far they are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "control/state/notice.h"
#include "control/state/state.h"
#include "kv_memory.h"

static char secret[] = "Authorization: Bearer hush";

struct fixture {
    struct kv_memory m;
    struct cmd_build b;
    struct state_event ev;
    uint64_t index;
    bool names_done, private_done;
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

static enum cmd_status apply_at(struct fixture *f, uint64_t index)
{
    struct state_tx tx = {.kv = &f->m.kv, .names_done = f->names_done, .private_done = f->private_done};
    assert_false(f->b.w.failed);
    assert_int_equal(state_apply(&tx, index, f->b.w.buf, f->b.w.len, &f->ev), 0);
    return f->ev.status;
}

static enum cmd_status apply(struct fixture *f)
{
    return apply_at(f, ++f->index);
}

static void build_endpoint(struct fixture *f, const char *name, const char *prefix, uint32_t actions,
                           const char *types)
{
    struct endpoint e = {.row.actions = actions, .headers_count = 1, .header = {secret}};
    snprintf(e.name, sizeof(e.name), "%s", name);
    snprintf(e.row.prefix, sizeof(e.row.prefix), "%s", prefix);
    snprintf(e.row.media_types, sizeof(e.row.media_types), "%s", types);
    snprintf(e.url, sizeof(e.url), "http://127.0.0.1/hook");
    cmd_begin(&f->b, CMD_NOTIFY_SET, 5);
    endpoint_put(&f->b.w, &e);
}

static enum cmd_status set_endpoint(struct fixture *f, const char *name, const char *prefix)
{
    build_endpoint(f, name, prefix, 7, "");
    return apply(f);
}

static enum cmd_status rm_endpoint(struct fixture *f, const char *name)
{
    cmd_begin(&f->b, CMD_NOTIFY_RM, 6);
    cmd_text(&f->b, name);
    return apply(f);
}

static enum cmd_status cursor(struct fixture *f, const char *name, uint64_t index, uint32_t number)
{
    cmd_begin(&f->b, CMD_NOTIFY_CURSOR, 7);
    cmd_text(&f->b, name);
    wire_put_u64(&f->b.w, index);
    wire_put_u32(&f->b.w, number);
    return apply(f);
}

static uint64_t link_blob(struct fixture *f, const char *repo, unsigned seed)
{
    struct digest d = digest_make(DIGEST_SHA256, seed);
    cmd_blob_link(&f->b, 1000 + f->index, repo, &d, 10);
    assert_int_equal(apply(f), CMD_OK);
    return f->index;
}

static uint64_t push(struct fixture *f, const char *repo, unsigned seed, uint8_t refs)
{
    static const char *const tags[] = {"one", "two"};
    struct cmd_build_manifest m = {.repo = repo,
                                   .media_type = "application/vnd.oci.image.manifest.v1+json",
                                   .digest = digest_make(DIGEST_SHA256, seed),
                                   .size = 500,
                                   .require_refs = refs,
                                   .tags = tags,
                                   .tags_count = 2};
    cmd_manifest_put(&f->b, 2000, &m);
    assert_int_equal(apply(f), CMD_OK);
    return f->index;
}

static struct endpoint_table table_of(struct fixture *f)
{
    struct endpoint_table t;
    assert_int_equal(state_endpoints_read(&f->m.kv, &t), 0);
    return t;
}

static uint64_t waiting(struct fixture *f)
{
    struct endpoint_table t = table_of(f);
    uint64_t count = t.queue.count, walked = 0;
    struct notice n;
    struct notice_at at = {0};
    for (; state_notice_next(&f->m.kv, at, &n) == 0; at = n.at)
        walked++;
    assert_int_equal(walked, count);
    endpoint_table_fini(&t);
    return count;
}

static void test_nothing_waits_for_nobody(void **state)
{
    struct fixture *f = *state;
    link_blob(f, "a", 1);
    assert_int_equal(f->m.db[NAMES_NOTICES].count, 0);
    assert_int_equal(set_endpoint(f, "x", "team"), CMD_OK);
    link_blob(f, "a", 2);
    assert_int_equal(waiting(f), 0);
    link_blob(f, "team", 2);
    link_blob(f, "teams", 2);
    assert_int_equal(waiting(f), 1);
}

static void test_a_notice_says_what_and_who(void **state)
{
    struct fixture *f = *state;
    struct notice n;
    assert_int_equal(set_endpoint(f, "x", ""), CMD_OK);
    uint64_t index = push(f, "team/app", 3, CMD_REFS_ALL);
    assert_int_equal(state_notice_next(&f->m.kv, (struct notice_at){0}, &n), 0);
    assert_int_equal(n.at.index, index);
    assert_int_equal(n.action, NOTICE_PUSH);
    assert_memory_equal(n.repo.data, "team/app", 8);
    assert_memory_equal(n.tag.data, "one", 3);
    assert_memory_equal(n.actor.data, "tester", 6);
    assert_int_equal(n.size, 500);
    struct digest d = digest_make(DIGEST_SHA256, 3);
    assert_true(digest_equal(&n.digest, &d));
    assert_int_equal(state_notice_next(&f->m.kv, n.at, &n), 0);
    assert_memory_equal(n.tag.data, "two", 3);
    assert_int_equal(n.at.number, 1);
    assert_int_equal(state_notice_next(&f->m.kv, n.at, &n), -ENOENT);
    /* What comes from another registry was not pushed; what is refused did not happen. */
    push(f, "team/copy", 4, CMD_REFS_NONE);
    cmd_tag_delete(&f->b, 9, "team/app", "three");
    assert_int_equal(apply(f), CMD_TAG_UNKNOWN);
    assert_int_equal(waiting(f), 2);
    cmd_tag_delete(&f->b, 9, "team/app", "two");
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(waiting(f), 3);
}

static void test_what_everybody_was_told_of_goes(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(set_endpoint(f, "x", ""), CMD_OK);
    assert_int_equal(set_endpoint(f, "y", ""), CMD_OK);
    uint64_t first = push(f, "a", 1, CMD_REFS_ALL), second = link_blob(f, "a", 9);
    assert_int_equal(waiting(f), 3);
    assert_int_equal(cursor(f, "x", second, 0), CMD_OK);
    assert_int_equal(waiting(f), 3);
    assert_int_equal(cursor(f, "y", first, 0), CMD_OK);
    assert_int_equal(waiting(f), 2);
    assert_int_equal(cursor(f, "y", first - 1, 0), CMD_OK); /* never back */
    assert_int_equal(waiting(f), 2);
    assert_int_equal(rm_endpoint(f, "y"), CMD_OK);
    assert_int_equal(waiting(f), 0);
    assert_int_equal(cursor(f, "y", second, 0), CMD_ENDPOINT_UNKNOWN);
    link_blob(f, "a", 10);
    assert_int_equal(rm_endpoint(f, "x"), CMD_OK);
    assert_int_equal(waiting(f), 0);
    assert_int_equal(rm_endpoint(f, "x"), CMD_ENDPOINT_UNKNOWN);
}

static void queue_fill(struct fixture *f, uint64_t count)
{
    struct endpoint_table t = table_of(f);
    struct kv_bytes key = {"Q", 1}, value = {&t.queue, sizeof(t.queue)};
    t.queue.count = count;
    assert_int_equal(kv_put(&f->m.kv, NAMES_NOTICES, key, value), 0);
    endpoint_table_fini(&t);
}

static void assert_dropped(struct fixture *f, uint64_t dropped)
{
    struct endpoint_table t = table_of(f);
    assert_int_equal(t.queue.dropped, dropped);
    assert_int_equal(t.list[0].row.dropped, dropped);
    endpoint_table_fini(&t);
}

/* More than one cursor's command removes; each further notice removes some, and none counts as missed. */
static void test_what_was_told_is_not_missed(void **state)
{
    struct fixture *f = *state;
    uint64_t last = 0;
    assert_int_equal(set_endpoint(f, "x", ""), CMD_OK);
    for (unsigned i = 0; i < 600; i++)
        last = link_blob(f, "a", i);
    assert_int_equal(cursor(f, "x", last, 0), CMD_OK);
    uint64_t left = waiting(f);
    assert_true(left > 10);
    link_blob(f, "a", 601);
    assert_int_equal(waiting(f), left - 1);
    queue_fill(f, NOTICES_MAX);
    link_blob(f, "a", 602);
    assert_dropped(f, 0);
    queue_fill(f, NOTICES_MAX + 8);
    link_blob(f, "a", 603);
    assert_dropped(f, 0);
    queue_fill(f, NOTICES_MAX);
    assert_int_equal(cursor(f, "x", last, 0), CMD_OK); /* the rest of what was told */
    queue_fill(f, NOTICES_MAX);
    link_blob(f, "a", 604);
    assert_dropped(f, 1);
}

static void test_secrets_are_private_and_an_endpoint_keeps_its_place(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(set_endpoint(f, "x", ""), CMD_OK);
    uint64_t at = link_blob(f, "a", 1);
    assert_int_equal(cursor(f, "x", at, 0), CMD_OK);
    link_blob(f, "a", 2);
    assert_int_equal(set_endpoint(f, "x", "a"), CMD_OK);
    struct endpoint_table t = table_of(f);
    assert_int_equal(t.count, 1);
    assert_int_equal(t.list[0].row.cursor_index, at);
    assert_string_equal(t.list[0].url, "http://127.0.0.1/hook");
    assert_string_equal(t.list[0].header[0], secret);
    endpoint_table_fini(&t);
    for (size_t i = 0; i < f->m.db[NAMES_NOTICES].count; i++) {
        const struct kv_memory_row *row = &f->m.db[NAMES_NOTICES].row[i];
        assert_null(memmem(row->value, row->value_len, "hush", 4));
    }
    char name[16];
    for (int i = 0; i < ENDPOINTS_MAX - 1; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        assert_int_equal(set_endpoint(f, name, ""), CMD_OK);
    }
    assert_int_equal(set_endpoint(f, "more", ""), CMD_LIMIT);
    assert_int_equal(set_endpoint(f, "n0", ""), CMD_OK);
}

/* After a crash the private file has the command, and the names file has not. */
static void test_the_half_that_lacks_it_gets_it(void **state)
{
    struct fixture *f = *state;
    build_endpoint(f, "x", "", 7, "");
    assert_int_equal(apply_at(f, 1), CMD_OK);
    size_t private_rows = f->m.db[PRIVATE_DATA].count;
    cmd_begin(&f->b, CMD_NOTIFY_RM, 6);
    cmd_text(&f->b, "x");
    f->private_done = true;
    assert_int_equal(apply_at(f, 2), CMD_OK);
    assert_int_equal(f->m.db[PRIVATE_DATA].count, private_rows);
    struct endpoint_table t = table_of(f);
    assert_int_equal(t.count, 0);
    endpoint_table_fini(&t);
    f->private_done = false;
    f->names_done = true;
    build_endpoint(f, "y", "", 7, "");
    assert_int_equal(apply_at(f, 3), CMD_OK);
    assert_int_equal(f->m.db[PRIVATE_DATA].count, private_rows + 1);
    t = table_of(f);
    assert_int_equal(t.count, 0);
    endpoint_table_fini(&t);
}

/* One without an authority of its own has the bytes that older nodes know. */
static void test_an_authority_of_its_own(void **state)
{
    struct fixture *f = *state;
    static char pem[] = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
    char err[256];
    build_endpoint(f, "x", "", 7, "");
    size_t plain = f->b.w.len;
    assert_int_equal(apply(f), CMD_OK);
    struct endpoint_table t = table_of(f);
    assert_null(t.list[0].ca);
    t.list[0].ca = strdup(pem);
    cmd_begin(&f->b, CMD_NOTIFY_SET, 5);
    endpoint_put(&f->b.w, &t.list[0]);
    endpoint_table_fini(&t);
    assert_int_equal(f->b.w.len, plain + 4 + strlen(pem));
    assert_int_equal(apply(f), CMD_OK);
    t = table_of(f);
    assert_string_equal(t.list[0].ca, pem);
    endpoint_table_fini(&t);
    f->b.w.len -= 1;
    assert_int_equal(apply(f), CMD_INVALID);
    struct endpoint e = {.name = "x", .row.actions = 1, .url = "https://a/", .ca = pem};
    assert_int_equal(endpoint_check(&e, err, sizeof(err)), 0);
    e.ca = err;
    snprintf(err, sizeof(err), "no certificate");
    assert_int_equal(endpoint_check(&e, err, sizeof(err)), -EINVAL);
}

static void test_what_cannot_be_an_endpoint(void **state)
{
    static const char *const urls[] = {
        "", "ftp://a/", "http://", "http:///a", "http://u:p@a/", "http://a b", "file:///etc/passwd"};
    static char bad_headers[][64] = {"Host: a", "content-type: b", "No colon", ": empty", "A: b\r\nC: d"};
    char err[256];
    (void)state;
    struct endpoint e = {.name = "x", .row.actions = 1, .url = "https://a/"};
    assert_int_equal(endpoint_check(&e, err, sizeof(err)), 0);
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        snprintf(e.url, sizeof(e.url), "%s", urls[i]);
        assert_int_equal(endpoint_check(&e, err, sizeof(err)), -EINVAL);
    }
    snprintf(e.url, sizeof(e.url), "http://a/");
    e.headers_count = 1;
    for (size_t i = 0; i < sizeof(bad_headers) / sizeof(bad_headers[0]); i++) {
        e.header[0] = bad_headers[i];
        assert_int_equal(endpoint_check(&e, err, sizeof(err)), -EINVAL);
    }
    e.headers_count = 0;
    e.row.actions = 1u << NOTICE_ACTIONS_COUNT;
    assert_int_equal(endpoint_check(&e, err, sizeof(err)), -EINVAL);
}

static void test_types_that_are_wanted(void **state)
{
    struct fixture *f = *state;
    build_endpoint(f, "x", "", 1u << NOTICE_PUSH, "*manifest*");
    assert_int_equal(apply(f), CMD_OK);
    link_blob(f, "a", 1);
    assert_int_equal(waiting(f), 0);
    push(f, "a", 2, CMD_REFS_ALL);
    assert_int_equal(waiting(f), 2);
    cmd_tag_delete(&f->b, 9, "a", "one");
    assert_int_equal(apply(f), CMD_OK);
    assert_int_equal(waiting(f), 2);
}

/* Pulls are asked for by name, are in no state, and older nodes do not know them. */
static void test_pulls_are_not_in_the_state(void **state)
{
    struct fixture *f = *state;
    struct names_endpoint row = {.actions = ENDPOINT_ACTIONS_DEFAULT, .media_types = "*manifest*"};
    struct pull manifest = {.repo = {"team/app", 8}, .media_type = {"application/x.manifest", 22}};
    struct pull blob = {
        .bits = PULL_BLOB, .repo = {"team/app", 8}, .media_type = {"application/octet-stream", 24}};
    struct pull head = manifest;
    head.bits = PULL_HEAD;
    build_endpoint(f, "x", "", ENDPOINT_ACTIONS_DEFAULT, "");
    assert_int_equal(state_version_needed(f->b.w.buf, f->b.w.len), 3);
    build_endpoint(f, "x", "", 1u << NOTICE_PULL | ENDPOINT_IGNORE_HEAD, "");
    assert_int_equal(state_version_needed(f->b.w.buf, f->b.w.len), 4);
    assert_int_equal(apply(f), CMD_OK);
    push(f, "team/app", 2, CMD_REFS_ALL);
    assert_int_equal(waiting(f), 0);
    assert_false(notice_pull_wanted(&row, &manifest));
    row.actions = 1u << NOTICE_PULL;
    assert_true(notice_pull_wanted(&row, &manifest));
    assert_true(notice_pull_wanted(&row, &head));
    assert_false(notice_pull_wanted(&row, &blob));
    row.media_types[0] = '\0';
    assert_true(notice_pull_wanted(&row, &blob));
    row.actions |= ENDPOINT_IGNORE_BLOB;
    assert_false(notice_pull_wanted(&row, &blob));
    row.actions |= ENDPOINT_IGNORE_HEAD;
    assert_false(notice_pull_wanted(&row, &head));
    snprintf(row.prefix, sizeof(row.prefix), "teams");
    assert_false(notice_pull_wanted(&row, &manifest));
    struct endpoint named = {.name = "y", .row.actions = 1, .url = "https://a/", .credentials = "ci"};
    cmd_begin(&f->b, CMD_NOTIFY_SET, 5);
    endpoint_put(&f->b.w, &named);
    assert_int_equal(state_version_needed(f->b.w.buf, f->b.w.len), 4);
    assert_int_equal(apply(f), CMD_OK);
    struct endpoint_table t = table_of(f);
    const struct endpoint *found = endpoint_find(&t, "y");
    assert_true(found && !found->ca);
    assert_string_equal(found->credentials, "ci");
    endpoint_table_fini(&t);
    struct endpoint e = {.name = "x", .row.actions = ENDPOINT_IGNORE_HEAD, .url = "https://a/"};
    char err[256];
    assert_int_equal(endpoint_check(&e, err, sizeof(err)), -EINVAL); /* nothing is wanted */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing_waits_for_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_notice_says_what_and_who, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_everybody_was_told_of_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_was_told_is_not_missed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_secrets_are_private_and_an_endpoint_keeps_its_place, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_half_that_lacks_it_gets_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_authority_of_its_own, setup, teardown),
        cmocka_unit_test(test_what_cannot_be_an_endpoint),
        cmocka_unit_test_setup_teardown(test_types_that_are_wanted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pulls_are_not_in_the_state, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
