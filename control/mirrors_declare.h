/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules of mirroring of the configuration file, proposed to the state, by the same rule as policies
 * (policies.h): those that the file does not name any more go; the others are nobody's to change but the
 * file's. A file without rules changes none while there are other nodes, but for one that had some when this
 * process read it before.
 */
#ifndef FL_CONTROL_MIRRORS_DECLARE_H
#define FL_CONTROL_MIRRORS_DECLARE_H

#include <stdbool.h>
#include <stddef.h>
#include <jansson.h>
#include <uv.h>

#include "control/state/mirror.h"

struct mirrors_file;
struct cluster;
struct journal;

struct mirrors_file *mirrors_file_new(uv_loop_t *loop, struct journal *journal, struct cluster *cluster);

/* Makes the state say what the file says; tries again while nobody leads. Copies file. */
void mirrors_declare(struct mirrors_file *f, const struct mirror_table *file);

/* Whether this node's file has a rule of the name. */
bool mirrors_file_has(const struct mirrors_file *f, const char *name);

/* What an operator should know, as texts: adds to the list. */
void mirrors_file_warn(const struct mirrors_file *f, json_t *list);

/* Close before the cluster closes, free when the loop has ended. */
void mirrors_file_close(struct mirrors_file *f);
void mirrors_file_free(struct mirrors_file *f);

/* One command that brings the state there, malloc'd; NULL: it says so already. changes: of how many rules.
 * Pure. */
void *mirrors_diff(const struct mirror_table *state, const struct mirror_table *file, size_t *changes,
                   size_t *len);

#endif
