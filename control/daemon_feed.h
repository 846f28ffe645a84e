/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who probes whom (decision of the design: managers and replicas do). A manager tells the verdicts of its
 * kernel to the workers that follow it; a worker that is no replica hands them to its own kernel, which
 * probes what it doubts. Where nobody tells anything for ABI_FEED_LIFE_MS, it probes everything.
 */
#ifndef FL_CONTROL_DAEMON_FEED_H
#define FL_CONTROL_DAEMON_FEED_H

#include <jansson.h>

#include "abi.h"
#include "control/daemon.h"

struct daemon_feed;
struct verdict_frame;

enum { DAEMON_FEED_MS = 500 }; /* so often it is said that nothing has changed */

struct daemon_feed *daemon_feed_open(struct daemon *d);
void daemon_feed_close(struct daemon_feed *feed);

/* Whether this node lives on what a manager tells. */
bool daemon_feed_wanted(struct daemon *d);
/* Whether one tells it something now. */
bool daemon_feed_counts(const struct daemon *d);

/* A verdict of this node's kernel has changed; its maps have become others, or are gone. */
void daemon_feed_changed(struct daemon *d, const struct abi_change *change);
void daemon_feed_maps(struct daemon *d);

/* What the manager says that this node follows; NULL: it is gone. */
void daemon_feed_told(struct daemon *d, const struct verdict_frame *frame);

/* For `fairlead kernel`: {wanted, counts, rows, age_ms, told}. New. */
json_t *daemon_feed_json(const struct daemon *d);

#endif
