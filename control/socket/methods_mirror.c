/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of mirroring on the control socket. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_policy.h"
#include "control/daemon.h"
#include "control/mirrors.h"
#include "control/mirrors_declare.h"
#include "control/nodes.h"
#include "control/socket/methods.h"
#include "control/socket/propose.h"

#define HINT_FIELDS "fairlead(1) says what there is under `mirror set`"
#define HINT_RULE   "`fairlead mirror ls` shows the rules"

static void state_unreadable(struct rpc_call *call, int err)
{
    rpc_fail(call, RPC_INTERNAL, "look at the error log of fairleadd", "the state cannot be read: %s",
             strerror(-err));
}

void method_mirror_list(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *name = NULL;
    if (!rpc_params(call, params, "{s?s}", "name", &name))
        return;
    json_t *answer = mirrors_json(d->mirrors, name);
    if (answer)
        rpc_reply(call, answer);
    else if (name)
        rpc_fail(call, RPC_NOT_FOUND, HINT_RULE, "there is no rule of mirroring '%.64s'", name);
    else
        state_unreadable(call, -EIO);
}

/* Fills *m: the rule as it is, or a new one. False: the call has been answered. */
static bool rule_start(struct daemon *d, struct rpc_call *call, const char *name, struct mirror_rule *m)
{
    struct mirror_table t;
    int err = cluster_mirrors(d->cluster, &t);
    const struct mirror_rule *now = err ? NULL : mirror_find(&t, name);
    mirror_init(m, name);
    if (now)
        *m = *now;
    mirror_table_fini(&t);
    if (err)
        state_unreadable(call, err);
    return !err;
}

static int fields_take(struct mirror_rule *m, json_t *fields, char err[MIRROR_ERROR_MAX])
{
    const char *key;
    json_t *value;
    json_object_foreach(fields, key, value)
    {
        const char *text = json_string_value(value);
        snprintf(err, MIRROR_ERROR_MAX, "%.40s: it is not a text", key);
        int rc = text ? mirror_field_set(m, key, text, err) : -EINVAL;
        if (rc == -ENOENT)
            snprintf(err, MIRROR_ERROR_MAX, "a rule of mirroring has no field '%.40s'", key);
        if (rc)
            return rc;
    }
    return mirror_check(m, err, MIRROR_ERROR_MAX);
}

void method_mirror_set(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *name;
    char err[MIRROR_ERROR_MAX];
    json_t *fields;
    struct mirror_rule m;
    size_t len;
    if (!rpc_params(call, params, "{s:s, s:o}", "name", &name, "fields", &fields) ||
        !rule_start(d, call, name, &m))
        return;
    if (!json_is_object(fields) || fields_take(&m, fields, err) || mirrors_expression_check(&m, err)) {
        rpc_fail(call, RPC_INVALID_PARAMS, HINT_FIELDS, "%s",
                 json_is_object(fields) ? err : "fields is not an object");
        return;
    }
    m.declared = false;
    void *cmd = mirror_cmd_set(call->peer->actor, propose_source, &m, &len);
    propose_command(d, call, cmd, len, json_pack("{s:s}", "name", name), NULL);
}

/* Whether the rule is a file's. -errno, and the call has been answered. */
static int is_declared(struct daemon *d, struct rpc_call *call, const char *name)
{
    struct mirror_table t;
    int err = cluster_mirrors(d->cluster, &t);
    const struct mirror_rule *m = err ? NULL : mirror_find(&t, name);
    bool declared = m && m->declared;
    mirror_table_fini(&t);
    if (err)
        state_unreadable(call, err);
    return err ? err : declared;
}

/* force: also one that a file has set, if it is not this node's: the node that had it may be gone. */
void method_mirror_delete(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *name;
    int force = 0;
    size_t len;
    if (!rpc_params(call, params, "{s:s, s?b}", "name", &name, "force", &force))
        return;
    int declared = force && !mirrors_file_has(d->mirror_rules, name) ? is_declared(d, call, name) : 0;
    if (declared < 0)
        return;
    json_t *result = json_pack("{s:s}", "name", name);
    if (!declared) {
        propose_texts(d, call, CMD_MIRROR_RM, name, NULL, result, NULL);
        return;
    }
    void *cmd = mirror_cmd_rm(call->peer->actor, propose_source, name, true, &len);
    propose_command(d, call, cmd, len, result, NULL);
}

static const char *leader_name(struct daemon *d)
{
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    const struct node *n = status.leader_id ? node_find(nodes_table(d->nodes), status.leader_id) : NULL;
    return n ? n->name : "nobody";
}

void method_mirror_run(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *name;
    uint64_t number;
    int dry = 0;
    if (!rpc_params(call, params, "{s:s, s?b}", "name", &name, "dry_run", &dry))
        return;
    int rc = mirrors_run(d->mirrors, name, dry, &number);
    if (rc == -ENOENT)
        rpc_fail(call, RPC_NOT_FOUND, HINT_RULE, "there is no rule of mirroring '%.64s'", name);
    else if (rc == -EPERM)
        rpc_fail(call, RPC_UNAVAILABLE, "run it on the node that leads", "%s leads, and mirrors",
                 leader_name(d));
    else if (rc == -EBUSY)
        rpc_fail(call, RPC_BUSY, "`fairlead mirror status` shows how far it is",
                 "'%.64s' is being run already", name);
    else
        rpc_reply(call, json_pack("{s:s, s:I}", "name", name, "number", (json_int_t)number));
}
