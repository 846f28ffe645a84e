/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "control/compile/plan_services.h"
#include "control/daemon.h"
#include "control/daemon_blobs.h"
#include "control/daemon_disks.h"
#include "control/daemon_listen.h"
#include "control/daemon_repair.h"
#include "control/daemon_store.h"
#include "control/gc.h"
#include "control/journal.h"
#include "control/daemon_sources.h"
#include "control/mirrors.h"
#include "control/notify.h"
#include "control/mirrors_declare.h"
#include "control/policies.h"
#include "control/services.h"
#include "control/settings.h"
#include "control/socket/edge_status.h"
#include "control/socket/figures.h"
#include "control/socket/methods.h"
#include "control/socket/peer_status.h"
#include "control/socket/server.h"
#include "control/socket/service_status.h"
#include "msg.h"

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *cluster_id_text(const uint8_t id[16])
{
    char text[33];
    for (int i = 0; i < 16; i++)
        snprintf(text + 2 * i, 3, "%02x", id[i]);
    return json_string(text);
}

static json_t *feature_list(uint32_t features)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } rows[] = {
        {FEATURE_DEFER_TASKRUN, "defer_taskrun"},
        {FEATURE_LANDLOCK, "landlock"},
        {FEATURE_SECCOMP, "seccomp"},
        {FEATURE_RING_RESTRICTIONS, "ring_restrictions"},
        {FEATURE_CACHESTAT, "cachestat"},
        {FEATURE_KERNEL_TLS, "kernel_tls"},
    };
    json_t *list = json_array();
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (features & rows[i].bit)
            json_array_append_new(list, json_string(rows[i].name));
    return list;
}

static json_t *dataplane_status(const struct daemon *d)
{
    struct supervise_status status;
    supervise_status(d->supervise, &status);
    uint64_t up_s = status.up_since_ms ? (journal_now_ms() - status.up_since_ms) / 1000 : 0;
    return json_pack("{s:s, s:i, s:b, s:o, s:o, s:o, s:o, s:o}", "state", status.state, "pid",
                     (int)status.pid, "adopted", status.adopted, "rings", number(d->memory.rings), "uptime_s",
                     number(up_s), "restarts", number(status.restarts), "features",
                     feature_list(status.features), "plan_applied", number(status.plan_applied));
}

/* Why connections with other nodes ended; those that never did are left out. */
static json_t *mesh_ends(const struct daemon *d)
{
    json_t *ends = json_object();
    const char *name;
    uint64_t count;
    for (unsigned i = 0; (name = cluster_mesh_reason(d->cluster, i, &count)); i++)
        if (count)
            json_object_set_new(ends, name, number(count));
    return ends;
}

static json_t *state_status(const struct daemon *d, struct cluster_status *status)
{
    cluster_status(d->cluster, status);
    json_t *state = json_pack("{s:b, s:b, s:o, s:o, s:o, s:o, s:o, s:o}", "leads", status->leads, "writable",
                              status->writable, "term", number(status->term), "commit_index",
                              number(status->commit_index), "applied_index", number(status->applied_index),
                              "snapshot_index", number(status->snapshot_index), "log_bytes",
                              number(status->log_bytes), "names_bytes", number(status->names_bytes));
    /* null: the names' index is whole */
    json_object_set_new(state, "indexing", status->index_whole ? json_null() : number(status->index_rows));
    json_object_set_new(state, "leader", status->leader_id ? number(status->leader_id) : json_null());
    json_object_set_new(state, "others", number(status->others));
    json_object_set_new(state, "connected", number(status->connected));
    json_object_set_new(state, "ends", mesh_ends(d));
    json_object_set_new(state, "disk", daemon_disks_json(d, DISK_OF_STATE));
    return state;
}

static const char *service_name(const struct daemon *d, const struct listener_group *group)
{
    const struct svc *s;
    switch (group->address.service) {
    case SERVICE_ADMIN:
        return "admin";
    case SERVICE_PEER:
        return "peer";
    case SERVICE_PROXY:
        s = svc_find_id(services_table(d->services), plan_service_at(group->address.place));
        return s && !group->leaving ? s->name : "leaving";
    default:
        return group->address.service == SERVICE_REGISTRY ? "registry" : "leaving";
    }
}

