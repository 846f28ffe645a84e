/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON-RPC 2.0 as the control socket speaks it: one JSON text a line, requests with named parameters, no
 * batches. Pure: a line in, calls of a method table, messages out through a callback.
 *
 * Errors have `data.hint`: what to do. Codes: those of JSON-RPC, and enum rpc_code.
 */
#ifndef FL_CONTROL_RPC_H
#define FL_CONTROL_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <jansson.h>

enum rpc_role { RPC_NOBODY, RPC_READ_ONLY, RPC_OPERATOR, RPC_ADMIN };

enum rpc_code {
    RPC_PARSE_ERROR = -32700,
    RPC_INVALID_REQUEST = -32600,
    RPC_METHOD_UNKNOWN = -32601,
    RPC_INVALID_PARAMS = -32602,
    RPC_INTERNAL = -32603,
    RPC_DENIED = -32001,
    RPC_NOT_FOUND = -32002,
    RPC_UNAVAILABLE = -32003,
    RPC_BUSY = -32004,
};

/* A line holds a file of changes (CONFIG_FILE_BYTES_MAX) in JSON; most are far below the first room for one.
 */
enum { RPC_LINE_BYTES_FIRST = 64 << 10, RPC_LINE_BYTES_MAX = 3 << 20, RPC_ACTOR_MAX = 64 };

struct rpc_call;

/* Who is at the other end, and how to reach him. */
struct rpc_peer {
    enum rpc_role role;
    char actor[RPC_ACTOR_MAX]; /* "root", "alice": for the audit record */
    /* A call begins, and ends with its one answer (message NULL: none is due). message is borrowed. */
    void (*begin)(struct rpc_peer *peer, struct rpc_call *call);
    void (*end)(struct rpc_peer *peer, struct rpc_call *call, const json_t *message);
};

/* One request; lives until its answer. */
struct rpc_call {
    struct rpc_peer *peer;
    json_t *id; /* NULL: a notification, which has no answer */
};

struct rpc_method {
    const char *name;
    enum rpc_role role; /* at least */
    /* Answers by rpc_reply or rpc_fail, now or later. params is an object, borrowed until the return. */
    void (*run)(void *context, struct rpc_call *call, json_t *params);
};

/* Answers a line with the methods of a table. */
void rpc_line(struct rpc_peer *peer, const char *line, size_t len, const struct rpc_method *methods,
              size_t count, void *context);

/* The answer; takes result. */
void rpc_reply(struct rpc_call *call, json_t *result);
__attribute__((format(printf, 4, 5))) void rpc_fail(struct rpc_call *call, enum rpc_code code,
                                                    const char *hint, const char *format, ...);

/* A message that answers nothing: {"jsonrpc","method","params"}; takes params. Returns a new object. */
json_t *rpc_notification(const char *method, json_t *params);

/* An error that belongs to no request (id null). Returns a new object. */
json_t *rpc_error(enum rpc_code code, const char *hint, const char *message);

/*
 * Takes parameters apart like json_unpack, with every other one refused. False: the call has been answered.
 */
bool rpc_params(struct rpc_call *call, json_t *params, const char *format, ...);

const char *rpc_role_name(enum rpc_role role);

#endif
