/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror_work.h"

#include <errno.h>
#include <linux/limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

struct mirror_work {
    struct mirror_order order;
    uv_process_t process;
    uv_pipe_t in, out;
    uv_write_t write;
    char *job; /* has credentials */
    size_t job_len;
    char *line; /* MIRROR_LINE_MAX */
    size_t len;
    unsigned open; /* handles */
    bool exited, read_all, silent, garbled, told;
    int64_t status;
    int signal;
};

static void job_forget(struct mirror_work *w)
{
    if (w->job)
        explicit_bzero(w->job, w->job_len);
    free(w->job);
    w->job = NULL;
}

static void on_closed(uv_handle_t *handle)
{
    struct mirror_work *w = handle->data;
    if (--w->open)
        return;
    job_forget(w);
    free(w->line);
    free(w);
}

static void close_one(uv_handle_t *handle)
{
    if (!uv_is_closing(handle))
        uv_close(handle, on_closed);
}

static void close_all(struct mirror_work *w)
{
    close_one((uv_handle_t *)&w->process);
    close_one((uv_handle_t *)&w->in);
    close_one((uv_handle_t *)&w->out);
}

/* When it has ended and all that it said was read. */
static void tell_end(struct mirror_work *w)
{
    char text[64];
    if (!w->exited || !w->read_all)
        return;
    const char *why = w->garbled ? "it said what cannot be read" : NULL;
    if (!why && (w->signal || w->status > 1)) {
        snprintf(text, sizeof(text),
                 w->signal ? "its process was ended by signal %d" : "its process ended with %d",
                 w->signal ? w->signal : (int)w->status);
        why = text;
    }
    close_all(w);
    if (!w->silent && !w->told)
        w->order.ended(w->order.arg, why);
    w->told = true;
}

static void on_process_end(uv_process_t *process, int64_t status, int signal)
{
    struct mirror_work *w = process->data;
    w->exited = true;
    w->status = status;
    w->signal = signal;
    tell_end(w);
}

static void line_take(struct mirror_work *w, const char *text, size_t len)
{
    json_t *line = json_loadb(text, len, 0, NULL);
    if (!line)
        w->garbled = true;
    else if (!w->silent)
        w->order.line(w->order.arg, line);
    json_decref(line);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct mirror_work *w = handle->data;
    (void)suggested;
    *buf = uv_buf_init(w->line + w->len, (unsigned)(MIRROR_LINE_MAX - w->len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct mirror_work *w = stream->data;
    (void)buf;
    if (n < 0) { /* its end; or a line that is too long, which is garbled */
        w->garbled |= n == UV_ENOBUFS;
        w->read_all = true;
        uv_read_stop(stream);
        if (w->garbled && !w->exited)
            uv_process_kill(&w->process, SIGKILL);
        tell_end(w);
        return;
    }
    w->len += (size_t)n;
    char *at = w->line, *end;
    while ((end = memchr(at, '\n', w->len - (size_t)(at - w->line)))) {
        line_take(w, at, (size_t)(end - at));
        at = end + 1;
    }
    w->len -= (size_t)(at - w->line);
    memmove(w->line, at, w->len);
}

static void on_written(uv_write_t *write, int status)
{
    struct mirror_work *w = write->data;
    (void)status; /* where it was not read, its end says so */
    job_forget(w);
    close_one((uv_handle_t *)&w->in);
}

/* Beside this program. */
static int program_path(char out[PATH_MAX])
{
    ssize_t len = readlink("/proc/self/exe", out, PATH_MAX - 1);
    if (len < 0)
        return -errno;
    out[len] = '\0';
    char *slash = strrchr(out, '/');
    if (!slash || slash - out > PATH_MAX - 32)
        return -ENOENT;
    memcpy(slash, "/fairlead-mirror", sizeof("/fairlead-mirror"));
    return 0;
}

static int spawn(struct mirror_work *w)
{
    char path[PATH_MAX], *arguments[] = {path, NULL};
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&w->in},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&w->out},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO}};
    uv_process_options_t options = {
        .exit_cb = on_process_end, .file = path, .args = arguments, .stdio_count = 3, .stdio = stdio};
    int rc = program_path(path);
    if (rc)
        return rc;
    if (w->order.user->change) {
        options.flags = UV_PROCESS_SETUID | UV_PROCESS_SETGID;
        options.uid = w->order.user->uid;
        options.gid = w->order.user->gid;
    }
    return uv_spawn(w->order.loop, &w->process, &options);
}

int mirror_work_start(const struct mirror_order *order, struct mirror_work **out)
{
    struct mirror_work *w = calloc(1, sizeof(*w));
    CHECK(w);
    w->order = *order;
    w->line = malloc(MIRROR_LINE_MAX);
    w->job = json_dumps(order->job, JSON_COMPACT);
    CHECK(w->line && w->job);
    w->job_len = strlen(w->job);
    w->process.data = w->in.data = w->out.data = w->write.data = w;
    CHECK(uv_pipe_init(order->loop, &w->in, 0) == 0 && uv_pipe_init(order->loop, &w->out, 0) == 0);
    w->open = 3;
    int rc = spawn(w);
    if (rc) { /* the handle of a process that did not start is closed like any other */
        w->exited = w->silent = true;
        close_all(w);
        return rc;
    }
    uv_buf_t buf = uv_buf_init(w->job, (unsigned)w->job_len);
    if (uv_write(&w->write, (uv_stream_t *)&w->in, &buf, 1, on_written) ||
        uv_read_start((uv_stream_t *)&w->out, on_alloc, on_read)) {
        mirror_work_kill(w);
        return -EIO;
    }
    *out = w;
    return 0;
}

void mirror_work_kill(struct mirror_work *w)
{
    w->silent = true;
    w->read_all = true;
    if (!w->exited)
        uv_process_kill(&w->process, SIGKILL);
    close_one((uv_handle_t *)&w->in);
    close_one((uv_handle_t *)&w->out);
    tell_end(w);
}
