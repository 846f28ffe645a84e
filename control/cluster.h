/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one place where the daemon talks to the replicated state: commands in, events out, and reads of what is
 * applied here.
 */
#ifndef FL_CONTROL_CLUSTER_H
#define FL_CONTROL_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "cmd.h"
#include "control/state/node_state.h"
#include "control/state/state.h"
#include "names.h"

struct cluster;
struct config_cluster;
struct journal;
struct verdict_frame;
struct verdict_row;

typedef void (*cluster_done)(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                             size_t detail_len);

struct cluster_handlers {
    void (*event)(void *arg, const struct state_event *event);
    void (*fatal)(void *arg, const char *why);
    void (*reader_stuck)(void *arg, unsigned ring);
    /* The whole state is another one: a snapshot of another node was put in its place. */
    void (*restored)(void *arg);
    /* This node's certificate or its CAs have changed (STATE/pki): cluster_certificates_taken(serial), once
     * whoever uses them has the new ones. May be NULL. */
    void (*certificates)(void *arg, uint64_t serial);
    /* The manager that this node follows tells verdicts; NULL: there is no connection with it any more. May
     * be NULL. */
    void (*verdicts)(void *arg, const struct verdict_frame *frame);
};

struct cluster_config {
    uv_loop_t *loop;
    struct journal *journal;
    const char *dir;                  /* of the state */
    const char *name;                 /* of this node */
    const struct config_cluster *net; /* where it listens for other nodes; NULL: nowhere. Borrowed. */
    struct names_epochs *epochs;
    struct cluster_handlers handlers;
    void *arg;
};

struct cluster_status {
    bool leads, writable;
    bool room; /* the state's disk takes writes, and has room for them */
    uint8_t cluster_id[16];
    uint64_t node_id, leader_id; /* 0: nobody leads, as far as is known here */
    bool alone;                  /* it listens for no other nodes */
    size_t others, connected;    /* nodes that it is to be connected with, and is */
    size_t followers;            /* nodes that follow the log here */
    uint64_t term, last_index, commit_index, applied_index, snapshot_index;
    uint64_t log_bytes, proposals, fsyncs, fsync_us_sum, names_bytes, private_bytes;
    unsigned silence_ms; /* a leader that says nothing for so long is followed by another one */
    uint64_t index_rows; /* of the names' index, while it is made anew */
    bool index_whole;
};

/* 0 or -errno with a message. Everything committed so far is applied when it returns. */
int cluster_open(const struct cluster_config *config, struct cluster **out, char *err, size_t err_len);

/*
 * Takes cmd (malloc'd); done comes exactly once. On a node that does not lead the leader is asked; while
 * nobody leads it waits for a few seconds, from the time at which that began. A success is applied here, and
 * on every node that holds a read lease.
 */
void cluster_propose(struct cluster *c, void *cmd, size_t len, cluster_done done, void *arg);

/* What would come of a command if it were proposed now, to what is applied here; nothing is changed. */
struct cluster_trial {
    enum cmd_status status;
    char detail[SVC_ERROR_MAX]; /* a text, of what is refused */
    struct svc_table after;     /* the services as they would be; svc_table_fini */
};

/* 0, -EPROTO for a command that this node does not know, -errno. */
int cluster_try(struct cluster *c, const void *cmd, size_t len, struct cluster_trial *out);

/* The configuration says where to listen for other nodes, and did not before: a cluster of one does so from
 * now on, with certificates that it makes if it has none. 0 (also where it listens already) or -errno with a
 * message. */
int cluster_listen(struct cluster *c, char *err, size_t err_len);

void cluster_status(const struct cluster *c, struct cluster_status *out);
void cluster_set_snapshot_entries(struct cluster *c, uint64_t entries);

/* Path of the names file, valid until the close. */
const char *cluster_names_path(const struct cluster *c);

/* Calls back for each setting that was set at run time. 0 or -errno. */
typedef void (*cluster_setting)(void *arg, const char *key, size_t key_len, const char *value,
                                size_t value_len);
int cluster_each_setting(struct cluster *c, cluster_setting each, void *arg);

/* Calls back for at most `limit` rows behind `after` ("" for the first), in order. Returns how many, or
 * -errno. */
typedef void (*cluster_repo)(void *arg, const char *name, size_t name_len, const struct names_repo *repo);
int cluster_each_repo(struct cluster *c, const char *after, size_t limit, cluster_repo each, void *arg);
typedef void (*cluster_tag)(void *arg, const char *tag, size_t tag_len, const struct names_tag *row);
int cluster_each_tag(struct cluster *c, const char *repo, const char *after, size_t limit, cluster_tag each,
                     void *arg);

/* The same of blobs, in the order of their digests; after NULL: the first ones. */
typedef void (*cluster_blob_row)(void *arg, const struct digest *digest, uint64_t size);
int cluster_each_blob(struct cluster *c, const struct digest *after, size_t limit, cluster_blob_row each,
                      void *arg);
/* The same, with all of the row, until `each` says false: that row is not counted. */
typedef bool (*cluster_blob_each)(void *arg, const struct digest *digest, const struct names_blob *blob);
int cluster_walk_blobs(struct cluster *c, const struct digest *after, size_t limit, cluster_blob_each each,
                       void *arg);
