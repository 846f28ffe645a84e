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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "control/orphan.h"
#include "control/spawn.h"
#include "control/supervise_private.h"

/* Which state may follow which, as bits. */
static const struct {
    const char *name;
    unsigned next;
} states[STATES_COUNT] = {
    [STATE_IDLE] = {"idle", 1 << STATE_STARTING | 1 << STATE_BACKOFF | 1 << STATE_STOPPED},
    [STATE_STARTING] = {"starting", 1 << STATE_RUNNING | 1 << STATE_BACKOFF | 1 << STATE_DRAINING},
    [STATE_RUNNING] = {"running", 1 << STATE_BACKOFF | 1 << STATE_DRAINING | 1 << STATE_STOPPED},
    [STATE_BACKOFF] = {"backoff", 1 << STATE_STARTING | 1 << STATE_BACKOFF | 1 << STATE_STOPPED},
    [STATE_DRAINING] = {"draining", 1 << STATE_STOPPED},
    [STATE_STOPPED] = {"stopped", 0},
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
    syscall(SYS_pidfd_send_signal, d->pidfd, SIGKILL, NULL, 0);
    if (d->supervise->state == STATE_DRAINING)
        uv_timer_start(&d->supervise->timer, on_timer, SUPERVISE_KILLED_MS, 0);
}

void dataplane_breach(struct dataplane *d, const char *why)
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

static void supervise_backoff(struct supervise *s, bool forbidden)
{
    uint64_t delay_ms = SUPERVISE_BACKOFF_MAX_MS;
    if (s->failures < 16 && (uint64_t)SUPERVISE_BACKOFF_MIN_MS << s->failures < delay_ms)
        delay_ms = (uint64_t)SUPERVISE_BACKOFF_MIN_MS << s->failures;
    if (forbidden)
        delay_ms = SUPERVISE_FORBIDDEN_MS;
    s->failures++;
    supervise_move(s, STATE_BACKOFF);
    uv_timer_start(&s->timer, on_timer, delay_ms, 0);
    s->config.handlers.failed(s->config.arg, s->failures, s->ever_ready, forbidden);
}

static void log_exit(struct supervise *s, const struct dataplane *d, const siginfo_t *info)
{
    bool clean = info->si_code == CLD_EXITED && info->si_status == 0;
    if (s->state == STATE_DRAINING && clean) {
        journal_info(s->config.journal, "supervise", "the data plane (pid %d) has drained", (int)d->pid);
        return;
    }
    const char *why = d->killed_because;
    if (d->adopted && s->state == STATE_DRAINING && !why)
        journal_info(s->config.journal, "supervise", "the data plane (pid %d) has drained", (int)d->pid);
    else if (d->adopted) /* its exit status is for its parent */
        journal_error(s->config.journal, "supervise", "the data plane (pid %d) ended%s%s", (int)d->pid,
                      why ? ": " : "", why ? why : "");
    else
        journal_error(s->config.journal, "supervise", "the data plane (pid %d) ended by %s %d%s%s",
                      (int)d->pid, info->si_code == CLD_EXITED ? "exit status" : "signal", info->si_status,
                      why ? ": " : "", why ? why : "");
}

/* It is noted still, so that the next control waits for it before it starts another one. */
static void dataplane_abandon(struct dataplane *d)
{
    struct supervise *s = d->supervise;
    journal_error(
        s->config.journal, "supervise",
        "the data plane (pid %d) was killed (%s) and does not end: it waits for a disk that does not "
        "answer; it is left behind",
        (int)d->pid, d->killed_because);
    s->dataplane = NULL;
    dataplane_free(d);
    supervise_stopped(s);
}

static void on_exit_poll(uv_poll_t *poll, int status, int events)
{
    struct dataplane *d = poll->data;
    struct supervise *s = d->supervise;
    siginfo_t info = {0};
    (void)status;
    (void)events;
    if (!d->adopted && (waitid(P_PID, (id_t)d->pid, &info, WEXITED | WNOHANG) || info.si_pid != d->pid))
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
    supervise_backoff(s, info.si_code == CLD_EXITED && info.si_status == DATAPLANE_EXIT_FORBIDDEN);
}

/* A process that has ended meanwhile gives EPIPE; its end is the better reason. */
static void kill_unless_gone(struct dataplane *d, int err)
{
    if (err && err != -EPIPE && err != -ECONNRESET)
        dataplane_kill(d, strerror(-err));
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
    journal_info(s->config.journal, "supervise", "the data plane (pid %d) %s with %u rings",
                 (int)s->dataplane->pid, s->dataplane->adopted ? "goes on" : "serves",
                 s->config.memory->rings);
    kill_unless_gone(s->dataplane, introduce_words(s->dataplane)); /* what was said since it was introduced */
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
    if (d->adopted && d->supervise->state == STATE_STARTING)
        dataplane_kill(d, "it would not be taken over");
}

/* A process that is known by pid and pidfd, and the link to it (taken): it exists from here on. */
static void dataplane_watch(struct dataplane *d, int link_fd)
{
    static const struct link_handlers handlers = {.message = on_link_message, .ended = on_link_ended};
    struct supervise *s = d->supervise;
    d->exit_poll.data = d;
    CHECK(uv_poll_init(s->config.loop, &d->exit_poll, d->pidfd) == 0);
    CHECK(uv_poll_start(&d->exit_poll, UV_READABLE, on_exit_poll) == 0);
    if (link_open(s->config.loop, link_fd, &handlers, d, &d->link))
        dataplane_kill(d, "no link");
    s->dataplane = d;
    supervise_move(s, STATE_STARTING);
}

