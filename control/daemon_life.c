/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a daemon comes to life and ends. The order of the start is the reverse of the end:
 * journal, user, folders (lock), listeners, shared memory, state, plan, control socket, data plane.
 */
#include "control/daemon_life.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "check.h"
#include "control/certs_store.h"
#include "control/compile/plan_services.h"
#include "control/daemon_adopt.h"
#include "control/daemon_blobs.h"
#include "control/daemon_disks.h"
#include "control/daemon_repair.h"
#include "control/daemon_kernel.h"
#include "control/daemon_listen.h"
#include "control/daemon_mirror.h"
#include "control/daemon_notify.h"
#include "control/daemon_peers.h"
#include "control/daemon_sources.h"
#include "control/daemon_store.h"
#include "control/daemon_gc.h"
#include "control/events.h"
#include "control/jobs.h"
#include "control/gc.h"
#include "control/orphan.h"
#include "control/backup.h"
#include "control/importer.h"
#include "control/nodes.h"
#include "control/mirrors.h"
#include "control/mirrors_declare.h"
#include "control/notify.h"
#include "control/policies.h"
#include "control/pool.h"
#include "control/retention_run.h"
#include "control/services.h"
#include "control/socket/methods.h"
#include "control/socket/server.h"

enum { ERROR_MAX = 512 };

static uint32_t cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set))
        return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : (uint32_t)count;
}

static uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

/* Descriptors that the data plane may come to need, against what it can get. */
static void check_descriptors(struct daemon *d, uint32_t rings)
{
    enum { DESCRIPTORS_BESIDE = 512 };
    enum setting_source source;
    struct rlimit files;
    uint64_t need =
        DESCRIPTORS_BESIDE + rings * (setting_effective(&d->settings, SET_HTTP_CONNECTIONS_MAX, &source) +
                                      setting_effective(&d->settings, SET_STORE_OPEN_FILES, &source));
    if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_max == RLIM_INFINITY || need <= files.rlim_max)
        return;
    journal_warn(
        d->journal, "daemon",
        "the limit of open files is %llu, but http.connections_max and store.open_files of %u rings ask for "
        "%" PRIu64 "; raise LimitNOFILE (or ulimit -Hn), or connections beyond it have to wait",
        (unsigned long long)files.rlim_max, rings, need);
}

static int open_listeners(struct daemon *d, bool shared, char *err)
{
    listeners_init(&d->listeners, (uint16_t)at_most(cpu_count(), LISTENERS_PER_ADDRESS_MAX));
    if (d->adopted.pid)
        listeners_adopt(&d->listeners, d->config.listen, d->config.listen_count, d->adopted.listener_fd);
    for (size_t i = 0; i < d->config.listen_count; i++) {
        int result = listeners_add(&d->listeners, &d->config.listen[i], shared, err, ERROR_MAX);
        if (result) {
            listeners_close(&d->listeners);
            return result;
        }
    }
    return 0;
}

static int open_state(struct daemon *d, char *err)
{
    nodes_name_of_host(d->node_name);
    if (d->config.cluster.name)
        snprintf(d->node_name, sizeof(d->node_name), "%s", d->config.cluster.name);
    const struct cluster_config config = {.loop = &d->loop,
                                          .journal = d->journal,
                                          .dir = d->config.state_dir,
                                          .name = d->node_name,
                                          .net = &d->config.cluster,
                                          .epochs = d->memory.epochs,
                                          .handlers = daemon_cluster_handlers,
                                          .arg = d};
    int result = cluster_open(&config, &d->cluster, err, ERROR_MAX);
    if (result)
        return result;
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    events_log_ends(d->events, status.last_index);
    return cluster_each_setting(d->cluster, daemon_setting_load, d);
}

static int own_uploads(struct daemon *d, char *err)
{
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    const struct folders_node node = {status.node_id, status.cluster_id, d->config.store_shared};
    return folders_own_uploads(&d->folders, &node, &d->user, err, ERROR_MAX);
}

