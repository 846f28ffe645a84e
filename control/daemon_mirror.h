/* SPDX-License-Identifier: Apache-2.0 */
/* What mirroring needs of the daemon. */
#ifndef FL_CONTROL_DAEMON_MIRROR_H
#define FL_CONTROL_DAEMON_MIRROR_H

#include "control/daemon.h"

void daemon_mirror_open(struct daemon *d);

#endif
