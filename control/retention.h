/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which tags of a repository go by a policy's retention. Pure; two walks over the tags, in memory for as many
 * times as tags are kept: the first one shows when the last one that stays was pushed, the second one asks.
 *
 * Of the tags that retention is about (retention.tags; not immutable ones, unless retention.immutable says
 * so) these stay: the newest keep_last, with all that are as old as the last of them; those that were pushed
 * within keep_for; and always the newest one, so that a repository to which nobody pushes any more does not
 * lose its last tag.
 */
#ifndef FL_CONTROL_RETENTION_H
#define FL_CONTROL_RETENTION_H

#include "names_policy.h"

struct retention {
    struct names_policy rules;
    uint64_t now_ms;
    uint64_t *time; /* a heap of the newest times, the oldest of them first */
    size_t count, most;
};

/* False: nothing goes by these rules. retention_fini afterwards in any case. */
bool retention_init(struct retention *r, const struct names_policy *rules, uint64_t now_ms);
void retention_fini(struct retention *r);

/* Whether the same tags go by both. */
bool retention_same(const struct names_policy *a, const struct names_policy *b);

void retention_see(struct retention *r, const char *tag, size_t len, uint64_t time_ms);
bool retention_goes(const struct retention *r, const char *tag, size_t len, uint64_t time_ms);

#endif