static int send_job(void *arg, uint32_t ring, uint64_t id, const struct frame_job *job)
{
    struct daemon *d = arg;
    struct frame_job order = *job;
    daemon_blobs_order(d, &order);
    return supervise_send_job(d->supervise, ring, id, &order);
}

static int open_supervise(struct daemon *d, char *err)
{
    const struct supervise_config config = {.loop = &d->loop,
                                            .journal = d->journal,
                                            .memory = &d->memory,
                                            .listeners = &d->listeners,
                                            .folders = &d->folders,
                                            .user = &d->user,
                                            .binary = d->config.dataplane_binary,
                                            .names_path = cluster_names_path(d->cluster),
                                            .adopted = &d->adopted,
                                            .handlers = daemon_supervise_handlers,
                                            .arg = d};
    int result = supervise_open(&config, &d->supervise, err, ERROR_MAX);
    if (result)
        return result;
    d->jobs = jobs_new(&(struct jobs_config){send_job, d, d->memory.rings});
    daemon_blobs_open(d);
    return 0;
}

static void on_signal(void *arg, int signum)
{
    struct daemon *d = arg;
    if (signum == SIGHUP) {
        daemon_reload(d);
    } else if (signum == SIGUSR2) {
        daemon_leave(d);
    } else {
        d->restart = false; /* also where it was about to begin anew */
        daemon_stop(d);
    }
}

static void start_timers(struct daemon *d)
{
    uv_timer_init(&d->loop, &d->log_timer);
    uv_timer_init(&d->loop, &d->second_timer);
    d->log_timer.data = d;
    d->second_timer.data = d;
    daemon_listen_open(d);
    uv_timer_start(&d->log_timer, daemon_on_log_timer, DAEMON_LOG_TICK_MS, 0);
    uv_timer_start(&d->second_timer, daemon_on_second_timer, 0, DAEMON_SECOND_MS);
}

/*
 * Listening sockets and shared memory: of the data plane that outlived its control, if there is one and it
 * can be talked to, so that no connect is refused; and the data plane itself, if it can go on.
 */
static int open_shared(struct daemon *d, uint32_t rings, char *err)
{
    const char *why = NULL;
    int met = adopt_meet(&d->folders, &d->user, &d->adopted, &why);
    bool orphan = met && orphan_runs(&d->folders);
    int result = open_listeners(d, orphan, err);
    if (result)
        return result;
    if (met == 0)
        why = daemon_adopt_memory(d, rings);
    if (met == 0 && !why)
        return 0;
    if (met == 0 || orphan) {
        if (met == 0)
            adopt_forget(&d->adopted);
        daemon_replace_orphan(d, why);
    }
    result = shared_memory_open(&d->memory, rings);
    if (!result)
        return 0;
    snprintf(err, ERROR_MAX, "no memory to share with the data plane: %s", strerror(-result));
    listeners_close(&d->listeners);
    return result;
}

/* At start nothing was read before that could be used instead. */
static int load_certificates(struct daemon *d, char *err)
{
    size_t failed;
    (void)daemon_certs_load(d, &d->config.certificates, &failed);
    if (!failed)
        return 0;
    snprintf(err, ERROR_MAX,
             "%zu of the certificates of the configuration cannot be used: see the lines before", failed);
    return -EINVAL;
}

static void on_services_changed(void *arg)
{
    struct daemon *d = arg;
    const struct svc_table *t = services_table(d->services);
    bool proxied = d->proxied && d->proxied->count > 0;
    for (size_t i = 0; i < t->count && !proxied; i++)
        proxied = t->service[i].route == SVC_PROXY;
    if (!proxied) { /* the plan has nothing of them */
        daemon_kernel_update(d);
        return;
    }
    daemon_listen_services(d);
    daemon_publish_plan(d); /* and the kernel is brought up to date */
}

