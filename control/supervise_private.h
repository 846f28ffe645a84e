/* SPDX-License-Identifier: Apache-2.0 */
/* Between the two files of the supervisor: a process' life (supervise.c) and what it is handed (introduce.c).
 */
#ifndef FL_CONTROL_SUPERVISE_PRIVATE_H
#define FL_CONTROL_SUPERVISE_PRIVATE_H

#include "control/link.h"
#include "control/supervise.h"

enum state {
    STATE_IDLE,
    STATE_STARTING,
    STATE_RUNNING,
    STATE_BACKOFF,
    STATE_DRAINING,
    STATE_STOPPED,
    STATES_COUNT
};

/* What is known of one ring's turning. */
struct ring_watch {
    uint64_t liveness;
    unsigned still_ticks;
};

/* One data plane process, from its start to its end. */
struct dataplane {
    struct supervise *supervise;
    uv_poll_t exit_poll;
    pid_t pid;
    int pidfd;
    struct link *link;
    struct channel *channels[RINGS_MAX];
    bool adopted;                 /* it is another control's child */
    bool has_slot[LISTENERS_MAX]; /* it has the socket */
    uint32_t features;
    uint64_t plan_at_start;
    uint64_t plan_sent; /* generation of the newest plan that it was handed */
    bool channel_lost;
    const char *killed_because;
    uint64_t words_told; /* struct supervise: words.number; 0: nothing yet */
    struct ring_watch watch[RINGS_MAX];
};

struct supervise {
    struct supervise_config config;
    enum state state;
    struct dataplane *dataplane; /* NULL: none */
    int binary_fd;
    uv_timer_t timer; /* of the state: READY's time-out, back-off, drain */
    uv_timer_t tick;
    unsigned failures;
    bool ever_ready;
    uint64_t ready_at_ms; /* of the loop's clock, 0: not since the last failure */
    uint64_t up_since_ms, restarts, plan_applied;
    /* The kernel's maps. The number grows by one with each change; 0: nobody knows yet. */
    struct {
        int verdicts_fd, evidence_fd;
        uint32_t count;
        uint64_t number;
    } words;
    unsigned handles; /* not closed yet, for the end */
};

/* supervise.c. A breach of the protocol by our own child: it cannot be trusted with anything any more. */
void dataplane_breach(struct dataplane *d, const char *why);

/* introduce.c; all 0 or -errno. Everything up to GO: for a new process, or for one that is taken over. */
int introduce(struct dataplane *d);
int introduce_send(struct dataplane *d, struct link_message message, const int *fds, size_t fd_count);
/* Takes certs_fd. */
int introduce_certs(struct dataplane *d, int certs_fd, uint64_t generation);
/* Makes it close the sockets of these slots, as far as it has them. */
int introduce_unlisten(struct dataplane *d, uint16_t first, uint16_t count);
/* The kernel's maps, if it has not got them. */
int introduce_words(struct dataplane *d);
/* A plan, after the listeners that it has not got yet. Takes plan_fd. */
int introduce_plan(struct dataplane *d, int plan_fd, uint64_t generation);

#endif
