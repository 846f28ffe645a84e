/* SPDX-License-Identifier: Apache-2.0 */
/* A file of services, backends, settings and what else apply(1) names, applied as one transaction. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/changes.h"
#include "control/cluster_policy.h"
#include "control/daemon.h"
#include "control/daemon_sources.h"
#include "control/services.h"
#include "control/socket/methods.h"
#include "control/socket/propose.h"
#include "control/socket/server.h"

/* What the budgets of this node say of services as they would be; what does not grow is never refused. */
static bool budget_allows(struct daemon *d, struct rpc_call *call, const struct svc_table *after)
{
    const struct svc_table *now = services_table(d->services);
    enum setting_source source;
    uint64_t probes = services_probes_of(after), budget, most;
    budget = setting_effective(&d->settings, SET_KERNEL_PROBES_PER_S, &source);
    most = setting_effective(&d->settings, SET_KERNEL_BACKENDS_MAX, &source);
    if (probes > budget && probes > services_probes_of(now)) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give longer check.interval, or raise kernel.probes_per_s",
                 "the checks would come to %llu probes a second, and kernel.probes_per_s allows %llu",
                 (unsigned long long)probes, (unsigned long long)budget);
        return false;
    }
    if (after->backend_count > most && after->backend_count > now->backend_count) {
        rpc_fail(call, RPC_INVALID_PARAMS, "raise kernel.backends_max and restart fairleadd, or give fewer",
                 "there would be %zu backends, and kernel.backends_max is %llu", after->backend_count,
                 (unsigned long long)most);
        return false;
    }
    return true;
}

/* False: the call has been answered. *after are the services as they would be; svc_table_fini if true. */
static bool try_command(struct daemon *d, struct rpc_call *call, const void *cmd, size_t len,
                        struct svc_table *after)
{
    struct cluster_trial trial;
    int err = cluster_try(d->cluster, cmd, len, &trial);
    if (err) {
        rpc_fail(call, RPC_INTERNAL, "look at the error log of fairleadd", "the state cannot be read: %s",
                 strerror(-err));
        return false;
    }
    *after = trial.after;
    if (trial.status == CMD_OK)
        return true;
    propose_refuse(d, call, trial.status, trial.detail, strlen(trial.detail));
    svc_table_fini(after);
    return false;
}

/* Everything that can be said of it before it is proposed. False: the call has been answered. */
static bool try_it(struct daemon *d, struct rpc_call *call, const struct changes *changes)
{
    struct svc_table after;
    if (changes->too_large) {
        rpc_fail(call, RPC_INVALID_PARAMS, "apply it in several files",
                 "this is too much for one transaction");
        return false;
    }
    if (changes->policies_cmd) {
        if (!try_command(d, call, changes->policies_cmd, changes->policies_len, &after))
            return false;
        svc_table_fini(&after);
    }
    if (!changes->cmd)
        return true;
    if (!try_command(d, call, changes->cmd, changes->len, &after))
        return false;
    bool allowed = budget_allows(d, call, &after);
    svc_table_fini(&after);
    return allowed;
}

static void on_committed(struct daemon *d, struct rpc_call *call, json_t *result)
{
    services_settle(d->services);
    daemon_sources_settle(d);
    json_object_set_new(result, "generation", json_integer((json_int_t)d->generation));
    server_reply_applied(d->server, call, result, d->generation);
}

/* What is done when the policies are. */
struct applying {
    struct daemon *daemon;
    struct rpc_call *call;
    json_t *result;
    void *cmd; /* the transaction; NULL: there is none */
    size_t len;
    uint64_t policies_index;
};

/* The policies have been changed whatever became of the rest. */
static void on_rest_done(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                         size_t detail_len)
{
    struct applying *a = arg;
    char hint[160];
    if (status == CMD_OK) {
        json_object_set_new(a->result, "index", json_integer((json_int_t)index));
        on_committed(a->daemon, a->call, a->result);
    } else {
        snprintf(hint, sizeof(hint),
                 "the policies were changed (index %llu), %s; look, and apply the file again",
                 (unsigned long long)a->policies_index,
                 status == CMD_UNKNOWN_OUTCOME ? "the rest may have been or not" : "the rest was not");
        propose_refuse_saying(a->call, status, detail, detail_len, hint);
        json_decref(a->result);
    }
    free(a);
}

