/* SPDX-License-Identifier: Apache-2.0 */
/* Webhooks, as the daemon has them. */
#ifndef FL_CONTROL_DAEMON_NOTIFY_H
#define FL_CONTROL_DAEMON_NOTIFY_H

struct daemon;

/* Makes d->notify. */
void daemon_notify_open(struct daemon *d);

#endif
