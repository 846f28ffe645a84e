/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's garbage collection: what it needs of the daemon, and what it shows. */
#ifndef FL_CONTROL_DAEMON_GC_H
#define FL_CONTROL_DAEMON_GC_H

struct daemon;

void daemon_gc_open(struct daemon *d);

/* For /metrics. */
void daemon_gc_figures(struct daemon *d);

#endif
