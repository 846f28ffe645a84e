/* SPDX-License-Identifier: Apache-2.0 */
/* Sources on the control socket. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/cluster_policy.h"
#include "control/daemon.h"
#include "control/daemon_sources.h"
#include "control/socket/methods.h"
#include "control/socket/propose.h"
#include "control/socket/server.h"

#define HINT_FIELDS "fairlead(1) says what there is under `source set`"
#define HINT_LS     "`fairlead source ls` shows the sources"

static void state_unreadable(struct rpc_call *call, int err)
{
    rpc_fail(call, RPC_INTERNAL, "look at the error log of fairleadd", "the state cannot be read: %s",
             strerror(-err));
}

/* With its last '/', whether it is said or not. False: the call has been answered. */
static bool prefix_read(struct rpc_call *call, const char *text, char out[REPO_NAME_MAX + 1])
{
    size_t len = strlen(text);
    if (len == 0 || len >= REPO_NAME_MAX) {
        rpc_fail(call, RPC_INVALID_PARAMS, "write the beginning of repositories' names, as in hub/",
                 "'%.64s' is no prefix of a source", text);
        return false;
    }
    snprintf(out, REPO_NAME_MAX + 1, "%s%s", text, text[len - 1] == '/' ? "" : "/");
    return true;
}

void method_source_list(void *context, struct rpc_call *call, json_t *params)
{
    const char *text = NULL;
    char prefix[REPO_NAME_MAX + 1];
    if (!rpc_params(call, params, "{s?s}", "prefix", &text) || (text && !prefix_read(call, text, prefix)))
        return;
    json_t *answer = daemon_sources_json(context, text ? prefix : NULL);
    if (answer)
        rpc_reply(call, answer);
    else
        rpc_fail(call, RPC_NOT_FOUND, HINT_LS, "there is no source of '%.64s'", prefix);
}

/* Fills *s: the source as the state has it, or a new one. False: the call has been answered. */
static bool source_start(struct daemon *d, struct rpc_call *call, const char *prefix, struct source *s)
{
    struct source_table t;
    int err = cluster_sources(d->cluster, &t);
    const struct source *now = err ? NULL : source_find(&t, prefix);
    source_init(s, prefix);
    if (now)
        *s = *now;
    source_table_fini(&t);
    if (err)
        state_unreadable(call, err);
    return !err;
}

static int fields_take(struct source *s, json_t *fields, char err[SOURCE_ERROR_MAX])
{
    const char *key;
    json_t *value;
    json_object_foreach(fields, key, value)
    {
        const char *text = json_string_value(value);
        snprintf(err, SOURCE_ERROR_MAX, "%.40s: it is not a text", key);
        int rc = text ? source_field_set(s, key, text, err) : -EINVAL;
        if (rc == -ENOENT)
            snprintf(err, SOURCE_ERROR_MAX, "a source has no field '%.40s'", key);
        if (rc)
            return rc;
    }
    return source_check(s, err, SOURCE_ERROR_MAX);
}

/* What is wrong with it on this node is said at once. */
static void on_set(struct daemon *d, struct rpc_call *call, json_t *result)
{
    daemon_sources_settle(d);
    json_t *all = daemon_sources_json(d, json_string_value(json_object_get(result, "prefix")));
    json_t *row = json_array_get(json_object_get(all, "sources"), 0);
    if (row)
        json_object_set(result, "problem", json_object_get(row, "problem"));
    json_decref(all);
    json_object_set_new(result, "generation", json_integer((json_int_t)d->generation));
    server_reply_applied(d->server, call, result, d->generation);
}

void method_source_set(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *text;
    char prefix[REPO_NAME_MAX + 1], err[SOURCE_ERROR_MAX];
    json_t *fields;
    struct source s;
    size_t len;
    if (!rpc_params(call, params, "{s:s, s:o}", "prefix", &text, "fields", &fields) ||
        !prefix_read(call, text, prefix) || !source_start(d, call, prefix, &s))
        return;
    if (!json_is_object(fields) || fields_take(&s, fields, err)) {
        rpc_fail(call, RPC_INVALID_PARAMS, HINT_FIELDS, "%s",
                 json_is_object(fields) ? err : "fields is not an object");
        return;
    }
    void *cmd = source_cmd_set(call->peer->actor, propose_source, s.revision, SOURCE_FROM_API, &s, &len);
    propose_command(d, call, cmd, len, json_pack("{s:s}", "prefix", prefix), on_set);
}

