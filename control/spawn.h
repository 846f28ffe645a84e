/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts the data plane's process: its own session, its own user, no capabilities, no way to get any, the
 * link as descriptor LINK_FD and nothing else open but the three standard ones. It outlives control on
 * purpose.
 */
#ifndef FL_CONTROL_SPAWN_H
#define FL_CONTROL_SPAWN_H

#include <sys/types.h>

#include "control/folders.h"

struct spawned {
    pid_t pid;
    int pidfd; /* readable when it has ended; the caller closes it */
};

/* Opens the program, or -errno. NULL: fairlead-dataplane beside this process' own program. */
int spawn_open_binary(const char *path, char *shown, size_t shown_len);

/* Borrows both descriptors until the return. 0 or -errno; a failure of the new process itself is its exit
 * with SPAWN_EXIT_FAILED and a line on standard error. */
enum { SPAWN_EXIT_FAILED = 127 };
int spawn_dataplane(int binary_fd, int link_fd, const struct dataplane_user *user, struct spawned *out);

#endif
