/* SPDX-License-Identifier: Apache-2.0 */
/* How the node's disks are: looked at, shown, and what follows from it. */
#ifndef FL_CONTROL_DAEMON_DISKS_H
#define FL_CONTROL_DAEMON_DISKS_H

#include <jansson.h>

#include "control/daemon.h"
#include "control/disks.h"

void daemon_disks_open(struct daemon *d);  /* after the state, before the first plan */
void daemon_disks_close(struct daemon *d); /* the looks end */
void daemon_disks_free(struct daemon *d);  /* after the loop's end */

/* Once a second. */
void daemon_disks_tick(struct daemon *d);

/* Whether what is open as the store is not this node's: it has none of the blobs that the node is said to
 * hold, and none are to be written to it. */
bool daemon_disks_store_is_gone(const struct daemon *d);
/* ... for longer than repair.grace: nobody is to count on it any more. */
bool daemon_disks_store_is_given_up(const struct daemon *d);

/* What the other nodes are told of the store: enum node_store_state. */
uint8_t daemon_disks_said(const struct daemon *d);

/* What is at the store's path becomes this node's store, whatever it was. 0 or -errno. */
int daemon_disks_accept(struct daemon *d);

/* {state, path, error, text, since, free_bytes, total_bytes} */
json_t *daemon_disks_json(const struct daemon *d, enum disk disk);
void daemon_disks_warn(const struct daemon *d, json_t *list);

#endif
