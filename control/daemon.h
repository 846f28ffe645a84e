/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon: everything that one running fairleadd owns, and what the control socket may ask of it.
 */
#ifndef FL_CONTROL_DAEMON_H
#define FL_CONTROL_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "control/adopt.h"
#include "control/cluster.h"
#include "control/config.h"
#include "control/daemon_end.h"
#include "control/folders.h"
#include "control/listeners.h"
#include "control/journal.h"
#include "control/log_drain.h"
#include "control/settings.h"
#include "control/signals.h"
#include "control/store_id.h"
#include "control/shared_memory.h"
#include "control/supervise.h"
#include "plan.h"

struct server;
struct events;
struct daemon_kernel;
struct certs_store;
struct services;
struct policies;
struct nodes;
struct backup;
struct jobs;
struct importer;
struct notify;
struct mirrors;
struct mirrors_file;
struct retention_runs;
struct daemon_blobs;
struct daemon_repair;
struct daemon_disks;
struct source_passes;
struct gc;
struct source_ways;
struct node_sources;

enum {
    DAEMON_LOG_TICK_MS = 50,   /* how often the log rings are drained ... */
    DAEMON_LOG_BUSY_MS = 5,    /* ... while they are busy */
    DAEMON_LOG_RECORDS = 4096, /* of one ring at a time */
    DAEMON_SECOND_MS = 1000,
    DAEMON_LEASE_WAIT_MS = 5000,   /* for a leader, before what is here is served as it is */
    DAEMON_START_TRIES_MS = 10000, /* a data plane that never served is given up after this */
    DAEMON_ORPHAN_WAIT_MS = 10000,
    DAEMON_READERS_WAIT_MS =
        5000, /* for the rings of a data plane that is taken over to end their readings */
};

enum { LISTEN_WHY_MAX = 400 };

/* An address of which something could not be had, and why. */
struct listen_failure {
    char address[ADDRESS_TEXT_MAX];
    char why[LISTEN_WHY_MAX];
};

struct listen_failures {
    struct listen_failure *row;
    size_t count;
};

/* The files of STATE/pki on their way to the data plane. */
struct daemon_pki {
    uint64_t wanted;  /* serial of the newest files */
    uint64_t serial;  /* of those that were handed over */
    uint64_t plan;    /* when this plan is applied, the data plane has them */
    uint64_t applied; /* the newest plan that was */
    unsigned waited_s;
};

enum daemon_phase { DAEMON_STARTING, DAEMON_SERVING, DAEMON_DRAINING, DAEMON_CLOSING };

struct daemon {
    uv_loop_t loop;
    const char *config_path; /* NULL: none */
    struct config config;
    struct journal *journal;
    struct dataplane_user user;
    struct folders folders;
    struct store_id store;
    struct listeners listeners;
    struct adopted adopted; /* the data plane of an earlier control, as it was met */
    struct listen_failures listen_failures, undelivered; /* daemon_listen.c */
    bool routing;                                        /* routes to services are wanted */
    size_t lingering; /* routes that are kept for connections to services that have gone */
    struct shared_memory memory;
    struct log_drain drains[RINGS_MAX];
    struct cluster *cluster;
    struct supervise *supervise;
    struct server *server;
    struct events *events;
    struct services *services;
    struct policies *policies;
    struct nodes *nodes;
    struct backup *backup;
    struct jobs *jobs;
    struct importer *importer;
    struct notify *notify;
    struct mirrors *mirrors;
    struct mirrors_file *mirror_rules; /* of the configuration file */
    struct retention_runs *retention;
    struct node_sources *sources; /* daemon_sources.h */
    struct source_passes *passes;
    struct source_ways *ways;
    struct daemon_blobs *blobs;      /* daemon_blobs.h */
    struct daemon_repair *repair;    /* daemon_repair.h */
    struct daemon_disks *disks;      /* daemon_disks.h */
    struct daemon_store *store_work; /* daemon_store.h */
    struct gc *gc;
    bool has_pki;                  /* as seen last: STATE/pki is there */
    struct daemon_pki pki;         /* daemon_peers.c */
    struct plan_services *proxied; /* those of the newest plan */
    struct certs_store *certs;
    struct daemon_kernel *kernel_half; /* daemon_kernel.h */
    struct setting_layers settings;
    struct plan *plan;   /* the newest one; from malloc, NULL before the first */
    uint64_t generation; /* of it, or of the last one of the control before */
    enum daemon_phase phase;
    bool refusing; /* writes, for want of room or of a disk that works; said so in the log */
    char node_name[NODE_NAME_MAX + 1];
    bool restart; /* the process is to begin anew when it has ended: this host is another node then */
    bool greet;   /* tell on standard output where things are, once they are */
    int exit_code;
    uint64_t started_ms;    /* of the loop's clock */
    uint64_t start_time_ms; /* UTC */
    struct signals signals;
    uv_timer_t log_timer, second_timer, leave_timer;
    struct daemon_end end;
};

/* Runs until it is told to stop. Takes config. Returns the exit code of the process. */
int daemon_run(struct daemon *d, struct config *config, const char *config_path, bool greet);

/* Compiles a plan from what holds now and hands it to the data plane. Returns its generation. */
uint64_t daemon_publish_plan(struct daemon *d);

/* Of an address that is not a service's of the state: for people. */
const char *daemon_service_name(enum service_kind kind);

/* Hands the certificates, as they were read last, to the data plane. */
void daemon_publish_certs(struct daemon *d);

/* Proposes a command as the daemon's own: takes cmd. */
void daemon_propose(struct daemon *d, void *cmd, size_t len, cluster_done done, void *arg);

/* As SIGTERM does. */
void daemon_stop(struct daemon *d);

/* As SIGUSR2 does: stops control alone. */
void daemon_leave(struct daemon *d);

#endif