static void open_services(struct daemon *d)
{
    const struct services_config config = {.loop = &d->loop,
                                           .journal = d->journal,
                                           .cluster = d->cluster,
                                           .changed = on_services_changed,
                                           .arg = d};
    struct cluster_status status;
    d->services = services_new(&config);
    cluster_status(d->cluster, &status);
    services_set_nodes(d->services, nodes_table(d->nodes), status.node_id);
    d->policies = policies_new(&d->loop, d->journal, d->cluster);
    d->mirror_rules = mirrors_file_new(&d->loop, d->journal, d->cluster);
}

static const char *node_name(void *arg, uint64_t id)
{
    struct daemon *d = arg;
    const struct node *n = node_find(nodes_table(d->nodes), id);
    return n ? n->name : NULL;
}

/* Who is in the cluster; and replicas come and go: blobs are fetched from them. */
static void on_nodes_changed(void *arg)
{
    struct daemon *d = arg;
    struct cluster_status status;
    cluster_set_nodes(d->cluster, nodes_table(d->nodes));
    if (!d->services || d->phase > DAEMON_SERVING)
        return;
    cluster_status(d->cluster, &status);
    services_set_nodes(d->services, nodes_table(d->nodes), status.node_id);
    (void)daemon_publish_plan(d); /* also of a node alone: whether its own copies count */
}

static void open_nodes(struct daemon *d)
{
    struct nodes_config config = {.loop = &d->loop,
                                  .journal = d->journal,
                                  .cluster = d->cluster,
                                  .self = daemon_self(d),
                                  .changed = on_nodes_changed,
                                  .arg = d};
    d->nodes = nodes_new(&config);
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    events_set_nodes(d->events, &(struct events_nodes){status.node_id, node_name, d});
}

/* What goes on beside everything else, for as long as this node leads. */
static void open_background(struct daemon *d)
{
    enum setting_source source;
    daemon_notify_open(d);
    daemon_mirror_open(d);
    d->retention = retention_open(&d->loop, d->cluster,
                                  setting_effective(&d->settings, SET_REGISTRY_RETENTION_INTERVAL, &source));
    daemon_repair_open(d);
}

/* Everything that needs the locked state. On failure what was opened is closed again. */
static int start_inside(struct daemon *d, char *err)
{
    uint32_t rings = d->config.dataplane_rings ? d->config.dataplane_rings : at_most(cpu_count(), RINGS_MAX);
    int result = load_certificates(d, err);
    if (!result)
        result = open_shared(d, rings, err);
    if (result)
        goto out;
    d->events = events_open(d->journal, d->folders.state_fd);
    result = open_state(d, err);
    if (result)
        goto err_memory;
    if (d->adopted.pid && !daemon_adopted_names(d)) {
        adopt_forget(&d->adopted);
        daemon_replace_orphan(d, "it reads another names file");
        shared_memory_reset_rings(&d->memory);
    }
    daemon_disks_open(d);
    open_nodes(d);
    open_services(d);
    daemon_sources_open(d);
    daemon_listen_begin(d);
    result = own_uploads(d, err);
    daemon_store_open(d); /* in any case: it is freed below */
    if (result)
        goto err_services;
    daemon_publish_plan(d);
    check_descriptors(d, rings);
    result = open_supervise(d, err);
    if (result)
        goto err_services;
    result = server_open(d, &d->server, err, ERROR_MAX);
    if (result)
        goto err_supervise;
    d->importer = importer_new(&d->loop, &d->folders, &d->user);
    daemon_gc_open(d);
    d->backup = backup_new(&d->loop, d->cluster, d->folders.state_fd, d->folders.blobs_fd);
    open_background(d);
    return 0;
err_supervise:
    daemon_blobs_close(d);
    jobs_free(d->jobs);
    supervise_close(d->supervise);
err_services:
    daemon_sources_close(d);
    services_close(d->services);
    policies_close(d->policies);
    mirrors_file_close(d->mirror_rules);
    nodes_close(d->nodes);
    if (d->cluster)
        cluster_close(d->cluster, NULL, NULL);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    services_free(d->services);
    policies_free(d->policies);
    daemon_sources_free(d);
    mirrors_file_free(d->mirror_rules);
    nodes_free(d->nodes);
    daemon_disks_free(d);
    daemon_store_free(d);
err_memory:
    events_close(d->events);
    shared_memory_close(&d->memory);
    listeners_close(&d->listeners);
out:
    adopt_forget(&d->adopted);
    return result;
}

