/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registries behind prefixes: which ones a plan has, and what they are shown. They are the state's and those
 * of this node's configuration file, which counts on its own node from the start, and where both have a
 * prefix; as a rule both say the same, since the file's are proposed to the state (sources_declare.h).
 */
#ifndef FL_CONTROL_DAEMON_SOURCES_H
#define FL_CONTROL_DAEMON_SOURCES_H

#include <stddef.h>
#include <jansson.h>

#include "control/channel.h"
#include "control/compile/plan_peers.h"
#include "control/source_hosts.h"
#include "control/source_pass.h"
#include "control/source_test.h"

struct config;
struct daemon;
struct state_event;

/* For a plan: all sources and the peers; returns how many. */
size_t daemon_sources(const struct daemon *d, const struct plan_peers *peers,
                      struct plan_source out[PLAN_SOURCES_MAX]);

/* For a plan: the services of sources with backends of their own, by place; returns how many. */
size_t daemon_sources_list(const struct daemon *d, struct plan_proxied out[SOURCES_OWN_MAX]);

void daemon_sources_open(struct daemon *d);
void daemon_sources_close(struct daemon *d);
/* When the loop has ended. */
void daemon_sources_free(struct daemon *d);

/* The node serves: what the file says is proposed. */
void daemon_sources_declare(struct daemon *d);

/* Takes what a configuration that was read again says of them. */
void daemon_sources_reload(struct daemon *d, struct config *next);

/* A command was applied; NULL: the state is another one. */
void daemon_sources_event(struct daemon *d, const struct state_event *event);

/* What was applied is in the newest plan then. */
void daemon_sources_settle(struct daemon *d);

/* The data plane met a 401 there (supervise.h). */
void daemon_source_pass(struct daemon *d, const struct channel_pass *wanted, channel_pass_done done,
                        void *done_arg);

/* It sends us elsewhere. */
void daemon_source_way(struct daemon *d, const struct channel_way *wanted, channel_way_done done,
                       void *done_arg);

/* A plan was applied; once a second. */
void daemon_sources_applied(struct daemon *d, uint64_t generation);
void daemon_sources_tick(struct daemon *d);

/* For people: all sources, or the one of a prefix (NULL: there is none), with what is wrong on this node. */
json_t *daemon_sources_json(const struct daemon *d, const char *prefix);
/* Adds to the list. */
void daemon_sources_warn(const struct daemon *d, json_t *list);

/* Asks the source that a repository, or prefix, has (source_test.h; repo NULL: of no repository). 0, -ENOENT:
 * there is none; -EHOSTUNREACH: why says what is missing. done comes once then, perhaps before the return. */
int daemon_sources_test(struct daemon *d, const char *name, const char *repo, const char *reference,
                        char why[SOURCE_PROBLEM_MAX], source_test_done done, void *done_arg);

/* The source of a prefix as it holds on this node; NULL: there is none. And what it is asked with: wiped and
 * its ca freed by the caller. False: its service is not there. */
const struct source *daemon_source_find(const struct daemon *d, const char *prefix);
bool daemon_source_access(const struct daemon *d, const struct source *s, struct source_access *access);
const struct plan_proxied *daemon_source_service(const struct daemon *d, const struct source *s);

#endif
