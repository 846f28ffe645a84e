/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: clients, their limits, and who is let in (SO_PEERCRED):
 *   root and the daemon's own user   admin
 *   members of control.group         operator
 *   members of control.group-ro      read-only
 * Everybody else gets one error line and is closed.
 */
#ifndef FL_CONTROL_SERVER_H
#define FL_CONTROL_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "control/socket/rpc.h"

struct daemon;
struct server;

enum {
    SERVER_CLIENTS_MAX = 64,
    SERVER_CALLS_MAX = 32, /* of one client, not answered yet: then it is not read */
    SERVER_QUEUE_BYTES_MAX =
        4 << 20,          /* of one client: beyond it, it is not read and its stream loses events */
    SERVER_REFUSED_S = 2, /* for a client that was refused to read why */
    SERVER_STALL_S = 30,  /* a client that takes nothing for this long is closed */
};

/* What a client follows. */
enum server_stream { STREAM_NONE, STREAM_EVENTS, STREAM_TRACE };

/* 0 or -errno with a message. Borrows the daemon. */
int server_open(struct daemon *d, struct server **out, char *err, size_t err_len);

/* Ends with the loop: every client is closed. */
void server_close(struct server *server);

/* The data plane goes by this plan now. */
void server_plan_applied(struct server *server, uint64_t generation);

/* A trace record of the data plane: JSON, not trusted. */
void server_trace_line(struct server *server, const char *line, size_t len);

/* Once a second. */
void server_tick(struct server *server);

/*
 * For methods. Answers the call when the data plane goes by the plan `generation`, or says after a bound that
 * it does not yet: takes result, and sets its `applied`.
 */
void server_reply_applied(struct server *server, struct rpc_call *call, json_t *result, uint64_t generation);

/* The caller's client gets a stream from now on, records that have `filter` (may be "") in them. */
void server_follow(struct server *server, struct rpc_call *call, enum server_stream stream,
                   const char *filter);

size_t server_client_count(const struct server *server);
struct figures *server_figures(struct server *server);

#endif
