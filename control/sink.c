/* SPDX-License-Identifier: Apache-2.0 */
#include "control/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

/* Two buffers: the loop fills one while the thread writes the other. */
struct sink {
    pthread_mutex_t mutex;
    pthread_cond_t filled, idle;
    char *fill, *spare;
    size_t fill_len;
    char *path; /* NULL: the descriptor is somebody else's */
    int fd;     /* of the thread, once it runs */
    uint64_t dropped;
    bool stopping, reopen, done;
    bool abandoned; /* nobody waits for the thread any more: it frees the sink */
};

static void sink_free(struct sink *sink)
{
    if (sink->path && sink->fd >= 0)
        close(sink->fd);
    pthread_mutex_destroy(&sink->mutex);
    pthread_cond_destroy(&sink->filled);
    pthread_cond_destroy(&sink->idle);
    free(sink->fill);
    free(sink->spare);
    free(sink->path);
    free(sink);
}

static int open_path(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
    return fd < 0 ? -errno : fd;
}

/* Returns the bytes that could be written. */
static size_t write_all(int fd, const char *data, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = write(fd, data + done, len - done);
        if (n > 0) {
            done += (size_t)n;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, -1);
            continue;
        }
        break;
    }
    return done;
}

/* A write that failed inside a line would join its stump to the next one: end the stump, if that can be done.
 */
static void end_stump(int fd, const char *data, size_t done)
{
    if (done && data[done - 1] != '\n')
        write_all(fd, "\n", 1);
}

/* Called with the mutex held, which is released while the bytes are written. */
static void sink_flush(struct sink *sink)
{
    size_t len = sink->fill_len;
    char *data = sink->fill;
    bool reopen = sink->reopen;
    sink->fill = sink->spare;
    sink->spare = NULL;
    sink->fill_len = 0;
    sink->reopen = false;
    pthread_mutex_unlock(&sink->mutex);
    size_t done = sink->fd < 0 ? 0 : write_all(sink->fd, data, len);
    if (done < len && sink->fd >= 0)
        end_stump(sink->fd, data, done);
    if (reopen && sink->path) {
        int fd = open_path(sink->path);
        if (fd >= 0 && sink->fd >= 0)
            close(sink->fd);
        if (fd >= 0)
            sink->fd = fd;
    }
    pthread_mutex_lock(&sink->mutex);
    sink->dropped += len - done;
    sink->spare = data;
}

static void *sink_run(void *arg)
{
    struct sink *sink = arg;
    pthread_mutex_lock(&sink->mutex);
    for (;;) {
        while (!sink->fill_len && !sink->reopen && !sink->stopping)
            pthread_cond_wait(&sink->filled, &sink->mutex);
        if (!sink->fill_len && !sink->reopen)
            break;
        sink_flush(sink);
    }
    sink->done = true;
    bool abandoned = sink->abandoned;
    pthread_cond_signal(&sink->idle);
    pthread_mutex_unlock(&sink->mutex);
    if (abandoned)
        sink_free(sink);
    return NULL;
}

static struct sink *sink_new(const char *path, int fd)
{
    struct sink *sink = calloc(1, sizeof(*sink));
    CHECK(sink);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&sink->mutex, NULL);
    pthread_cond_init(&sink->filled, &attr);
    pthread_cond_init(&sink->idle, &attr);
    pthread_condattr_destroy(&attr);
    sink->fill = malloc(SINK_BYTES_MAX);
    sink->spare = malloc(SINK_BYTES_MAX);
    sink->path = path ? strdup(path) : NULL;
    sink->fd = fd;
    CHECK(sink->fill && sink->spare && (sink->path || !path));
    return sink;
}

/* The thread takes no signal: they belong to the loop. */
static int sink_start(struct sink *sink, struct sink **out)
{
    sigset_t all, old;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&thread, NULL, sink_run, sink);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        sink_free(sink);
        return -err;
    }
    pthread_detach(thread);
    *out = sink;
    return 0;
}

int sink_open(const char *path, struct sink **out)
{
    int fd = open_path(path);
    return fd < 0 ? fd : sink_start(sink_new(path, fd), out);
}

int sink_open_fd(int fd, struct sink **out)
{
    return sink_start(sink_new(NULL, fd), out);
}

bool sink_write(struct sink *sink, const void *data, size_t len)
{
    pthread_mutex_lock(&sink->mutex);
    bool fits = len <= SINK_BYTES_MAX - sink->fill_len;
    if (fits) {
        memcpy(sink->fill + sink->fill_len, data, len);
        sink->fill_len += len;
        pthread_cond_signal(&sink->filled);
    } else {
        sink->dropped += len;
    }
    pthread_mutex_unlock(&sink->mutex);
    return fits;
}

void sink_reopen(struct sink *sink)
{
    pthread_mutex_lock(&sink->mutex);
    sink->reopen = true;
    pthread_cond_signal(&sink->filled);
    pthread_mutex_unlock(&sink->mutex);
}

uint64_t sink_take_dropped(struct sink *sink)
{
    pthread_mutex_lock(&sink->mutex);
    uint64_t dropped = sink->dropped;
    sink->dropped = 0;
    pthread_mutex_unlock(&sink->mutex);
    return dropped;
}

void sink_close(struct sink *sink)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SINK_CLOSE_WAIT_MS / 1000;
    pthread_mutex_lock(&sink->mutex);
    sink->stopping = true;
    pthread_cond_signal(&sink->filled);
    int err = 0;
    while (!sink->done && !err)
        err = pthread_cond_timedwait(&sink->idle, &sink->mutex, &until);
    bool done = sink->done;
    sink->abandoned = !done;
    pthread_mutex_unlock(&sink->mutex);
    if (done)
        sink_free(sink);
}
