/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket's requests: every line begins one call and ends it once; an answer is one line of JSON
 * with either a result or an error, and a role never reaches a method above it.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/socket/rpc.h"

struct peer {
    struct rpc_peer rpc;
    int begun, ended;
};

static void on_begin(struct rpc_peer *rpc, struct rpc_call *call)
{
    CHECK(call->peer == rpc);
    ((struct peer *)rpc)->begun++;
}

static void on_end(struct rpc_peer *rpc, struct rpc_call *call, const json_t *message)
{
    ((struct peer *)rpc)->ended++;
    CHECK((call->id == NULL) == (message == NULL));
    if (!message)
        return;
    char *text = json_dumps(message, JSON_COMPACT);
    CHECK(text && !strchr(text, '\n'));
    CHECK(!json_object_get(message, "result") != !json_object_get(message, "error"));
    CHECK(json_equal(json_object_get(message, "id"), call->id));
    free(text);
}

static void method_set(void *context, struct rpc_call *call, json_t *params)
{
    const char *key, *value;
    (void)context;
    CHECK(call->peer->role >= RPC_OPERATOR);
    if (rpc_params(call, params, "{s:s, s:s}", "key", &key, "value", &value))
        rpc_reply(call, json_pack("{s:s, s:s}", "key", key, "value", value));
}

static void method_list(void *context, struct rpc_call *call, json_t *params)
{
    json_int_t limit = 1;
    const char *after = "";
    (void)context;
    if (rpc_params(call, params, "{s?s, s?I}", "after", &after, "limit", &limit))
        rpc_fail(call, RPC_NOT_FOUND, after, "nothing behind '%.16s'", after);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct rpc_method methods[] = {
        {"settings.set", RPC_OPERATOR, method_set},
        {"repo.list", RPC_READ_ONLY, method_list},
    };
    for (enum rpc_role role = RPC_READ_ONLY; role <= RPC_OPERATOR; role++) {
        struct peer peer = {.rpc = {.role = role, .actor = "fuzzer", .begin = on_begin, .end = on_end}};
        rpc_line(&peer.rpc, (const char *)data, size, methods, ARRAY_SIZE(methods), NULL);
        CHECK(peer.begun == 1 && peer.ended == 1);
    }
    return 0;
}
