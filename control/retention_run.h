/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Retention: the leader walks over the repositories that a policy wants cleaned up
 * (registry.retention_interval), a bounded number of rows at a time, and lets tags go by CMD_TAGS_EXPIRE,
 * some at a time, one command after the other. A walk that only looks answers what would go.
 */
#ifndef FL_CONTROL_RETENTION_RUN_H
#define FL_CONTROL_RETENTION_RUN_H

#include <jansson.h>
#include <uv.h>

#include "control/cluster.h"

enum { RETENTION_ROWS_MAX = 1000, RETENTION_LOOKS_MAX = 4 };

struct retention_runs;

struct retention_runs *retention_open(uv_loop_t *loop, struct cluster *cluster, uint64_t interval_ms);
/* Walks under way end without a word, but for those that look: they answer. */
void retention_close(struct retention_runs *r);
void retention_set_interval(struct retention_runs *r, uint64_t interval_ms);

/* rows: [{"repo", "tag", "digest", "updated"}], the callee's; more: there are more than the limit; err: 0 or
 * -errno. */
typedef void (*retention_done)(void *arg, json_t *rows, bool more, int err);

/* What would go now, of the repositories behind `after`. -EBUSY: too many look already. */
int retention_look(struct retention_runs *r, const char *after, size_t limit, retention_done done, void *arg);

#endif
