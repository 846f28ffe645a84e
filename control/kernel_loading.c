/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_loading.h"

#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "control/pool.h"

struct kernel_loading {
    uv_work_t work;
    kernel_loading_done done; /* NULL: forgotten */
    void *arg;
    struct bpf_load_config config;
    char instance[BPF_PINS_INSTANCE_MAX];
    struct bpf_load *load;
    int result;
    char why[512];
};

static void load_work(uv_work_t *work)
{
    struct kernel_loading *loading = work->data;
    loading->result = bpf_load_open(&loading->config, &loading->load, loading->why, sizeof(loading->why));
}

static void more_work(uv_work_t *work)
{
    struct kernel_loading *loading = work->data;
    bpf_load_fill(loading->load);
}

static void on_loaded(uv_work_t *work, int status)
{
    struct kernel_loading *loading = work->data;
    CHECK(status == 0);
    if (loading->done)
        loading->done(loading->arg, loading->load, loading->result, loading->why);
    else if (loading->load)
        bpf_load_close(loading->load);
    free(loading);
}

struct kernel_loading *kernel_loading_start(uv_loop_t *loop, const struct bpf_load_config *config,
                                            kernel_loading_done done, void *arg)
{
    struct kernel_loading *loading = calloc(1, sizeof(*loading));
    CHECK(loading);
    snprintf(loading->instance, sizeof(loading->instance), "%s", config->instance);
    loading->config = *config;
    loading->config.instance = loading->instance;
    loading->done = done;
    loading->arg = arg;
    loading->work.data = loading;
    CHECK(pool_queue(loop, &loading->work, "programs for the kernel", load_work, on_loaded) == 0);
    return loading;
}

struct kernel_loading *kernel_loading_more(uv_loop_t *loop, struct bpf_load *more, kernel_loading_done done,
                                           void *arg)
{
    struct kernel_loading *loading = calloc(1, sizeof(*loading));
    CHECK(loading);
    loading->load = more;
    loading->done = done;
    loading->arg = arg;
    loading->work.data = loading;
    CHECK(pool_queue(loop, &loading->work, "programs for the kernel", more_work, on_loaded) == 0);
    return loading;
}

void kernel_loading_forget(struct kernel_loading *loading)
{
    loading->done = NULL;
}
