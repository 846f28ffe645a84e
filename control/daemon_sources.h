/* SPDX-License-Identifier: Apache-2.0 */
/* Registries behind prefixes: which ones a plan has, and what they are shown. */
#ifndef FL_CONTROL_DAEMON_SOURCES_H
#define FL_CONTROL_DAEMON_SOURCES_H

#include <stddef.h>

#include "control/channel.h"
#include "control/compile/plan_peers.h"

struct config;
struct daemon;

/* For a plan: the configuration's sources and the peers; returns how many. */
size_t daemon_sources(const struct daemon *d, const struct plan_peers *peers,
                      struct plan_source out[PLAN_SOURCES_MAX]);

void daemon_sources_open(struct daemon *d);
void daemon_sources_close(struct daemon *d);

/* Takes what a configuration that was read again says of them. */
void daemon_sources_reload(struct daemon *d, struct config *next);

/* The data plane met a 401 there (supervise.h). */
void daemon_source_pass(struct daemon *d, const struct channel_pass *wanted, channel_pass_done done,
                        void *done_arg);

/* It sends us elsewhere. */
void daemon_source_way(struct daemon *d, const struct channel_way *wanted, channel_way_done done,
                       void *done_arg);

/* A plan was applied; once a second. */
void daemon_sources_applied(struct daemon *d, uint64_t generation);
void daemon_sources_tick(struct daemon *d);

#endif
