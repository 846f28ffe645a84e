/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/rpc.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { MESSAGE_MAX = 512 };

const char *rpc_role_name(enum rpc_role role)
{
    static const char *const names[] = {"nobody", "read-only", "operator", "admin"};
    return names[role];
}

json_t *rpc_notification(const char *method, json_t *params)
{
    json_t *message = json_pack("{s:s, s:s, s:o}", "jsonrpc", "2.0", "method", method, "params", params);
    CHECK(message);
    return message;
}

/* Texts may quote what a client sent, which was checked to be UTF-8, but a cut in its middle is not. */
static json_t *text_of(const char *text)
{
    json_t *value = json_string(text);
    return value ? value : json_string("(not UTF-8)");
}

json_t *rpc_error(enum rpc_code code, const char *hint, const char *message)
{
    json_t *error = json_pack("{s:i, s:o, s:{s:o}}", "code", (int)code, "message", text_of(message), "data",
                              "hint", text_of(hint));
    CHECK(error);
    return json_pack("{s:s, s:n, s:o}", "jsonrpc", "2.0", "id", "error", error);
}

static void call_end(struct rpc_call *call, json_t *message)
{
    call->peer->end(call->peer, call, call->id ? message : NULL);
    json_decref(message);
    json_decref(call->id);
    free(call);
}

void rpc_reply(struct rpc_call *call, json_t *result)
{
    CHECK(result);
    json_t *message = json_pack("{s:s, s:o}", "jsonrpc", "2.0", "result", result);
    CHECK(message);
    if (call->id)
        json_object_set(message, "id", call->id);
    call_end(call, message);
}

void rpc_fail(struct rpc_call *call, enum rpc_code code, const char *hint, const char *format, ...)
{
    char text[MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    json_t *message = rpc_error(code, hint, text);
    CHECK(message);
    if (call->id)
        json_object_set(message, "id", call->id);
    call_end(call, message);
}

bool rpc_params(struct rpc_call *call, json_t *params, const char *format, ...)
{
    json_error_t error;
    va_list args;
    va_start(args, format);
    int err = json_vunpack_ex(params, &error, JSON_STRICT, format, args);
    va_end(args);
    if (err)
        rpc_fail(call, RPC_INVALID_PARAMS, "look at the method's parameters in the manual fairlead(1)",
                 "wrong parameters: %s", error.text);
    return err == 0;
}

static bool id_is_valid(const json_t *id)
{
    return json_is_string(id) || json_is_number(id) || json_is_null(id);
}

/* A call for a request; an id that cannot be one is answered with null. */
static struct rpc_call *call_new(struct rpc_peer *peer, json_t *request)
{
    struct rpc_call *call = calloc(1, sizeof(*call));
    json_t *id = json_object_get(request, "id");
    CHECK(call);
    call->peer = peer;
    if (!json_is_object(request) || (id && !id_is_valid(id)))
        call->id = json_null();
    else
        call->id = json_incref(id);
    peer->begin(peer, call);
    return call;
}

static const struct rpc_method *method_find(const char *name, const struct rpc_method *methods, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(methods[i].name, name) == 0)
            return &methods[i];
    return NULL;
}

static void call_run(struct rpc_call *call, json_t *request, const struct rpc_method *methods, size_t count,
                     void *context)
{
    const char *version = json_string_value(json_object_get(request, "jsonrpc"));
    const char *name = json_string_value(json_object_get(request, "method"));
    json_t *id = json_object_get(request, "id");
    if (!version || strcmp(version, "2.0") != 0 || !name || (id && !id_is_valid(id))) {
        rpc_fail(call, RPC_INVALID_REQUEST,
                 "send {\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"status\"} in one line",
                 "this is not a request of JSON-RPC 2.0");
        return;
    }
    const struct rpc_method *method = method_find(name, methods, count);
    if (!method) {
        rpc_fail(call, RPC_METHOD_UNKNOWN, "`fairlead help` shows what there is",
                 "there is no method '%.64s'", name);
        return;
    }
    if (call->peer->role < method->role) {
        rpc_fail(call, RPC_DENIED, "ask an administrator of this machine", "%s needs the role %s; %s has %s",
                 name, rpc_role_name(method->role), call->peer->actor, rpc_role_name(call->peer->role));
        return;
    }
    json_t *params = json_object_get(request, "params");
    json_t *none = params ? NULL : json_object();
    if (params && !json_is_object(params))
        rpc_fail(call, RPC_INVALID_PARAMS, "send params as an object", "parameters are given by name here");
    else
        method->run(context, call, params ? params : none);
    json_decref(none);
}

void rpc_line(struct rpc_peer *peer, const char *line, size_t len, const struct rpc_method *methods,
              size_t count, void *context)
{
    json_error_t error;
    json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
    struct rpc_call *call = call_new(peer, request);
    if (!request)
        rpc_fail(call, RPC_PARSE_ERROR, "send one JSON text a line", "not JSON at byte %d: %s",
                 error.position, error.text);
    else
        call_run(call, request, methods, count, context);
    json_decref(request);
}
