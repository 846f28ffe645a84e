/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control's end of a ring's channel (msg.h): proposals in, results out; jobs out, their results in. Bounded:
 * while too many proposals are under way, or their results are not taken, nothing more is read. The data
 * plane is not trusted: a frame that makes no sense, or a command that it has no business with, is a breach.
 */
#ifndef FL_CONTROL_CHANNEL_H
#define FL_CONTROL_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "cmd.h"
#include "msg.h"

enum {
    CHANNEL_PROPOSALS_MAX = 4096,  /* under way in one channel */
    CHANNEL_BYTES_MAX = 128 << 20, /* of them */
    CHANNEL_DETAIL_MAX = 16 * DIGEST_PACKED_MAX,
    CHANNEL_ASKED_MAX = 512, /* passes and ways that are wanted and not told, in one channel */
};

struct channel;

/* PASS_WANTED. Neither text has a NUL in it, or at its end. */
struct channel_pass {
    uint64_t source, refused;
    const char *repo, *challenge;
    size_t repo_len, challenge_len;
};

/* WAY_WANTED; likewise. */
struct channel_way {
    uint64_t source;
    const char *host;
    size_t host_len;
    uint16_t port;
    bool tls;
};

typedef void (*channel_way_done)(void *arg, const struct frame_way *way);
typedef void (*channel_pass_done)(void *arg, const struct frame_pass *pass, const char *value, size_t len);

typedef void (*channel_done)(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                             size_t detail_len);

struct channel_handlers {
    /* Takes cmd (malloc'd); done is called exactly once, perhaps before the return. */
    void (*propose)(void *arg, void *cmd, size_t len, channel_done done, void *done_arg);
    /* What came of a job that was sent, or of one that was not: the data plane is not trusted. */
    void (*job_done)(void *arg, uint64_t id, enum job_result result, uint64_t detail);
    void (*damaged)(void *arg, const struct digest *digest, uint64_t bytes);
    /* An upload to that repository whose node is away goes on here, with so many bytes. */
    void (*adopted)(void *arg, uint64_t node, uint64_t bytes, const char *repo, size_t repo_len);
    /* wanted is valid until the return; done is called exactly once, perhaps before it. */
    void (*pass_wanted)(void *arg, const struct channel_pass *wanted, channel_pass_done done, void *done_arg);
    void (*way_wanted)(void *arg, const struct channel_way *wanted, channel_way_done done, void *done_arg);
    /* At most once, then nothing more is read: why is NULL if the other end just closed. */
    void (*ended)(void *arg, const char *why);
};

/* Takes fd. 0 or -errno. */
int channel_open(uv_loop_t *loop, int fd, const struct channel_handlers *handlers, void *arg,
                 struct channel **out);

/* Sends a job, of which at most JOBS_UNDERWAY_MAX may be unanswered. 0 or -errno. */
int channel_job(struct channel *channel, uint64_t id, const struct frame_job *job);

/* No handler is called any more but for propose's done. The memory goes when the last proposal is done. */
void channel_close(struct channel *channel);

/* Whether a data plane may propose this: NULL, or why not. */
const char *channel_refuse(const void *cmd, size_t len);

#endif
