/* SPDX-License-Identifier: Apache-2.0 */
#include "control/jobs.h"

#include <errno.h>
#include <stdlib.h>

#include "check.h"
#include "limits.h"

/* How many of a kind the data plane has at a time, of all rings: more would only wait there. */
static const unsigned kind_max[JOB_KIND_COUNT] = {
    [JOB_KEEP] = 16,
    [JOB_VERIFY] = 2 * RINGS_MAX,
};

enum { DEFAULT_MAX = 64 };

struct job {
    struct job *next, **prev; /* in the list of what waits, or of what was sent */
    uint64_t id;
    uint32_t ring;
    struct job_order order;
};

struct list {
    struct job *first, **last;
};

struct jobs {
    struct jobs_config config;
    uint64_t next_id;
    size_t count, kind_count[JOB_KIND_COUNT];
    struct list waiting[JOB_KIND_COUNT]; /* the oldest first */
    struct list sent;
    unsigned kind_sent[JOB_KIND_COUNT];
    unsigned ring_sent[RINGS_MAX];
};

static void append(struct list *l, struct job *j)
{
    j->next = NULL;
    j->prev = l->last;
    *l->last = j;
    l->last = &j->next;
}

static void take(struct list *l, struct job *j)
{
    *j->prev = j->next;
    if (j->next)
        j->next->prev = j->prev;
    else
        l->last = j->prev;
}

struct jobs *jobs_new(const struct jobs_config *config)
{
    struct jobs *jobs = calloc(1, sizeof(*jobs));
    CHECK(jobs && config->rings > 0 && config->rings <= RINGS_MAX);
    jobs->config = *config;
    jobs->sent.last = &jobs->sent.first;
    for (int i = 0; i < JOB_KIND_COUNT; i++)
        jobs->waiting[i].last = &jobs->waiting[i].first;
    return jobs;
}

static void list_free(struct list *l)
{
    for (struct job *j = l->first, *next; j; j = next) {
        next = j->next;
        free(j);
    }
}

void jobs_free(struct jobs *jobs)
{
    list_free(&jobs->sent);
    for (int i = 0; i < JOB_KIND_COUNT; i++)
        list_free(&jobs->waiting[i]);
    free(jobs);
}

/* The one with the fewest; none if all have as many as they may have. */
static uint32_t ring_for(const struct jobs *jobs)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < jobs->config.rings; i++)
        if (jobs->ring_sent[i] < jobs->ring_sent[best])
            best = i;
    return jobs->ring_sent[best] < JOBS_UNDERWAY_MAX ? best : jobs->config.rings;
}

static int job_send(struct jobs *jobs, struct job *j, uint32_t ring)
{
    struct frame_job frame = {.kind = j->order.kind, .flags = j->order.flags, .arg = j->order.arg};
    (void)digest_pack(&j->order.digest, frame.digest);
    return jobs->config.send(jobs->config.arg, ring, j->id, &frame);
}

static unsigned most_of(enum job_kind kind)
{
    return kind_max[kind] ? kind_max[kind] : DEFAULT_MAX;
}

/* As many as may be there, of each kind. */
static void send_more(struct jobs *jobs)
{
    for (int kind = 0; kind < JOB_KIND_COUNT; kind++) {
        struct job *j;
        while ((j = jobs->waiting[kind].first) != NULL && jobs->kind_sent[kind] < most_of(kind)) {
            uint32_t ring = ring_for(jobs);
            if (ring == jobs->config.rings || job_send(jobs, j, ring))
                return;
            take(&jobs->waiting[kind], j);
            append(&jobs->sent, j);
            j->ring = ring;
            jobs->ring_sent[ring]++;
            jobs->kind_sent[kind]++;
        }
    }
}

