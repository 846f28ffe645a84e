/* SPDX-License-Identifier: Apache-2.0 */
/* Commands that a client of the control socket asks for. */
#ifndef FL_CONTROL_PROPOSE_H
#define FL_CONTROL_PROPOSE_H

#include "cmd.h"
#include "control/socket/rpc.h"

struct daemon;

/*
 * Proposes a command (malloc'd, taken) that is made in the caller's name; the rest as below.
 */
void propose_command(struct daemon *d, struct rpc_call *call, void *cmd, size_t len, json_t *result,
                     void (*committed)(struct daemon *d, struct rpc_call *call, json_t *result));

/* Answers the call with why a command was not done, and what to do. */
void propose_refuse(const struct daemon *d, struct rpc_call *call, enum cmd_status status, const void *detail,
                    size_t detail_len);

/* The same with a hint of the caller's. */
void propose_refuse_saying(struct rpc_call *call, enum cmd_status status, const void *detail,
                           size_t detail_len, const char *hint);

/* Where commands of the control socket come from, for the audit record. */
extern const char propose_source[];

/*
 * Proposes a command of one or two texts in the caller's name, and answers the call when it is committed or
 * not. Takes result; committed, which may be NULL, is called for CMD_OK instead of the plain answer and takes
 * both.
 */
void propose_texts(struct daemon *d, struct rpc_call *call, enum cmd_type type, const char *first,
                   const char *second, json_t *result,
                   void (*committed)(struct daemon *d, struct rpc_call *call, json_t *result));

#endif
