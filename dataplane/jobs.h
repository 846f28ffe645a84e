/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs of a ring (msg.h): what control asks to be done with blobs in the background. Each is answered once,
 * as long as the control that asked is there. All of them may be done again: a control that goes forgets what
 * it asked for, the next one asks anew.
 */
#ifndef FL_JOBS_H
#define FL_JOBS_H

#include <stdbool.h>

struct jobs;
struct ring;

int jobs_new(struct ring *ring, struct jobs **out);
void jobs_free(struct jobs *all);
void jobs_stop(struct jobs *all); /* the ring ends: what takes long is given up */
bool jobs_idle(const struct jobs *all);

#endif
