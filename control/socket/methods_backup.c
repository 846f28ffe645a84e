/* SPDX-License-Identifier: Apache-2.0 */
/* A backup is asked for, and looked after. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/backup.h"
#include "control/daemon.h"
#include "control/events.h"
#include "control/socket/methods.h"

static bool request_check(struct rpc_call *call, const struct backup_request *q)
{
    if (*q->path != '/' || strlen(q->path) + 8 >= BACKUP_PATH_MAX || q->path[strlen(q->path) - 1] == '/')
        rpc_fail(call, RPC_INVALID_PARAMS, "give the absolute path of a file", "'%.80s' is no such path",
                 q->path);
    else if (strlen(q->passphrase) < BACKUP_PASSPHRASE_MIN || strlen(q->passphrase) >= BACKUP_PASSPHRASE_MAX)
        rpc_fail(call, RPC_INVALID_PARAMS,
                 "give one of 8 to 1023 bytes, and keep it: nothing can be read without it",
                 "the passphrase is too short or too long");
    else
        return true;
    return false;
}

void method_backup_create(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct backup_request request = {.blobs = false};
    int blobs = 0;
    if (!rpc_params(call, params, "{s:s, s:s, s?b}", "path", &request.path, "passphrase", &request.passphrase,
                    "blobs", &blobs) ||
        !request_check(call, &request))
        return;
    request.blobs = blobs;
    if (backup_start(d->backup, &request)) {
        rpc_fail(call, RPC_BUSY, "wait until it is made", "another backup is being made");
        return;
    }
    char text[BACKUP_PATH_MAX + RPC_ACTOR_MAX + 32];
    snprintf(text, sizeof(text), "%s, for %s", request.path, call->peer->actor);
    events_note(d->events, "backup.create", text);
    rpc_reply(call, json_pack("{s:b, s:s}", "running", 1, "path", request.path));
}

void method_backup_status(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct backup_status *s;
    if (!rpc_params(call, params, "{}"))
        return;
    s = malloc(sizeof(*s));
    CHECK(s);
    backup_status(d->backup, s);
    json_t *result = json_pack("{s:b, s:b, s:s, s:I, s:I, s:s?}", "running", s->running, "done", s->done,
                               "path", s->path, "files", (json_int_t)s->files, "bytes", (json_int_t)s->bytes,
                               "error", s->error[0] ? s->error : NULL);
    free(s);
    rpc_reply(call, result);
}
