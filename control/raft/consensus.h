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
#include "db.h"
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
struct consensus_host;

/* Types of frames between the consensus of two nodes (ranges of control/mesh/mesh.h); bodies: raft_codec.h.
 */
enum consensus_frame_type {
    CONSENSUS_FRAME_MESSAGE = 16, /* one of Raft's messages */
    CONSENSUS_FRAME_PART = 17,    /* a piece of one that is too large for a frame */
    CONSENSUS_FRAME_RENEW = 18,   /* a follower: how far it is, and that it asks for a lease */
    CONSENSUS_FRAME_GRANT = 19,   /* the leader's answer */
    CONSENSUS_FRAME_RAFT_END = 24,
    CONSENSUS_FRAME_SNAPSHOT_GET = 32,  /* asks for a piece of a snapshot's file */
    CONSENSUS_FRAME_SNAPSHOT_PART = 33, /* the piece */
    CONSENSUS_FRAME_SNAPSHOT_GONE = 34, /* there is no such snapshot any more */
    CONSENSUS_FRAME_SNAPSHOT_END = 36,
    /* Of nodes that follow the log without taking part: follow_codec.h. */
    CONSENSUS_FRAME_FOLLOW_ASK = 36,
    CONSENSUS_FRAME_FOLLOW_REFUSED = 37,
    CONSENSUS_FRAME_FOLLOW_GRANT = 38,
    CONSENSUS_FRAME_FOLLOW_ENTRIES = 39,
    CONSENSUS_FRAME_FOLLOW_RENEW = 40,
    CONSENSUS_FRAME_FOLLOW_SNAPSHOT = 41,
    CONSENSUS_FRAME_FOLLOW_END = 42, /* 42 to 47 are free */
};

/* To the other nodes; none in a cluster of one. */
struct consensus_transport {
    /* Sends a frame to a node; copies the body. It may be lost, late, or come twice, with the ones behind it
     * before it: everything is sent again. 0 or -errno, which means the same as a frame that was lost. Never
     * calls back into the consensus from inside. */
    int (*send)(void *arg, uint64_t node, uint16_t type, const void *body, size_t len);
    void *arg;
};

/* Who this node is in a cluster that exists already. */
struct consensus_identity {
    uint8_t cluster_id[16];
    uint64_t node_id;
};

