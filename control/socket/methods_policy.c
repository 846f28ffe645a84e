/* SPDX-License-Identifier: Apache-2.0 */
/* Policies of repositories on the control socket. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_policy.h"
#include "control/daemon.h"
#include "control/policies.h"
#include "control/socket/methods.h"
#include "control/socket/policy_json.h"
#include "control/socket/propose.h"
#include "control/retention_run.h"

#define HINT_PREFIX "write the beginning of names, to the end of a component, as in team or team/app, or '*'"

static void state_unreadable(struct rpc_call *call, int err)
{
    rpc_fail(call, RPC_INTERNAL, "look at the error log of fairleadd", "the state cannot be read: %s",
             strerror(-err));
}

void method_policy_list(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct policy_table t;
    struct names_policy_use *use = NULL;
    if (!rpc_params(call, params, "{}"))
        return;
    int err = cluster_policies(d->cluster, &t, &use);
    json_t *rows = json_array();
    for (size_t i = 0; !err && i < t.count; i++)
        json_array_append_new(rows, policy_json(&t.list[i], &use[i]));
    policy_table_fini(&t);
    free(use);
    if (err) {
        json_decref(rows);
        state_unreadable(call, err);
        return;
    }
    rpc_reply(call, json_pack("{s:o}", "policies", rows));
}

/* False: the call has been answered. */
static bool prefix_read(struct rpc_call *call, const char *text, char out[REPO_NAME_MAX + 1])
{
    if (strlen(text) <= REPO_NAME_MAX + 1 && policy_prefix_parse(text, out) == 0)
        return true;
    rpc_fail(call, RPC_INVALID_PARAMS, HINT_PREFIX, "'%.64s' is no prefix of repositories", text);
    return false;
}

/* What holds below the prefix, and which policy says it. */
void method_policy_show(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *text;
    char prefix[REPO_NAME_MAX + 1];
    struct policy_rules rules;
    if (!rpc_params(call, params, "{s:s}", "prefix", &text) || !prefix_read(call, text, prefix))
        return;
    int err = cluster_rules(d->cluster, prefix, &rules);
    if (err)
        state_unreadable(call, err);
    else
        rpc_reply(call, policy_rules_json(prefix, &rules));
}

/* Fills *p: the policy as it is, or a new one. False: the call has been answered. */
static bool policy_start(struct daemon *d, struct rpc_call *call, const char *prefix, struct policy *p)
{
    struct policy_table t;
    int err = cluster_policies(d->cluster, &t, NULL);
    const struct policy *now = err ? NULL : policy_find(&t, prefix);
    bool full = t.count >= POLICIES_MAX;
    policy_init(p);
    if (now)
        *p = *now;
    memcpy(p->prefix, prefix, strlen(prefix) + 1);
    policy_table_fini(&t);
    if (err)
        state_unreadable(call, err);
    else if (!now && full)
        rpc_fail(call, RPC_INVALID_PARAMS, "remove what is not needed any more",
                 "there are %d policies already", POLICIES_MAX);
    return !err && (now || !full);
}

void method_policy_set(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *text;
    char prefix[REPO_NAME_MAX + 1], err[POLICY_ERROR_MAX];
    json_t *fields;
    struct policy p;
    size_t len;
    if (!rpc_params(call, params, "{s:s, s:o}", "prefix", &text, "fields", &fields) ||
        !prefix_read(call, text, prefix) || !policy_start(d, call, prefix, &p))
        return;
    if (!json_is_object(fields) || policy_json_set(&p, fields, err)) {
        rpc_fail(call, RPC_INVALID_PARAMS, "fairlead.yaml(5) lists the fields with their values", "%s",
                 json_is_object(fields) ? err : "fields is not an object");
        return;
    }
    void *cmd = policy_cmd_set(call->peer->actor, propose_source, p.rules.revision, NULL, 0, &p, 1, &len);
    propose_command(d, call, cmd, len, policy_json(&p, NULL), NULL);
}

/* Whether the policy is a file's. -errno, and the call has been answered. */
static int is_declared(struct daemon *d, struct rpc_call *call, const char *prefix)
{
    struct policy_table t;
    int err = cluster_policies(d->cluster, &t, NULL);
    const struct policy *p = err ? NULL : policy_find(&t, prefix);
    bool declared = p && p->rules.origin == POLICY_FROM_FILE;
    policy_table_fini(&t);
    if (err)
        state_unreadable(call, err);
    return err ? err : declared;
}

/* force: also one that a file has set, if it is not this node's: the node that had it may be gone. */
void method_policy_delete(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *text;
    char prefix[REPO_NAME_MAX + 1];
    int force = 0;
    size_t len;
    if (!rpc_params(call, params, "{s:s, s?b}", "prefix", &text, "force", &force) ||
        !prefix_read(call, text, prefix))
        return;
    int declared = force && !policies_has(d->policies, prefix) ? is_declared(d, call, prefix) : 0;
    if (declared < 0)
        return;
    json_t *result = json_pack("{s:s}", "prefix", policy_prefix_text(prefix));
    if (!declared) {
        propose_texts(d, call, CMD_POLICY_RM, prefix, NULL, result, NULL);
        return;
    }
    void *cmd = policy_cmd_withdraw(call->peer->actor, propose_source, prefix, &len);
    propose_command(d, call, cmd, len, result, NULL);
}

static void on_looked(void *arg, json_t *rows, bool more, int err)
{
    struct rpc_call *call = arg;
    if (err) {
        json_decref(rows);
        state_unreadable(call, err);
        return;
    }
    rpc_reply(call, json_pack("{s:o, s:b}", "tags", rows, "more", more));
}

/* What retention would remove now. */
void method_policy_retention(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *after = "";
    json_int_t limit = RETENTION_ROWS_MAX;
    if (!rpc_params(call, params, "{s?s, s?I}", "after", &after, "limit", &limit))
        return;
    if (limit < 1 || limit > RETENTION_ROWS_MAX) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give a limit from 1 to 1000", "limit is out of range");
        return;
    }
    int rc = retention_look(d->retention, after, (size_t)limit, on_looked, call);
    if (rc == -EBUSY)
        rpc_fail(call, RPC_BUSY, "try again in a moment", "others look at the same already");
    else if (rc)
        rpc_fail(call, RPC_INVALID_PARAMS, "give the name of a repository", "after is not a name");
}