static int start(struct daemon *d)
{
    char err[ERROR_MAX] = "";
    const struct config *c = &d->config;
    int result = dataplane_user_find(c->dataplane_user, &d->user, err, sizeof(err));
    if (!result)
        result =
            dataplane_user_groups(&d->user, c->dataplane_group, c->dataplane_group_count, err, sizeof(err));
    if (!result)
        result = folders_open(&d->folders, c->state_dir, c->run_dir, &d->user, err, sizeof(err));
    if (result)
        goto out;
    result = store_id_open(&d->folders, d->config.store_shared, &d->store, err, sizeof(err));
    if (result)
        goto err_folders;
    result = start_inside(d, err);
    if (!result) {
        store_id_remember(&d->folders, &d->store);
        return 0;
    }
    store_id_close(&d->store);
err_folders:
    folders_close(&d->folders);
out:
    journal_error(d->journal, "daemon", "%s", err[0] ? err : strerror(-result));
    return result;
}

static void on_importer_stopped(void *arg)
{
    daemon_end_state(arg);
}

static void on_backup_stopped(void *arg)
{
    struct daemon *d = arg;
    d->end.backup_stopped = true;
    importer_stop(d->importer, on_importer_stopped, d);
}

void daemon_life_close(struct daemon *d)
{
    d->phase = DAEMON_CLOSING;
    daemon_end_begin(d);
    daemon_kernel_close(d);
    services_close(d->services);
    policies_close(d->policies);
    mirrors_file_close(d->mirror_rules);
    nodes_close(d->nodes);
    while (daemon_drain_logs(d)) /* pulls of which webhooks want to know: to the disk */
        continue;
    notify_close(d->notify);
    d->notify = NULL;
    daemon_sources_close(d);
    mirrors_close(d->mirrors);
    d->mirrors = NULL;
    retention_close(d->retention);
    d->retention = NULL;
    daemon_repair_close(d);
    daemon_disks_close(d);
    daemon_store_close(d);
    gc_close(d->gc);
    while (daemon_drain_logs(d))
        continue;
    uv_close((uv_handle_t *)&d->log_timer, NULL);
    uv_close((uv_handle_t *)&d->second_timer, NULL);
    daemon_listen_close(d);
    supervise_close(d->supervise);
    method_blobs_stop(d);
    server_close(d->server);
    backup_stop(d->backup, on_backup_stopped, d);
}

static void finish(struct daemon *d)
{
    daemon_repair_free(d);
    daemon_disks_free(d);
    daemon_store_free(d);
    daemon_blobs_close(d);
    jobs_free(d->jobs);
    gc_free(d->gc);
    services_free(d->services);
    policies_free(d->policies);
    daemon_sources_free(d);
    mirrors_file_free(d->mirror_rules);
    nodes_free(d->nodes);
    events_close(d->events);
    shared_memory_close(&d->memory);
    listeners_close(&d->listeners);
    adopt_forget(&d->adopted);
    store_id_close(&d->store);
    folders_close(&d->folders);
}

/* What the file says of them, and the kernel half. */
static void begin_services(struct daemon *d)
{
    if (d->config_path) {
        services_declare(d->services, &d->config.services);
        policies_declare(d->policies, &d->config.policies);
        daemon_sources_declare(d);
        mirrors_declare(d->mirror_rules, &d->config.mirrors);
    }
    daemon_kernel_open(d); /* loads what the file is about to need with the first load */
}