struct consensus_config {
    uv_loop_t *loop;
    const struct consensus_host *host; /* instead of the loop; NULL: the loop. Copied. For tests. */
    const char *dir;                   /* the state's folder, existing; copied */
    struct names_epochs *epochs;       /* borrowed; NULL: nobody reads */
    struct state_setting_check settings;
    const struct consensus_transport *transport; /* NULL: none; copied */
    /* NULL: a folder without a state becomes a cluster of one. Else it becomes this node of this cluster,
     * with nothing in it: it elects nobody and waits until a leader that has added it (consensus_members)
     * fills it. A folder that has a state must be of this node. Read during consensus_open(). */
    const struct consensus_identity *join;
    const struct file_ops *ops; /* NULL: the system's; borrowed */
    uint64_t snapshot_entries;  /* entries after which the state is copied; 0: CONSENSUS_SNAPSHOT_ENTRIES */
    uint64_t trailing_entries;  /* kept in the log behind a snapshot; 0: CONSENSUS_TRAILING_ENTRIES */
    uint64_t snapshot_bytes;    /* of log, likewise; 0: 1 GiB */
    uint64_t reserve_bytes;     /* disk space below which proposals are refused; 0: 32 MiB */
    uint64_t map_bytes;         /* upper end of each file; 0: NAMES_MAP_BYTES */
    uint32_t segment_bytes;     /* of the log; 0: LOG_SEGMENT_BYTES */
    unsigned election_ms;       /* without a leader for so long: an election; 0: 800 */
    unsigned heartbeat_ms;      /* of a leader that has nothing to say; 0: 100 */
    unsigned lease_ms;          /* of a read lease; less than election_ms; 0: 500, or half of that */
    /* An entry was applied (also while opening). Not for entries that the files held already. */
    void (*event)(void *arg, const struct state_event *event);
    /* The state was replaced as a whole by another node's snapshot: whatever was read from it before is to be
     * read again. There are no events for what changed by it. May be NULL. */
    void (*restored)(void *arg, uint64_t index);
    /* This node begins or ends to lead, or sees another one lead; 0: nobody. May be NULL. */
    void (*leader)(void *arg, uint64_t leader_id);
    /* This node stands for election. Not told of each time that it does so again. May be NULL. */
    void (*stands)(void *arg, enum election_cause why);
    /* This node follows that manager from now on, and needs a connection to it and to no other; 0: it takes
     * part in Raft. May be NULL. */
    void (*source)(void *arg, uint64_t manager);
    /* Whether the state says that this node is a manager, asked before it becomes one; NULL: its row is
     * looked at. */
    bool (*is_manager)(void *arg);
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
    uint64_t index_rows; /* that NAMES_INDEX got while it is being made anew */
    bool index_whole;    /* it is made */
    uint64_t proposals, refused, applied, batches, fsyncs, fsync_us_sum, snapshots;
    uint64_t waiting;                          /* proposals that wait or are under way */
    uint64_t fsync_us[LATENCY_BUCKETS];        /* as in shared.h */
    uint64_t installed;                        /* snapshots that came from another node */
    uint64_t elections[ELECTION_CAUSES_COUNT]; /* for which it stood */
    unsigned silence_ms; /* a leader that says nothing for so long is followed by another one */
    bool leads;
    bool voter;         /* this node votes */
    bool lease;         /* it holds a read lease */
    bool installing;    /* a snapshot of another node is being taken over */
    bool room;          /* false: proposals are refused for want of disk space */
    const char *state;  /* "follower", "candidate", "leader"; "worker": it follows the log and has none */
    bool following;     /* it is a worker */
    uint64_t source;    /* the manager that it follows; 0: none yet */
    uint64_t followers; /* nodes that follow this one */
    uint64_t followers_entries, followers_snapshots; /* that were sent to them */
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

/* A frame of another node, whose id the transport has verified; borrowed until the return. 0, -EPROTO for
 * bytes that make no sense (nothing came of them; the connection deserves to end), -ENOTSUP for a type that
 * is none of ours. */
int consensus_frame(struct consensus *c, uint64_t from, uint16_t type, const void *body, size_t len);

void consensus_status(const struct consensus *c, struct consensus_status *out);

/* --- who votes --- */

enum consensus_role { CONSENSUS_STANDBY, CONSENSUS_VOTER };

enum { CONSENSUS_MEMBERS_MAX = 16 };

/* A node that is to take part: one that votes, or one that only follows the log. */
struct consensus_member {
    uint64_t id;
    bool voter;
};

/*
 * Says who is to take part. Told to every node, each time that it changes (by the state that all of them
 * have); whoever leads brings Raft's configuration there, one change at a time: members.h says in which
 * order. It begins again from what Raft's configuration is, so that the end of a leader in between is
 * harmless. Copied. Until it was called once, nothing is changed. -EINVAL: without a voter, or one twice.
 */
int consensus_members(struct consensus *c, const struct consensus_member *wanted, size_t count);

struct consensus_server {
    uint64_t id;
    enum consensus_role role;
    uint64_t applied;  /* as it said last; 0: not known. On the leader only. */
    uint64_t match;    /* how far its log is known to be the leader's. On the leader only. */
    uint64_t heard_ms; /* ago; UINT64_MAX: never */
    bool lease;        /* it may hold a read lease. On the leader only. */
};

/* Raft's newest configuration, which may not be committed yet. Returns how many there are; at most max are
 * filled in. */
size_t consensus_servers(const struct consensus *c, struct consensus_server *out, size_t max);

/* 0: done; -EAGAIN: not now (this node does not lead, or a change is under way); -ENOENT: no such server (or
 * no other that votes); -EEXIST: it is so already; -ETIMEDOUT: it did not come to be in time; -ECANCELED:
 * leadership was lost meanwhile, it may or may not come to be. Never from inside the call. */
typedef void (*consensus_changed)(void *arg, int result);

enum consensus_change {
    CONSENSUS_ADD,     /* as a standby */
    CONSENSUS_PROMOTE, /* to a voter, at once: whether it has caught up is for the caller to know */
    CONSENSUS_DEMOTE,  /* to a standby */
    CONSENSUS_REMOVE,
};

/* One change of Raft's configuration, on the leader: what members.h does by itself when consensus_members()
 * was called. The last voter stays. */
void consensus_change(struct consensus *c, enum consensus_change what, uint64_t node, consensus_changed done,
                      void *arg);

/* Hands leadership over to a node that votes; 0: to the one that is nearest. No proposals are taken
 * meanwhile, an election timeout at most. consensus_close() on a leader does it by itself. */
void consensus_transfer(struct consensus *c, uint64_t node, consensus_changed done, void *arg);

/* --- who follows --- */

/* What the state says of this node. */
enum consensus_self {
    CONSENSUS_SELF_UNKNOWN, /* nothing yet */
    CONSENSUS_SELF_MANAGER,
    CONSENSUS_SELF_WORKER,
};

enum { CONSENSUS_SOURCES_MAX = 16, CONSENSUS_FOLLOWERS_MAX = 8192 };

/*
 * Managers, any of which has the log, and what this node is to be; told each time that it changes. A node
 * that Raft's configuration does not have follows one of them, chosen at random: it applies what is agreed
 * upon as it comes, keeps no log, and takes a snapshot where the manager's log does not go back to what it
 * has. When the manager is silent it follows another one. It becomes a manager when the state says so, with
 * what it has; who is no manager any more follows as soon as Raft has let go of it. lease: it asks for read
 * leases.
 */
struct consensus_place {
    uint64_t manager[CONSENSUS_SOURCES_MAX];
    size_t count;
    enum consensus_self self;
    bool lease;
};
void consensus_place(struct consensus *c, const struct consensus_place *place);

/* The node is not connected any more. ended: its side ended the connection, as that of a process that dies;
 * if it leads, its successor is elected without waiting for as long as for one that is silent. */
void consensus_down(struct consensus *c, uint64_t node, bool ended);

/*
 * What somebody else than the node itself says of its host: it is silent, as if it were off or its link down;
 * or it is heard (again). A leader that is not heard either is given up sooner. It may be wrong: who leads
 * and is heard leads on, and no promise ends by it.
 */
void consensus_host(struct consensus *c, uint64_t node, bool silent);

/* A node that follows this one. */
struct consensus_follower {
    uint64_t id, applied;
    bool lease;
};
/* Those behind the id `after`, in order; returns how many of at most max were filled in. */
size_t consensus_followers(const struct consensus *c, uint64_t after, struct consensus_follower *out,
                           size_t max);

/* --- reads (decision: a write is answered when it is applied wherever somebody may read it) --- */

/*
 * Whether this node holds a read lease: everything that was answered before now is applied here, or is not
 * answered to anybody before the lease has run out. Looked at for each read or push; costs nothing.
 */
bool consensus_lease(const struct consensus *c);

/*
 * On the leader: done(arg, 0) as soon as the entry `index` is applied on every node that may hold a lease;
 * that takes lease_ms at most, the time in which a lease that is not renewed runs out. -ECANCELED if this
 * node stops to lead before (then the answer is CMD_UNKNOWN_OUTCOME, or the next leader's). Always called
 * exactly once, never from inside the call.
 */
void consensus_await(struct consensus *c, uint64_t index, consensus_changed done, void *arg);

/* --- recovery --- */

/*
 * Offline: the state in the folder becomes one with this node as its only voter, in a new term. Nothing that
 * is in its log is lost; what only others had is. The others must never run again with what they have. 0 or
 * -errno as consensus_open(), err says why. May be called again after any end.
 */
int consensus_force_new(const char *dir, char *err, size_t err_len);
void consensus_set_snapshot_entries(struct consensus *c, uint64_t entries);

/* Calls each() for every committed setting, in order of the keys; borrowed until it returns. 0 or -errno. */
typedef void (*consensus_setting)(void *arg, const char *key, size_t key_len, const char *value,
                                  size_t value_len);
int consensus_setting_each(struct consensus *c, consensus_setting each, void *arg);

/* Copies a setting's text into value (not NUL-terminated) and its length into *len. 0, -ENOENT if it is not
 * set, -ENOBUFS, -errno. */
int consensus_setting_get(struct consensus *c, const char *key, size_t key_len, char *value, size_t *len);

/* Writes a compact copy of a file of the state as of its last commit to fd. Any thread, as long as the
 * consensus is not closed. 0 or -errno. */
int consensus_copy(struct consensus *c, enum db_file file, int fd);

/* A read-only view of the state as last applied; keep it for a moment only. NULL without memory. */
struct db_view;
struct db_view *consensus_view_begin(struct consensus *c, struct kv **kv);
void consensus_view_end(struct db_view *view);

/* Ends: leadership is handed over, what is under way is finished, what waits is refused. closed() comes from
 * the loop, after the last done(). */
void consensus_close(struct consensus *c, void (*closed)(void *arg), void *arg);

#endif
