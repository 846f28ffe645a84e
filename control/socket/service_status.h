/* SPDX-License-Identifier: Apache-2.0 */
/* Services and their backends at a glance: for lists, `fairlead status` and `fairlead metrics`. */
#ifndef FL_CONTROL_SERVICE_STATUS_H
#define FL_CONTROL_SERVICE_STATUS_H

#include <stdio.h>
#include <jansson.h>

#include "control/backend_view.h"

enum { STATUS_SERVICES_MAX = 64, STATUS_BACKENDS_MAX = 64 };

/* A service with how many of its backends are in which state. New object. */
json_t *service_summary(struct daemon *d, const struct backend_glance *glance, const struct svc *s);

/* {services, backends, services_count, backends_count, probes_per_s}: at most so many of each, the backends
 * that are not up first. */
json_t *service_status(struct daemon *d);

/* Prometheus text of every backend. */
void service_metrics(struct daemon *d, FILE *out);

#endif
