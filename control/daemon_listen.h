/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listening addresses come and go while the daemon runs: those of the configuration file, and those of the
 * services with path: proxy. An address that is not wanted any more leaves in two steps (listeners.h): it
 * takes no new connection at once, and is closed when what waited in its queues is accepted.
 */
#ifndef FL_CONTROL_DAEMON_LISTEN_H
#define FL_CONTROL_DAEMON_LISTEN_H

#include <jansson.h>

#include "control/daemon.h"

/* Before the first plan, when the state is known: decides about the sockets of an earlier control, and opens
 * those of services. */
void daemon_listen_begin(struct daemon *d);

/* After the start: addresses that a control before this one was giving up leave from here on. */
void daemon_listen_open(struct daemon *d);
void daemon_listen_close(struct daemon *d);

/* The services have changed. The plan is the caller's. */
void daemon_listen_services(struct daemon *d);

/* Addresses of the new configuration are opened, those that are not in it any more leave. */
void daemon_listen_reload(struct daemon *d, const struct config *next);

/* Once a second: what could not be had is tried again. */
void daemon_listen_tick(struct daemon *d);

void daemon_listen_free(struct daemon *d);

/* What an operator should know, as texts: adds to the list. */
void daemon_listen_warn(const struct daemon *d, json_t *list);

#endif