/* One blob's row. 0, -ENOENT, -errno. */
int cluster_blob(struct cluster *c, const struct digest *digest, struct names_blob *out);

/* A read-only view of the state as it is applied here; keep it for a moment only. NULL without memory. */
struct db_view;
struct db_view *cluster_view_begin(struct cluster *c, struct kv **kv);
void cluster_view_end(struct db_view *view);

/* What all blobs take together; -ENOENT: it was not counted yet. 0 or -errno. */
int cluster_totals(struct cluster *c, struct names_totals *out);

/* All services and backends as they are applied here; svc_table_fini frees it. 0 or -errno. */
int cluster_services(struct cluster *c, struct svc_table *out);

/* What this node sees of another one, or of itself, but for heartbeats. */
void cluster_node_seen(struct cluster *c, const struct node *n, struct node_seen *out);

/* Writes a compact copy of the names, or of the private file, to fd. Any thread, before the close. 0 or
 * -errno. */
int cluster_copy_names(struct cluster *c, int fd);
int cluster_copy_private(struct cluster *c, int fd);

/* All nodes, and the tokens, as they are applied here; node_table_fini and node_tokens_fini free them. 0 or
 * -errno. */
int cluster_nodes(struct cluster *c, struct node_table *out);
int cluster_tokens(struct cluster *c, struct node_tokens *out);

/* How much is held by how many, as state_held_read has it. */
int cluster_held(struct cluster *c, uint32_t wanted, state_living *living, void *arg, struct state_held *out);

/*
 * Replicas that are not heard, by id. Whoever leads says it, about once a second; all replicas are told.
 * gone: for so long that what they hold is not counted any more.
 */
struct cluster_absent {
    uint64_t id;
    bool gone;
};
void cluster_say_absent(struct cluster *c, const struct cluster_absent *list, size_t count);
/* Valid until the next turn of the loop. 0; -ESTALE: it was not said for seconds. */
int cluster_absent(const struct cluster *c, const struct cluster_absent **list, size_t *count);

/*
 * Verdicts of this node's kernel for the workers that follow it and are no replicas: those that have changed
 * since the last call, for who has them all, and all, for who has not. Returns how many have them.
 */
struct cluster_verdicts {
    const struct verdict_row *changed, *all;
    size_t changed_count, all_count;
};
size_t cluster_feed(struct cluster *c, const struct cluster_verdicts *v);
/* Whether there is anybody to tell. */
bool cluster_feed_wanted(const struct cluster *c);
/* What was told does not hold any more: everybody gets all of them with the next call. */
void cluster_feed_anew(struct cluster *c);

/* The nodes have changed: who is to be connected, and who votes. Copied. */
void cluster_set_nodes(struct cluster *c, const struct node_table *t);

/* Why connections of other nodes ended, or did not come to be: the i-th reason's name, and how often. NULL
 * behind the last one. */
const char *cluster_mesh_reason(const struct cluster *c, unsigned i, uint64_t *count);

/* Whether there are other nodes, as far as is known here. */
bool cluster_has_others(const struct cluster *c);

/* The kernel's heartbeats say that a manager's host is silent, or that it is heard again. */
void cluster_host(struct cluster *c, uint64_t node, bool silent);

/* Elections for which this node stood, by cause: the i-th one's name, and how often. NULL behind the last
 * one. */
const char *cluster_elections(const struct cluster *c, unsigned i, uint64_t *count);

/* Managers that are not connected with this node: what a change of the managers is proposed with. */
void cluster_managers_down(struct cluster *c, struct node_down *out);

/* The CA's exchange as it is applied here; ca_view_fini frees it. 0 or -errno. */
int cluster_ca_view(struct cluster *c, struct ca_view *out);
/* SHA-256 of the CA of the certificate that this node shows wherever it shows one. False: not known, or a new
 * one is on its way to the data plane. */
bool cluster_ca_shown(const struct cluster *c, uint8_t out[NODE_HASH_BYTES]);
/* Why the exchange does not begin, if this node leads and knows. NULL: nothing is in its way. */
const char *cluster_ca_blocked(const struct cluster *c);
/* The data plane has the certificates of that serial; 1: those of the start. */
void cluster_certificates_taken(struct cluster *c, uint64_t serial);

/* How long certificates are valid that this node signs. */
void cluster_set_certificate_life(struct cluster *c, uint64_t life_ms);

/*
 * Makes this host a node of another cluster: asks the manager at the address, and stores what it gives. done
 * comes exactly once, from the loop. why: NULL: it is decided, and the daemon is to be restarted; else what
 * is wrong and what to do, and nothing has changed; later: what is wrong goes away by itself.
 */
typedef void (*cluster_joined)(void *arg, uint64_t node_id, const char *why, bool later);
void cluster_join(struct cluster *c, const char *address, const char *token, cluster_joined done, void *arg);

/* closed() comes from the loop; proposals under way end before it. */
void cluster_close(struct cluster *c, void (*closed)(void *arg), void *arg);

#endif
