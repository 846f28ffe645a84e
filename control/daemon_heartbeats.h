/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel's heartbeats say of the managers' hosts, told to the cluster: one that is silent and leads
 * is given up sooner (consensus_host).
 */
#ifndef FL_CONTROL_DAEMON_HEARTBEATS_H
#define FL_CONTROL_DAEMON_HEARTBEATS_H

struct daemon;
struct daemon_heartbeats;

struct daemon_heartbeats *daemon_heartbeats_open(struct daemon *d);
/* Ends with the loop. */
void daemon_heartbeats_close(struct daemon_heartbeats *h);

#endif