/* Whether the rings would find all that anybody was told of. */
static bool names_are_fresh(const struct daemon *d)
{
    uint64_t until = atomic_load(&d->memory.epochs->fresh_until_ms);
    return until == NAMES_FRESH_ALWAYS || until > uv_hrtime() / 1000000;
}

/* Who does not answer for names is promised nothing about them: it has heard from the leader, or not. */
static bool is_up_to_date(const struct daemon *d)
{
    struct cluster_status status;
    const struct node *self = daemon_node(d);
    cluster_status(d->cluster, &status);
    return names_are_fresh(d) || (self && self->role == NODE_WORKER && !self->replica && status.leader_id);
}

/*
 * A node that comes back has old names until it has heard from the leader. Connects wait in the listening
 * sockets for that; but not for ever, since pulls are to go on where there is no leader.
 */
static void start_dataplane_late(struct daemon *d)
{
    uint64_t end_ms = uv_hrtime() / 1000000 + DAEMON_LEASE_WAIT_MS;
    while (d->phase == DAEMON_STARTING && !is_up_to_date(d) && uv_hrtime() / 1000000 < end_ms)
        uv_run(&d->loop, UV_RUN_ONCE); /* the timers of the log end it */
    if (d->phase != DAEMON_STARTING)
        return;
    if (!is_up_to_date(d))
        journal_warn(d->journal, "daemon",
                     "no leader answers: what there is here is served, and marked as possibly old");
    d->started_ms = uv_now(&d->loop);
    supervise_start(d->supervise);
}

/* Runs a started daemon to its end. */
static void run(struct daemon *d)
{
    d->started_ms = uv_now(&d->loop);
    d->start_time_ms = journal_now_ms();
    journal_info(d->journal, "daemon", "fairleadd %s starts: state %s, control socket %s", FL_VERSION,
                 d->config.state_dir, d->config.control_socket);
    for (size_t i = 0; i < d->config.listen_count; i++)
        journal_info(d->journal, "daemon", "%s listens on %s",
                     daemon_service_name(d->config.listen[i].service), d->config.listen[i].text);
    bool late = !d->adopted.pid && !names_are_fresh(d);
    start_timers(d);
    if (!late)
        supervise_start(d->supervise);
    begin_services(d);
    if (late)
        start_dataplane_late(d);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    daemon_end_finish(d);
    finish(d);
    journal_info(d->journal, "daemon", "stopped");
}

int daemon_run(struct daemon *d, struct config *config, const char *config_path, bool greet)
{
    const char *failed;
    memset(d, 0, sizeof(*d));
    d->config = *config;
    d->config_path = config_path;
    d->settings.file = config->settings;
    d->greet = greet;
    umask(0027);
    signal(SIGPIPE, SIG_IGN);
    int err = journal_open(d->config.log_access, d->config.log_error, &d->journal, &failed);
    if (err) {
        fprintf(stderr, "fairleadd: cannot open the log %s: %s; make its folder, or write another path\n",
                failed, strerror(-err));
        config_fini(&d->config);
        return 1;
    }
    d->certs = certs_open(d->journal);
    pool_open();
    CHECK(uv_loop_init(&d->loop) == 0);
    /* Before everything else, so that a signal in the middle of the start is answered when it is done. */
    CHECK(signals_open(&d->signals, &d->loop, on_signal, d) == 0);
    if (start(d)) {
        d->exit_code = 1;
        signals_close(&d->signals);
        uv_run(&d->loop, UV_RUN_DEFAULT);
    } else {
        run(d);
    }
    CHECK(uv_loop_close(&d->loop) == 0);
    free(d->plan);
    certs_close(d->certs);
    plan_services_free(d->proxied);
    daemon_listen_free(d);
    journal_close(d->journal);
    config_fini(&d->config);
    return d->exit_code;
}
