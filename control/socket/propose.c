/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/propose.h"

#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/daemon.h"
#include "control/events.h"
#include "control/state/cmd_new.h"

/* A call whose command is under way. */
struct proposing {
    struct daemon *daemon;
    struct rpc_call *call;
    json_t *result; /* what a success answers */
    void (*committed)(struct daemon *d, struct rpc_call *call, json_t *result);
};

static const char *hint_for(enum cmd_status status)
{
    switch (status) {
    case CMD_REPO_UNKNOWN:
        return "`fairlead repo ls` lists the repositories";
    case CMD_TAG_UNKNOWN:
        return "`fairlead repo tags REPOSITORY` lists the tags";
    case CMD_BUSY:
    case CMD_NO_LEADER:
    case CMD_BLOB_DELETING:
        return "nothing was changed; try again in a moment, `fairlead status` shows who leads";
    case CMD_UNKNOWN_OUTCOME:
        return "it may have been done or not; look before you try again";
    case CMD_NO_SPACE:
        return "make room on the disk of the state";
    case CMD_SERVICE_UNKNOWN:
        return "`fairlead service ls` lists the services";
    case CMD_BACKEND_UNKNOWN:
        return "`fairlead backend ls` lists the backends";
    case CMD_CONFLICT:
        return "nothing was changed; `fairlead service ls`, `fairlead backend ls` and `fairlead node ls` "
               "show what "
               "there is";
    case CMD_INVALID:
        return "nothing was changed";
    case CMD_LIMIT:
        return "nothing was changed; remove what is not needed any more";
    case CMD_NODE_UNKNOWN:
    case CMD_MANAGERS:
        return "nothing was changed; `fairlead node ls` shows the nodes";
    case CMD_TOKEN_UNKNOWN:
        return "nothing was changed; `fairlead node token-ls` shows the tokens";
    case CMD_DENIED:
    case CMD_POLICY_UNKNOWN:
        return "nothing was changed; `fairlead policy ls` shows the policies";
    case CMD_ENDPOINT_UNKNOWN:
        return "`fairlead notify ls` shows the endpoints";
    case CMD_MIRROR_UNKNOWN:
        return "`fairlead mirror ls` shows the rules";
    case CMD_SOURCE_UNKNOWN:
        return "`fairlead source ls` shows the sources";
    case CMD_TOO_NEW:
        return "nothing was changed; `fairlead cluster show` says what the cluster runs";
    default:
        return "look at the error log of fairleadd";
    }
}

static enum rpc_code code_for(enum cmd_status status)
{
    switch (status) {
    case CMD_REPO_UNKNOWN:
    case CMD_TAG_UNKNOWN:
    case CMD_BLOB_UNKNOWN:
    case CMD_MANIFEST_UNKNOWN:
    case CMD_SETTING_UNKNOWN:
    case CMD_SERVICE_UNKNOWN:
    case CMD_BACKEND_UNKNOWN:
    case CMD_NODE_UNKNOWN:
    case CMD_TOKEN_UNKNOWN:
    case CMD_POLICY_UNKNOWN:
    case CMD_ENDPOINT_UNKNOWN:
    case CMD_MIRROR_UNKNOWN:
    case CMD_SOURCE_UNKNOWN:
        return RPC_NOT_FOUND;
    case CMD_INVALID:
    case CMD_CONFLICT:
    case CMD_DECLARED:
    case CMD_LIMIT:
    case CMD_MANAGERS:
    case CMD_DENIED:
        return RPC_INVALID_PARAMS;
    case CMD_BUSY:
    case CMD_NO_LEADER:
    case CMD_UNKNOWN_OUTCOME:
    case CMD_NO_SPACE:
    case CMD_TOO_NEW:
    case CMD_BLOB_DELETING:
        return RPC_UNAVAILABLE;
    default:
        return RPC_INTERNAL;
    }
}

/* Whose detail is a text for people. */
static bool has_text(enum cmd_status status)
{
    return status == CMD_INVALID || status == CMD_MIRROR_UNKNOWN || status == CMD_SOURCE_UNKNOWN ||
           (status >= CMD_SERVICE_UNKNOWN && status <= CMD_ENDPOINT_UNKNOWN);
}

void propose_refuse(const struct daemon *d, struct rpc_call *call, enum cmd_status status, const void *detail,
                    size_t detail_len)
{
    char hint[PATH_MAX + 128];
    const char *file = d->config_path ? d->config_path : "the configuration file";
    snprintf(hint, sizeof(hint), "%s", hint_for(status));
    if (status == CMD_DECLARED)
        snprintf(hint, sizeof(hint), "change it in %s, and reload fairleadd (SIGHUP)", file);
    propose_refuse_saying(call, status, detail, detail_len, hint);
}

void propose_refuse_saying(struct rpc_call *call, enum cmd_status status, const void *detail,
                           size_t detail_len, const char *hint)
{
    bool text = has_text(status) && detail_len > 0;
    if (text && status != CMD_INVALID)
        rpc_fail(call, code_for(status), hint, "%.*s", (int)detail_len, (const char *)detail);
    else
        rpc_fail(call, code_for(status), hint, "%s%s%.*s", events_status_name(status), text ? ": " : "",
                 text ? (int)detail_len : 0, text ? (const char *)detail : "");
}

static void on_done(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t detail_len)
{
    struct proposing *p = arg;
    if (status != CMD_OK) {
        propose_refuse(p->daemon, p->call, status, detail, detail_len);
        json_decref(p->result);
        free(p);
        return;
    }
    json_object_set_new(p->result, "index", json_integer((json_int_t)index));
    if (p->committed)
        p->committed(p->daemon, p->call, p->result);
    else
        rpc_reply(p->call, p->result);
    free(p);
}

const char propose_source[] = "control-socket";

void propose_command(struct daemon *d, struct rpc_call *call, void *cmd, size_t len, json_t *result,
                     void (*committed)(struct daemon *d, struct rpc_call *call, json_t *result))
{
    struct proposing *p = calloc(1, sizeof(*p));
    CHECK(p);
    *p = (struct proposing){.daemon = d, .call = call, .result = result, .committed = committed};
    cluster_propose(d->cluster, cmd, len, on_done, p);
}

void propose_texts(struct daemon *d, struct rpc_call *call, enum cmd_type type, const char *first,
                   const char *second, json_t *result,
                   void (*committed)(struct daemon *d, struct rpc_call *call, json_t *result))
{
    struct wire_writer writer =
        cmd_new(type, call->peer->actor, propose_source, strlen(first) + (second ? strlen(second) : 0));
    size_t len;
    wire_put_bytes(&writer, first, strlen(first));
    if (second)
        wire_put_bytes(&writer, second, strlen(second));
    void *cmd = cmd_end(&writer, &len);
    propose_command(d, call, cmd, len, result, committed);
}
