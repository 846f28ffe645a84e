/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The policies of the configuration file, proposed to the state. Those that the file does not name any more
 * go; the others are nobody's to change but the file's. In a cluster the files of all nodes say the same, or
 * only one says something: a file without policies changes none while there are other nodes, but
 * for one that had some when this process read it before: the last ones go with it.
 */
#ifndef FL_CONTROL_POLICIES_H
#define FL_CONTROL_POLICIES_H

#include <stdbool.h>
#include <stddef.h>
#include <jansson.h>
#include <uv.h>

#include "control/state/policy.h"

struct policies;
struct cluster;
struct journal;

struct policies *policies_new(uv_loop_t *loop, struct journal *journal, struct cluster *cluster);

/* Makes the state say what the file says; tries again while nobody leads. Copies file. */
void policies_declare(struct policies *p, const struct policy_table *file);

/* Whether this node's file has a policy of the prefix. */
bool policies_has(const struct policies *p, const char *prefix);

/* What an operator should know, as texts: adds to the list. */
void policies_warn(const struct policies *p, json_t *list);

/* Close before the cluster closes, free when the loop has ended. */
void policies_close(struct policies *p);
void policies_free(struct policies *p);

/* One command that brings the state there, malloc'd; NULL: it says so already. changes: of how many policies.
 * Pure. */
void *policies_diff(const struct policy_table *state, const struct policy_table *file, size_t *changes,
                    size_t *len);

#endif
