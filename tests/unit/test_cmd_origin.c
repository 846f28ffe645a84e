/* SPDX-License-Identifier: Apache-2.0 */
/* The node in a command's head: put there once, and nothing else is changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cmd_build.h"
#include "control/cmd_origin.h"

static void *make(const char *source, size_t *len)
{
    struct wire_writer w = {.buf = malloc(512), .cap = 512};
    struct cmd_head head = {.type = CMD_REPO_DELETE,
                            .time_ms = 7,
                            .actor = "alice",
                            .actor_len = 5,
                            .source = source,
                            .source_len = strlen(source),
                            .request_id = "r",
                            .request_id_len = 1};
    cmd_put_head(&w, &head);
    wire_put_bytes(&w, "repo", 4);
    assert_false(w.failed);
    *len = w.len;
    return w.buf;
}

/* The source and what is left of it, and that the rest is as it was. */
static uint64_t look(const void *cmd, size_t len, char source[128])
{
    struct wire_reader r = {.buf = cmd, .len = len};
    struct cmd_head head;
    size_t repo_len;
    cmd_get_head(&r, &head);
    assert_memory_equal(head.actor, "alice", 5);
    assert_int_equal(head.time_ms, 7);
    assert_int_equal(head.request_id_len, 1);
    assert_memory_equal(wire_get_bytes(&r, &repo_len), "repo", 4);
    assert_true(wire_at_end(&r));
    uint64_t node = cmd_origin_take(head.source, &head.source_len);
    memcpy(source, head.source, head.source_len);
    source[head.source_len] = '\0';
    return node;
}

static void test_put_once_and_taken(void **state)
{
    char source[128];
    size_t len;
    (void)state;
    void *cmd = cmd_origin_set(make("10.0.0.1", &len), &len, 12);
    assert_int_equal(look(cmd, len, source), 12);
    assert_string_equal(source, "10.0.0.1");
    cmd = cmd_origin_set(cmd, &len, 13);
    assert_int_equal(look(cmd, len, source), 12);
    free(cmd);
    cmd = cmd_origin_set(make("", &len), &len, UINT64_MAX);
    assert_true(look(cmd, len, source) == UINT64_MAX);
    assert_string_equal(source, "");
    free(cmd);
}

static void test_what_has_no_room_or_is_none_stays(void **state)
{
    char source[128];
    char longest[SOURCE_TEXT_MAX + 1];
    size_t len;
    (void)state;
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    void *cmd = cmd_origin_set(make(longest, &len), &len, 1);
    assert_int_equal(look(cmd, len, source), 0);
    assert_string_equal(source, longest);
    size_t cut = 10;
    assert_ptr_equal(cmd_origin_set(cmd, &cut, 1), cmd);
    assert_int_equal(cut, 10);
    free(cmd);
}

static void test_sources_without_a_node(void **state)
{
    static const char *const sources[] = {"",   "@", "a@", "a@b", "a@1b", "a@0", "a@18446744073709551616",
                                          "@@", "1"};
    (void)state;
    for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        size_t len = strlen(sources[i]);
        assert_int_equal(cmd_origin_take(sources[i], &len), 0);
        assert_int_equal(len, strlen(sources[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_once_and_taken),
        cmocka_unit_test(test_what_has_no_room_or_is_none_stays),
        cmocka_unit_test(test_sources_without_a_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
