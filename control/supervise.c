/* SPDX-License-Identifier: Apache-2.0 */
#include "control/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "control/link.h"
#include "control/orphan.h"
#include "control/spawn.h"

enum state {
    STATE_IDLE,
    STATE_STARTING,
    STATE_RUNNING,
    STATE_BACKOFF,
    STATE_DRAINING,
    STATE_STOPPED,
    STATES_COUNT
};

/* Which state may follow which, as bits. */
static const struct {
    const char *name;
    unsigned next;
} states[STATES_COUNT] = {
    [STATE_IDLE] = {"idle", 1 << STATE_STARTING | 1 << STATE_BACKOFF | 1 << STATE_STOPPED},
    [STATE_STARTING] = {"starting", 1 << STATE_RUNNING | 1 << STATE_BACKOFF | 1 << STATE_DRAINING},
    [STATE_RUNNING] = {"running", 1 << STATE_BACKOFF | 1 << STATE_DRAINING},
    [STATE_BACKOFF] = {"backoff", 1 << STATE_STARTING | 1 << STATE_BACKOFF | 1 << STATE_STOPPED},
    [STATE_DRAINING] = {"draining", 1 << STATE_STOPPED},
    [STATE_STOPPED] = {"stopped", 0},
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
    uint16_t listeners_sent;
    uint32_t features;
    uint64_t plan_at_start;
    uint64_t plan_sent; /* generation of the newest plan that it was handed */
    bool channel_lost;
    const char *killed_because;
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
    unsigned handles; /* not closed yet, for the end */
};

static void dataplane_start(struct supervise *s);
static void on_timer(uv_timer_t *timer);

static void supervise_move(struct supervise *s, enum state next)
{
    CHECK(states[s->state].next & 1u << next);
    s->state = next;
}

static void dataplane_kill(struct dataplane *d, const char *why)
{
    if (d->killed_because)
        return;
    d->killed_because = why;
    kill(d->pid, SIGKILL);
}

/* A breach of the protocol by our own child: it cannot be trusted with anything any more. */
static void dataplane_breach(struct dataplane *d, const char *why)
{
    journal_error(d->supervise->config.journal, "supervise",
                  "the data plane (pid %d) broke the protocol: %s; it is restarted", (int)d->pid, why);
    dataplane_kill(d, why);
}

static void on_exit_poll_closed(uv_handle_t *handle)
{
    struct dataplane *d = handle->data;
    close(d->pidfd);
    free(d);
}

static void dataplane_free(struct dataplane *d)
{
    if (d->link)
        link_close(d->link);
    for (uint32_t i = 0; i < RINGS_MAX; i++)
        if (d->channels[i])
            channel_close(d->channels[i]);
    uv_close((uv_handle_t *)&d->exit_poll, on_exit_poll_closed);
}

static void supervise_stopped(struct supervise *s)
{
    supervise_move(s, STATE_STOPPED);
    uv_timer_stop(&s->timer);
    uv_timer_stop(&s->tick);
    s->config.handlers.stopped(s->config.arg);
}

static void supervise_backoff(struct supervise *s)
{
    uint64_t delay_ms = SUPERVISE_BACKOFF_MAX_MS;
    if (s->failures < 16 && (uint64_t)SUPERVISE_BACKOFF_MIN_MS << s->failures < delay_ms)
        delay_ms = (uint64_t)SUPERVISE_BACKOFF_MIN_MS << s->failures;
    s->failures++;
    supervise_move(s, STATE_BACKOFF);
    uv_timer_start(&s->timer, on_timer, delay_ms, 0);
    s->config.handlers.failed(s->config.arg, s->failures, s->ever_ready);
}

static void log_exit(struct supervise *s, const struct dataplane *d, const siginfo_t *info)
{
    bool clean = info->si_code == CLD_EXITED && info->si_status == 0;
    if (s->state == STATE_DRAINING && clean) {
        journal_info(s->config.journal, "supervise", "the data plane (pid %d) has drained", (int)d->pid);
        return;
    }
    journal_error(s->config.journal, "supervise", "the data plane (pid %d) ended by %s %d%s%s", (int)d->pid,
                  info->si_code == CLD_EXITED ? "exit status" : "signal", info->si_status,
                  d->killed_because ? ": " : "", d->killed_because ? d->killed_because : "");
}

