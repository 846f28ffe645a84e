/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether what is in the store's place is this node's store. A store has an id in a file of its own, made by
 * chance when it is begun, and the state remembers which one this node had: an empty mount point has none,
 * another disk another one.
 */
#ifndef FL_CONTROL_STORE_PLACE_H
#define FL_CONTROL_STORE_PLACE_H

#include "control/disks.h"

enum { STORE_ID_LEN = 32 }; /* hex digits */

/* The id of the store whose folder (the one with blobs/) is open as store_fd. 0; -ENOENT: it has none;
 * -EINVAL: the file is none of ours; -errno. */
int store_place_read(int store_fd, char id[STORE_ID_LEN + 1]);

/*
 * Whose the store is: one without blobs is an empty folder, whether it has an id or not. id: the one that is
 * expected; "": none. Where the state remembers none, as after a
 * backup was put back, the store that is there is taken, but an empty one where the node is said to hold
 * blobs (holds): versions before this one had no ids. Where the store's cannot be read the disk says so
 * itself.
 */
enum store_identity store_place_check(int state_fd, int store_fd, bool holds, char id[STORE_ID_LEN + 1]);

/* Makes it this node's store, whatever it was: gives it an id if it has none, the store's file first, so that
 * no end of the process leaves a state that waits for an id that no store has. 0 or -errno. */
int store_place_take(int state_fd, int store_fd, char id[STORE_ID_LEN + 1]);

#endif
