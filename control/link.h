/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control's end of the link to a data plane (msg.h): whole messages in and out, descriptors along with them.
 */
#ifndef FL_CONTROL_LINK_H
#define FL_CONTROL_LINK_H

#include <stddef.h>
#include <uv.h>

#include "msg.h"

struct link;

struct link_handlers {
    void (*message)(void *arg, const struct link_message *message);
    /* Once, after which nothing comes: the other end is gone (0) or broke the protocol (-errno). */
    void (*ended)(void *arg, int err);
};

/* Takes fd. 0 or -errno. */
int link_open(uv_loop_t *loop, int fd, const struct link_handlers *handlers, void *arg, struct link **out);

/* Sends in order; descriptors are borrowed until the return. 0 or -errno. */
int link_send(struct link *link, const struct link_message *message, const int *fds, size_t fd_count);

/* One message on a socket that is no link yet, with the descriptors that came along, which are the caller's
 * (fds: room for LINK_FDS_MAX). Bytes, 0 at the end, or -errno; then fd_count is 0. */
ssize_t link_receive_fds(int fd, struct link_message *message, int *fds, size_t *fd_count);

/* No handler is called any more. */
void link_close(struct link *link);

#endif