static json_t *services_status(const struct daemon *d)
{
    json_t *list = json_array();
    for (uint16_t i = 0; i < d->listeners.group_count; i++) {
        const struct listener_group *group = &d->listeners.group[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s, s:b, s:b, s:i}", "address", group->address.text,
                                        "service", service_name(d, group), "access", "allow-all", "loopback",
                                        config_address_is_loopback(&group->address), "tls",
                                        group->address.tls.mode != 0, "sockets", (int)group->count));
    }
    return list;
}

static json_t *traffic_status(const struct daemon *d)
{
    const struct figures *figures = server_figures(d->server);
    const struct shared_memory *memory = &d->memory;
    return json_pack("{s:o, s:o, s:o, s:f, s:f, s:f}", "connections",
                     number(shared_memory_sum(memory, CTR_CONNECTIONS_OPEN)), "requests_open",
                     number(shared_memory_sum(memory, CTR_STREAMS_OPEN)), "requests_total",
                     number(shared_memory_sum(memory, CTR_REQUESTS)), "requests_per_s",
                     figures_rate(figures, CTR_REQUESTS), "received_bytes_per_s",
                     figures_rate(figures, CTR_BYTES_RECEIVED), "sent_bytes_per_s",
                     figures_rate(figures, CTR_BYTES_SENT));
}

/* What an operator should know without looking for it. */
static json_t *warnings(struct daemon *d, const struct cluster_status *state)
{
    enum setting_source source;
    json_t *list = json_array();
    for (uint16_t i = 0; i < d->listeners.group_count; i++)
        if (!config_address_is_loopback(&d->listeners.group[i].address) &&
            d->listeners.group[i].address.service != SERVICE_PROXY &&
            d->listeners.group[i].address.service != SERVICE_PEER) /* which wants certificates */
            json_array_append_new(list, json_sprintf("%s is open to everybody who can reach it (allow_all)",
                                                     d->listeners.group[i].address.text));
    if (!setting_effective(&d->settings, SET_STORE_SYNC, &source))
        json_array_append_new(list,
                              json_string("store.sync is off: a power cut can lose acknowledged blobs"));
    daemon_disks_warn(d, list);
    if (!state->leader_id)
        json_array_append_new(list, json_string("writes are not possible now: nobody leads"));
    if (damage_count(d->blobs->damage))
        json_array_append_new(list,
                              json_sprintf("%zu blobs of this node's store are damaged or cannot be read; "
                                           "a copy of another replica heals them, or a push",
                                           damage_count(d->blobs->damage)));
    if (gc_is_foreign(d->gc))
        json_array_append_new(list,
                              json_string("the store was another cluster's: files that no row names are "
                                          "left (see STATE/store/blobs/.cluster)"));
    daemon_store_warn(d, list);
    services_warn(d->services, list);
    policies_warn(d->policies, list);
    daemon_sources_warn(d, list);
    mirrors_file_warn(d->mirror_rules, list);
    daemon_listen_warn(d, list);
    if (d->notify)
        notify_warn(d->notify, list);
    if (d->mirrors)
        mirrors_warn(d->mirrors, list);
    if (services_probes_per_s(d->services, NULL, 0) >
        setting_effective(&d->settings, SET_KERNEL_PROBES_PER_S, &source))
        json_array_append_new(list, json_string("the checks of all services cost more probes a second than "
                                                "kernel.probes_per_s allows: give them longer intervals"));
    if (d->phase == DAEMON_DRAINING)
        json_array_append_new(list, json_string("the node is draining"));
    return list;
}