/* Makes the process and its link. On failure nothing is left. */
static int dataplane_spawn(struct supervise *s, struct dataplane *d)
{
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
    dataplane_watch(d, pair[0]);
    return 0;
}

static void dataplane_introduce(struct dataplane *d)
{
    kill_unless_gone(d, d->link ? introduce(d) : -ENOTCONN);
}

static struct dataplane *dataplane_new(struct supervise *s)
{
    struct dataplane *d = calloc(1, sizeof(*d));
    CHECK(d);
    d->supervise = s;
    return d;
}

static void dataplane_start(struct supervise *s)
{
    struct dataplane *d = dataplane_new(s);
    int err = dataplane_spawn(s, d);
    if (err) {
        free(d);
        journal_error(s->config.journal, "supervise", "the data plane could not be started: %s",
                      strerror(-err));
        supervise_backoff(s, false);
        return;
    }
    CHECK(s->dataplane == d);
    uv_timer_start(&s->timer, on_timer, SUPERVISE_READY_MS, 0);
    err = orphan_note(s->config.folders, d->pid);
    if (err)
        journal_warn(s->config.journal, "supervise", "dataplane.pid could not be written: %s",
                     strerror(-err));
    dataplane_introduce(d);
}

/* The slots are those of the control before: what it had of them, it has. */
static void dataplane_adopt(struct supervise *s, struct adopted *a)
{
    struct dataplane *d = dataplane_new(s);
    d->adopted = true;
    d->pid = a->pid;
    d->pidfd = a->pidfd;
    d->features = a->features;
    for (uint16_t i = 0; i < s->config.listeners->fd_count; i++)
        d->has_slot[i] = s->config.listeners->fd[i] >= 0 && a->had_slot[i];
    int link_fd = a->link_fd;
    a->pidfd = a->link_fd = -1;
    dataplane_watch(d, link_fd);
    uv_timer_start(&s->timer, on_timer, SUPERVISE_ADOPT_MS, 0);
    dataplane_introduce(d);
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
        if (s->dataplane->killed_because)
            dataplane_abandon(s->dataplane);
        else
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
    if (s->config.adopted && s->config.adopted->pid)
        dataplane_adopt(s, s->config.adopted);
    else
        dataplane_start(s);
}

/* Whether there is a data plane that has been introduced and can be talked to. */
static bool can_be_told(const struct supervise *s)
{
    return (s->state == STATE_RUNNING || s->state == STATE_STARTING) && s->dataplane->link &&
           !s->dataplane->killed_because;
}

void supervise_send_plan(struct supervise *s, int plan_fd, uint64_t generation)
{
    if (can_be_told(s))
        kill_unless_gone(s->dataplane, introduce_plan(s->dataplane, plan_fd, generation));
    else
        close(plan_fd);
}

void supervise_send_certs(struct supervise *s, int certs_fd, uint64_t generation)
{
    if (can_be_told(s))
        kill_unless_gone(s->dataplane, introduce_certs(s->dataplane, certs_fd, generation));
    else
        close(certs_fd);
}

int supervise_send_job(struct supervise *s, uint32_t ring, uint64_t id, const struct frame_job *job)
{
    if (s->state != STATE_RUNNING || !can_be_told(s) || !s->dataplane->channels[ring])
        return -ENOTCONN;
    return channel_job(s->dataplane->channels[ring], id, job);
}

static void drop_words(struct supervise *s)
{
    if (!s->words.count)
        return;
    close(s->words.verdicts_fd);
    close(s->words.evidence_fd);
    s->words.count = 0;
}

void supervise_set_words(struct supervise *s, int verdicts_fd, int evidence_fd, uint32_t count)
{
    if (!count && !s->words.count && s->words.number)
        return;
    drop_words(s);
    s->words.verdicts_fd = verdicts_fd;
    s->words.evidence_fd = evidence_fd;
    s->words.count = count;
    s->words.number++;
    /* One that starts gets them before the plan; one that is taken over may not have had its channels yet. */
    if (can_be_told(s) && s->state == STATE_RUNNING)
        kill_unless_gone(s->dataplane, introduce_words(s->dataplane));
}

void supervise_unlisten(struct supervise *s, uint16_t first, uint16_t count)
{
    if (can_be_told(s))
        kill_unless_gone(s->dataplane, introduce_unlisten(s->dataplane, first, count));
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
    bool serving = s->state == STATE_RUNNING || (s->dataplane->adopted && s->dataplane->link);
    supervise_move(s, STATE_DRAINING);
    uv_timer_start(&s->timer, on_timer, timeout_ms + SUPERVISE_DRAIN_GRACE_MS, 0);
    int err =
        serving
            ? introduce_send(s->dataplane,
                             (struct link_message){.type = LINK_DRAIN, .drain = {.timeout_ms = timeout_ms}},
                             NULL, 0)
            : -ENOTCONN;
    if (err)
        dataplane_kill(s->dataplane, "it was not serving yet");
}

bool supervise_leave(struct supervise *s)
{
    struct dataplane *d = s->dataplane;
    if (s->state != STATE_RUNNING || d->killed_because || d->channel_lost)
        return false;
    journal_info(s->config.journal, "supervise", "the data plane (pid %d) serves on, for the next fairleadd",
                 (int)d->pid);
    s->dataplane = NULL;
    dataplane_free(d);
    supervise_stopped(s);
    return true;
}

void supervise_status(const struct supervise *s, struct supervise_status *out)
{
    *out = (struct supervise_status){
        .state = states[s->state].name,
        .pid = s->dataplane ? s->dataplane->pid : 0,
        .features = s->dataplane ? s->dataplane->features : 0,
        .adopted = s->dataplane && s->dataplane->adopted,
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
    drop_words(s);
    s->handles = 2;
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->tick, on_handle_closed);
}
