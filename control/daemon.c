/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens in a running daemon: plans are published, logs are drained, figures are shown, signals are
 * answered. How it comes to life and ends is in daemon_life.c.
 */
#include "control/daemon.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/certs_store.h"
#include "control/compile/plan_services.h"
#include "control/daemon_blobs.h"
#include "control/daemon_disks.h"
#include "control/daemon_repair.h"
#include "control/daemon_gc.h"
#include "control/daemon_kernel.h"
#include "control/daemon_life.h"
#include "control/daemon_listen.h"
#include "control/daemon_peers.h"
#include "control/daemon_sources.h"
#include "control/daemon_store.h"
#include "control/events.h"
#include "control/jobs.h"
#include "control/mirrors.h"
#include "control/mirrors_declare.h"
#include "control/nodes.h"
#include "control/notify.h"
#include "control/policies.h"
#include "control/retention_run.h"
#include "control/services.h"
#include "control/socket/server.h"

static uint16_t place_of(const struct config_address *address)
{
    if (address->service == SERVICE_PROXY)
        return address->place;
    return address->service == SERVICE_ADMIN  ? PLAN_PLACE_ADMIN
           : address->service == SERVICE_PEER ? PLAN_PLACE_PEER
                                              : PLAN_PLACE_REGISTRY;
}

/* Whether the plan says what the group serves. Those that an earlier control left behind are in no plan, and
 * of a service that has gone its place may be another one's already. */
static bool has_place(const struct daemon *d, const struct listener_group *group)
{
    if (group->address.service != SERVICE_PROXY)
        return group->address.service != 0;
    for (size_t i = 0; i < d->proxied->count; i++)
        if (d->proxied->proxied[i].place == group->address.place)
            return !group->leaving;
    return false;
}

static void compile_services(struct daemon *d)
{
    enum setting_source source;
    struct plan_facts facts = {
        .backends_max = (uint32_t)setting_effective(&d->settings, SET_KERNEL_BACKENDS_MAX, &source)};
    facts.peer = services_peers(d->services, &facts.peer_count);
    struct plan_services *next = plan_services_compile(services_table(d->services), &facts, d->proxied);
    plan_services_free(d->proxied);
    d->proxied = next;
}

static void effective_settings(const struct daemon *d, uint64_t out[SETTINGS_COUNT])
{
    enum setting_source source;
    for (int i = 0; i < SETTINGS_COUNT; i++)
        out[i] = setting_effective(&d->settings, i, &source);
}

/* What is in it was checked when it was read, so only memory can be missing. */
static int compile_plan(struct daemon *d, uint64_t generation, struct plan **out)
{
    struct plan_address addresses[PLAN_LISTENERS_MAX];
    struct plan_source sources[PLAN_SOURCES_MAX];
    uint64_t settings[SETTINGS_COUNT];
    struct cluster_status status;
    const char *why;
    effective_settings(d, settings);
    cluster_status(d->cluster, &status);
    uint16_t count = 0;
    compile_services(d);
    struct plan_peers *peers = daemon_peers(d);
    struct daemon_members members = daemon_members(d);
    size_t proxied_count;
    struct plan_proxied *proxied = daemon_proxied(d, peers, &proxied_count);
    for (uint16_t i = 0; i < d->listeners.group_count; i++) {
        const struct listener_group *group = &d->listeners.group[i];
        if (!has_place(d, group))
            continue;
        addresses[count] = (struct plan_address){.text = group->address.text,
                                                 .place = place_of(&group->address),
                                                 .allow_all = group->address.allow_all ||
                                                              config_address_is_loopback(&group->address),
                                                 .first = group->first,
                                                 .count = group->count,
                                                 .tls = &group->address.tls};
        count++;
    }
    struct plan_input input = {.generation = generation,
                               .node_id = status.node_id,
                               .copies = daemon_copies(d),
                               .setting = settings,
                               .address = addresses,
                               .address_count = count,
                               .proxied = proxied,
                               .proxied_count = proxied_count,
                               .name = d->proxied->name,
                               .name_count = d->proxied->name_count,
                               .source = sources,
                               .source_count = daemon_sources(d, peers, sources),
                               .member = members.id,
                               .member_count = members.count,
                               .next_node = members.next,
                               .store_closed = daemon_disks_store_is_gone(d)};
    memcpy(input.cluster_id, status.cluster_id, sizeof(input.cluster_id));
    int err = plan_compile(&input, out, &why);
    CHECK(err == 0 || err == -ENOMEM);
    plan_peers_free(peers);
    free(proxied);
    free(members.id);
    return err;
}

