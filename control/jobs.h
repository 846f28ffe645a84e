/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What control asks its own data plane to do with blobs in the background (msg.h, "job"): bounded, and spread
 * over the rings. A job that was not answered because the data plane ended is asked again of the next one;
 * what this process asked for is forgotten when it ends, so whoever asks keeps for himself what is to be
 * done.
 */
#ifndef FL_CONTROL_JOBS_H
#define FL_CONTROL_JOBS_H

#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "msg.h"

struct jobs;

enum { JOBS_MAX = 4096 /* asked for and not answered */ };

struct jobs_config {
    /* To a ring; 0 or -errno: no data plane serves just now. */
    int (*send)(void *arg, uint32_t ring, uint64_t id, const struct frame_job *job);
    void *arg;
    uint32_t rings;
};

struct jobs *jobs_new(const struct jobs_config *config);
/* Nobody is told of what is unanswered. */
void jobs_free(struct jobs *jobs);

struct job_order {
    enum job_kind kind;
    uint32_t flags;
    struct digest digest;
    uint64_t arg;
    /* Once, from the loop, never from within jobs_ask. It may be long until then. */
    void (*done)(void *arg, enum job_result result, uint64_t detail);
    void *done_arg;
};

/* 0; -EBUSY: JOBS_MAX are unanswered; nobody is told then. */
int jobs_ask(struct jobs *jobs, const struct job_order *order);

/* Of those of that kind that are unanswered: how many. */
size_t jobs_waiting(const struct jobs *jobs, enum job_kind kind);

/* A data plane serves: all that is unanswered is asked of it. */
void jobs_ready(struct jobs *jobs);

/* What a data plane answers; an id that nobody asked for is passed over. */
void jobs_answer(struct jobs *jobs, uint64_t id, enum job_result result, uint64_t detail);

/* All that is unanswered and has this function is told JOB_CANCELLED, at once, and not done any more. What is
 * asked for meanwhile is not meant. */
void jobs_cancel(struct jobs *jobs, void (*done)(void *arg, enum job_result result, uint64_t detail));

const char *job_result_name(enum job_result result);

#endif
