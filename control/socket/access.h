/* SPDX-License-Identifier: Apache-2.0 */
/* Who is at the other end of the control socket, and what the socket's file lets in. */
#ifndef FL_CONTROL_ACCESS_H
#define FL_CONTROL_ACCESS_H

#include <sys/types.h>

#include "control/folders.h"
#include "control/socket/rpc.h"

struct journal;

struct access_rules {
    const char *group;                           /* control.group */
    const struct dataplane_user *dataplane_user; /* NULL: the data plane has no user of its own */
    pid_t dataplane_pid;                         /* 0: none runs */
};

/* Sets role and actor from the socket's peer. */
void access_identify(int fd, const struct access_rules *rules, struct rpc_peer *peer);

/* Owner and mode of the socket's file for these groups. 0 or -errno. */
int access_protect(const char *path, const char *group, struct journal *journal);

#endif
