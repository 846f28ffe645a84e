/* SPDX-License-Identifier: Apache-2.0 */
/* The consensus on a libuv loop. */
#include "consensus_host.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "check.h"
#include "control/pool.h"

struct handle {
    struct consensus *c;
    uv_loop_t *loop;
    uv_timer_t timer[CONSENSUS_TIMER_COUNT];
    uv_async_t wake;
    unsigned open;
};

static uint64_t uv_now_ms(void *arg)
{
    (void)arg;
    return uv_hrtime() / 1000000;
}

static uint64_t uv_wall_ms(void *arg)
{
    struct timespec t;
    (void)arg;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static unsigned uv_random_number(void *arg)
{
    unsigned n;
    (void)arg;
    CHECK(getrandom(&n, sizeof(n), 0) == sizeof(n));
    return n;
}

static void on_wake(uv_async_t *async)
{
    struct handle *h = async->data;
    consensus_on_wake(h->c);
}

static void on_timer(uv_timer_t *timer)
{
    struct handle *h = timer->data;
    consensus_on_timer(h->c, (enum consensus_timer)(timer - h->timer));
}

static int uv_host_open(void *arg, struct consensus *c, void **handle)
{
    struct handle *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    h->c = c;
    h->loop = arg;
    int rc = uv_async_init(h->loop, &h->wake, on_wake);
    if (rc) {
        free(h);
        return rc;
    }
    h->wake.data = h;
    for (unsigned i = 0; i < CONSENSUS_TIMER_COUNT; i++) {
        uv_timer_init(h->loop, &h->timer[i]);
        h->timer[i].data = h;
    }
    h->open = 1 + CONSENSUS_TIMER_COUNT;
    *handle = h;
    return 0;
}

static void uv_host_timer(void *handle, enum consensus_timer which, uint64_t after_ms)
{
    struct handle *h = handle;
    uv_update_time(h->loop);
    uv_timer_start(&h->timer[which], on_timer, after_ms, 0);
}

static void uv_host_timer_stop(void *handle, enum consensus_timer which)
{
    struct handle *h = handle;
    uv_timer_stop(&h->timer[which]);
}

static void uv_host_wake(void *handle)
{
    struct handle *h = handle;
    uv_async_send(&h->wake);
}

static void on_work(uv_work_t *work)
{
    struct consensus_job *job = work->data;
    job->run(job);
}

static void on_work_done(uv_work_t *work, int status)
{
    struct consensus_job *job = work->data;
    (void)status;
    job->done(job);
}

static void uv_host_job(void *arg, struct consensus_job *job)
{
    job->work.data = job;
    CHECK(pool_queue(arg, &job->work, "the log and the files of the state", on_work, on_work_done) == 0);
}

static void on_closed(uv_handle_t *closed)
{
    struct handle *h = closed->data;
    if (--h->open)
        return;
    struct consensus *c = h->c;
    free(h);
    consensus_on_closed(c);
}

static void uv_host_close(void *handle)
{
    struct handle *h = handle;
    for (unsigned i = 0; i < CONSENSUS_TIMER_COUNT; i++)
        uv_close((uv_handle_t *)&h->timer[i], on_closed);
    uv_close((uv_handle_t *)&h->wake, on_closed);
}

const struct consensus_host consensus_host_uv = {
    .now_ms = uv_now_ms,
    .wall_ms = uv_wall_ms,
    .random = uv_random_number,
    .open = uv_host_open,
    .timer = uv_host_timer,
    .timer_stop = uv_host_timer_stop,
    .wake = uv_host_wake,
    .job = uv_host_job,
    .close = uv_host_close,
};
