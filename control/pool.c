/* SPDX-License-Identifier: Apache-2.0 */
#include "control/pool.h"

#include <stdio.h>
#include <stdlib.h>

#include "check.h"

/* One that is under way. */
struct task {
    struct task *next;
    uv_work_t own, *work;
    const char *what;
    uint64_t since_ns;
    uv_work_cb run;
    uv_after_work_cb done;
};

static struct task *tasks; /* the newest first */

void pool_open(void)
{
    char text[8];
    snprintf(text, sizeof(text), "%d", POOL_THREADS);
    CHECK(setenv("UV_THREADPOOL_SIZE", text, 0) == 0); /* the library looks there when it makes them */
}

static void on_run(uv_work_t *own)
{
    const struct task *t = own->data;
    t->run(t->work);
}

static void on_done(uv_work_t *own, int status)
{
    struct task *t = own->data, **at = &tasks;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    uv_work_t *work = t->work;
    uv_after_work_cb done = t->done;
    free(t);
    done(work, status);
}

int pool_queue(uv_loop_t *loop, uv_work_t *work, const char *what, uv_work_cb run, uv_after_work_cb done)
{
    struct task *t = calloc(1, sizeof(*t));
    CHECK(t && done);
    *t = (struct task){.work = work, .what = what, .since_ns = uv_hrtime(), .run = run, .done = done};
    t->own.data = t;
    int rc = uv_queue_work(loop, &t->own, on_run, on_done);
    if (rc) {
        free(t);
        return rc;
    }
    t->next = tasks;
    tasks = t;
    return 0;
}

void pool_cancel(const uv_work_t *work)
{
    for (struct task *t = tasks; t; t = t->next)
        if (t->work == work)
            (void)uv_cancel((uv_req_t *)&t->own); /* one that has begun comes back by itself */
}

uint64_t pool_oldest_ms(void)
{
    uint64_t oldest_ns = 0, now_ns = uv_hrtime();
    for (const struct task *t = tasks; t; t = t->next)
        if (now_ns - t->since_ns > oldest_ns)
            oldest_ns = now_ns - t->since_ns;
    return oldest_ns / 1000000;
}

size_t pool_list(char *out, size_t cap)
{
    size_t count = 0, used = 0;
    out[0] = '\0';
    for (const struct task *t = tasks; t; t = t->next, count++) {
        int n = snprintf(out + used, cap - used, "%s%s (%llu s)", used ? ", " : "", t->what,
                         (unsigned long long)((uv_hrtime() - t->since_ns) / 1000000000));
        if (n < 0 || (size_t)n >= cap - used)
            out[used] = '\0';
        else
            used += (size_t)n;
    }
    return count;
}
