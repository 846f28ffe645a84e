/* SPDX-License-Identifier: Apache-2.0 */
/* Policies and notices in the state: what the files of the state machine share about them. */
#ifndef FL_STATE_STATE_POLICY_H
#define FL_STATE_STATE_POLICY_H

#include "control/state/notice.h"
#include "control/state/policy.h"
#include "state_internal.h"
#include "state_service.h"

/* kind: 'P' or 'U' (names_policy.h). */
struct state_key state_key_policy(char kind, const char *prefix, size_t len);

/* What holds for a repository. 0 or -errno. */
int state_rules_get(struct kv *kv, struct state_text repo, struct policy_rules *out);

/* Of the command's repository; below, 0: it may be; -EPERM: refused, the event says why; -errno. */

/* Whether anything may be changed; r gets the rules. */
int state_rules_change(struct kv *kv, struct state_event *out, struct policy_rules *r);
/* Whether it may come to be (if it is new), and to have so many more bytes and tags. */
int state_rules_grow(struct kv *kv, struct state_event *out, const struct policy_rules *r,
                     const struct names_repo *repo, uint64_t bytes, uint64_t tags);
/* Whether a tag that is there may be changed; what: how it would be, "cannot be moved". */
int state_rules_tag(struct state_event *out, const struct policy_rules *r, struct state_text tag,
                    const char *what);

/* A repository has so many more bytes and tags: counted below the prefixes that have totals. */
int state_use_add(struct kv *kv, struct state_text repo, int64_t bytes, int64_t tags);

/* After a command that was not refused: what endpoints are to be told of it waits for them. */
int state_notices_add(struct kv *kv, const struct state_event *out);

#endif