int jobs_ask(struct jobs *jobs, const struct job_order *order)
{
    CHECK(order->kind > JOB_NONE && order->kind < JOB_KIND_COUNT);
    if (jobs->count >= JOBS_MAX)
        return -EBUSY;
    struct job *j = calloc(1, sizeof(*j));
    CHECK(j);
    j->order = *order;
    j->id = ++jobs->next_id;
    jobs->count++;
    jobs->kind_count[order->kind]++;
    append(&jobs->waiting[order->kind], j);
    send_more(jobs);
    return 0;
}

size_t jobs_waiting(const struct jobs *jobs, enum job_kind kind)
{
    return jobs->kind_count[kind];
}

/* Out of the list of what was sent. */
static void unsend(struct jobs *jobs, struct job *j)
{
    take(&jobs->sent, j);
    jobs->ring_sent[j->ring]--;
    jobs->kind_sent[j->order.kind]--;
}

/* In front of those that wait, in the order in which they were sent. */
static void wait_again(struct jobs *jobs, struct job *j)
{
    struct list *l = &jobs->waiting[j->order.kind];
    j->id = ++jobs->next_id; /* what the one before may still say of it does not count */
    j->next = l->first;
    j->prev = &l->first;
    if (j->next)
        j->next->prev = &j->next;
    else
        l->last = &j->next;
    l->first = j;
}

void jobs_ready(struct jobs *jobs)
{
    struct job *newest_first = NULL, *j;
    while ((j = jobs->sent.first) != NULL) {
        unsend(jobs, j);
        j->next = newest_first;
        newest_first = j;
    }
    while ((j = newest_first) != NULL) {
        newest_first = j->next;
        wait_again(jobs, j);
    }
    send_more(jobs);
}

void jobs_answer(struct jobs *jobs, uint64_t id, enum job_result result, uint64_t detail)
{
    struct job *j = jobs->sent.first;
    while (j && j->id != id)
        j = j->next;
    if (!j)
        return;
    unsend(jobs, j);
    if (result == JOB_CANCELLED) { /* that data plane ends: the next one is asked */
        wait_again(jobs, j);
        return;
    }
    struct job_order order = j->order;
    jobs->count--;
    jobs->kind_count[order.kind]--;
    free(j);
    order.done(order.done_arg, result, detail); /* may ask for more */
    send_more(jobs);
}

/* Those of the list that have this function go from it to the front of `taken`. */
static struct job *take_done(struct list *l, void (*done)(void *, enum job_result, uint64_t),
                             struct job *taken)
{
    for (struct job *j = l->first, *next; j; j = next) {
        next = j->next;
        if (j->order.done != done)
            continue;
        take(l, j);
        j->next = taken;
        taken = j;
    }
    return taken;
}

void jobs_cancel(struct jobs *jobs, void (*done)(void *arg, enum job_result result, uint64_t detail))
{
    struct job *taken = NULL, *j, *next;
    for (j = jobs->sent.first; j; j = next) {
        next = j->next;
        if (j->order.done != done)
            continue;
        unsend(jobs, j);
        wait_again(jobs, j);
    }
    for (int kind = 0; kind < JOB_KIND_COUNT; kind++)
        taken = take_done(&jobs->waiting[kind], done, taken);
    for (j = taken; j; j = next) {
        const struct job_order order = j->order;
        next = j->next;
        jobs->count--;
        jobs->kind_count[order.kind]--;
        free(j);
        order.done(order.done_arg, JOB_CANCELLED, 0);
    }
}

const char *job_result_name(enum job_result result)
{
    static const char *const names[JOB_RESULT_COUNT] = {
        [JOB_OK] = "ok",
        [JOB_MISSING] = "missing",
        [JOB_DAMAGED] = "damaged",
        [JOB_ERROR] = "error",
        [JOB_NO_SPACE] = "no space",
        [JOB_NO_SOURCE] = "no source",
        [JOB_CANCELLED] = "cancelled",
        [JOB_BUSY] = "busy",
    };
    return (unsigned)result < JOB_RESULT_COUNT ? names[result] : "unknown";
}
