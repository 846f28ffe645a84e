/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Access control's place in the walk of a request: every endpoint asks here, in one place, before it looks at
 * or touches anything. The policy is the service's, from the plan. Pure.
 */
#ifndef FL_AUTHORIZE_H
#define FL_AUTHORIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "plan.h"
#include "dataplane/http/view.h"

enum authorize_action {
    AUTHORIZE_PING, /* /v2/: nothing but being let in */
    AUTHORIZE_PULL,
    AUTHORIZE_PUSH,
    AUTHORIZE_DELETE,
    AUTHORIZE_CATALOG, /* names of all repositories */
    AUTHORIZE_ADMIN,   /* metrics and health pages */
};

/* Who asks. */
struct authorize_who {
    struct view name;   /* "anonymous" for everybody without credentials */
    struct view source; /* client address */
};

/*
 * Whether `who` may do that. service: its name in the plan. repository: absent where the action is about none
 * in particular, and for a pull out of whichever repository has a blob. A policy that is not known allows
 * nothing.
 */
bool authorize(enum policy_kind policy, const struct authorize_who *who, enum authorize_action action,
               struct view service, struct view repository);

#endif
