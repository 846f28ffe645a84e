/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps one data plane running: starts it, hands it everything (msg.h), watches that its rings turn, starts
 * it again with back-off when it ends, and drains it at the end.
 *
 *   IDLE -> STARTING -> RUNNING -> (exit) -> BACKOFF -> STARTING ...
 *              |           |
 *              '-----------+-> DRAINING -> STOPPED        (supervise_stop)
 *
 * A data plane that outlived its control comes in at STARTING and is handed what is new (adopt.h).
 */
#ifndef FL_CONTROL_SUPERVISE_H
#define FL_CONTROL_SUPERVISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "control/adopt.h"
#include "control/channel.h"
#include "control/folders.h"
#include "control/listeners.h"
#include "control/journal.h"
#include "control/shared_memory.h"

struct supervise;

enum {
    SUPERVISE_READY_MS = 30000,   /* from the start of the process to READY */
    SUPERVISE_ADOPT_MS = 10000,   /* for one that is taken over; then it is killed and replaced */
    SUPERVISE_BACKOFF_MIN_MS = 1, /* doubled with each failure in a row ... */
    SUPERVISE_BACKOFF_MAX_MS = 5000,
    SUPERVISE_FORBIDDEN_MS = 60000, /* between tries of what the machine does not allow */
    SUPERVISE_HEALTHY_MS = 10000,   /* ... and forgotten after this long without one */
    SUPERVISE_TICK_MS = 500,
    SUPERVISE_STILL_TICKS = 10,      /* a ring that does not turn for this many ticks is dead */
    SUPERVISE_DRAIN_GRACE_MS = 5000, /* beyond http.drain_timeout, then kill -9 */
    SUPERVISE_KILLED_MS = 10000,     /* so long its end may take then: a disk may hold it up for ever */
};

struct supervise_handlers {
    /* A sealed plan for a data plane that starts, and its generation. Returns a descriptor that is closed
     * after the sending, or -errno. */
    int (*plan)(void *arg, uint64_t *generation);
    /* The same for certificates; -ENOENT: there are none. */
    int (*certs)(void *arg, uint64_t *generation);
    void (*propose)(void *arg, void *cmd, size_t len, channel_done done, void *done_arg);
    /* What came of a job that was sent to this data plane; a blob that it found damaged by itself. */
    void (*job_done)(void *arg, uint64_t id, enum job_result result, uint64_t detail);
    void (*damaged)(void *arg, const struct digest *digest, uint64_t bytes);
    /* An upload to that repository whose node is away goes on here, with so many bytes. */
    void (*adopted)(void *arg, uint64_t node, uint64_t bytes, const char *repo, size_t repo_len);
    void (*pass_wanted)(void *arg, const struct channel_pass *wanted, channel_pass_done done, void *done_arg);
    void (*way_wanted)(void *arg, const struct channel_way *wanted, channel_way_done done, void *done_arg);
    void (*ready)(void *arg);
    void (*plan_applied)(void *arg, uint64_t generation);
    /* A data plane ended without having been told to. failures: in a row; ever_ready: one has served before;
     * forbidden: this machine does not allow it to run, and another try would change nothing. */
    void (*failed)(void *arg, unsigned failures, bool ever_ready, bool forbidden);
    /* After supervise_stop: nothing of the data plane is left. */
    void (*stopped)(void *arg);
};

/* All borrowed until supervise_close. */
struct supervise_config {
    uv_loop_t *loop;
    struct journal *journal;
    struct shared_memory *memory;
    const struct listeners *listeners;
    const struct folders *folders;
    const struct dataplane_user *user;
    const char *binary;     /* NULL: beside this program */
    const char *names_path; /* of the names file, which exists */
    /* A data plane that outlived its control and goes on, or NULL. Its pidfd and link are taken when
     * supervise_start() comes; the memory and the listeners are its own already. */
    struct adopted *adopted;
    struct supervise_handlers handlers;
    void *arg;
};

struct supervise_status {
    const char *state;
    pid_t pid;         /* 0: none */
    bool adopted;      /* an earlier fairleadd started it */
    uint32_t features; /* enum dataplane_feature */
    uint64_t restarts;
    uint64_t plan_applied; /* generation */
    uint64_t up_since_ms;  /* UTC; of READY, 0 before */
};

/* 0 or -errno with a message. */
int supervise_open(const struct supervise_config *config, struct supervise **out, char *err, size_t err_len);
void supervise_start(struct supervise *s);

/* Hands a new plan to the running data plane, with the listeners that it has not got yet. Takes plan_fd. */
void supervise_send_plan(struct supervise *s, int plan_fd, uint64_t generation);

/* Hands certificates to the running data plane. Takes certs_fd. */
void supervise_send_certs(struct supervise *s, int certs_fd, uint64_t generation);

/* Sends a job to a ring of the data plane that serves; 0 or -errno. Those that are unanswered when it ends
 * are never answered: ready() is the time to ask again. */
int supervise_send_job(struct supervise *s, uint32_t ring, uint64_t id, const struct frame_job *job);

/* The kernel's maps that the data plane reads and fills (msg.h, VERDICTS): for the one that runs, and for
 * those that will. Takes the descriptors; count 0: there are none. */
void supervise_set_words(struct supervise *s, int verdicts_fd, int evidence_fd, uint32_t count);

/* Makes the running data plane close the sockets of these slots: the address was removed. */
void supervise_unlisten(struct supervise *s, uint16_t first, uint16_t count);

/* Drains for timeout_ms at most; a second call ends it at once. stopped() comes once. */
void supervise_stop(struct supervise *s, uint64_t timeout_ms);

/* Lets go of a data plane that serves, for the next control to take over; stopped() comes before the return.
 * False, and nothing is done, if there is none. */
bool supervise_leave(struct supervise *s);

/* Ends the data plane at once, to be started again unless it was told to stop. why: a literal, for the log.
 */
void supervise_kill(struct supervise *s, const char *why);

void supervise_status(const struct supervise *s, struct supervise_status *out);

/* Only after stopped(), or before supervise_start(). */
void supervise_close(struct supervise *s);

#endif
