/* SPDX-License-Identifier: Apache-2.0 */
/* When a rule of mirroring is run next. Pure: times are of one clock, in milliseconds. */
#ifndef FL_CONTROL_MIRROR_DUE_H
#define FL_CONTROL_MIRROR_DUE_H

#include "control/state/mirror.h"

enum {
    MIRROR_FIRST_MS = 1000,   /* after this node has come to lead, or the rule has come to be */
    MIRROR_GATHER_MS = 500,   /* changes that come together are one run's */
    MIRROR_BACKOFF_MS = 5000, /* after a failure; twice as long after each further one in a row */
    MIRROR_BACKOFF_MAX_MS = 600000,
};

struct mirror_clock {
    uint64_t since_ms;           /* the rule is this node's, as it is now */
    uint64_t begun_ms, ended_ms; /* of the last run; 0: there was none */
    uint64_t event_ms;           /* changes wait since; 0: none do */
    unsigned failures;           /* in a row */
};

/* UINT64_MAX: not by itself. */
uint64_t mirror_due_ms(const struct mirror_rule *rule, const struct mirror_clock *clock);

#endif
