/* SPDX-License-Identifier: Apache-2.0 */
/* Policies as JSON. */
#ifndef FL_CONTROL_POLICY_JSON_H
#define FL_CONTROL_POLICY_JSON_H

#include <jansson.h>

#include "control/state/policy.h"

/* use may be NULL. */
json_t *policy_json(const struct policy *p, const struct names_policy_use *use);

/* What holds below a prefix: each field with its value and the prefix that says it. */
json_t *policy_rules_json(const char *prefix, const struct policy_rules *rules);

/* Sets the fields of an object: texts, numbers, truths, lists of texts, groups; null: inherit. 0 or -EINVAL
 * with a text. */
int policy_json_set(struct policy *p, json_t *fields, char err[POLICY_ERROR_MAX]);

#endif
