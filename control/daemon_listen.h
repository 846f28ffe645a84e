/* SPDX-License-Identifier: Apache-2.0 */
/* The addresses of a running daemon: new ones are opened, removed ones end without cutting anybody off. */
#ifndef FL_CONTROL_DAEMON_LISTEN_H
#define FL_CONTROL_DAEMON_LISTEN_H

#include "control/daemon.h"

/* Once the daemon runs: what an earlier one left behind goes on leaving. */
void daemon_listen_open(struct daemon *d);
void daemon_listen_close(struct daemon *d);

/* Goes over to the addresses of `next`; the caller publishes a plan. What fails is in the log. */
void daemon_listen_reload(struct daemon *d, const struct config *next);

#endif
