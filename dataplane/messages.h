/* SPDX-License-Identifier: Apache-2.0 */
/* Single messages of the link to control (msg.h), on a blocking socket. */
#ifndef FL_MESSAGES_H
#define FL_MESSAGES_H

#include <stddef.h>

#include "msg.h"
#include "plan.h"

/* One message and at most LINK_FDS_MAX descriptors, which are the caller's. 1, 0 at the end of the link, or
 * -errno; then there are none. */
int message_receive(int fd, struct link_message *m, int *fds, unsigned *fd_count);

/* Fills in the version. 0 or -errno. */
int message_send(int fd, struct link_message m, const int *fds, unsigned fd_count);

/* Maps what a descriptor holds: memory of at least that size, shared (fd is borrowed); a plan, checked (fd is
 * taken). NULL: it is none. */
void *message_memory(int fd, size_t bytes);
const struct plan *message_plan(int fd);

#endif
