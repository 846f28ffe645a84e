/* SPDX-License-Identifier: Apache-2.0 */
/* What a start makes of the data plane that outlived the control before it. */
#ifndef FL_CONTROL_DAEMON_ADOPT_H
#define FL_CONTROL_DAEMON_ADOPT_H

#include "control/daemon.h"

/* Why the data plane that was met cannot go on, or NULL: then its memory is ours, logs go on where the
 * control before left off, and plans with the next number. */
const char *daemon_adopt_memory(struct daemon *d, uint32_t rings);

/* Ends a data plane that cannot go on, and says why; its readers must be gone before the names are written.
 */
void daemon_replace_orphan(struct daemon *d, const char *why);

/* Whether the names that an adopted data plane reads are the file that is written from now on. */
bool daemon_adopted_names(struct daemon *d);

#endif
