/* SPDX-License-Identifier: Apache-2.0 */
/* Who is at the other end of the control socket, and what the socket's file lets in. */
#ifndef FL_CONTROL_ACCESS_H
#define FL_CONTROL_ACCESS_H

#include "control/socket/rpc.h"

struct journal;

/* Sets role and actor from the socket's peer. group: control.group. */
void access_identify(int fd, const char *group, struct rpc_peer *peer);

/* Owner and mode of the socket's file for these groups. 0 or -errno. */
int access_protect(const char *path, const char *group, struct journal *journal);

#endif
