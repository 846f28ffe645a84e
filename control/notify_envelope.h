/* SPDX-License-Identifier: Apache-2.0 */
/* Notices as CNCF distribution's envelope of events has them. Pure. */
#ifndef FL_CONTROL_NOTIFY_ENVELOPE_H
#define FL_CONTROL_NOTIFY_ENVELOPE_H

#include <jansson.h>

#include "control/state/notice.h"

#define NOTIFY_CONTENT_TYPE "application/vnd.docker.distribution.events.v2+json"

struct notify_source {
    const uint8_t *cluster_id; /* 16 bytes */
    const char *node;          /* by whom it is sent */
};

/* A new envelope without events. */
json_t *notify_envelope_new(void);

/* The event's id is made of the cluster and of the place in its log: one that is sent twice has it twice. */
void notify_envelope_add(json_t *envelope, const struct notify_source *source, const struct notice *n);

enum { PULL_ID_BYTES = 16 };

/* A pull; id: 16 bytes, the same whenever it is sent. */
void notify_envelope_pull(json_t *envelope, const struct notify_source *source,
                          const uint8_t id[PULL_ID_BYTES], const struct pull *p);

#endif
