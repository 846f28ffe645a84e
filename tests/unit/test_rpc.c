/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "control/socket/rpc.h"

/* A peer that keeps its last answer. */
struct peer {
    struct rpc_peer rpc;
    json_t *answer;
    int begun, ended, answered;
    struct rpc_call *later;
};

static void on_begin(struct rpc_peer *rpc, struct rpc_call *call)
{
    (void)call;
    ((struct peer *)rpc)->begun++;
}

static void on_end(struct rpc_peer *rpc, struct rpc_call *call, const json_t *message)
{
    struct peer *peer = (struct peer *)rpc;
    (void)call;
    peer->ended++;
    peer->answered += message != NULL;
    json_decref(peer->answer);
    peer->answer = message ? json_deep_copy(message) : NULL;
}

static void method_echo(void *context, struct rpc_call *call, json_t *params)
{
    const char *text;
    int times = 1;
    (void)context;
    if (rpc_params(call, params, "{s:s, s?i}", "text", &text, "times", &times))
        rpc_reply(call, json_pack("{s:s, s:i}", "text", text, "times", times));
}

static void method_later(void *context, struct rpc_call *call, json_t *params)
{
    (void)context;
    (void)params;
    ((struct peer *)call->peer)->later = call;
}

static const struct rpc_method table[] = {
    {"echo", RPC_READ_ONLY, method_echo},
    {"later", RPC_OPERATOR, method_later},
    {"secret", RPC_ADMIN, method_echo},
};

static void send_line(struct peer *peer, const char *line)
{
    rpc_line(&peer->rpc, line, strlen(line), table, ARRAY_SIZE(table), NULL);
}

static struct peer peer_new(enum rpc_role role)
{
    return (struct peer){.rpc = {.role = role, .actor = "tester", .begin = on_begin, .end = on_end}};
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int code;
        const char *message;
    } rows[] = {
        {"", RPC_PARSE_ERROR, "not JSON"},
        {"{", RPC_PARSE_ERROR, "not JSON"},
        {"\x01\xff\xfe", RPC_PARSE_ERROR, "not JSON"},
        {"{\"id\":1,\"id\":2}", RPC_PARSE_ERROR, "duplicate"},
        {"[]", RPC_INVALID_REQUEST, "not a request"},
        {"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}]", RPC_INVALID_REQUEST, "not a request"},
        {"{\"id\":1,\"method\":\"echo\"}", RPC_INVALID_REQUEST, "not a request"},
        {"{\"jsonrpc\":2,\"id\":1,\"method\":\"echo\"}", RPC_INVALID_REQUEST, "not a request"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1}", RPC_INVALID_REQUEST, "not a request"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}", RPC_INVALID_REQUEST, "not a request"},
        {"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"echo\"}", RPC_INVALID_REQUEST, "not a request"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"nope\"}", RPC_METHOD_UNKNOWN, "no method 'nope'"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"secret\"}", RPC_DENIED,
         "needs the role admin; tester has read-only"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":[\"a\"]}", RPC_INVALID_PARAMS,
         "by name"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}", RPC_INVALID_PARAMS, "text"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":{\"text\":1}}", RPC_INVALID_PARAMS,
         "wrong"},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":{\"text\":\"a\",\"x\":1}}",
         RPC_INVALID_PARAMS, "x"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct peer peer = peer_new(RPC_READ_ONLY);
        send_line(&peer, rows[i].line);
        assert_int_equal(peer.begun, 1);
        assert_int_equal(peer.ended, 1);
        const json_t *error = json_object_get(peer.answer, "error");
        assert_int_equal(json_integer_value(json_object_get(error, "code")), rows[i].code);
        assert_non_null(strstr(json_string_value(json_object_get(error, "message")), rows[i].message));
        assert_true(json_is_string(json_object_get(json_object_get(error, "data"), "hint")));
        assert_non_null(json_object_get(peer.answer, "id"));
        json_decref(peer.answer);
    }
}

static void test_answers(void **state)
{
    (void)state;
    static const char *const ids[] = {"1", "\"one\"", "null", "-3", "1.5"};
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        struct peer peer = peer_new(RPC_READ_ONLY);
        char line[256];
        snprintf(line, sizeof(line),
                 "{\"jsonrpc\":\"2.0\",\"id\":%s,\"method\":\"echo\",\"params\":{\"text\":\"h\\u00e9\","
                 "\"times\":3}}",
                 ids[i]);
        send_line(&peer, line);
        json_t *id = json_loads(ids[i], JSON_DECODE_ANY, NULL);
        assert_true(json_equal(json_object_get(peer.answer, "id"), id));
        assert_string_equal(json_string_value(json_object_get(peer.answer, "jsonrpc")), "2.0");
        const json_t *result = json_object_get(peer.answer, "result");
        assert_int_equal(json_integer_value(json_object_get(result, "times")), 3);
        assert_null(json_object_get(peer.answer, "error"));
        json_decref(id);
        json_decref(peer.answer);
    }
}

/* A request without an id is carried out and never answered, not even with an error. */
static void test_notifications(void **state)
{
    (void)state;
    struct peer peer = peer_new(RPC_READ_ONLY);
    send_line(&peer, "{\"jsonrpc\":\"2.0\",\"method\":\"echo\",\"params\":{\"text\":\"a\"}}");
    send_line(&peer, "{\"jsonrpc\":\"2.0\",\"method\":\"nope\"}");
    assert_int_equal(peer.begun, 2);
    assert_int_equal(peer.ended, 2);
    assert_int_equal(peer.answered, 0);
}

static void test_later(void **state)
{
    (void)state;
    struct peer peer = peer_new(RPC_OPERATOR);
    send_line(&peer, "{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"later\"}");
    assert_int_equal(peer.ended, 0);
    rpc_fail(peer.later, RPC_UNAVAILABLE, "wait", "cut in a character: \xc3");
    assert_int_equal(peer.ended, 1);
    assert_int_equal(json_integer_value(json_object_get(peer.answer, "id")), 9);
    json_decref(peer.answer);
}

static void test_roles_are_ordered(void **state)
{
    (void)state;
    static const char line[] =
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"secret\",\"params\":{\"text\":\"a\"}}";
    for (enum rpc_role role = RPC_NOBODY; role <= RPC_ADMIN; role++) {
        struct peer peer = peer_new(role);
        send_line(&peer, line);
        assert_int_equal(json_object_get(peer.answer, "result") != NULL, role == RPC_ADMIN);
        json_decref(peer.answer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),          cmocka_unit_test(test_answers),
        cmocka_unit_test(test_notifications),     cmocka_unit_test(test_later),
        cmocka_unit_test(test_roles_are_ordered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
