/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A blob that is not in this node's store is fetched from a source: into an upload session of the store,
 * which becomes the blob when its digest is right. Clients do not stand in the way of it: each reads the
 * growing file behind it, on any ring, at its own pace (struct fetch_reader), and nobody sees the last bytes
 * before the digest is known to be right. So a slow client slows nobody, one that goes away costs nothing,
 * and one fetch does for all that ask meanwhile.
 *
 *   session made -> source asked -> bytes: source wire -> pump -> session (hashed, written)
 *        ^               ^------ stopped: the rest from another backend, by Range
 *        '-- another digest, and nobody has seen a byte: from the beginning, elsewhere
 *   all there, digest right: readers see the end -> synced and renamed (kept) -> linked, if it was not
 *
 * Where the store cannot take it (full, broken, too slow) the fetch gives up, and its readers go on by
 * themselves. Without readers it goes on if that is little trouble: a small blob, or more than half is there.
 */
#ifndef FL_FETCH_H
#define FL_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "plan.h"
#include "dataplane/loop.h"
#include "dataplane/wire.h"
#include "dataplane/fetch/question.h"
#include "dataplane/fetch/table.h"
#include "dataplane/http/view.h"

struct fetches;
struct names_blob;
struct ring;

/* What a ring has for it. */
int fetches_new(struct ring *ring, struct fetches **out);
void fetches_free(struct fetches *all);
void fetches_run(struct fetches *all);  /* once a batch */
void fetches_tick(struct fetches *all); /* ten times a second */
void fetches_stop(struct fetches *all); /* the ring ends: what goes on for nobody's sake is given up */
bool fetches_idle(const struct fetches *all);

/* ------------------------------------------------------------------ sources */

enum { FETCH_SOURCES_MAX = 2 };

/* Where a blob may come from: the peers first, then the registry behind its repository. */
struct fetch_sources {
    unsigned count;
    bool manifest; /* it is one's bytes: a registry has another path for them */
    struct {
        uint16_t service;
        uint8_t kind;  /* enum plan_source_kind */
        uint64_t pass; /* question.source */
        uint16_t path_len;
        char path[QUESTION_PATH_MAX]; /* of the blob, at that source */
    } list[FETCH_SOURCES_MAX];
};

/* The registry behind a repository, or NULL. */
const struct plan_source *fetch_source_of(const struct plan *plan, struct view repo);

/* "/v2/<its name there>/<middle><last>" into out; its length, 0: too long. */
size_t fetch_source_path(const struct plan_source *source, struct view repo, const char *middle,
                         struct view last, char out[QUESTION_PATH_MAX]);

void fetch_sources_find(const struct plan *plan, struct view repo, bool manifest, const struct digest *d,
                        struct fetch_sources *out);

/* The place in the plan of the service whose backends are the other replicas, or PLAN_NO_SERVICE. */
uint16_t fetch_peers_service(const struct plan *plan);
/* 1 + the id of the backend that a node is, as question.only has it; 0: it is no other replica. */
uint32_t fetch_peer_of(const struct plan *plan, uint64_t node);
/* What the holder of a row is now: a replica that shares its store stands for that. */
uint64_t fetch_holder_of(const struct plan *plan, uint64_t holder);
/* Those that the names say hold the blob are asked first. */
void fetch_prefer_holders(struct ring *ring, const struct digest *d, struct question *q);
/* Whether one of those that the names say hold it is a replica still. True where they say nothing. */
bool fetch_is_held(const struct plan *plan, const struct names_blob *blob);

/* The media types of manifests, for a question's Accept. */
extern const char fetch_manifest_types[];

/* Why there is nothing to be had, from an answer that does not help. */
enum fetch_fault fetch_fault_of(const struct question *q, enum question_end end);

/* ------------------------------------------------------------------ reading along */

/* A wire from which the blob's bytes come, from `at` to `end`, as they arrive; it ends early when the fetch
 * does. */
struct fetch_reader {
    struct wire wire;
    struct fetch_entry *entry; /* what it is, how it goes on, how it ended */
    uint64_t at, end;          /* end: of what is to be read; the size where it was not known before */
    void (*news)(struct fetch_reader *r); /* once, when it can be answered; never from within a call */
    void *arg;
    /* private */
    struct wire_over over;
    struct fetches *all;
    struct fetch_reader *next, **prev; /* of those that wait */
    struct op *op;                     /* the poll under way */
    struct loop_post post;
    struct op read; /* of bytes that have left memory */
    uint32_t cold_at, cold_len;
    int error;
    bool needs_read, left, keep;
    uint8_t cold[16 << 10];
};

struct fetch_wish {
    const struct digest *digest;
    uint64_t size;                       /* that the names say; FETCH_SIZE_UNKNOWN */
    struct view repo;                    /* copied */
    bool link;                           /* the names do not link it yet: they are to, once it is here */
    const struct fetch_sources *sources; /* copied */
    bool keep;           /* news is not that it can be read, but that it is in the store, or will not be */
    uint64_t first, end; /* bytes that are wanted; end FETCH_SIZE_UNKNOWN: all */
};
#define FETCH_SIZE_UNKNOWN UINT64_MAX

/*
 * Reads along with the fetch of that blob; start: one is begun if none is under way. NULL: there is none, or
 * no memory for one: ask a source without keeping.
 */
struct fetch_reader *fetch_read(struct fetches *all, const struct fetch_wish *wish, bool start,
                                void (*news)(struct fetch_reader *r), void *arg);

/* Waits for the end of something that another call has begun: takes the reference. NULL: no memory; then it
 * is given back. */
struct fetch_reader *fetch_watch(struct fetches *all, struct fetch_entry *e,
                                 void (*news)(struct fetch_reader *r), void *arg);

/* No poll may be under way on its wire. */
void fetch_reader_leave(struct fetch_reader *r);

#endif
