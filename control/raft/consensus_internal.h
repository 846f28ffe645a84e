/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the consensus share. Everything is the loop thread's, but for what a job that runs holds.
 */
#ifndef FL_RAFT_CONSENSUS_INTERNAL_H
#define FL_RAFT_CONSENSUS_INTERNAL_H

#include <raft.h>

#include "check.h"
#include "consensus.h"
#include "consensus_host.h"
#include "db.h"
#include "follow_codec.h"
#include "follow_marker.h"
#include "lease.h"
#include "log.h"
#include "snapshot.h"
#include "snapshot_piece.h"
#include "vote.h"

enum {
    BATCH_ENTRIES_MAX = 1024,
    BATCH_BYTES_MAX = 4 << 20,
    RETRY_MS = 250,    /* between tries while the disk is full */
    INDEX_ROWS = 5000, /* of the index, each time when it is looked whether something is to be done again */
    /* A leader that stands still for 0.7 s, as its virtual machine does, leads on; one that is lost is
     * followed within a second. */
    ELECTION_TIMEOUT_MS = 800,
    LEASE_MS = 500,
    HEARTBEAT_MS = 100,
    PEERS_MAX = 64,
    MESSAGE_ENTRIES_BYTES_MAX = 1 << 20, /* of one message, unless one entry alone is larger */
    INFLIGHT_ENTRIES_MAX = 2048,         /* to one follower, before it answers */
    INSTALL_TIMEOUT_MS = 10000,
    ACTION_RETRY_MS = 500,
};

/* A proposal that waits, and later the entry that it became. Counted: the cache and each running job hold it.
 */
struct entry {
    uint64_t index, term;
    uint16_t type; /* enum raft_entry_type */
    unsigned refs;
    void *data;
    size_t len;
    consensus_done done; /* NULL: nobody waits */
    void *arg;
    struct entry *next;     /* in a list */
    enum cmd_status status; /* of a refused proposal, until it is told */
    char refusal[128];
};

struct entry_list {
    struct entry *head, **tail;
    size_t count, bytes;
};

/* One round of the log's lane. */
struct disk_job {
    struct consensus_job job;
    struct consensus *c;
    bool busy;
    uint64_t truncate_from; /* 0: nothing to truncate */
    uint64_t drop_to;       /* 0: nothing to drop */
    size_t reserve_bytes;
    struct log_entry *logs;
    struct entry **entries;
    size_t count;
    /* What came of it. */
    int rc, room_rc;
    uint64_t sync_us, log_bytes;
    size_t capacity;
};

struct apply_item {
    struct entry *entry;
    struct state_event event;
    bool skipped; /* the file held it already */
};

/* One round of the state's lane. */
struct apply_job {
    struct consensus_job job;
    struct consensus *c;
    bool busy;
    bool touch; /* bring both files to the same position, durably */
    bool index; /* go on with the index */
    struct apply_item *items;
    size_t count;
    /* What came of it. */
    int rc;
    struct db_applied applied;
    uint64_t stuck;
    struct db_sizes sizes;
};

/* NAMES_INDEX, where it is to be made anew: some rows at a time, on the state's lane. */
struct index_work {
    struct state_index at;
    bool due; /* the next round of the lane goes on with it */
};

struct snapshot_job {
    struct consensus_job job;
    struct consensus *c;
    bool busy;
    bool wanted; /* the files are being brought to one position */
    struct snapshot_meta meta;
    uint64_t keep; /* folders from this index on stay: one of them may be under way to a peer */
    int rc;
};

/* A message that comes in parts. */
struct assembly {
    uint32_t number, total, got;
    uint8_t *data; /* NULL: none */
};

/* Entries that the library sent to a peer while the log's lane had them. */
struct late {
    raft_term term; /* ours then; 0: nothing is late */
    raft_index prev_index;
    raft_term prev_term;
    unsigned count;
};

/* Another node, as far as it was heard of. */
struct peer {
    uint64_t id;
    uint64_t heard_ms;  /* of the host's clock; 0: never */
    uint64_t sent_ms;   /* entries were sent to it, */
    uint64_t sent_prev; /* these that follow the one of this index */
    uint64_t has;       /* up to this index it has what this leader has; */
    uint64_t told;      /* up to this one it was told that it is agreed upon */
    bool host_silent;   /* as the kernel's heartbeats say */
    struct assembly in;
    struct late late;
    struct lease_peer lease; /* of the leader's books */
};

