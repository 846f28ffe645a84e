/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replicated state of this node: commands go in, are made durable and agreed upon by the Raft library,
 * are applied to the two files, and only then answered. One object on one libuv loop; every function and
 * every callback is on the loop's thread. Disks are waited for on libuv's worker threads, in two lanes that
 * run side by side: the log (append, fdatasync) and the state (apply, commit). What waits while a lane works
 * goes together into its next round, so the number of syncs does not grow with the number of proposals. The
 * one exception is the vote file: a new term is synced on the loop before anything else may happen (Raft,
 * figure 3.1); that is once at the start and once an election.
 *
 * A single voter leads at once when it opens, in a new term: so an entry that a power cut took from its log
 * never shares index and term with another one.
 *
 * Full disk: room for an append is reserved before it is agreed upon, and room for the state is watched;
 * without them proposals are answered with CMD_NO_SPACE, and again taken when there is room. What was agreed
 * upon before is tried until it succeeds. A disk that loses data (EIO, a failed sync) ends the node: fatal().
 */
#ifndef FL_RAFT_CONSENSUS_H
#define FL_RAFT_CONSENSUS_H

#include <uv.h>

#include "control/state/state.h"
#include "file_ops.h"
#include "names.h"
#include "shared.h"

enum {
    CONSENSUS_PROPOSALS_MAX = 8192,           /* that wait or are under way; more get CMD_BUSY */
    CONSENSUS_PROPOSAL_BYTES_MAX = 128 << 20, /* likewise, in bytes */
    CONSENSUS_SNAPSHOT_ENTRIES = 65536,
    CONSENSUS_TRAILING_ENTRIES =
        4096, /* kept in the log behind a snapshot, for peers that are a little behind */
};

struct consensus;
struct raft_message;

/* To the other nodes; none in a cluster of one. */
struct consensus_transport {
    /* Borrows the message until return. It may be dropped: the library sends again. The address in it is the
     * node's. For RAFT_INSTALL_SNAPSHOT the bytes are not in the message: the snapshot is the folder of that
     * index. */
    void (*send)(void *arg, const struct raft_message *message);
    void *arg;
};

struct consensus_config {
    uv_loop_t *loop;
    const char *dir;             /* the state's folder, existing; copied */
    struct names_epochs *epochs; /* borrowed; NULL: nobody reads */
    struct state_setting_check settings;
    const struct consensus_transport *transport; /* NULL: none; borrowed */
    const struct file_ops *ops;                  /* NULL: the system's; borrowed */
    uint64_t snapshot_entries; /* entries after which the state is copied; 0: CONSENSUS_SNAPSHOT_ENTRIES */
    uint64_t snapshot_bytes;   /* of log, likewise; 0: 1 GiB */
    uint64_t reserve_bytes;    /* disk space below which proposals are refused; 0: 32 MiB */
    uint64_t map_bytes;        /* upper end of each file; 0: NAMES_MAP_BYTES */
    uint32_t segment_bytes;    /* of the log; 0: LOG_SEGMENT_BYTES */
    unsigned election_ms;      /* without a leader for so long, up to twice that: an election; 0: 1000 */
    unsigned heartbeat_ms;     /* of a leader that has nothing to say; 0: 100 */
    /* An entry was applied (also while opening). Not for entries that the files held already. */
    void (*event)(void *arg, const struct state_event *event);
    /* The node must stop: nothing is taken any more. Once. Not from inside consensus_open(). */
    void (*fatal)(void *arg, const char *why);
    /* The ring reads one transaction for far too long: its data plane must be killed, and then its word in
     * the epochs set to 0. */
    void (*reader_stuck)(void *arg, unsigned ring);
    void *arg;
};

struct consensus_status {
    uint8_t cluster_id[16];
    uint64_t node_id, leader_id; /* 0: no leader known */
    uint64_t term, last_index, commit_index, applied_index, snapshot_index;
    uint64_t log_bytes, names_bytes, private_bytes;
    uint64_t proposals, refused, applied, batches, fsyncs, fsync_us_sum, snapshots;
    uint64_t waiting;                   /* proposals that wait or are under way */
    uint64_t fsync_us[LATENCY_BUCKETS]; /* as in shared.h */
    bool leads;
    bool room;         /* false: proposals are refused for want of disk space */
    const char *state; /* "follower", "candidate", "leader" */
};

/*
 * Opens the state in config->dir. At the first start makes a cluster of one: a random id, node 1. Everything
 * that is known to be committed is applied when it returns; a file that is missing or too old is restored
 * from the snapshot. 0, -EUCLEAN for damage, -EPROTO for an entry or file of another version, -errno; err
 * says what and where.
 */
int consensus_open(const struct consensus_config *config, struct consensus **out, char *err, size_t err_len);

/* detail as cmd.h says for the status; borrowed until the return. index: of the entry, 0 if there is none. */
typedef void (*consensus_done)(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                               size_t detail_len);

/* Proposes a command; takes cmd (malloc'd). done is called exactly once, never from inside this function. The
 * time in the command is set by the leader. */
void consensus_propose(struct consensus *c, void *cmd, size_t len, consensus_done done, void *arg);

/* A message from another node; borrowed, its entries too, until the return. 0, -ENOTSUP for
 * RAFT_INSTALL_SNAPSHOT, which this version cannot take, -EPROTO for one the library refuses: then the node
 * stops. */
int consensus_receive(struct consensus *c, struct raft_message *message);

void consensus_status(const struct consensus *c, struct consensus_status *out);
void consensus_set_snapshot_entries(struct consensus *c, uint64_t entries);

/* Calls each() for every committed setting, in order of the keys; borrowed until it returns. 0 or -errno. */
typedef void (*consensus_setting)(void *arg, const char *key, size_t key_len, const char *value,
                                  size_t value_len);
int consensus_setting_each(struct consensus *c, consensus_setting each, void *arg);

/* Copies a setting's text into value (not NUL-terminated) and its length into *len. 0, -ENOENT if it is not
 * set, -ENOBUFS, -errno. */
int consensus_setting_get(struct consensus *c, const char *key, size_t key_len, char *value, size_t *len);

/* A read-only view of the state as last applied; keep it for a moment only. NULL without memory. */
struct db_view;
struct db_view *consensus_view_begin(struct consensus *c, struct kv **kv);
void consensus_view_end(struct db_view *view);

/* Ends: what is under way is finished, what waits is refused. closed() comes from the loop, after the last
 * done(). */
void consensus_close(struct consensus *c, void (*closed)(void *arg), void *arg);

#endif
