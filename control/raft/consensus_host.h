/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the consensus needs of its surroundings: clocks, timers, other threads, chance. The usual ones are a
 * libuv loop's (consensus_host_uv); a test brings its own, in which nothing happens but by its will.
 */
#ifndef FL_RAFT_CONSENSUS_HOST_H
#define FL_RAFT_CONSENSUS_HOST_H

#include <stdint.h>
#include <uv.h>

struct consensus;

enum consensus_timer {
    CONSENSUS_TIMER_RAFT,  /* when the library wants to be called next */
    CONSENSUS_TIMER_TICK,  /* heartbeats, leases, what waits for another node */
    CONSENSUS_TIMER_RETRY, /* the disk was full */
    CONSENSUS_TIMER_COUNT
};

/* Work for another thread. */
struct consensus_job {
    void (*run)(struct consensus_job *job);  /* there */
    void (*done)(struct consensus_job *job); /* afterwards, on the loop */
    uv_work_t work;                          /* for the host */
};

struct consensus_host {
    uint64_t (*now_ms)(void *arg);  /* CLOCK_MONOTONIC */
    uint64_t (*wall_ms)(void *arg); /* CLOCK_REALTIME */
    unsigned (*random)(void *arg);
    /* 0 or -errno. From then on it calls consensus_on_timer() and consensus_on_wake(). */
    int (*open)(void *arg, struct consensus *c, void **handle);
    void (*timer)(void *handle, enum consensus_timer which, uint64_t after_ms);
    void (*timer_stop)(void *handle, enum consensus_timer which);
    /* Calls consensus_on_wake() soon, never from inside; several calls may become one. */
    void (*wake)(void *handle);
    void (*job)(void *arg, struct consensus_job *job);
    /* Calls consensus_on_closed() when it lets go of the consensus; no job is under way. */
    void (*close)(void *handle);
    void *arg;
};

/* The host of a libuv loop; arg is the loop. */
extern const struct consensus_host consensus_host_uv;

void consensus_on_timer(struct consensus *c, enum consensus_timer which);
void consensus_on_wake(struct consensus *c);
void consensus_on_closed(struct consensus *c);

/* Lets go of everything at once, without a last write, as the end of the process would; the host lets go of
 * its handle, its jobs and its timers by itself. What a job that is under way holds is freed. For tests. */
void consensus_abandon(struct consensus *c);

#endif
