/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the garbage collection share: gc.c (runs), gc_files.c (removing), gc_folders.c (files
 * that no row names, and copies that need not be here). */
#ifndef FL_CONTROL_GC_PRIVATE_H
#define FL_CONTROL_GC_PRIVATE_H

#include "control/gc.h"

enum {
    GC_TICK_MS = 10,    /* between two looks */
    GC_RETRY_MS = 1000, /* after something could not be done; where nothing can: longer and longer, to */
    GC_RETRY_MAX_MS = 60000,
    GC_FILE_ROWS = 50,    /* a file that is removed costs as much of gc.rate */
    GC_REMOVING_MAX = 16, /* files at a time, ... */
    GC_REMOVING_MIN = 4,  /* ... and where one takes longer than GC_FILE_SLOW_MS */
    GC_FILE_SLOW_MS = 100,
    /* A look at rows is to be over in GC_STEP_US, by their number, and is followed by a rest of GC_REST times
     * as long as it took; a commit by one of GC_COMMIT_REST times that. */
    GC_STEP_US = 1000,
    GC_STEP_ROWS_MIN = 32,
    GC_REST = 10,
    GC_COMMIT_REST = 4,
    GC_REST_MAX_MS = 250,
    /* A file that was published less long ago may be about to be linked, though the process that has
     * published it is gone: by then the command is committed, or never will be. gc.grace, but within these.
     */
    GC_FILE_AGE_MS = 60000,
    GC_FILE_AGE_MIN_MS = 1000,
    GC_FOLDERS = 512,
    GC_FOLDER_ROWS = 256, /* of a folder, compared in a step at the most */
    GC_LEFT_MAX = 65536,  /* files that stay are remembered; with more, all marks are asked for again */
};

/* A marked blob whose file stays for now. */
struct gc_left {
    uint64_t index; /* of its mark */
    struct digest digest;
};

struct gc_lefts {
    struct gc_left *item;
    size_t count, cap;
};

/* Marked files. */
struct gc_files {
    uv_timer_t timer;
    bool wanted, again; /* marks may have come; something could not be removed */
    bool walking;
    uint8_t key[NAMES_KEY_MAX];
    size_t key_len;
    /* Marks up to seen_index were asked for, and are done but for those in left[]. Of the pass: those up to
     * pass_index are walked to; 0: it asks only for what was left. All up to done_index are done. */
    uint64_t seen_index, pass_index, done_index;
    struct gc_lefts left, ask; /* what this pass has left; what it is yet to ask for again */
    size_t left_max;
    uint64_t lost_index; /* the first mark that was left and found no room; 0: there is none */
    unsigned removing;
    uint64_t delay_ms; /* before what could not be removed is tried again */
    bool progress;     /* of this pass: something was removed */
    uint64_t gone;     /* files that were removed, or were not here */
    uint64_t errors;
};

/* How many rows are looked at in a step: as many as disk and processor do in a short time. */
struct gc_pace {
    unsigned rows;
};

/* As many of `most` as a step may look at now. */
unsigned gc_pace_rows(const struct gc_pace *p, unsigned most);
/* A step that was to look at gc_pace_rows(most) took so long. Returns for how long nothing is done now. */
uint64_t gc_pace_step(struct gc_pace *p, unsigned most, uint64_t took_us);

/* Files without a row, and spare ones. */
struct gc_folders {
    uv_timer_t timer;
    uv_work_t work;
    bool wanted, listing;
    uint64_t due_ms; /* of the loop's clock */
    unsigned folder; /* GC_FOLDERS: no pass is under way */
    /* Before the first folder: whose the store is. */
    char owner[33]; /* this cluster's id */
    bool has_blobs; /* the names know of a blob at all */
    bool ours, foreign;
    size_t put_back; /* by config.tidy */
    struct digest *file;
    size_t count, at, cap;
    unsigned removing;
    struct gc_pace pace;
};

struct gc {
    struct gc_config config;
    uv_timer_t timer;
    struct gc_walk walk;
    struct gc_status status;
    struct gc_files files;
    struct gc_folders folders;
    struct gc_pace pace; /* of the walk */
    uint64_t rest_ms;    /* behind its last step */
    uint64_t proposed_ms;
    unsigned removing_max;      /* of the files, and of the folders: what the disk does without delay */
    uint64_t due_ms, stage_ms;  /* of the loop's clock: the next run; when the stage began */
    uint64_t progress_ms, gone; /* when a file was done with last, and files.gone by then */
    bool led, proposing, closing;
    bool cleaned; /* it was this node's to remove files when that was looked at last */
    struct gc_removal removal[2 * GC_REMOVING_MAX];
};

uint64_t gc_setting(const struct gc *gc, int id);
unsigned gc_files_a_tick(const struct gc *gc);
uint64_t gc_now_ms(void); /* UTC */

bool gc_cleans(const struct gc *gc);

/* 0 or -EBUSY, as config.remove. */
int gc_remove(struct gc *gc, const struct digest *d, uint64_t age_ms, uint64_t mark, bool spare);
uint64_t gc_file_age(const struct gc *gc); /* of marked blobs' files: less is never enough */
uint64_t gc_applied(struct kv *kv);

void gc_files_open(struct gc *gc);
void gc_files_free(struct gc *gc);
void gc_files_want(struct gc *gc);
void gc_files_restart(struct gc *gc); /* the marks are other ones */
void gc_files_answer(struct gc *gc, const struct gc_removal *removal, enum gc_result result, uint64_t bytes);

void gc_folders_open(struct gc *gc);
void gc_folders_answer(struct gc *gc, const struct gc_removal *removal, enum gc_result result,
                       uint64_t bytes);
void gc_folders_want(struct gc *gc, uint64_t after_ms);
bool gc_folders_busy(const struct gc *gc);
void gc_folders_free(struct gc *gc);

#endif
