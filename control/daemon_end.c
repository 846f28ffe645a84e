/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_end.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "control/daemon.h"
#include "control/pool.h"

enum { NAMES_MAX = 512 };

static atomic_uint turns;     /* of the loop, since the end began */
static unsigned still_max_ms; /* set before the thread that looks at it is there */

/* ------------------------------------------------------------------ where the loop itself stands still */

/* It holds nothing of the daemon's: the loop's thread is inside of all that. */
static void *watch(void *arg)
{
    const struct timespec tick = {.tv_nsec = DAEMON_END_TICK_MS * 1000000L};
    unsigned seen = 0, still_ms = 0;
    (void)arg;
    while (still_ms < still_max_ms) {
        nanosleep(&tick, NULL);
        unsigned now = atomic_load(&turns);
        still_ms = now == seen ? still_ms + DAEMON_END_TICK_MS : 0;
        seen = now;
    }
    dprintf(
        STDERR_FILENO,
        "fairleadd: its end has stood still for %u s, in a call that waits for a disk; it ends as a crash "
        "would, nothing that was acknowledged is lost\n",
        still_max_ms / 1000);
    _exit(1);
}

/* Without it the end is as long as the disk wants. */
static void watch_start(bool restart)
{
    still_max_ms = restart ? DAEMON_END_RESTART_MS : DAEMON_END_STILL_MS;
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, old;
    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    (void)pthread_create(&thread, &attr, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
}

/* ------------------------------------------------------------------ what is not waited for */

bool daemon_end_is_late(uint64_t waited_ms, uint64_t oldest_ms, bool restart)
{
    return waited_ms >= (uint64_t)(restart ? DAEMON_END_RESTART_MS : DAEMON_END_MS) &&
           oldest_ms >= DAEMON_END_MS;
}

/* The lock is let go of even if this process cannot end before the disk answers: the next one can start. */
static _Noreturn void leave(struct daemon *d)
{
    if (d->cluster)
        journal_error(d->journal, "daemon",
                      "the state was not closed: it is as a crash would leave it, nothing that was "
                      "acknowledged is lost");
    journal_info(d->journal, "daemon", "stopped");
    folders_close(&d->folders);
    journal_close(d->journal);
    /* A process that cannot wait for its threads cannot become another one: whoever started it starts it
     * again. */
    _exit(d->restart && !d->exit_code ? 1 : d->exit_code);
}

static void on_state_closed(void *arg)
{
    struct daemon *d = arg;
    d->cluster = NULL;
    signals_close(&d->signals);
    if (d->end.late_ms)
        leave(d);
}

void daemon_end_state(struct daemon *d)
{
    if (d->end.state_closing)
        return;
    d->end.state_closing = true;
    cluster_close(d->cluster, on_state_closed, d);
}

static void give_up(struct daemon *d)
{
    char names[NAMES_MAX];
    size_t count = pool_list(names, sizeof(names));
    journal_error(d->journal, "daemon",
                  "the end does not wait any longer for %zu that a disk does not let go of: %s", count,
                  names);
    d->end.late_ms = uv_now(&d->loop);
    /* A backup's thread reads from the state: that is not closed under it. */
    if (!d->cluster || !d->end.backup_stopped)
        leave(d);
    daemon_end_state(d);
}

static void on_timer(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    struct daemon_end *end = &d->end;
    uint64_t now_ms = uv_now(&d->loop);
    atomic_fetch_add(&turns, 1);
    if (end->late_ms && now_ms - end->late_ms >= DAEMON_END_STATE_MS)
        leave(d);
    if (!end->late_ms && daemon_end_is_late(now_ms - end->began_ms, pool_oldest_ms(), d->restart))
        give_up(d);
}

void daemon_end_begin(struct daemon *d)
{
    struct daemon_end *end = &d->end;
    uv_timer_init(&d->loop, &end->timer);
    end->timer.data = d;
    end->begun = true;
    end->began_ms = uv_now(&d->loop);
    uv_timer_start(&end->timer, on_timer, DAEMON_END_TICK_MS, DAEMON_END_TICK_MS);
    uv_unref((uv_handle_t *)&end->timer);
    watch_start(d->restart);
}

void daemon_end_finish(struct daemon *d)
{
    if (!d->end.begun)
        return;
    uv_close((uv_handle_t *)&d->end.timer, NULL);
    uv_run(&d->loop, UV_RUN_DEFAULT);
}
