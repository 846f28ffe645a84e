/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sources with backends of their own: a hidden service of the plan for each, from PLAN_PLACE_SOURCES on.
 * Hosts that are names are looked up (resolve, a thread a question) when they come to be and then again and
 * again; nothing waits for that. Who cannot be found now is asked at his last addresses, which outlive this
 * process.
 */
#ifndef FL_CONTROL_SOURCE_HOSTS_H
#define FL_CONTROL_SOURCE_HOSTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>
#include <jansson.h>

#include "control/compile/plan_compile.h"
#include "control/state/source.h"

struct source_hosts;

struct source_hosts_config {
    uv_loop_t *loop;
    int state_fd; /* the folder where addresses that were found are kept (source_found.h); -1: nowhere */
    /* Addresses are others: makes a plan with what source_hosts_list says. */
    void (*publish)(void *arg);
    void *arg;
};

struct source_hosts *source_hosts_new(const struct source_hosts_config *config);
void source_hosts_close(struct source_hosts *h);

/* These are there now; those without backends are passed over. Who is as he was, stays where he is. The
 * caller publishes. */
void source_hosts_set(struct source_hosts *h, const struct source_table *all);

/* The service of a source; NULL: there is none, or it has no address yet. */
const struct plan_proxied *source_hosts_find(const struct source_hosts *h, const char *prefix);

/* What is wrong with its backends, in out ("": nothing). */
void source_hosts_problem(const struct source_hosts *h, const char *prefix, char out[SOURCE_PROBLEM_MAX]);

/* [{"host", "port", "addresses": [], "error"?}] of a source with backends of its own, else NULL. */
json_t *source_hosts_json(const struct source_hosts *h, const char *prefix);

/* Once a second. */
void source_hosts_tick(struct source_hosts *h);

/* For a plan, by place: borrowed until the next call of this file. Returns how many. */
size_t source_hosts_list(const struct source_hosts *h, struct plan_proxied out[SOURCES_OWN_MAX]);

#endif