/* What came from there stays, and is served as any other repository. */
static void on_deleted(struct daemon *d, struct rpc_call *call, json_t *result)
{
    struct names_policy_use use = {0};
    char prefix[REPO_NAME_MAX + 1];
    snprintf(prefix, sizeof(prefix), "%s", json_string_value(json_object_get(result, "prefix")));
    prefix[strlen(prefix) - 1] = '\0';
    if (cluster_prefix_use(d->cluster, prefix, &use) == 0)
        json_object_set_new(
            result, "cached",
            json_pack("{s:I, s:I}", "tags", (json_int_t)use.tags, "bytes", (json_int_t)use.bytes));
    daemon_sources_settle(d);
    json_object_set_new(result, "generation", json_integer((json_int_t)d->generation));
    server_reply_applied(d->server, call, result, d->generation);
}

/* Whether the source is a file's, and not this node's: 1 or 0. -errno, and the call has been answered. */
static int is_left_behind(struct daemon *d, struct rpc_call *call, const char *prefix)
{
    struct source_table t;
    int err = cluster_sources(d->cluster, &t);
    const struct source *s = err ? NULL : source_find(&t, prefix);
    bool declared = s && s->origin == SOURCE_FROM_FILE;
    source_table_fini(&t);
    if (err)
        state_unreadable(call, err);
    return err ? err : declared && !source_find(&d->config.sources.table, prefix);
}

/* force: also one that a file has set, if it is not this node's: the node that had it may be gone. */
void method_source_delete(void *context, struct rpc_call *call, json_t *params)
{
    const char *text;
    char prefix[REPO_NAME_MAX + 1];
    int force = 0;
    size_t len;
    if (!rpc_params(call, params, "{s:s, s?b}", "prefix", &text, "force", &force) ||
        !prefix_read(call, text, prefix))
        return;
    int declared = force ? is_left_behind(context, call, prefix) : 0;
    if (declared < 0)
        return;
    void *cmd = source_cmd_rm(call->peer->actor, propose_source,
                              declared ? SOURCE_FROM_FILE : SOURCE_FROM_API, prefix, &len);
    propose_command(context, call, cmd, len, json_pack("{s:s}", "prefix", prefix), on_deleted);
}

/* A call that waits for what a source answers. */
static void on_tested(void *arg, const struct source_test_result *r)
{
    struct rpc_call *call = arg;
    rpc_reply(call, json_pack("{s:b, s:s, s:I, s:s}", "good", r->good, "text", r->text, "status",
                              (json_int_t)r->status, "digest", r->digest));
}

/* PREFIX with its '/', or a repository with tag or digest. False: the call has been answered. */
static bool test_target(struct rpc_call *call, const char *name, char repo[REPO_NAME_MAX + 1],
                        char reference[SOURCE_TEST_REFERENCE_MAX], bool *whole)
{
    size_t len = strlen(name);
    *whole = len && len <= REPO_NAME_MAX && (name[len - 1] == '/' || !strchr(name, '/'));
    if (*whole)
        return prefix_read(call, name, repo);
    if (source_test_split(name, repo, reference))
        return true;
    rpc_fail(call, RPC_INVALID_PARAMS, "write a prefix, as in hub/, or a repository, as in hub/alpine:latest",
             "'%.64s' is neither a prefix nor a repository", name);
    return false;
}

void method_source_test(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *name;
    char repo[REPO_NAME_MAX + 1], reference[SOURCE_TEST_REFERENCE_MAX], why[SOURCE_PROBLEM_MAX];
    bool whole;
    if (!rpc_params(call, params, "{s:s}", "name", &name) ||
        !test_target(call, name, repo, reference, &whole))
        return;
    int rc = daemon_sources_test(d, repo, whole ? NULL : repo, reference, why, on_tested, call);
    if (rc == -ENOENT)
        rpc_fail(call, RPC_NOT_FOUND, HINT_LS, "there is no source of '%.64s'", repo);
    else if (rc)
        rpc_fail(call, RPC_UNAVAILABLE, HINT_LS, "%.64s: %s", repo,
                 *why ? why : "its addresses are being looked up");
}
