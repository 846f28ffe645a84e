/* SPDX-License-Identifier: Apache-2.0 */
/* Tells as events when heartbeat sessions begin and end, and when an address changes hands. */
#ifndef FL_CONTROL_PEER_EVENTS_H
#define FL_CONTROL_PEER_EVENTS_H

#include <stdint.h>

struct daemon;
struct peer_events;

/* What was so before is not told. */
struct peer_events *peer_events_new(void);
void peer_events_free(struct peer_events *seen);

/* Once a second: compares with the last look. What came and went in between is told as one end and, if it is
 * up, one beginning. */
void peer_events_look(struct peer_events *seen, struct daemon *d);

#endif
