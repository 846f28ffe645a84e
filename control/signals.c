/* SPDX-License-Identifier: Apache-2.0 */
#include "control/signals.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct signals *s = poll->data;
    struct signalfd_siginfo info;
    (void)status;
    (void)events;
    while (read(s->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        s->handler(s->arg, (int)info.ssi_signo);
}

int signals_open(struct signals *s, uv_loop_t *loop, signals_handler *handler, void *arg)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR2);
    int err = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (err)
        return -err;
    *s = (struct signals){.handler = handler, .arg = arg};
    s->fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (s->fd < 0)
        return -errno;
    err = uv_poll_init(loop, &s->poll, s->fd);
    if (err) {
        close(s->fd);
        return err;
    }
    s->poll.data = s;
    uv_poll_start(&s->poll, UV_READABLE, on_readable);
    uv_unref((uv_handle_t *)&s->poll);
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct signals *s = handle->data;
    close(s->fd);
}

void signals_close(struct signals *s)
{
    uv_close((uv_handle_t *)&s->poll, on_closed);
}