/* Settings that control itself goes by. */
static void apply_own_settings(struct daemon *d)
{
    enum setting_source source;
    journal_set_rate(d->journal, setting_effective(&d->settings, SET_LOG_RATE, &source));
    /* Lines that nobody writes need not be made. */
    bool access =
        setting_effective(&d->settings, SET_LOG_ACCESS, &source) && strcmp(d->config.log_access, "none") != 0;
    atomic_store(&d->memory.log->access_on, access);
    cluster_set_snapshot_entries(d->cluster,
                                 setting_effective(&d->settings, SET_STATE_SNAPSHOT_ENTRIES, &source));
    cluster_set_certificate_life(d->cluster,
                                 setting_effective(&d->settings, SET_CLUSTER_CERTIFICATE_LIFE, &source));
    if (d->retention)
        retention_set_interval(d->retention,
                               setting_effective(&d->settings, SET_REGISTRY_RETENTION_INTERVAL, &source));
    daemon_kernel_update(d);
}

/* Whether a service checks its backends with the system's CAs. */
static bool trusts_system(const struct plan *plan)
{
    for (uint32_t i = 0; i < plan->service_count; i++) {
        const struct plan_proxy *p = &plan_service(plan, i)->proxy;
        if (p->backend_tls && p->backend_verify && !p->backend_ca[0])
            return true;
    }
    return false;
}

uint64_t daemon_publish_plan(struct daemon *d)
{
    struct plan *plan;
    int fd = compile_plan(d, d->generation + 1, &plan);
    if (fd == 0) {
        free(d->plan);
        d->plan = plan;
        d->generation = plan->generation;
        if (certs_want_system(d->certs, trusts_system(plan)))
            daemon_publish_certs(d);
    }
    apply_own_settings(d);
    if (!d->supervise)
        return d->generation;
    if (fd == 0)
        fd = shared_memory_seal_plan(d->plan);
    if (fd < 0)
        journal_error(d->journal, "plan", "a plan could not be made: %s; the old one stays", strerror(-fd));
    else
        supervise_send_plan(d->supervise, fd, d->generation);
    return d->generation;
}

void daemon_publish_certs(struct daemon *d)
{
    uint64_t generation;
    daemon_kernel_certs(d);
    int fd = d->supervise ? certs_seal(d->certs, &generation) : -ENOENT;
    if (fd >= 0)
        supervise_send_certs(d->supervise, fd, generation);
    else if (fd != -ENOENT)
        journal_error(d->journal, "certificates", "certificates could not be handed over: %s", strerror(-fd));
}

void daemon_propose(struct daemon *d, void *cmd, size_t len, cluster_done done, void *arg)
{
    cluster_propose(d->cluster, cmd, len, done, arg);
}

/* What supervise asks for and tells. */

static int on_plan_wanted(void *arg, uint64_t *generation)
{
    struct daemon *d = arg;
    if (!d->plan)
        return -ENOMEM;
    *generation = d->generation;
    return shared_memory_seal_plan(d->plan);
}

static int on_certs_wanted(void *arg, uint64_t *generation)
{
    struct daemon *d = arg;
    return certs_seal(d->certs, generation);
}

static void on_propose(void *arg, void *cmd, size_t len, channel_done done, void *done_arg)
{
    struct daemon *d = arg;
    cluster_propose(d->cluster, cmd, len, done, done_arg);
}

