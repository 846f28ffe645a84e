/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_wake.h"

#include <bpf/libbpf.h>
#include <stdlib.h>

#include "check.h"

struct kernel_wake {
    uv_poll_t poll;
    struct ring_buffer *ring;
    void (*woken)(void *arg);
    void *arg;
};

static int on_record(void *arg, void *data, size_t len)
{
    (void)arg;
    (void)data;
    (void)len;
    return 0;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct kernel_wake *wake = poll->data;
    (void)status;
    (void)events;
    ring_buffer__consume(wake->ring);
    wake->woken(wake->arg);
}

struct kernel_wake *kernel_wake_open(uv_loop_t *loop, int fd, void (*woken)(void *arg), void *arg)
{
    struct ring_buffer *ring = fd < 0 ? NULL : ring_buffer__new(fd, on_record, NULL, NULL);
    if (!ring)
        return NULL;
    struct kernel_wake *wake = calloc(1, sizeof(*wake));
    CHECK(wake);
    wake->ring = ring;
    wake->woken = woken;
    wake->arg = arg;
    CHECK(uv_poll_init(loop, &wake->poll, ring_buffer__epoll_fd(ring)) == 0);
    wake->poll.data = wake;
    CHECK(uv_poll_start(&wake->poll, UV_READABLE, on_readable) == 0);
    return wake;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void kernel_wake_close(struct kernel_wake *wake)
{
    uv_poll_stop(&wake->poll);
    uv_close((uv_handle_t *)&wake->poll, on_closed);
    ring_buffer__free(wake->ring);
}
