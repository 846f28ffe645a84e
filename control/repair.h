/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This node's share of keeping every blob on as many replicas as are wanted (repair_rule.h): it walks over
 * the rows of all blobs, has its data plane KEEP what it is to hold, and says so once that is durable; and it
 * says that it lets go what it need not hold. Nothing of this is remembered: after a restart, or where a
 * command's outcome is not known, the rows tell what is left to do.
 *
 * What has the fewest holders comes first: one walk for each number of them, the lowest first, and only for
 * those that there are any blobs of. Then the balance: after the replicas have changed, the best-ranked come
 * to hold what they do not, and surplus holders let go. A copy that is let go stays a file of the store: it
 * is one that does not count, like those that pulls leave. It can be counted again at no cost, and serves
 * the bytes if the others fail after all, until the garbage collection takes it (gc.spare).
 *
 * Where no word of who is there is fresh (nobody leads), nothing is begun.
 */
#ifndef FL_CONTROL_REPAIR_H
#define FL_CONTROL_REPAIR_H

#include "control/jobs.h"
#include "control/repair_rule.h"
#include "control/state/state.h"

struct repair;

enum {
    REPAIR_TICK_MS = 100,
    REPAIR_SLOTS = 16,      /* blobs at a time */
    REPAIR_ROWS = 2048,     /* of blobs, a tick */
    REPAIR_AGAIN_MS = 5000, /* after a walk that brought nothing; twice as long after each further one */
    REPAIR_AGAIN_MAX_MS = 900000,
    REPAIR_STUCK_MS = 60000, /* without any progress, by anybody: the next in rank copy, too */
};

/* False: no more of them now. */
typedef bool (*repair_row)(void *row_arg, const struct digest *digest, const struct names_blob *blob);
typedef bool (*repair_lives)(void *arg, uint64_t node);
typedef void (*repair_said)(void *said_arg, enum cmd_status status);

struct repair_config {
    struct jobs *jobs;
    /* At most limit rows behind `after` (NULL: the first ones). Returns how many, or -errno. */
    int (*walk)(void *arg, const struct digest *after, size_t limit, repair_row row, void *row_arg);
    /* As cluster_blob and cluster_held. */
    int (*row)(void *arg, const struct digest *digest, struct names_blob *out);
    int (*held)(void *arg, uint32_t wanted, repair_lives lives, void *lives_arg, struct state_held *out);
    /* Proposes what the choice says; said comes once, later. */
    void (*say)(void *arg, const struct digest *digest, const struct repair_choice *choice, repair_said said,
                void *said_arg);
    /* Whether the store has its file. -EAGAIN: enough was asked for now. */
    int (*is_here)(void *arg, const struct digest *digest, uint64_t size);
    /* This node is said to hold it, and its file is not here. False: too many others are to be healed first;
     * it is told again. */
    bool (*missing)(void *arg, const struct digest *digest, uint64_t size);
    void (*tell)(void *arg, const char *kind, const char *text);
    /* The replicas that the last balance was made for, as a number; 0: none. */
    uint64_t balanced;
    void (*set_balanced)(void *arg, uint64_t balanced);
    void *arg;
};

struct repair *repair_new(const struct repair_config *config);
/* Looks again whether the files of what this node is said to hold are here, as after repair_new: the store is
 * another one. Not from within a call of the config. */
void repair_check(struct repair *r);
/* No tick comes any more: nothing is begun. */
void repair_stop(struct repair *r);
/* Before jobs_free; no answer of a job or a proposal may come any more. */
void repair_free(struct repair *r);

/* Every REPAIR_TICK_MS. view: NULL: nothing is known just now; copied. rate: bytes a second, 0: nothing is
 * done. */
void repair_tick(struct repair *r, uint64_t now_ms, const struct repair_view *view, uint64_t rate);

/* Of a blob whose file is here: repair_spares, and nothing is under way for it. False also while nothing is
 * known. One that this node is to hold, and is not said to, is seen to soon. */
bool repair_is_spare(struct repair *r, const struct digest *digest, const struct names_blob *blob);

struct repair_status {
    const char *state; /* "paused", "idle", "waiting", "copying", "balancing", "checking" */
    /* What is left, by all nodes: as of the last look, once a second or so. */
    uint64_t endangered, endangered_bytes; /* too few hold it */
    uint64_t lost;                         /* of these: nobody that counts does */
    uint64_t surplus;                      /* more than enough hold it */
    /* By this node, since its start. */
    uint64_t copied, copied_bytes, let_go, failed;
    unsigned under_way;
    const char *failure; /* why the last one that failed did; "": none has */
};
void repair_status(const struct repair *r, struct repair_status *out);

#endif
