/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The garbage collection's way through the names: rows in, commands out. Pure: whoever drives it gives it a
 * view of the state for a moment at a time, proposes what it asks for, and tells it what came of that. It
 * remembers where it was by keys, so rows may come and go meanwhile, and the next step may see a later state.
 *
 * A repository is gone through in passes. A pass reads all its manifests into a filter of what they name (a
 * Bloom filter: what it says is not named is not; of what is named nowhere it may miss some, other ones in
 * each run), then all its links. What no manifest names, and is old enough, is marked as seen (CMD_GC_SEE);
 * by the next pass, which began behind that mark, as going; and dropped when it has been so for the grace
 * period. Every use in between takes the mark away, and the state machine does a step only from the mark that
 * it names: so no step rests on what this walk has seen alone. Then all blobs are gone through: those that no
 * repository links are marked, and their files are removed; then (GC_WALK_FORGET) their rows are.
 */
#ifndef FL_CONTROL_GC_WALK_H
#define FL_CONTROL_GC_WALK_H

#include "cmd.h"
#include "control/state/kv.h"

enum {
    GC_FILTER_BYTES_MIN = 1 << 14,
    GC_FILTER_BYTES_MAX = 64 << 20,
    GC_PASSES_MAX = 3, /* of a repository in one run: seen, going, dropped */
};

enum gc_walk_kind {
    GC_WALK_ALL,
    GC_WALK_DRY, /* counts what there is, and asks for nothing */
    GC_WALK_FORGET,
};

struct gc_walk_config {
    uint64_t grace_ms;      /* how old a thing that nothing names must be; and how long it is going */
    bool untagged;          /* whether manifests without tags go ... */
    uint64_t untagged_ms;   /* ... and when */
    uint64_t removed_index; /* FORGET: files of marks up to this one are removed here */
    uint64_t forget_ms;     /* FORGET: others have had so long */
    uint64_t seed;          /* of the filter */
};

/* Things and their bytes. */
struct gc_sum {
    uint64_t count, bytes;
};

struct gc_figures {
    uint64_t repos, manifests, links, blobs; /* looked at */
    struct gc_sum seen, going, dropped;      /* links and manifests for which that step was done */
    struct gc_sum waiting;                   /* for the grace period: they are going, but not yet gone */
    struct gc_sum unlinked;                  /* blobs that were marked: nothing links them any more */
    struct gc_sum forgotten;                 /* blobs whose row has gone */
    struct gc_sum garbage, unlinked_now;     /* DRY: links and manifests; blobs that nothing links already */
};

struct gc_list {
    uint32_t count;
    struct {
        struct digest digest;
        uint64_t mark;
    } thing[CMD_GC_BATCH];
};

enum gc_phase {
    GC_PHASE_REPO, /* the next one */
    GC_PHASE_MANIFESTS,
    GC_PHASE_UNTAGGED,
    GC_PHASE_LINKS,
    GC_PHASE_BLOBS,
    GC_PHASE_FORGET,
    GC_PHASE_END,
};

struct gc_walk {
    enum gc_walk_kind kind;
    struct gc_walk_config config;
    struct gc_figures figures;
    enum gc_phase phase;
    char repo[REPO_NAME_MAX + 1];
    size_t repo_len;
    uint8_t key[NAMES_KEY_MAX]; /* the row that was looked at last */
    size_t key_len;
    unsigned pass;
    uint64_t pass_index; /* what was applied when the pass began */
    bool again;          /* another pass is worth it */
    uint8_t *filter;
    size_t filter_bytes, filter_cap; /* used, allocated; powers of two */
    /* Of the phase; by step - 1. */
    struct gc_list list[CMD_GC_DROP];
    /* What was asked for last. */
    uint8_t asked_kind, asked_step; /* kind 0: blobs */
};

void gc_walk_begin(struct gc_walk *w, enum gc_walk_kind kind, const struct gc_walk_config *config);
void gc_walk_end(struct gc_walk *w);

enum gc_next {
    GC_NEXT_STEP,    /* call again */
    GC_NEXT_PROPOSE, /* the command that is in cmd; then gc_walk_result() */
    GC_NEXT_END,     /* the walk is over */
};

/*
 * Looks at about `rows` rows more. kv: the state as it is now, of which applied_index is the last entry;
 * borrowed. cmd: where a command's fields go behind the head that the caller has written; it needs room for
 * CMD_GC_BATCH things. *type: of that command. Returns an enum gc_next or -errno.
 */
int gc_walk_step(struct gc_walk *w, struct kv *kv, uint64_t applied_index, uint64_t now_ms, unsigned rows,
                 struct wire_writer *cmd, uint16_t *type);

/* How a command's body is begun; a buffer of this size is large enough for it. */
enum { GC_COMMAND_BYTES_MAX = 512 + REPO_NAME_MAX + CMD_GC_BATCH * (DIGEST_PACKED_MAX + 8) };

/* What came of the command: CMD_OK with its detail, or not. */
void gc_walk_result(struct gc_walk *w, enum cmd_status status, const void *detail, size_t len);

#endif
