/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blobs of this node's store that are damaged, that its disk cannot read, or whose files are missing, until
 * they are healed: by a copy from another replica, which is asked for again and again, or by a push of the
 * same bytes. Where none comes soon, this node does not count as a holder any more, until one does. What was
 * quarantined is found again after a restart: its file is in store/damaged/, and leaves it when the blob is
 * healed.
 *
 * What the disk cannot read keeps its place in blobs/, and looks like a good file to whoever only looks
 * whether it is there: so which ones these are is remembered for two scrubs (damage_is_unreadable), of many
 * more than can be healed at a time.
 */
#ifndef FL_CONTROL_DAMAGE_H
#define FL_CONTROL_DAMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/jobs.h"

struct damage;

enum {
    DAMAGE_MAX = 4096, /* more are not remembered at a time */
    DAMAGE_AGAIN_MS = 5000,
    DAMAGE_AGAIN_MAX_MS = 600000,
    DAMAGE_PATH_BYTES = 16 + 2 * DIGEST_BYTES_MAX,
};

/* Where a blob's file is in blobs/. */
void damage_blob_path(const struct digest *d, char out[DAMAGE_PATH_BYTES]);

struct damage_config {
    int blobs_fd, damaged_fd; /* borrowed until damage_free */
    struct jobs *jobs;
    bool (*has_others)(void *arg); /* whether there are replicas that may have copies */
    /* Says to the cluster whether this node holds it. False: it cannot be said now; asked again later. */
    bool (*holds)(void *arg, const struct digest *digest, bool holds);
    bool (*is_wanted)(void *arg, const struct digest *digest); /* some repository has it */
    void (*tell)(void *arg, const char *kind, const struct digest *digest, const char *text);
    void *arg;
};

/* Reads store/damaged/. */
struct damage *damage_new(const struct damage_config *config);
/* Before jobs_free; no answer of a job may come any more. */
void damage_free(struct damage *d);

/* A blob was found to be damaged and is quarantined, or (unreadable) its disk gives errors. size:
 * UINT64_MAX if nobody knows. */
void damage_found(struct damage *d, const struct digest *digest, uint64_t size, bool unreadable);

/* This node is said to hold a blob, but its file was not there. Looked at once more before it is told. */
void damage_missing(struct damage *d, const struct digest *digest, uint64_t size);

/* About once a second: looks for what was healed, asks for what can be. */
void damage_tick(struct damage *d, uint64_t now_ms);

/* Whether one more is remembered. Where there are too many, those that this node does not count as a holder
 * of make room: the others look after them as after any blob that too few hold, and what was quarantined is
 * found by the next start. One that is told of while there is no room is not remembered. */
bool damage_has_room(const struct damage *d);

/* Whether the disk did not read it in this scrub or the one before, or since. It may have been healed: then a
 * copy too many is made of it, by whoever asks for one. */
bool damage_is_unreadable(const struct damage *d, const struct digest *digest);
void damage_scrub_ended(struct damage *d);

size_t damage_count(const struct damage *d);
typedef void (*damage_row)(void *row_arg, const struct digest *digest, bool unreadable, const char *state);
void damage_each(const struct damage *d, size_t limit, damage_row row, void *row_arg);

#endif
