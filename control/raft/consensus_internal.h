/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the consensus share. Everything is the loop thread's, but for what a job that runs holds.
 */
#ifndef FL_RAFT_CONSENSUS_INTERNAL_H
#define FL_RAFT_CONSENSUS_INTERNAL_H

#include <raft.h>

#include "check.h"
#include "consensus.h"
#include "db.h"
#include "log.h"
#include "snapshot.h"
#include "vote.h"

enum {
    BATCH_ENTRIES_MAX = 1024,
    BATCH_BYTES_MAX = 4 << 20,
    RETRY_MS = 250, /* between tries while the disk is full */
    ELECTION_TIMEOUT_MS = 1000,
    HEARTBEAT_MS = 100,
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
    uv_work_t work;
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
    uv_work_t work;
    bool busy;
    bool touch; /* bring both files to the same position, durably */
    struct apply_item *items;
    size_t count;
    /* What came of it. */
    int rc;
    struct db_applied applied;
    uint64_t stuck;
    struct db_sizes sizes;
};

struct snapshot_job {
    uv_work_t work;
    bool busy;
    bool wanted; /* the files are being brought to one position */
    struct snapshot_meta meta;
    int rc;
};

struct consensus {
    struct consensus_config config;
    char *dir;
    int dir_fd, raft_fd; /* of the state's folder, of the log's */
    struct raft raft;
    struct vote vote;
    struct log *log;
    struct db *db;
    uv_timer_t timer, retry;
    uv_async_t wake;
    struct entry_list waiting, refused;
    struct entry **cache; /* entries cache_first .. last; those that are durable and applied are let go */
    uint64_t cache_first;
    size_t cache_count, cache_cap;
    uint64_t persisted, applied, commit, truncate_from, drop_to;
    uint64_t snapshot_index, snapshot_retry_at;
    size_t under_way, under_way_bytes; /* proposals in the log that were not answered */
    size_t apply_limit;
    struct disk_job disk;
    struct apply_job apply;
    struct snapshot_job snapshot;
    struct consensus_status counts; /* the counters in it */
    size_t capacity;                /* bytes that an append may have for sure */
    bool leads, stalled, apply_stalled, no_room, dead, closing, told_closed, looping, reserve_tried;
    void (*closed)(void *arg);
    void *closed_arg;
    unsigned handles;
};

/* consensus.c */
void consensus_pump(struct consensus *c);
__attribute__((format(printf, 2, 3))) void consensus_die(struct consensus *c, const char *format, ...);
uint64_t consensus_now_ms(void);
/* Sets the timer anew. */
void consensus_arm(struct consensus *c);
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

/* consensus_disk.c */
void disk_pump(struct consensus *c);
void submit_pump(struct consensus *c);

/* consensus_apply.c */
void apply_pump(struct consensus *c);
void snapshot_pump(struct consensus *c);
/* Applies entries on the calling thread. */
int apply_now(struct consensus *c, struct apply_job *job);
void apply_tell(struct consensus *c, struct apply_job *job);

/* consensus_open.c */
int consensus_load(struct consensus *c, char *err, size_t err_len);

#endif
