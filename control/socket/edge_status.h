/* SPDX-License-Identifier: Apache-2.0 */
/* What the edge counts of services and of their backends, as seen by this node: for `fairlead kernel`, for
 * `backend show` and for metrics. */
#ifndef FL_CONTROL_EDGE_STATUS_H
#define FL_CONTROL_EDGE_STATUS_H

#include <stdio.h>
#include <jansson.h>

#include "control/state/service.h"

struct daemon;

/* An object for each service that the edge balances, sums of its backends' figures included. New array; it is
 * empty where no edge is in the kernel. */
json_t *edge_status(struct daemon *d);

/* Adds edge_flows and its like to the figures of a backend, if the edge sends packets there. */
void edge_backend_figures(struct daemon *d, const struct svc *s, const struct svc_backend *b,
                          json_t *figures);

/* Prometheus text. */
void edge_metrics(struct daemon *d, FILE *out);

#endif
