/* SPDX-License-Identifier: Apache-2.0 */
/* Between the daemon and the kernel half: what the one knows becomes what the other wants. */
#ifndef FL_CONTROL_DAEMON_KERNEL_H
#define FL_CONTROL_DAEMON_KERNEL_H

#include "control/daemon.h"
#include "control/kernel.h"
#include "control/tls_check.h"

/* What the daemon owns for the kernel half. */
struct daemon_kernel {
    struct kernel *kernel;
    struct daemon_feed *feed;
    struct daemon_heartbeats *heartbeats;
    struct peer_events *seen;
    struct tls_checks *tls;
    bool tls_stale; /* services, settings or certificates have changed since it was told whom to check */
};

/* Makes it, and starts it if it is wanted. */
void daemon_kernel_open(struct daemon *d);
void daemon_kernel_close(struct daemon *d);

/* Settings, services or configuration have changed. */
void daemon_kernel_update(struct daemon *d);

/* Certificates have changed. */
void daemon_kernel_certs(struct daemon *d);

/* Once a second. */
void daemon_kernel_tick(struct daemon *d);

#endif
