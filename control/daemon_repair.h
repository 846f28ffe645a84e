/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's side of repair.h: who is there, what is said, and what is shown of it. */
#ifndef FL_CONTROL_DAEMON_REPAIR_H
#define FL_CONTROL_DAEMON_REPAIR_H

#include <jansson.h>

#include "control/daemon.h"
#include "control/repair.h"

struct daemon_repair;

void daemon_repair_open(struct daemon *d);  /* after the cluster, the nodes and the jobs */
void daemon_repair_close(struct daemon *d); /* nothing is begun any more */
void daemon_repair_free(struct daemon *d);  /* when the loop has ended, before the jobs */

/* repair_is_spare; of a node that is no replica all copies may be. */
bool daemon_repair_spares(const struct daemon *d, const struct digest *digest, const struct names_blob *blob);

/* The store is another one, or is none of this node's any more: what it is said to hold is looked at again.
 */
void daemon_repair_check(struct daemon *d);

/* Once a second: what is counted, for /metrics. */
void daemon_repair_tick(struct daemon *d);

/* For status and cluster show; a new object. */
json_t *daemon_repair_json(const struct daemon *d);

#endif
