/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's side of a store that several nodes share: which of them cleans it, and what is told of it. */
#ifndef FL_CONTROL_DAEMON_STORE_H
#define FL_CONTROL_DAEMON_STORE_H

#include <jansson.h>

#include "control/daemon.h"

void daemon_store_open(struct daemon *d);  /* after the nodes and the events */
void daemon_store_close(struct daemon *d); /* nothing is begun any more */
void daemon_store_free(struct daemon *d);  /* when the loop has ended */

/*
 * Whether this node removes files from its store and looks for damaged ones. Always of a store of its own; of
 * one that is shared if the table of nodes says so (stores_cleaner), and the store is this cluster's. Two
 * nodes may both think so for a moment, as one of them has not yet applied what the other has: the data plane
 * removes in a way that harms neither (dataplane/store/remove.c).
 */
bool daemon_store_cleans(const struct daemon *d);

/* How old a file has to be that nothing links, so that no node is about to: others' pushes are not seen here,
 * and take as long as their copies and their commit. */
uint64_t daemon_store_age(const struct daemon *d, uint64_t age_ms);

/* Puts back what a removal has left half done; how many blobs that was. Blocking: for a thread. */
size_t daemon_store_tidy(const struct daemon *d);
void daemon_store_tick(struct daemon *d); /* once a second */

/* Adds what is known of the store to its status; warnings to the list. */
void daemon_store_show(const struct daemon *d, json_t *store);
void daemon_store_warn(const struct daemon *d, json_t *list);

#endif
