/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Garbage collection while pushes and pulls go on. Two parts:
 *
 * The leader, on its schedule, or any node that is asked to, drives a run: walks the names (gc_walk.h) and
 * proposes what the walk finds. Nothing rests on who drives: the state machine judges each step by what is
 * committed, so two runs at once, or one that ends in the middle, do no harm.
 *
 * Every node removes files: of blobs that are marked (NAMES_MARK_DELETING) in the state as it is applied
 * here; files that no row names (what a crash left between a blob and its link, and what was forgotten while
 * this node was away), and old copies that this node need not have, both looked for in the store's folders.
 * The data plane has the last word for each file. Of several nodes that have one store in common one does so
 * (config.cleans).
 */
#ifndef FL_CONTROL_GC_H
#define FL_CONTROL_GC_H

#include <uv.h>

#include "control/cluster.h"
#include "control/gc_walk.h"
#include "control/journal.h"

struct gc;

enum gc_result {
    GC_REMOVED, /* or it is to stay, or there is none */
    GC_NOT_NOW, /* it is being pushed, or the data plane is busy: ask again */
    GC_FAILED,  /* the disk does not do it: ask again, later */
};

struct gc_status;

/* A file that the data plane is asked to remove. */
struct gc_removal {
    struct gc *gc;
    struct digest digest;
    uint64_t mark; /* its index; 0: no row names it, or it is spare */
    bool spare;    /* a row names it, but this node need not have it */
    bool used;
    uint64_t asked_ms; /* of the loop's clock */
};

struct gc_config {
    uv_loop_t *loop;
    struct journal *journal;
    struct cluster *cluster;
    int blobs_fd; /* the store's folder; borrowed */
    uint64_t (*setting)(void *arg, int id);
    /* Whether this node removes files from its store. NULL: it does. */
    bool (*cleans)(void *arg);
    /* Before the files without a row are looked for, on a thread: puts back what a removal has left half
     * done, and returns how many blobs that was. May be NULL. */
    size_t (*tidy)(void *arg);
    /* Has the data plane remove a file that was published longer than age_ms ago, if no row names it, its row
     * is marked, or it is spare. gc_answer() comes once, from the loop. 0, or -EBUSY: not now, and there is
     * no answer. */
    int (*remove)(void *arg, struct gc_removal *removal, uint64_t age_ms);
    /* Whether this node need not have its file, as far as is known: others hold it, and are there. */
    bool (*is_spare)(void *arg, const struct digest *digest, const struct names_blob *blob);
    void (*ended)(void *arg, const struct gc_status *status); /* a run */
    void *arg;
};

struct gc *gc_new(const struct gc_config *config);
/* Close before the cluster closes, free when the loop has ended. */
void gc_close(struct gc *gc);
void gc_free(struct gc *gc);

/* What came of a removal; bytes: of the file, 0: there was none, or it stays. */
void gc_answer(struct gc_removal *removal, enum gc_result result, uint64_t bytes);

/* Whether its file is being removed just now. */
bool gc_is_removing(const struct gc *gc, const struct digest *d);

/* An entry was applied; the whole state is another one. */
void gc_event(struct gc *gc, const struct state_event *event);
void gc_reload(struct gc *gc);

/* Begins a run, if none is under way. False: one is. */
bool gc_run(struct gc *gc, bool dry);

enum gc_stage {
    GC_STAGE_NONE,
    GC_STAGE_NAMES,  /* the walk */
    GC_STAGE_FILES,  /* removing what is marked */
    GC_STAGE_ROWS,   /* forgetting it */
    GC_STAGE_FOLDERS /* looking for files that no row names */
};

struct gc_status {
    uint64_t runs; /* that were begun by this process */
    bool dry;      /* of the run below */
    enum gc_stage stage;
    uint64_t begun_ms, ended_ms;  /* UTC; 0: not yet */
    uint64_t next_ms;             /* UTC; 0: none is planned here */
    const char *failed;           /* NULL: nothing */
    struct gc_figures figures;    /* of the run under way, or of the last one */
    char repo[REPO_NAME_MAX + 1]; /* where it is */
    uint64_t folders;             /* of 512 */
    /* Since the start of the process, on this node. */
    struct gc_sum removed, strays, spares; /* files of marked blobs, files without a row, spare copies */
    uint64_t removing, retries;            /* asked for and not answered; that could not be removed at once */
    uint64_t errors;                       /* that the disk did not remove */
    bool foreign;                          /* the store is another cluster's: files without a row stay */
};
void gc_status(const struct gc *gc, struct gc_status *out);

bool gc_is_foreign(const struct gc *gc); /* status.foreign */

const char *gc_stage_name(enum gc_stage stage);

#endif