void method_status(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct cluster_status state;
    char started[TIME_TEXT_MAX];
    if (!rpc_params(call, params, "{}"))
        return;
    json_t *state_object = state_status(d, &state);
    json_t *result = json_pack("{s:s, s:{s:o, s:o}, s:s, s:o, s:i, s:b}", "version", FL_VERSION, "node", "id",
                               number(state.node_id), "cluster", cluster_id_text(state.cluster_id), "started",
                               journal_time_text(d->start_time_ms, started), "uptime_s",
                               number((journal_now_ms() - d->start_time_ms) / 1000), "pid", (int)getpid(),
                               "ready", state.writable && d->phase == DAEMON_SERVING);
    CHECK(result);
    json_object_set_new(result, "state", state_object);
    json_object_set_new(result, "dataplane", dataplane_status(d));
    json_object_set_new(result, "services", services_status(d));
    json_object_set_new(result, "balancing", service_status(d));
    json_object_set_new(result, "peers", peer_status(d));
    json_object_set_new(result, "addresses", address_status(d));
    if (d->notify)
        json_object_set_new(result, "webhooks", notify_json(d->notify) ?: json_null());
    json_object_set_new(result, "traffic", traffic_status(d));
    json_object_set_new(result, "warnings", warnings(d, &state));
    json_t *store = daemon_disks_json(d, DISK_OF_STORE);
    daemon_store_show(d, store);
    json_object_set_new(result, "store", store);
    json_object_set_new(result, "blobs", blobs_status(d));
    json_object_set_new(result, "repair", daemon_repair_json(d));
    json_object_set_new(result, "gc", gc_json(d));
    json_object_set_new(result, "plan_generation", number(d->generation));
    json_object_set_new(result, "state_dir", json_string(d->config.state_dir));
    json_object_set_new(result, "socket", json_string(d->config.control_socket));
    json_object_set_new(result, "clients", number(server_client_count(d->server)));
    rpc_reply(call, result);
}

void method_version(void *context, struct rpc_call *call, json_t *params)
{
    (void)context;
    if (rpc_params(call, params, "{}"))
        rpc_reply(call, json_pack("{s:s, s:i, s:i}", "version", FL_VERSION, "plan_version", PLAN_VERSION,
                                  "link_version", LINK_VERSION));
}

void method_top(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    if (rpc_params(call, params, "{}"))
        rpc_reply(call, figures_top(server_figures(d->server)));
}

void method_metrics(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    if (!rpc_params(call, params, "{}"))
        return;
    char *text = figures_metrics(server_figures(d->server)), *all = NULL;
    size_t len;
    FILE *out = open_memstream(&all, &len);
    CHECK(out);
    fputs(text, out);
    service_metrics(d, out);
    peer_metrics(d, out);
    if (d->mirrors)
        mirrors_metrics(d->mirrors, out);
    edge_metrics(d, out);
    fclose(out);
    rpc_reply(call, json_pack("{s:s}", "text", all));
    free(text);
    free(all);
}

/* Those that are proxied. */
static json_t *plan_services_json(const struct plan *plan)
{
    json_t *services = json_array();
    for (unsigned i = 0; i < plan->service_count; i++) {
        const struct plan_service *s = plan_service_of(plan, i);
        if (s && s->kind == SERVICE_PROXY)
            json_array_append_new(services,
                                  json_pack("{s:s, s:s, s:i}", "name", s->name, "kind",
                                            svc_kind_name(s->proxy.kind), "backends", (int)s->backend_count));
    }
    return services;
}

void method_plan_show(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const struct plan *plan = d->plan;
    json_t *settings = json_object(), *listeners = json_array();
    if (!plan || !rpc_params(call, params, "{}")) {
        json_decref(settings);
        json_decref(listeners);
        if (!plan)
            rpc_fail(call, RPC_UNAVAILABLE, "ask again", "there is no plan yet");
        return;
    }
    for (int i = 0; i < SETTINGS_COUNT; i++) {
        char text[SETTING_TEXT_MAX];
        setting_format(i, plan->setting[i], text);
        json_object_set_new(settings, setting_info(i)->name, json_string(text));
    }
    for (uint16_t i = 0; i < plan->listener_count; i++) {
        const struct plan_listener *l = plan_listener(plan, i);
        json_array_append_new(listeners, json_pack("{s:s, s:s, s:i, s:i}", "address", l->address, "service",
                                                   plan_service(plan, l->service)->name, "first",
                                                   (int)l->first, "count", (int)l->count));
    }
    struct supervise_status status;
    supervise_status(d->supervise, &status);
    rpc_reply(call, json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "services", plan_services_json(plan),
                              "generation", number(plan->generation), "applied", number(status.plan_applied),
                              "bytes", number(plan->bytes), "listeners", listeners, "settings", settings));
}
