/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring's channel to control (msg.h): proposals out, results in, the only way a ring changes names; and jobs
 * in, their results out.
 */
#ifndef FL_LINK_H
#define FL_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cmd.h"
#include "msg.h"
#include "dataplane/waiter.h"

struct loop;
struct channel;

/* fd: a stream socket to control, taken. Starts to listen with channel_start, on the ring's thread. */
int channel_new(struct loop *loop, int fd, struct channel **out);
void channel_start(struct channel *c);
void channel_free(struct channel *c);
bool channel_connected(const struct channel *c);

/*
 * From main's thread: fd (taken) is the way to a new control. The ring takes it with one of its next ticks;
 * what was under way to the old control has then an unknown outcome. channel_offered: not taken yet.
 */
void channel_offer(struct channel *c, int fd);
bool channel_offered(const struct channel *c);

/* About ten times a second: wakes proposals whose time is over, and goes over to a new control. */
void channel_tick(struct channel *c, uint64_t now_ms);

/*
 * A proposal under way; embedded by the caller and kept until waiter.wake, which comes exactly once, with an
 * enum cmd_status as res (CMD_UNKNOWN_OUTCOME after deadline_ms, or when control went away).
 */
struct proposal {
    struct waiter waiter;                   /* set waiter.wake before the call */
    uint64_t index;                         /* of the log entry, for CMD_OK */
    uint8_t detail[16 * DIGEST_PACKED_MAX]; /* what came with the status */
    size_t detail_len;
    uint64_t id;
    uint64_t deadline_ms; /* set before the call: CLOCK_MONOTONIC */
    struct proposal *next, **prev;
};

/*
 * Sends a command (copied before the return). Returns 0, or at once: -ENOTCONN (control is away), -EAGAIN
 * (the queue to control is full), -EMSGSIZE.
 */
int channel_propose(struct channel *c, struct proposal *p, const void *cmd, size_t len);

/*
 * Whoever does jobs. job: at most JOBS_UNDERWAY_MAX are unanswered at a time, more end the channel. lost:
 * control has gone, and nobody waits for the answers any more: none of them may be given.
 */
struct channel_jobs {
    void (*job)(void *arg, uint64_t id, const struct frame_job *job);
    void (*lost)(void *arg);
    void *arg;
};
void channel_set_jobs(struct channel *c, const struct channel_jobs *jobs);

/* There is always room for it. */
void channel_job_done(struct channel *c, uint64_t id, enum job_result result, uint64_t detail);

/*
 * A question to control about something that is no name; embedded by the caller and kept until answered,
 * which comes exactly once, never from within channel_query: with what control says (body is valid until it
 * returns), or with an error (-ENOTCONN: control went away; -ETIMEDOUT: after deadline_ms).
 */
struct channel_query {
    void (*answered)(struct channel_query *q, int err, const uint8_t *body, size_t len); /* set before */
    uint64_t deadline_ms; /* set before: CLOCK_MONOTONIC */
    uint16_t answer;      /* set before: the type of the frame that answers */
    uint64_t id;
    struct channel_query *next, **prev;
};

/* type: PASS_WANTED, WAY_WANTED. 0, or at once: -ENOTCONN, -EAGAIN, as channel_propose. */
int channel_query(struct channel *c, struct channel_query *q, uint16_t type, const void *body, size_t len);

/* Tells control of a blob that was found to be damaged and is quarantined; without control nobody is told:
 * whoever comes next finds its file in damaged/. */
void channel_damaged(struct channel *c, const struct digest *d, uint64_t bytes);

/* The same of an upload that goes on here, with so many bytes, in place of that node. */
void channel_adopted(struct channel *c, uint64_t node, uint64_t bytes, const char *repo, size_t repo_len);

#endif
