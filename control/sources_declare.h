/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sources of the configuration file, proposed to the state, as policies.h has it for policies: those that
 * the file does not name any more go; the others are nobody's to change but the file's. In a cluster the
 * files of all nodes say the same, or only one says something.
 */
#ifndef FL_CONTROL_SOURCES_DECLARE_H
#define FL_CONTROL_SOURCES_DECLARE_H

#include <stddef.h>
#include <jansson.h>
#include <uv.h>

#include "control/state/source.h"

struct sources_declared;
struct cluster;
struct journal;

struct sources_declared *sources_declared_new(uv_loop_t *loop, struct journal *journal,
                                              struct cluster *cluster);

/* Makes the state say what the file says; tries again while nobody leads. Copies file. */
void sources_declare(struct sources_declared *s, const struct source_table *file);

/* What an operator should know, as texts: adds to the list. */
void sources_declared_warn(const struct sources_declared *s, json_t *list);

/* Close before the cluster closes, free when the loop has ended. */
void sources_declared_close(struct sources_declared *s);
void sources_declared_free(struct sources_declared *s);

/* One transaction that brings the state there, malloc'd; NULL: it says so already. changes: of how many
 * sources. Pure. */
void *sources_diff(const struct source_table *state, const struct source_table *file, size_t *changes,
                   size_t *len);

#endif
