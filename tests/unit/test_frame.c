/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "control/mesh/frame.h"

#define TEXT(s) ((struct frame_text){s, sizeof(s) - 1})

static void assert_text(struct frame_text text, const char *expected)
{
    assert_int_equal(text.len, strlen(expected));
    assert_memory_equal(text.data, expected, text.len);
}

static void test_head(void **state)
{
    (void)state;
    struct frame_head in = {.bytes = 77, .type = 20, .version = FRAME_VERSION, .id = UINT64_MAX - 1}, out;
    uint8_t bytes[FRAME_HEAD_BYTES];
    frame_head_put(&in, bytes);
    assert_int_equal(frame_head_get(bytes, 77, &out), MESH_OK);
    assert_memory_equal(&in, &out, sizeof(in));
    assert_int_equal(frame_head_get(bytes, 76, &out), MESH_FRAME);
    in.version++;
    frame_head_put(&in, bytes);
    assert_int_equal(frame_head_get(bytes, 77, &out), MESH_VERSION);
}

static void test_join(void **state)
{
    (void)state;
    struct frame_join in = {.secret = {1, 2, 3},
                            .name = TEXT("host-a"),
                            .request = TEXT("-----BEGIN\nabc\n"),
                            .mesh_address = TEXT("192.0.2.1:5010"),
                            .data_address = TEXT("192.0.2.1:5011")},
                      out;
    uint8_t bytes[1024];
    size_t len = frame_join_put(&in, bytes, sizeof(bytes));
    assert_true(len > 0);
    assert_int_equal(frame_join_get(bytes, len, &out), 0);
    assert_memory_equal(in.secret, out.secret, sizeof(in.secret));
    assert_text(out.name, "host-a");
    assert_text(out.request, "-----BEGIN\nabc\n");
    assert_text(out.data_address, "192.0.2.1:5011");
    for (size_t n = 0; n < len; n++)
        assert_int_not_equal(frame_join_get(bytes, n, &out), 0);
    bytes[len] = 0;
    assert_int_equal(frame_join_get(bytes, len + 1, &out), -EINVAL);
    bytes[0]++;
    assert_int_equal(frame_join_get(bytes, len, &out), -EPROTO);
    in.name = TEXT("two\nlines");
    len = frame_join_put(&in, bytes, sizeof(bytes));
    assert_int_equal(frame_join_get(bytes, len, &out), -EINVAL);
    assert_int_equal(frame_join_put(&in, bytes, 40), 0);
}

static void test_reply(void **state)
{
    (void)state;
    struct frame_join_reply in = {.cluster_id = {7},
                                  .node_id = 3,
                                  .name = TEXT("host-a"),
                                  .cert = TEXT("cert\n"),
                                  .ca = TEXT("ca\n"),
                                  .manager_count = FRAME_MANAGERS_MAX},
                            out;
    static uint8_t bytes[FRAME_REPLY_MAX];
    for (size_t i = 0; i < FRAME_MANAGERS_MAX; i++)
        in.manager[i] =
            (struct frame_manager){.id = i + 1, .name = TEXT("m"), .mesh_address = TEXT("[::1]:1")};
    size_t len = frame_join_reply_put(&in, bytes, sizeof(bytes));
    assert_int_equal(frame_join_reply_get(bytes, len, &out), 0);
    assert_int_equal(out.refusal.len, 0);
    assert_int_equal(out.node_id, 3);
    assert_int_equal(out.manager_count, FRAME_MANAGERS_MAX);
    assert_text(out.manager[FRAME_MANAGERS_MAX - 1].mesh_address, "[::1]:1");
    for (size_t n = 0; n < len; n++)
        assert_int_not_equal(frame_join_reply_get(bytes, n, &out), 0);
    in = (struct frame_join_reply){.refusal = TEXT("the token has expired")};
    len = frame_join_reply_put(&in, bytes, sizeof(bytes));
    assert_int_equal(frame_join_reply_get(bytes, len, &out), 0);
    assert_text(out.refusal, "the token has expired");
}

static void test_hello(void **state)
{
    (void)state;
    struct frame_hello in = {.lowest = 1,
                             .highest = 9,
                             .cluster_id = {5},
                             .node_id = 2,
                             .software = TEXT("0.1")},
                       out;
    uint8_t bytes[FRAME_HELLO_MAX];
    size_t len = frame_hello_put(&in, bytes);
    assert_int_equal(frame_hello_get(bytes, len, &out), MESH_OK);
    assert_text(out.software, "0.1");
    assert_int_equal(out.node_id, 2);
    for (size_t n = 0; n < len; n++)
        assert_int_equal(frame_hello_get(bytes, n, &out), MESH_FRAME);
    in.lowest = FRAME_VERSION + 1;
    len = frame_hello_put(&in, bytes);
    assert_int_equal(frame_hello_get(bytes, len, &out), MESH_VERSION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_head), cmocka_unit_test(test_join),
                                       cmocka_unit_test(test_reply), cmocka_unit_test(test_hello)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
