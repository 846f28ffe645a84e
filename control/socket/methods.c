/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/methods.h"

#include <string.h>

#include "check.h"
#include "control/daemon.h"
#include "control/events.h"
#include "control/socket/server.h"

static void method_events_list(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    json_int_t after = 0, limit = 100;
    if (!rpc_params(call, params, "{s?I, s?I}", "after", &after, "limit", &limit))
        return;
    if (after < 0 || limit < 1 || limit > EVENTS_KEPT) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give a limit from 1 to 1024", "after or limit is out of range");
        return;
    }
    rpc_reply(call, json_pack("{s:o}", "events", events_list(d->events, (uint64_t)after, (size_t)limit)));
}

/* The stream begins behind what the answer lists, without a gap: both happen in this turn of the loop. */
static void follow(struct daemon *d, struct rpc_call *call, json_t *params, enum server_stream stream)
{
    const char *filter = "";
    json_int_t limit = 0;
    if (!rpc_params(call, params, "{s?s, s?I}", "filter", &filter, "limit", &limit))
        return;
    if (strlen(filter) > 100 || limit < 0 || limit > EVENTS_KEPT) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give a filter of at most 100 bytes and a limit from 0 to 1024",
                 "filter or limit is out of range");
        return;
    }
    json_t *result = json_object();
    if (stream == STREAM_EVENTS)
        json_object_set_new(result, "events", events_list(d->events, 0, (size_t)limit));
    server_follow(d->server, call, stream, filter);
    rpc_reply(call, result);
}

static void method_events_follow(void *context, struct rpc_call *call, json_t *params)
{
    follow(context, call, params, STREAM_EVENTS);
}

static void method_trace(void *context, struct rpc_call *call, json_t *params)
{
    follow(context, call, params, STREAM_TRACE);
}

static void method_shutdown(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    if (!rpc_params(call, params, "{}"))
        return;
    rpc_reply(call, json_pack("{s:b}", "stopping", 1));
    daemon_stop(d);
}

const struct rpc_method methods[] = {
    {"status", RPC_READ_ONLY, method_status},
    {"version", RPC_READ_ONLY, method_version},
    {"top", RPC_READ_ONLY, method_top},
    {"metrics", RPC_READ_ONLY, method_metrics},
    {"plan.show", RPC_READ_ONLY, method_plan_show},
    {"settings.get", RPC_READ_ONLY, method_settings_get},
    {"settings.list", RPC_READ_ONLY, method_settings_list},
    {"settings.set", RPC_OPERATOR, method_settings_set},
    {"settings.unset", RPC_OPERATOR, method_settings_unset},
    {"repo.list", RPC_READ_ONLY, method_repo_list},
    {"repo.tags", RPC_READ_ONLY, method_repo_tags},
    {"repo.create", RPC_OPERATOR, method_repo_create},
    {"repo.delete", RPC_OPERATOR, method_repo_delete},
    {"tag.delete", RPC_OPERATOR, method_tag_delete},
    {"blob.verify", RPC_OPERATOR, method_blob_verify},
    {"store.accept", RPC_ADMIN, method_store_accept},
    {"policy.list", RPC_READ_ONLY, method_policy_list},
    {"policy.show", RPC_READ_ONLY, method_policy_show},
    {"policy.set", RPC_OPERATOR, method_policy_set},
    {"policy.delete", RPC_OPERATOR, method_policy_delete},
    {"policy.retention", RPC_READ_ONLY, method_policy_retention},
    {"notify.list", RPC_READ_ONLY, method_notify_list},
    {"notify.set", RPC_ADMIN, method_notify_set},
    {"notify.delete", RPC_ADMIN, method_notify_delete},
    {"notify.test", RPC_ADMIN, method_notify_test},
    {"mirror.list", RPC_READ_ONLY, method_mirror_list},
    {"mirror.set", RPC_ADMIN, method_mirror_set},
    {"mirror.delete", RPC_ADMIN, method_mirror_delete},
    {"mirror.run", RPC_ADMIN, method_mirror_run},
    {"source.list", RPC_READ_ONLY, method_source_list},
    {"source.set", RPC_ADMIN, method_source_set},
    {"source.delete", RPC_ADMIN, method_source_delete},
    {"source.test", RPC_ADMIN, method_source_test},
    {"gc.run", RPC_OPERATOR, method_gc_run},
    {"gc.status", RPC_READ_ONLY, method_gc_status},
    {"service.list", RPC_READ_ONLY, method_service_list},
    {"service.show", RPC_READ_ONLY, method_service_show},
    {"service.set", RPC_OPERATOR, method_service_set},
    {"service.delete", RPC_OPERATOR, method_service_delete},
    {"backend.list", RPC_READ_ONLY, method_backend_list},
    {"backend.show", RPC_READ_ONLY, method_backend_show},
    {"backend.set", RPC_OPERATOR, method_backend_set},
    {"backend.admin", RPC_OPERATOR, method_backend_admin},
    {"backend.delete", RPC_OPERATOR, method_backend_delete},
    {"node.list", RPC_READ_ONLY, method_node_list},
    {"node.set", RPC_ADMIN, method_node_set},
    {"node.delete", RPC_ADMIN, method_node_delete},
    {"node.join", RPC_ADMIN, method_node_join},
    {"token.create", RPC_ADMIN, method_token_create},
    {"token.list", RPC_READ_ONLY, method_token_list},
    {"token.delete", RPC_ADMIN, method_token_delete},
    {"cluster.show", RPC_READ_ONLY, method_cluster_show},
    {"cluster.set", RPC_ADMIN, method_cluster_set},
    {"cluster.rotate_ca", RPC_ADMIN, method_cluster_rotate_ca},
    {"apply", RPC_OPERATOR, method_apply},
    {"blob.import", RPC_ADMIN, method_blob_import},
    {"backup.create", RPC_ADMIN, method_backup_create},
    {"backup.status", RPC_READ_ONLY, method_backup_status},
    {"certificate.list", RPC_READ_ONLY, method_certificate_list},
    {"certificate.reload", RPC_OPERATOR, method_certificate_reload},
    {"events.list", RPC_READ_ONLY, method_events_list},
    {"events.follow", RPC_READ_ONLY, method_events_follow},
    {"trace", RPC_OPERATOR, method_trace},
    {"kernel.status", RPC_READ_ONLY, method_kernel_status},
    {"kernel.detach", RPC_ADMIN, method_kernel_detach},
    {"shutdown", RPC_ADMIN, method_shutdown},
};
const size_t methods_count = ARRAY_SIZE(methods);
