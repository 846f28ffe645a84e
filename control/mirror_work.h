/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process of one run of a rule (fairlead-mirror): unprivileged, the job on its standard input, lines of
 * JSON on its standard output. It may be killed at any point.
 */
#ifndef FL_CONTROL_MIRROR_WORK_H
#define FL_CONTROL_MIRROR_WORK_H

#include <jansson.h>
#include <uv.h>

#include "control/folders.h"

enum { MIRROR_LINE_MAX = 8 << 10 };

struct mirror_work;

struct mirror_order {
    uv_loop_t *loop;
    const struct dataplane_user *user; /* as whom it runs */
    const json_t *job;
    void (*line)(void *arg, const json_t *line);
    /* Once; the work is gone then. why: NULL: it ended by itself and well. */
    void (*ended)(void *arg, const char *why);
    void *arg;
};

/* 0 or -errno; ended does not come then. */
int mirror_work_start(const struct mirror_order *order, struct mirror_work **out);

/* It ends now; nothing is told any more. What is left is freed by the loop. */
void mirror_work_kill(struct mirror_work *w);

#endif
