/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals as events of the loop. SIGTERM, SIGINT, SIGHUP and SIGUSR2 are blocked from signals_open() to the
 * end of the process, and read from a signalfd: so a signal that comes while the process ends changes
 * nothing, where a handler that was taken back would let it kill the process. Call it before any thread is
 * started: threads inherit the mask.
 */
#ifndef FL_CONTROL_SIGNALS_H
#define FL_CONTROL_SIGNALS_H

#include <uv.h>

typedef void signals_handler(void *arg, int signum);

struct signals {
    uv_poll_t poll;
    int fd;
    signals_handler *handler;
    void *arg;
};

/* Does not keep the loop running. 0 or -errno. */
int signals_open(struct signals *signals, uv_loop_t *loop, signals_handler *handler, void *arg);
/* The handle is closed by a turn of the loop; signals stay blocked. */
void signals_close(struct signals *signals);

#endif