/* The folder of this program: the command line is installed or built beside it, or found by the PATH. */
static void command_path(char *out, size_t cap)
{
    char own[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", own, sizeof(own) - 1);
    own[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(own, '/');
    if (slash)
        *slash = '\0';
    snprintf(out, cap, "%s/fairlead", own);
    if (!slash || access(out, X_OK))
        snprintf(out, cap, "fairlead");
}

/* The other terminal may stand in another folder. */
static const char *full_path(const char *path, char out[PATH_MAX])
{
    return realpath(path, out) ? out : path;
}

const char *daemon_service_name(enum service_kind kind)
{
    return kind == SERVICE_ADMIN ? "admin" : kind == SERVICE_PEER ? "peer" : "registry";
}

/* For who starts it by hand. */
static void greet(struct daemon *d)
{
    const char *registry = d->config.listen[0].text;
    char command[PATH_MAX + 16], state[PATH_MAX], socket[PATH_MAX];
    command_path(command, sizeof(command));
    d->greet = false;
    printf("Fairlead %s is ready.\n\n", FL_VERSION);
    for (uint16_t i = 0; i < d->listeners.group_count; i++)
        if (d->listeners.group[i].address.service != SERVICE_PROXY)
            printf("  %-9s %s://%s\n", daemon_service_name(d->listeners.group[i].address.service),
                   d->listeners.group[i].address.tls.mode ? "https" : "http",
                   d->listeners.group[i].address.text);
    printf("  state     %s\n  socket    %s\n\nTry this in another terminal:\n",
           full_path(d->config.state_dir, state), full_path(d->config.control_socket, socket));
    printf("  skopeo copy --dest-tls-verify=false docker://docker.io/library/alpine docker://%s/alpine\n",
           registry);
    printf("  curl http://%s/v2/_catalog\n", registry);
    printf("  %s --socket %s status --watch\n\nCtrl-C drains and stops.\n", command,
           full_path(d->config.control_socket, socket));
    fflush(stdout);
}

static void on_ready(void *arg)
{
    struct daemon *d = arg;
    if (d->phase == DAEMON_STARTING)
        d->phase = DAEMON_SERVING;
    if (d->greet)
        greet(d);
    events_note(d->events, "dataplane.ready", "the data plane serves");
    jobs_ready(d->jobs);
}

static void on_job_done(void *arg, uint64_t id, enum job_result result, uint64_t detail)
{
    struct daemon *d = arg;
    jobs_answer(d->jobs, id, result, detail);
}

static void on_damaged(void *arg, const struct digest *digest, uint64_t bytes)
{
    struct daemon *d = arg;
    (void)bytes; /* of what is not the blob */
    daemon_blobs_found(d, digest, UINT64_MAX, JOB_DAMAGED);
}

static void on_adopted(void *arg, uint64_t node, uint64_t bytes, const char *repo, size_t repo_len)
{
    struct daemon *d = arg;
    events_upload(d->events, node, bytes, repo, repo_len);
}

static void on_pass_wanted(void *arg, const struct channel_pass *wanted, channel_pass_done done,
                           void *done_arg)
{
    daemon_source_pass(arg, wanted, done, done_arg);
}

static void on_way_wanted(void *arg, const struct channel_way *wanted, channel_way_done done, void *done_arg)
{
    daemon_source_way(arg, wanted, done, done_arg);
}

static void on_plan_applied(void *arg, uint64_t generation)
{
    struct daemon *d = arg;
    server_plan_applied(d->server, generation);
    daemon_pki_applied(d, generation);
    daemon_sources_applied(d, generation);
}

static void on_dataplane_failed(void *arg, unsigned failures, bool ever_ready, bool forbidden)
{
    struct daemon *d = arg;
    events_note(d->events, "dataplane.failed", "the data plane ended and is started again");
    if (ever_ready || (!forbidden && uv_now(&d->loop) - d->started_ms < DAEMON_START_TRIES_MS))
        return;
    journal_error(d->journal, "daemon",
                  "the data plane could not be started in %u tries; giving up: see the lines "
                  "before this one",
                  failures);
    d->exit_code = 1;
    daemon_stop(d);
}

static void on_dataplane_stopped(void *arg)
{
    daemon_life_close(arg);
}

const struct supervise_handlers daemon_supervise_handlers = {
    .plan = on_plan_wanted,
    .certs = on_certs_wanted,
    .propose = on_propose,
    .job_done = on_job_done,
    .damaged = on_damaged,
    .adopted = on_adopted,
    .pass_wanted = on_pass_wanted,
    .way_wanted = on_way_wanted,
    .ready = on_ready,
    .plan_applied = on_plan_applied,
    .failed = on_dataplane_failed,
    .stopped = on_dataplane_stopped,
};

/* Timers. */

static void on_record(void *arg, unsigned kind, const char *body, size_t len)
{
    struct daemon *d = arg;
    switch (kind) {
    case LOG_ACCESS_LINE:
        journal_access_line(d->journal, body, len);
        break;
    case LOG_ERROR_LINE:
        journal_error_line(d->journal, body, len);
        break;
    case LOG_TRACE_LINE:
        server_trace_line(d->server, body, len);
        break;
    case LOG_PULL:
        if (d->notify)
            notify_pull(d->notify, body, len);
        break;
    default:
        break;
    }
}

/* Returns whether a ring had more than its share. */
bool daemon_drain_logs(struct daemon *d)
{
    bool busy = false;
    for (uint32_t i = 0; i < d->memory.rings; i++) {
        uint64_t breaches = d->drains[i].breaches;
        size_t n = log_drain_ring(&d->drains[i], &d->memory.log->ring[i], DAEMON_LOG_RECORDS, on_record, d);
        busy |= n >= DAEMON_LOG_RECORDS / 16;
        if (d->drains[i].breaches != breaches)
            journal_error(d->journal, "log", "the log ring of ring %u made no sense; lines are lost", i);
    }
    return busy;
}

void daemon_on_log_timer(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    uint64_t next_ms = daemon_drain_logs(d) ? DAEMON_LOG_BUSY_MS : DAEMON_LOG_TICK_MS;
    uv_timer_start(timer, daemon_on_log_timer, next_ms, 0);
}

static void say_whether_writable(struct daemon *d, const struct cluster_status *status)
{
    bool refusing = status->leads && !status->writable;
    if (refusing && !d->refusing)
        journal_error(
            d->journal, "state",
            "the disk of %s is full, or refuses writes: pushes are refused, pulls go on; it is tried "
            "again until it works",
            d->config.state_dir);
    else if (d->refusing && !refusing)
        journal_info(d->journal, "state", "the state's disk takes writes again");
    d->refusing = refusing;
}

static void publish_figures(struct daemon *d)
{
    struct control_counters *out = &d->memory.counters->control;
    struct cluster_status status;
    struct supervise_status dataplane;
    cluster_status(d->cluster, &status);
    supervise_status(d->supervise, &dataplane);
    say_whether_writable(d, &status);
    daemon_gc_figures(d);
    const struct {
        _Atomic uint64_t *to;
        uint64_t value;
    } rows[] = {
        {&out->raft_term, status.term},
        {&out->raft_last_index, status.last_index},
        {&out->raft_commit_index, status.commit_index},
        {&out->raft_applied_index, status.applied_index},
        {&out->raft_is_leader, status.leads},
        {&out->raft_log_bytes, status.log_bytes},
        {&out->raft_silence_ms, status.silence_ms},
        {&out->raft_snapshot_index, status.snapshot_index},
        {&out->raft_proposals, status.proposals},
        {&out->raft_fsyncs, status.fsyncs},
        {&out->raft_fsync_us_sum, status.fsync_us_sum},
        {&out->names_bytes, status.names_bytes},
        {&out->private_bytes, status.private_bytes},
        {&out->dataplane_restarts, dataplane.restarts},
        {&out->plan_generation, d->generation},
        {&out->start_time_s, d->start_time_ms / 1000},
        {&out->mesh_others, status.others},
        {&out->mesh_connected, status.connected},
        {&out->mesh_followers, status.followers},
        {&out->ready, status.writable && d->phase <= DAEMON_SERVING},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        atomic_store_explicit(rows[i].to, rows[i].value, memory_order_relaxed);
    uint64_t count;
    for (unsigned i = 0; i < MESH_ENDS_COUNT && cluster_mesh_reason(d->cluster, i, &count); i++)
        atomic_store_explicit(&out->mesh_ended[i], count, memory_order_relaxed);
    for (unsigned i = 0; cluster_elections(d->cluster, i, &count); i++)
        atomic_store_explicit(&out->raft_elections[i], count, memory_order_relaxed);
}

void daemon_on_second_timer(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    publish_figures(d);
    journal_tick(d->journal);
    events_tick(d->events);
    server_tick(d->server);
    daemon_kernel_tick(d);
    daemon_listen_tick(d);
    daemon_peers_tick(d);
    daemon_sources_tick(d);
    daemon_disks_tick(d);
    daemon_blobs_tick(d);
    daemon_repair_tick(d);
    daemon_store_tick(d);
    if (d->mirrors)
        mirrors_publish(d->mirrors, &d->memory.counters->control);
    if (d->notify)
        notify_publish(d->notify, &d->memory.counters->control);
    if (certs_tick(d->certs))
        daemon_publish_certs(d);
}

/* Signals. */

static bool text_differs(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") != 0;
}

static bool groups_differ(const struct config *old, const struct config *next)
{
    if (old->dataplane_group_count != next->dataplane_group_count)
        return true;
    for (size_t i = 0; i < next->dataplane_group_count; i++)
        if (strcmp(old->dataplane_group[i], next->dataplane_group[i]) != 0)
            return true;
    return false;
}

static void warn_needs_restart(struct daemon *d, const struct config *next)
{
    const struct config *old = &d->config;
    const struct {
        const char *key;
        bool differs;
    } rows[] = {
        {"state", text_differs(old->state_dir, next->state_dir)},
        {"run", text_differs(old->run_dir, next->run_dir)},
        {"control.socket", text_differs(old->control_socket, next->control_socket)},
        {"control.group", text_differs(old->control_group, next->control_group)},
        {"dataplane.user", text_differs(old->dataplane_user, next->dataplane_user)},
        {"dataplane.binary", text_differs(old->dataplane_binary, next->dataplane_binary)},
        {"dataplane.rings", old->dataplane_rings != next->dataplane_rings},
        {"dataplane.groups", groups_differ(old, next)},
        {"store.shared", old->store_shared != next->store_shared},
        {"log.access", text_differs(old->log_access, next->log_access)},
        {"log.error", text_differs(old->log_error, next->log_error)},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (rows[i].differs)
            journal_warn(d->journal, "reload", "a new %s counts from the next start of fairleadd",
                         rows[i].key);
}

/* Before the plan that names them. */
static void reload_certificates(struct daemon *d, struct config *next)
{
    struct config_certificates before = d->config.certificates;
    size_t failed;
    if (daemon_certs_load(d, &next->certificates, &failed))
        daemon_publish_certs(d);
    d->config.certificates = next->certificates;
    next->certificates = before;
}

void daemon_reload(struct daemon *d)
{
    struct config next;
    struct config_report report = {0};
    journal_reopen(d->journal);
    if (!d->config_path || d->phase > DAEMON_SERVING)
        return;
    config_init(&next, d->config.state_dir);
    if (config_read(&next, d->config_path, &report) || config_fill_paths(&next, geteuid() == 0)) {
        for (size_t i = 0; i < report.count; i++)
            journal_error(d->journal, "reload", "%s", report.lines[i]);
        journal_error(d->journal, "reload", "the configuration was not changed");
    } else {
        warn_needs_restart(d, &next);
        daemon_cluster_reload(d, &next);
        reload_certificates(d, &next);
        d->settings.file = next.settings;
        daemon_sources_reload(d, &next);
        daemon_listen_reload(d, &next);
        services_declare(d->services, &next.services);
        policies_declare(d->policies, &next.policies);
        mirrors_declare(d->mirror_rules, &next.mirrors);
        journal_info(d->journal, "reload", "the configuration was read again; plan %" PRIu64,
                     daemon_publish_plan(d));
    }
    config_report_fini(&report);
    config_fini(&next);
}

void daemon_stop(struct daemon *d)
{
    enum setting_source source;
    if (d->phase == DAEMON_CLOSING)
        return;
    if (d->phase == DAEMON_DRAINING) {
        supervise_stop(d->supervise, 0);
        return;
    }
    d->phase = DAEMON_DRAINING;
    uint64_t timeout_ms = setting_effective(&d->settings, SET_HTTP_DRAIN_TIMEOUT, &source);
    journal_info(d->journal, "daemon", "stopping: requests that run have %" PRIu64 " ms to finish",
                 timeout_ms);
    publish_figures(d);
    /* The data plane has its own descriptors; with these gone, its closing them refuses new connections. */
    listeners_close(&d->listeners);
    supervise_stop(d->supervise, timeout_ms);
}

void daemon_leave(struct daemon *d)
{
    if (d->phase != DAEMON_SERVING)
        return;
    d->phase = DAEMON_DRAINING;
    publish_figures(d);
    if (supervise_leave(d->supervise))
        return;
    d->phase = DAEMON_SERVING;
    journal_warn(d->journal, "daemon", "there is no data plane that could serve on alone; nothing was done");
}
