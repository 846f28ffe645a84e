/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mirroring, by whoever leads: rules of the state (control/state/mirror.h) are run when it is time, or when
 * what they are about has changed here. A run is a process (mirror_work.h); the next leader begins anew, and
 * what is on both sides is not copied again.
 */
#ifndef FL_CONTROL_MIRRORS_H
#define FL_CONTROL_MIRRORS_H

#include <jansson.h>
#include <stdio.h>
#include <uv.h>

#include "control/cluster.h"
#include "control/folders.h"
#include "control/state/mirror.h"
#include "shared.h"

struct events;
struct mirrors;

enum { MIRRORS_URL_MAX = 128, MIRRORS_ROWS_MAX = 1000 };

struct mirrors_config {
    uv_loop_t *loop;
    struct cluster *cluster;
    struct events *events;
    const struct dataplane_user *user;
    bool (*serves)(void *arg); /* whether there is anybody to speak to here */
    /* Where this node's registry is reached from this host. False: nowhere; then why says so. */
    bool (*local)(void *arg, char url[MIRRORS_URL_MAX], const char **why);
    void *arg;
};

struct mirrors *mirrors_new(const struct mirrors_config *config);
void mirrors_close(struct mirrors *m);

/* An entry of the log was applied; or the whole state is another one (NULL). */
void mirrors_event(struct mirrors *m, const struct state_event *event);

/* The rules and how they are: {"mirrors": [...]}; with a name: of that one also what its last run did. NULL:
 * the state cannot be read, or there is no such rule. */
json_t *mirrors_json(struct mirrors *m, const char *name);

/* Begins a run now. 0 with its number; -ENOENT, -EBUSY: one goes on; -EPERM: this node does not lead (one
 * that looks only is anybody's). */
int mirrors_run(struct mirrors *m, const char *name, bool dry_run, uint64_t *number);

/* Whether the expression of the tags can be read, where there is one: 0, or -EINVAL with a text in err. */
int mirrors_expression_check(const struct mirror_rule *m, char err[MIRROR_ERROR_MAX]);

/* What an operator should know, added to a list of texts. */
void mirrors_warn(struct mirrors *m, json_t *list);

/* Sums over all rules for the page of figures; lag: the longest. */
void mirrors_publish(const struct mirrors *m, struct control_counters *out);

/* Rule by rule, in the text format of Prometheus. */
void mirrors_metrics(struct mirrors *m, FILE *out);

#endif