static void on_exit_poll(uv_poll_t *poll, int status, int events)
{
    struct dataplane *d = poll->data;
    struct supervise *s = d->supervise;
    siginfo_t info = {0};
    (void)status;
    (void)events;
    if (waitid(P_PID, (id_t)d->pid, &info, WEXITED | WNOHANG) || info.si_pid != d->pid)
        return;
    log_exit(s, d, &info);
    orphan_forget(s->config.folders);
    s->dataplane = NULL;
    dataplane_free(d);
    shared_memory_reset_rings(s->config.memory);
    s->up_since_ms = 0;
    if (s->state == STATE_DRAINING) {
        supervise_stopped(s);
        return;
    }
    s->restarts++;
    supervise_backoff(s);
}

static void on_ready(struct supervise *s)
{
    if (s->state != STATE_STARTING) {
        dataplane_breach(s->dataplane, "READY in the wrong place");
        return;
    }
    supervise_move(s, STATE_RUNNING);
    uv_timer_stop(&s->timer);
    s->ready_at_ms = uv_now(s->config.loop);
    s->up_since_ms = journal_now_ms();
    s->ever_ready = true;
    s->plan_applied = s->dataplane->plan_at_start;
    journal_info(s->config.journal, "supervise", "the data plane (pid %d) serves with %u rings",
                 (int)s->dataplane->pid, s->config.memory->rings);
    s->config.handlers.ready(s->config.arg);
    s->config.handlers.plan_applied(s->config.arg, s->plan_applied);
}

static void on_plan_applied(struct dataplane *d, uint64_t generation)
{
    struct supervise *s = d->supervise;
    if (generation > d->plan_sent) {
        dataplane_breach(d, "a plan that it was never handed");
        return;
    }
    s->plan_applied = generation;
    s->config.handlers.plan_applied(s->config.arg, generation);
}

static void on_link_message(void *arg, const struct link_message *message)
{
    struct dataplane *d = arg;
    struct supervise *s = d->supervise;
    if (d->killed_because)
        return;
    if (message->version != LINK_VERSION) {
        dataplane_breach(d, "it is of another version: install fairleadd and fairlead-dataplane together");
        return;
    }
    switch (message->type) {
    case LINK_HELLO_REPLY:
        d->features = message->hello_reply.features;
        break;
    case LINK_READY:
        d->features = message->hello_reply.features; /* known once the rings run and the sandbox holds */
        on_ready(s);
        break;
    case LINK_PLAN_APPLIED:
        on_plan_applied(d, message->plan_applied.generation);
        break;
    case LINK_DRAINED:
        break;
    default:
        dataplane_breach(d, "an unknown message on the link");
    }
}

static void on_link_ended(void *arg, int err)
{
    struct dataplane *d = arg;
    if (err)
        dataplane_breach(d, strerror(-err));
    d->channel_lost = true;
}

static void on_propose(void *arg, void *cmd, size_t len, channel_done done, void *done_arg)
{
    const struct supervise_config *config = &((struct dataplane *)arg)->supervise->config;
    config->handlers.propose(config->arg, cmd, len, done, done_arg);
}

/* An end without a reason is mostly the process' end, which comes as an event of its own. */
static void on_channel_ended(void *arg, const char *why)
{
    struct dataplane *d = arg;
    d->channel_lost = true;
    if (why)
        dataplane_breach(d, why);
}

static int send_message(struct dataplane *d, struct link_message message, const int *fds, size_t fd_count)
{
    message.version = LINK_VERSION;
    return link_send(d->link, &message, fds, fd_count);
}

/* LMDB opens the file once more by its descriptor's path, so the data plane's group must be allowed to read
 * it. */