/* A change of Raft's configuration that is under way. */
struct change {
    bool busy, submitted;
    enum consensus_change what;
    uint64_t node;
    consensus_changed done;
    void *arg;
};

struct transfer {
    bool busy;
    uint64_t node;
    uint64_t until_ms;
    consensus_changed done; /* NULL: nobody waits */
    void *arg;
};

/* An answer that waits for those who hold a lease. */
struct awaited {
    uint64_t index;
    consensus_changed done;
    void *arg;
    struct awaited *next;
};

/* An answer that is told from the loop. */
struct told {
    consensus_changed done;
    void *arg;
    int result;
    struct told *next;
};

struct wanted {
    bool known;
    struct consensus_member member[CONSENSUS_MEMBERS_MAX];
    size_t count;
    uint64_t retry_at_ms;
};

/* One piece that is read for a peer. */
struct give_job {
    struct consensus_job job;
    struct consensus *c;
    struct give_job *next;
    uint64_t node;
    struct snapshot_piece piece;
    uint8_t *data;
    ssize_t got; /* or -errno */
};

enum { GIVE_SNAPSHOTS_MAX = 4, GIVE_JOBS_MAX = 8 };

/* Snapshots of this node that peers read. */
struct giving {
    struct snapshot_meta newest; /* index 0: there is none */
    struct {
        uint64_t index, until_ms;
    } used[GIVE_SNAPSHOTS_MAX];
    struct give_job *jobs; /* under way */
    unsigned count;
};

/* How this node follows: consensus_follow.c. */
struct follow {
    bool active;   /* it takes no part in Raft */
    bool accepted; /* the source sends */
    bool leaving;  /* it is to take part: nothing is taken any more */
    struct consensus_place place;
    uint64_t source; /* that is asked, or sends; 0: none */
    uint32_t session;
    uint64_t asked_ms, heard_ms, source_ms, renewed_ms, retry_at_ms, leader_lost_ms;
    uint64_t fed_ms; /* entries came, or are not missed */
    uint64_t leader, said_ms;
    uint64_t there; /* how far the source, of the same history, was when it answered; 0: it did not yet */
    uint64_t held_until_ms, floor; /* of the lease */
    unsigned unsaid;               /* frames since it said that it has applied all that came */
    uint64_t touched;              /* with so much applied both files were brought to one position */
    struct follow_marker marker;
};

enum { STAND_BEGUN = 4 }; /* leaders whose begin is remembered */

/* When this node stands for election: consensus_stand.c. */
struct stand {
    uint64_t leader;            /* that was heard last; 0: none */
    uint64_t patience_ms;       /* for so long a leader may say nothing; less where it was given up earlier */
    unsigned tries;             /* since a leader was heard, or somebody else got this node's vote */
    uint64_t tried_ms, wait_ms; /* the last one; until the next one */
    unsigned random;            /* of its turn */
    uint64_t vote_ms;           /* so long the last vote took to be written */
    uint64_t ticked_ms, spared_until_ms;
    bool spared;
    uint64_t term, begun_ms[STAND_BEGUN]; /* of the leader heard last; when that one and those before it
                                             began; 0: long ago */
    unsigned slower;                      /* leaders get so many times twice as long */
    uint64_t slower_until_ms;
};

enum { FEED_FRAMES_MAX = 8, FEED_RING = 1024, FEED_RING_BYTES_MAX = 8 << 20 };

/* A node that follows this one: a place in the log, and no queue. */
struct feeder {
    uint64_t id;
    uint32_t session;
    enum { FEED_CHECK, FEED_ENTRIES, FEED_SNAPSHOT } phase;
    uint64_t next, term;   /* what it gets next; the term of the entry before */
    uint64_t applied;      /* there */
    struct db_applied top; /* what it has anything of */
    uint64_t heard_ms, offered_ms;
    uint64_t granted_ms, told_leader; /* with the last GRANT; 0: none in this phase */
    uint64_t expires_ms, floor;       /* of its lease */
    uint64_t behind_at, behind_ms;    /* since when it has not applied so much */
    uint64_t unread[FEED_FRAMES_MAX]; /* last index of each frame that it has not applied */
    unsigned unread_count;
};

