/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way in for the control that comes after the one that has gone (msg.h, adoption). The socket has a name
 * in the state's folder, where only control's user can reach it; who connects is asked for his user once
 * more. Whatever goes wrong here ends the connection and nothing else: the data plane serves on, and the next
 * control may try again.
 */
#ifndef FL_ADOPT_H
#define FL_ADOPT_H

#include <stdint.h>
#include <sys/types.h>

#include "msg.h"

struct adopt {
    int fd; /* -1: nobody can come */
    uid_t control_uid;
};

/* What a new control is told and handed: borrowed. A slot without a socket is -1. */
struct adopt_offer {
    uint64_t generation;
    uint32_t rings, features;
    int fds[ADOPT_FDS];
    const int *listener_fd;
    unsigned listener_count;
};

/* Listens on fd (taken; bound by control), before the sandbox. link: the socket to the control that is there
 * now, whose user is the one to trust. */
void adopt_open(struct adopt *a, int fd, int link);

/* Takes one connection and answers its ADOPT. Returns the new link, or -errno; `offer` NULL: refuses. */
int adopt_take(const struct adopt *a, const struct adopt_offer *offer);

#endif