static void on_policies_done(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                             size_t detail_len)
{
    struct applying *a = arg;
    if (status != CMD_OK) {
        propose_refuse(a->daemon, a->call, status, detail, detail_len);
        json_decref(a->result);
        free(a->cmd);
    } else if (a->cmd) {
        a->policies_index = index;
        cluster_propose(a->daemon->cluster, a->cmd, a->len, on_rest_done, a);
        return;
    } else {
        json_object_set_new(a->result, "index", json_integer((json_int_t)index));
        rpc_reply(a->call, a->result);
    }
    free(a);
}

/* Takes both commands out of changes. */
static void propose(struct daemon *d, struct rpc_call *call, struct changes *changes, json_t *result)
{
    void *cmd = changes->cmd, *policies = changes->policies_cmd;
    changes->cmd = changes->policies_cmd = NULL;
    if (!policies) {
        propose_command(d, call, cmd, changes->len, result, on_committed);
        return;
    }
    struct applying *a = malloc(sizeof(*a));
    CHECK(a);
    *a = (struct applying){.daemon = d, .call = call, .result = result, .cmd = cmd, .len = changes->len};
    cluster_propose(d->cluster, policies, changes->policies_len, on_policies_done, a);
}

/* What the state says of all that is no service and no setting. */
struct state_now {
    struct policy_table policies;
    struct mirror_table mirrors;
    struct source_table sources;
};

/* 0 or -errno; now_fini in any case. */
static int now_read(struct daemon *d, struct state_now *now)
{
    *now = (struct state_now){.policies.count = 0};
    int err = cluster_policies(d->cluster, &now->policies, NULL);
    if (!err)
        err = cluster_mirrors(d->cluster, &now->mirrors);
    return err ? err : cluster_sources(d->cluster, &now->sources);
}

static void now_fini(struct state_now *now)
{
    policy_table_fini(&now->policies);
    mirror_table_fini(&now->mirrors);
    source_table_fini(&now->sources);
}

static void apply(struct daemon *d, struct rpc_call *call, const struct config *file,
                  const struct config_changes *given, bool prune, bool dry)
{
    struct state_now now;
    int err = now_read(d, &now);
    if (err) {
        now_fini(&now);
        rpc_fail(call, RPC_INTERNAL, "look at the error log of fairleadd", "the state cannot be read: %s",
                 strerror(-err));
        return;
    }
    const struct changes_input in = {.state = services_table(d->services),
                                     .file = &file->services.table,
                                     .state_settings = &d->settings.state,
                                     .file_settings = &file->settings,
                                     .state_policies = &now.policies,
                                     .file_policies = &file->policies,
                                     .has_policies = given->policies,
                                     .state_mirrors = &now.mirrors,
                                     .file_mirrors = &file->mirrors,
                                     .has_mirrors = given->mirrors,
                                     .state_sources = &now.sources,
                                     .file_sources = &file->sources.table,
                                     .has_sources = given->sources,
                                     .has_services = given->services,
                                     .has_settings = given->settings,
                                     .prune = prune,
                                     .actor = call->peer->actor,
                                     .source = propose_source};
    struct changes changes;
    changes_make(&in, &changes);
    if (try_it(d, call, &changes)) {
        bool nothing = dry || (!changes.cmd && !changes.policies_cmd);
        json_t *result = json_pack("{s:O, s:b}", "changes", changes.list, "dry_run", nothing);
        if (nothing)
            rpc_reply(call, result);
        else
            propose(d, call, &changes, result);
    }
    changes_fini(&changes);
    now_fini(&now);
}

void method_apply(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *name = "file";
    json_t *text;
    int dry = 0, prune = 0;
    if (!rpc_params(call, params, "{s:o, s?s, s?b, s?b}", "text", &text, "name", &name, "dry_run", &dry,
                    "prune", &prune))
        return;
    if (!json_is_string(text)) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give the file's text", "text is not a string");
        return;
    }
    if (json_string_length(text) > CONFIG_FILE_BYTES_MAX) {
        rpc_fail(call, RPC_INVALID_PARAMS, "apply it in several files", "the file has more than %d bytes",
                 CONFIG_FILE_BYTES_MAX);
        return;
    }
    struct config *file = malloc(sizeof(*file));
    struct config_report report = {.count = 0};
    struct config_changes given;
    CHECK(file);
    config_init(file, NULL);
    if (config_parse_changes(file, name, json_string_value(text), json_string_length(text), &given,
                             &report)) {
        size_t more = report.count - 1 + report.more;
        rpc_fail(call, RPC_INVALID_PARAMS,
                 more ? "nothing was changed; that is the first of several errors" : "nothing was changed",
                 "%s", report.lines[0]);
    } else {
        apply(d, call, file, &given, prune, dry);
    }
    config_report_fini(&report);
    config_fini(file);
    free(file);
}
