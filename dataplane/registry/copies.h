/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies on other replicas of what is being pushed to this one. They are made while the bytes come: the other
 * replica is asked, again and again, to fetch what an upload session has by then (keep.h), so that little is
 * left when the client has sent all of it. A small manifest goes there as a whole, while it is written here.
 *
 * Who is asked: the best-ranked replicas (placement.h) that can be used, by the blob's digest or, as long as
 * nobody knows that, by the session's id. One that fails is replaced by the next one, and left alone for a
 * moment. What was copied for a push that comes to nothing is no copy that counts: no command speaks of it.
 *
 *   copies_begin -> [copies_flow -> copies_rest]  of each request that brings bytes
 *   copies_begin -> [copies_flow] -> copies_finish -> copies_wait -> copies_holders, a command
 *
 * Without need or means for copies all of it does nothing, and copies_wait goes on at once.
 */
#ifndef FL_REGISTRY_COPIES_H
#define FL_REGISTRY_COPIES_H

#include "dataplane/registry/api.h"

struct copying;

/* What a ring has for it. */
int copying_new(struct ring *ring, struct copying **out);
void copying_free(struct copying *all);
void copying_stop(struct copying *all); /* the ring ends */

/* The call has something whose copies count. */
void copies_begin(struct api *a);

/* a->upload takes in the request's body from now on. */
void copies_flow(struct api *a);

/* The body has ended and the session lives on: next follows when nothing is under way on its account. */
void copies_rest(struct api *a, api_step *next);

/* All of it is known: a->digest, a->size. bytes: its content, if that is in memory; borrowed until the wait
 * is over. To be called before the store is told to make the blob of it, so that both go on at the same time;
 * where the bytes are neither in a session nor small (see KEEP_SMALL_MAX), behind it. */
void copies_finish(struct api *a, struct view bytes);
bool copies_need_blob(struct api *a, struct view bytes); /* the last of these */

/* It is durable here: next follows when it is on enough other replicas, or waiting has no use. 0; -EAGAIN: on
 * fewer than copies_min. */
void copies_wait(struct api *a, api_step *next);

/* At the end of a command that tells of the blob. */
void copies_put_holders(struct api *a, struct wire_writer *w);

/* The answer if copies_wait says no. */
void copies_refuse(struct api *a);

/* The call ends; harmless if there are none. */
void copies_end(struct api *a);

/* a->upload is about to be cancelled: so is what other replicas have of it. */
void copies_abandon(struct api *a);

#endif