static int open_names(const struct supervise_config *config)
{
    int fd = open(config->names_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (config->user->change && (fchown(fd, (uid_t)-1, config->user->gid) || fchmod(fd, 0640))) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

static int send_hello(struct dataplane *d)
{
    const struct supervise_config *config = &d->supervise->config;
    int names_fd = open_names(config);
    if (names_fd < 0)
        return names_fd;
    const int fds[HELLO_FDS] = {
        [HELLO_COUNTERS] = config->memory->counters_fd, [HELLO_LOG] = config->memory->log_fd,
        [HELLO_EPOCHS] = config->memory->epochs_fd,     [HELLO_BLOBS] = config->folders->blobs_fd,
        [HELLO_UPLOADS] = config->folders->uploads_fd,  [HELLO_NAMES] = names_fd,
    };
    int err = send_message(d,
                           (struct link_message){.type = LINK_HELLO,
                                                 .hello = {.rings = config->memory->rings,
                                                           .listeners = config->listeners->fd_count,
                                                           .control_pid = (uint64_t)getpid()}},
                           fds, HELLO_FDS);
    close(names_fd);
    return err;
}

static int send_ring(struct dataplane *d, uint32_t index)
{
    static const struct channel_handlers handlers = {.propose = on_propose, .ended = on_channel_ended};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return -errno;
    int err =
        send_message(d, (struct link_message){.type = LINK_RING, .ring = {.index = index}}, &pair[1], 1);
    close(pair[1]);
    if (err) {
        close(pair[0]);
        return err;
    }
    return channel_open(d->supervise->config.loop, pair[0], &handlers, d, &d->channels[index]);
}

/* The listeners that this data plane has not got yet. */
static int send_listeners(struct dataplane *d)
{
    const struct listeners *listeners = d->supervise->config.listeners;
    int err = 0;
    while (d->listeners_sent < listeners->fd_count && !err) {
        err = send_message(
            d, (struct link_message){.type = LINK_LISTENER, .listener = {.index = d->listeners_sent}},
            &listeners->fd[d->listeners_sent], 1);
        d->listeners_sent++;
    }
    return err;
}

static int send_plan(struct dataplane *d, int plan_fd, uint64_t generation)
{
    int err = send_listeners(d);
    if (!err)
        err = send_message(d, (struct link_message){.type = LINK_PLAN, .plan = {.generation = generation}},
                           &plan_fd, 1);
    close(plan_fd);
    d->plan_sent = generation;
    return err;
}

static int dataplane_introduce(struct dataplane *d)
{
    const struct supervise_config *config = &d->supervise->config;
    uint64_t generation = 0;
    int err = send_hello(d);
    for (uint32_t i = 0; i < config->memory->rings && !err; i++)
        err = send_ring(d, i);
    if (err)
        return err;
    int plan_fd = config->handlers.plan(config->arg, &generation);
    if (plan_fd < 0)
        return plan_fd;
    d->plan_at_start = generation;
    err = send_plan(d, plan_fd, generation);
    return err ? err : send_message(d, (struct link_message){.type = LINK_GO}, NULL, 0);
}

/* Makes the process and its link. On failure nothing is left. */
static int dataplane_spawn(struct supervise *s, struct dataplane *d)
{
    static const struct link_handlers handlers = {.message = on_link_message, .ended = on_link_ended};
    struct spawned spawned;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return -errno;
    int err = spawn_dataplane(s->binary_fd, pair[1], s->config.user, &spawned);
    close(pair[1]);
    if (err) {
        close(pair[0]);
        return err;
    }
    d->pid = spawned.pid;
    d->pidfd = spawned.pidfd;
    d->exit_poll.data = d;
    CHECK(uv_poll_init(s->config.loop, &d->exit_poll, d->pidfd) == 0);
    CHECK(uv_poll_start(&d->exit_poll, UV_READABLE, on_exit_poll) == 0);
    err = link_open(s->config.loop, pair[0], &handlers, d, &d->link);
    if (err)
        dataplane_kill(d, "no link");
    return 0;
}

static void dataplane_start(struct supervise *s)
{
    struct dataplane *d = calloc(1, sizeof(*d));
    CHECK(d);
    d->supervise = s;
    int err = dataplane_spawn(s, d);
    if (err) {
        free(d);
        journal_error(s->config.journal, "supervise", "the data plane could not be started: %s",
                      strerror(-err));
        supervise_backoff(s);
        return;
    }
    s->dataplane = d;
    supervise_move(s, STATE_STARTING);
    uv_timer_start(&s->timer, on_timer, SUPERVISE_READY_MS, 0);
    err = orphan_note(s->config.folders, d->pid);
    if (err)
        journal_warn(s->config.journal, "supervise", "dataplane.pid could not be written: %s",
                     strerror(-err));
    err = d->link ? dataplane_introduce(d) : -ENOTCONN;
    /* A process that has ended meanwhile gives EPIPE; its end is the better reason. */
    if (err && err != -EPIPE && err != -ECONNRESET)
        dataplane_kill(d, strerror(-err));
}

static void on_timer(uv_timer_t *timer)
{
    struct supervise *s = timer->data;
    switch (s->state) {
    case STATE_STARTING:
        dataplane_kill(s->dataplane, "it was not ready in time");
        break;
    case STATE_BACKOFF:
        dataplane_start(s);
        break;
    case STATE_DRAINING:
        dataplane_kill(s->dataplane, "it did not drain in time");
        break;
    default:
        IMPOSSIBLE("a timer in a state without one");
    }
}

/* Ticks are counted, not time: a pause of this process, or of the machine, must not look like a dead ring. */
static void watch_rings(struct supervise *s)
{
    struct dataplane *d = s->dataplane;
    for (uint32_t i = 0; i < s->config.memory->rings; i++) {
        struct ring_watch *watch = &d->watch[i];
        uint64_t liveness = atomic_load_explicit(&s->config.memory->counters->ring[i].counter[CTR_LIVENESS],
                                                 memory_order_relaxed);
        watch->still_ticks = liveness == watch->liveness ? watch->still_ticks + 1 : 0;
        watch->liveness = liveness;
        if (watch->still_ticks < SUPERVISE_STILL_TICKS || d->killed_because)
            continue;
        journal_error(s->config.journal, "supervise",
                      "ring %u of the data plane (pid %d) stands still; it is restarted", i, (int)d->pid);
        dataplane_kill(d, "a ring stood still");
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct supervise *s = timer->data;
    if (s->state != STATE_RUNNING)
        return;
    if (s->failures && uv_now(s->config.loop) - s->ready_at_ms >= SUPERVISE_HEALTHY_MS)
        s->failures = 0;
    if (s->dataplane->channel_lost)
        dataplane_kill(s->dataplane, "it closed its link or a channel");
    watch_rings(s);
}

int supervise_open(const struct supervise_config *config, struct supervise **out, char *err, size_t err_len)
{
    char shown[512];
    struct supervise *s = calloc(1, sizeof(*s));
    CHECK(s);
    s->config = *config;
    s->binary_fd = spawn_open_binary(config->binary, shown, sizeof(shown));
    if (s->binary_fd < 0) {
        int result = s->binary_fd;
        snprintf(err, err_len,
                 "cannot open the data plane's program %s: %s; install it there or set dataplane.binary",
                 shown, strerror(-result));
        free(s);
        return result;
    }
    uv_timer_init(config->loop, &s->timer);
    uv_timer_init(config->loop, &s->tick);
    s->timer.data = s;
    s->tick.data = s;
    *out = s;
    return 0;
}

void supervise_start(struct supervise *s)
{
    uv_timer_start(&s->tick, on_tick, SUPERVISE_TICK_MS, SUPERVISE_TICK_MS);
    dataplane_start(s);
}

void supervise_send_plan(struct supervise *s, int plan_fd, uint64_t generation)
{
    if ((s->state != STATE_RUNNING && s->state != STATE_STARTING) || !s->dataplane->link ||
        s->dataplane->killed_because) {
        close(plan_fd);
        return;
    }
    int err = send_plan(s->dataplane, plan_fd, generation);
    if (err && err != -EPIPE && err != -ECONNRESET)
        dataplane_kill(s->dataplane, strerror(-err));
}

void supervise_kill(struct supervise *s, const char *why)
{
    if (s->dataplane)
        dataplane_kill(s->dataplane, why);
}

void supervise_stop(struct supervise *s, uint64_t timeout_ms)
{
    if (s->state == STATE_DRAINING || s->state == STATE_STOPPED) {
        supervise_kill(s, "control was told to stop at once");
        return;
    }
    if (!s->dataplane) {
        supervise_stopped(s);
        return;
    }
    bool serving = s->state == STATE_RUNNING;
    supervise_move(s, STATE_DRAINING);
    uv_timer_start(&s->timer, on_timer, timeout_ms + SUPERVISE_DRAIN_GRACE_MS, 0);
    int err =
        serving ? send_message(s->dataplane,
                               (struct link_message){.type = LINK_DRAIN, .drain = {.timeout_ms = timeout_ms}},
                               NULL, 0)
                : -ENOTCONN;
    if (err)
        dataplane_kill(s->dataplane, "it was not serving yet");
}

void supervise_status(const struct supervise *s, struct supervise_status *out)
{
    *out = (struct supervise_status){
        .state = states[s->state].name,
        .pid = s->dataplane ? s->dataplane->pid : 0,
        .features = s->dataplane ? s->dataplane->features : 0,
        .restarts = s->restarts,
        .plan_applied = s->plan_applied,
        .up_since_ms = s->up_since_ms,
    };
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct supervise *s = handle->data;
    if (--s->handles)
        return;
    close(s->binary_fd);
    free(s);
}

void supervise_close(struct supervise *s)
{
    CHECK(!s->dataplane);
    s->handles = 2;
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->tick, on_handle_closed);
}
