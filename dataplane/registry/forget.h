/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions on other replicas that hold bytes of which nothing becomes: the push was given up, its copy began
 * anew, or it has gone on elsewhere while its replica was away. The replica is asked to drop them (keep.h), a
 * few times while another request is at work on one. That is a favour: where it fails the session expires
 * there.
 */
#ifndef FL_REGISTRY_FORGET_H
#define FL_REGISTRY_FORGET_H

#include <stdint.h>

#include "limits.h"

struct forgets;
struct ring;

/* What a ring has for it. */
int forgets_new(struct ring *ring, struct forgets **out);
void forgets_free(struct forgets *all);

/* id: UPLOAD_ID_LEN digits, copied. */
void forget_session(struct forgets *all, uint64_t node, const char *id);

/* The same of a replica that is away: it is asked when it is back, if that is within an hour. */
void forget_when_back(struct forgets *all, uint64_t node, const char *id);

/* The ring ends: nothing is asked any more. */
void forgets_stop(struct forgets *all);

#endif
