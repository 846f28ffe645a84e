/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scrub: all blobs of this node's store are read and hashed, one pass after the other, by jobs of the
 * data plane, which keeps the pace (scrub.rate). A pass goes through the blobs in the order of their digests,
 * in batches; how far it is stands in STATE/scrub, so that it goes on there after a restart. What it finds is
 * told, and somebody else's affair.
 */
#ifndef FL_CONTROL_SCRUB_H
#define FL_CONTROL_SCRUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/jobs.h"

struct scrub;

typedef void (*scrub_row)(void *row_arg, const struct digest *digest, uint64_t size);

struct scrub_config {
    int state_fd; /* borrowed until scrub_free */
    struct jobs *jobs;
    /* At most limit blobs behind `after` (NULL: the first ones), by their digests' packed bytes. Returns how
     * many, or -errno. */
    int (*walk)(void *arg, const struct digest *after, size_t limit, scrub_row row, void *row_arg);
    /* One that is not as it should be: JOB_DAMAGED, JOB_MISSING, JOB_ERROR. False: too many others are to be
     * healed first; it is told again, and the pass waits for that. */
    bool (*found)(void *arg, const struct digest *digest, uint64_t size, enum job_result result);
    void (*ended)(void *arg); /* a pass */
    void *arg;
};

struct scrub_status {
    bool running;
    uint64_t begun_ms, ended_ms; /* of the last pass: UTC; 0: never */
    /* Of the pass that runs, or of the last one. */
    uint64_t blobs, bytes; /* read, and good */
    uint64_t damaged, unreadable;
    double done; /* 0 to 1, as far as digests tell */
};

/* Reads how far an earlier one came. */
struct scrub *scrub_new(const struct scrub_config *config);
/* Before jobs_free; no answer of a job may come any more. */
void scrub_free(struct scrub *s);

/* Begins a pass now. False: one runs already. */
bool scrub_begin(struct scrub *s, uint64_t now_ms);

/* About once a second: begins a pass when it is time (interval_ms 0: never), the first one an interval after
 * the first tick of all; goes on with one that runs. */
void scrub_tick(struct scrub *s, uint64_t now_ms, uint64_t interval_ms);

void scrub_status(const struct scrub *s, struct scrub_status *out);

#endif
