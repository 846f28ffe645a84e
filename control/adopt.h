/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Meets a data plane that outlived its control (msg.h, adoption): connects to the socket on which it listens,
 * and takes what it holds. What it hands over is checked: only the kernel's word on a descriptor counts.
 */
#ifndef FL_CONTROL_ADOPT_H
#define FL_CONTROL_ADOPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "control/folders.h"
#include "msg.h"

/* Descriptors that are not there are -1. */
struct adopted {
    pid_t pid; /* 0: nobody was met */
    int pidfd;
    int link_fd;
    int fds[ADOPT_FDS];
    int listener_fd[LISTENERS_MAX]; /* by slot */
    bool had_slot[LISTENERS_MAX];   /* it has handed over a socket of this slot */
    uint32_t rings, features;
    uint64_t generation; /* of the plan that it has */
    bool same_layout;    /* false: it can be ended, and its listening sockets be used, no more */
};

/* Makes the socket on which a new data plane is to listen: the descriptor, or -errno. Without one it serves
 * all the same, but cannot be taken over. */
int adopt_socket(const struct folders *folders);
void adopt_socket_remove(const struct folders *folders);

/*
 * Meets the noted data plane, in some seconds at most. 0: it is met, all descriptors are the caller's
 * (adopt_forget). Else -errno, nothing is held, and `why` (a literal) says more; -ESRCH: there is none.
 */
int adopt_meet(const struct folders *folders, const struct dataplane_user *user, struct adopted *out,
               const char **why);

/* Closes what is held. */
void adopt_forget(struct adopted *a);

#endif