/* What others follow: consensus_feed.c. */
struct feed {
    struct feeder *follower; /* by id */
    size_t count, cap;
    /* The newest entries that are applied, so that those who are near need no disk. */
    struct entry *ring[FEED_RING];
    uint64_t ring_first, ring_last; /* 0: there are none */
    size_t ring_bytes;
    /* The last frame that was made: many want the same one. */
    uint8_t *frame;
    size_t frame_len;
    uint64_t frame_first, frame_last, frame_term; /* 0: none */
    uint64_t blind_until_ms; /* leases that this node gave before it was started anew may last so long */
    uint64_t said;           /* what was last said to be applied here, and wherever somebody relies on it */
    /* The least that a follower with a lease has, how many have no more, and until when that is so at least.
     * low_until_ms 0: to be looked for. */
    uint64_t low, low_until_ms;
    size_t low_count;
    uint64_t wanted_ms; /* when a snapshot was asked for last; 0: never */
};

struct consensus {
    struct consensus_config config;
    struct consensus_transport transport; /* send NULL: none */
    struct consensus_host host;
    void *handle; /* of the host; NULL while opening */
    char *dir;
    int dir_fd, raft_fd; /* of the state's folder, of the log's */
    struct raft raft;
    struct vote vote;
    struct log *log;
    struct db *db;
    struct entry_list waiting, refused;
    struct entry **cache; /* entries cache_first .. last; those that are durable and applied are let go */
    uint64_t cache_first;
    size_t cache_count, cache_cap;
    uint64_t persisted, applied, applied_term, commit, truncate_from, drop_to;
    struct db_applied files; /* the further one of both, when they were opened or a commit failed */
    uint64_t snapshot_index, snapshot_retry_at;
    size_t under_way, under_way_bytes; /* proposals in the log that were not answered */
    size_t apply_limit;
    struct disk_job disk;
    struct apply_job apply;
    struct index_work index;
    struct snapshot_job snapshot;
    struct peer peer[PEERS_MAX];
    size_t peers;
    uint32_t part_number;
    struct change change;
    struct transfer transfer;
    struct wanted wanted;
    struct lease lease;
    struct awaited *awaited;
    struct told *told, **told_tail;
    uint64_t leader_told, leader_heard_ms;
    struct stand stand;
    struct giving giving;
    struct taking *taking;
    struct follow follow;
    struct feed feed;
    struct consensus_status counts; /* the counters in it */
    size_t capacity;                /* bytes that an append may have for sure */
    uint64_t close_by_ms;
    bool leads, stalled, apply_stalled, no_room, dead, closing, told_closed, reserve_tried, installing,
        retry_armed;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* consensus.c, consensus_cache.c */
void consensus_pump(struct consensus *c);
__attribute__((format(printf, 2, 3))) void consensus_die(struct consensus *c, const char *format, ...);
static inline uint64_t consensus_now_ms(const struct consensus *c)
{
    return c->host.now_ms(c->host.arg);
}
/* Calls consensus_pump() soon. */
void consensus_wake(struct consensus *c);
/* Sets the timers anew. */
void consensus_arm(struct consensus *c);
static inline void consensus_job_start(struct consensus *c, struct consensus_job *job)
{
    c->host.job(c->host.arg, job);
}
/* Tells a result from the loop. */
void consensus_tell(struct consensus *c, consensus_changed done, void *arg, int result);
/* Proposes an entry of Raft's own; done may be NULL. Takes data (malloc'd). */
void consensus_propose_entry(struct consensus *c, enum raft_entry_type type, void *data, size_t len,
                             consensus_done done, void *arg);
/* Looks again in a while whether there is room on the disk. */
void consensus_retry(struct consensus *c);
void entry_put(struct entry *e);
void entry_list_init(struct entry_list *list);
void entry_list_add(struct entry_list *list, struct entry *e);
struct entry *entry_list_take(struct entry_list *list);
void entry_answer(struct consensus *c, struct entry *e, enum cmd_status status, const void *detail,
                  size_t len);
/* The entry in the cache, NULL if it is not there. */
struct entry *cache_get(const struct consensus *c, uint64_t index);
int cache_add(struct consensus *c, struct entry *e);
/* Removes and lets go of entries from index on. */
void cache_truncate(struct consensus *c, uint64_t index, enum cmd_status status);
void cache_release(struct consensus *c);
static inline uint64_t cache_last(const struct consensus *c)
{
    return c->cache_count ? c->cache_first + c->cache_count - 1 : c->persisted;
}

/* consensus_step.c: drives the library. Each gives the event and handles what it asks for. */
int step_start(struct consensus *c, const struct snapshot_meta *snapshot, char *err, size_t err_len);
void step_timeout(struct consensus *c);
/* False if the library refused; the entries are still in the list. */
bool step_submit(struct consensus *c, struct entry **entries, unsigned count);
void step_persisted(struct consensus *c, uint64_t index);
void step_configuration(struct consensus *c, uint64_t index, const void *data, size_t len);
void step_snapshot(struct consensus *c, const struct snapshot_meta *meta);
/* A snapshot that is complete on the disk: the library decides whether it is to be taken over; installing
 * says so. */
void step_install(struct consensus *c, uint64_t from, raft_term term, const struct snapshot_meta *meta);
/* It was taken over. */
void step_installed(struct consensus *c, const struct snapshot_meta *meta);
/* 0 or -errno. */
int step_transfer(struct consensus *c, uint64_t node);
/* 0, or the library's error. The message is borrowed, its entries too. */
int step_receive(struct consensus *c, struct raft_message *message);

/* consensus_stand.c. Nothing was heard of a leader yet. */
void stand_begin(struct consensus *c);
/* That node leads, by its own word of this term; another node got this one's vote. */
void stand_heard(struct consensus *c, uint64_t leader, uint64_t term);
void stand_voted(struct consensus *c);
/* A leader that was silent for too long is none. The library lets a standby believe in it for ever, and
 * refuse its vote to others. */
void stand_forget_leader(struct consensus *c);
/* The node has ended its connection: if it led, this one stands for election soon. */
void stand_leader_gone(struct consensus *c, uint64_t node);
/* When it stands, of one that does not lead. */
uint64_t stand_due_ms(const struct consensus *c);
/* Before a timer is believed; tick: it is the tick's. */
void stand_look_at_clock(struct consensus *c, bool tick);
/* Around the library's timeout of one that does not lead. */
void stand_prepare(struct consensus *c);
void stand_tried(struct consensus *c);
/* Whether it asks for pre-votes; it had them, and asks for votes now; it was told to stand. */
bool stand_asks(const struct consensus *c);
void stand_votes(struct consensus *c);
void stand_told(struct consensus *c);
/* For how long a leader leads on that no majority answers. */
unsigned stand_lead_ms(const struct consensus *c);
/* For how long a leader may say nothing while its host is heard, or nobody looks. */
unsigned stand_silence_ms(const struct consensus *c);

/* consensus_send.c */
void send_messages(struct consensus *c, const struct raft_update *update);
/* To those who have it and were not told yet. */
void send_commit(struct consensus *c);
/* Entries that could not be sent while the log's lane was busy. */
void send_late(struct consensus *c);
int send_frame(struct consensus *c, uint64_t node, uint16_t type, const void *body, size_t len);

/* consensus_receive.c */
/* The peer, noted if it is new; NULL if there are too many. */
struct peer *peer_get(struct consensus *c, uint64_t id);
const struct peer *peer_find(const struct consensus *c, uint64_t id);
void peers_free(struct consensus *c);
/* Heard of within an election timeout. */
bool peer_online(const struct consensus *c, uint64_t id);

/* consensus_change.c */
bool consensus_is_voter(const struct consensus *c);
void change_pump(struct consensus *c);
void members_pump(struct consensus *c);
/* Ends changes and transfers: this node does not lead any more. */
void change_lost(struct consensus *c);
/* Begins to hand over for the close. False: there is nobody. */
bool transfer_for_close(struct consensus *c);

/* consensus_lease.c */
void lease_begin_lead(struct consensus *c);
void lease_end_lead(struct consensus *c);
void lease_tick(struct consensus *c);
/* What is applied here moved. */
void lease_applied(struct consensus *c);
void lease_pump(struct consensus *c);
void lease_publish(const struct consensus *c); /* to the data plane's rings */
int lease_on_renew(struct consensus *c, struct peer *from, const void *body, size_t len);
int lease_on_grant(struct consensus *c, struct peer *from, const void *body, size_t len);
/* Whether a promise to a leader keeps this node from voting, and until when. */
uint64_t lease_promised_until(const struct consensus *c);
/* Until when this node may read, NAMES_FRESH_NEVER or NAMES_FRESH_ALWAYS. */
uint64_t lease_held_until(const struct consensus *c);

/* consensus_give.c, consensus_take.c */
/* Tells the peer the handle of the newest snapshot. */
void snapshot_offer(struct consensus *c, const struct raft_message *message);
/* Takes what meta holds. */
int snapshot_on_offer(struct consensus *c, uint64_t from, raft_term term, struct snapshot_meta *meta);
int snapshot_on_get(struct consensus *c, uint64_t from, const void *body, size_t len);
int snapshot_on_part(struct consensus *c, uint64_t from, const void *body, size_t len);
int snapshot_on_gone(struct consensus *c, uint64_t from, const void *body, size_t len);
void snapshot_tick(struct consensus *c);
/* Folders from this index on are not to be removed. */
uint64_t snapshot_keep(const struct consensus *c, uint64_t newest);
void install_pump(struct consensus *c);
/* Notes the newest snapshot of this node; takes what meta holds. */
void snapshot_note(struct consensus *c, struct snapshot_meta *meta);
void give_forget(struct consensus *c);
void take_forget(struct consensus *c);
bool take_busy(const struct consensus *c);

/* Takes what meta holds: a snapshot that the source offers. */
void take_for_follower(struct consensus *c, uint64_t from, struct snapshot_meta *meta);
/* The newest one, which is not removed while it is asked for; index 0: there is none. */
const struct snapshot_meta *snapshot_give(struct consensus *c);

/* consensus_follow.c: this node follows. */
/* After the files were opened: whether it does. */
int follow_load(struct consensus *c, const struct snapshot_meta *snapshot, char *err, size_t err_len);
void follow_tick(struct consensus *c);
void follow_pump(struct consensus *c);
void follow_applied(struct consensus *c);
bool follow_touch_due(const struct consensus *c);
/* A snapshot was made of what it has, or could not be: the first step to take part. */
void follow_snapshot_made(struct consensus *c, const struct snapshot_meta *meta);
/* Around the moment at which a snapshot's files take their place. 0 or -errno. */
int follow_install_begin(struct consensus *c, uint64_t index);
int follow_install_end(struct consensus *c, const struct snapshot_meta *meta);
uint64_t follow_held_until(const struct consensus *c);
int follow_frame(struct consensus *c, uint64_t from, uint16_t type, const void *body, size_t len);
void follow_free(struct consensus *c);

/* consensus_feed.c: others follow this node. */
void feed_open(struct consensus *c);
void feed_keep(struct consensus *c, struct entry *e);
void feed_pump(struct consensus *c);
void feed_tick(struct consensus *c);
void feed_down(struct consensus *c, uint64_t node);
/* How far this node is, and everybody who reads by a lease of its. */
uint64_t feed_applied(struct consensus *c);
int feed_frame(struct consensus *c, uint64_t from, uint16_t type, const void *body, size_t len);
void feed_free(struct consensus *c);

/* consensus_disk.c */
void disk_pump(struct consensus *c);
void submit_pump(struct consensus *c);
void disk_job_clear(struct disk_job *job);

/* consensus_apply.c */
void apply_pump(struct consensus *c);
/* Notes how far the files are; no job holds them. */
void apply_look(struct consensus *c);
/* Whether a file has something of entries that are still to be applied, to the other one: both cannot be
 * brought to one position yet. */
static inline bool apply_files_ahead(const struct consensus *c)
{
    return c->applied < c->files.index;
}
void snapshot_pump(struct consensus *c);
void apply_job_clear(struct apply_job *job);
/* Applies entries on the calling thread. */
int apply_now(struct consensus *c, struct apply_job *job);
void apply_tell(struct consensus *c, struct apply_job *job);
/* The names file is another one: whether its index is to be made. */
void apply_index_look(struct consensus *c);

/* consensus_open.c */
int consensus_load(struct consensus *c, char *err, size_t err_len);
/* The library begins anew from what the log has behind the snapshot; NULL: without one. */
int consensus_raft_reopen(struct consensus *c, const struct snapshot_meta *snapshot, char *err,
                          size_t err_len);
/* Makes this node the only voter, in the log of the folder. */
int consensus_force(struct consensus *c, char *err, size_t err_len);

#endif
