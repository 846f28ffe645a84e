/* SPDX-License-Identifier: Apache-2.0 */
/* Services and backends as JSON: the fields of control/state/service.h, those of `check.` in an object. */
#ifndef FL_CONTROL_SERVICE_JSON_H
#define FL_CONTROL_SERVICE_JSON_H

#include <jansson.h>

#include "control/backend_view.h"

/* New objects. */
json_t *service_json(const struct svc *s);
json_t *backend_json(const struct svc *s, const struct svc_backend *b, const struct backend_view *view);

/* Everything that the kernel counts about it. */
json_t *backend_figures_json(const struct backend_view *view);

/* Sets the fields that are in the object. 0 or -EINVAL with what is wrong. */
int service_json_set(struct svc *s, json_t *fields, char err[SVC_ERROR_MAX]);
/* "name" is not a field here. */
int backend_json_set(struct svc_backend *b, json_t *fields, char err[SVC_ERROR_MAX]);

#endif
