/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Webhooks are told what waits for them in the state (control/state/notice.h), by whoever leads: one request
 * at a time to each, in the order of the log, again until it is answered with 2xx, so at least once. How far
 * an endpoint is, is committed once a second; a new leader begins there. Pulls are each node's own to tell
 * (control/pulls.h).
 */
#ifndef FL_CONTROL_NOTIFY_H
#define FL_CONTROL_NOTIFY_H

#include <stdbool.h>
#include <jansson.h>
#include <uv.h>

#include "control/cluster.h"
#include "control/notify_send.h"
#include "control/pulls.h"

struct control_counters;
struct events;
struct notify;

struct notify_config {
    uv_loop_t *loop;
    struct cluster *cluster;
    struct events *events;
    const char *node; /* this one's name */
    struct pulls_config pulls;
    struct notify_secrets secrets;
};

struct notify *notify_new(const struct notify_config *config);
void notify_close(struct notify *n);

/* An entry of the log was applied; or the whole state is another one (NULL). */
void notify_event(struct notify *n, const struct state_event *event);

/* A record of the log ring: a client was given something. */
void notify_pull(struct notify *n, const void *data, size_t len);

/* For the page of figures. */
void notify_publish(const struct notify *n, struct control_counters *out);

/* {"waiting", "dropped", "endpoints": [{...}]}, without secrets. NULL: the state cannot be read. */
json_t *notify_json(struct notify *n);

/* What an operator should know, added to a list of texts. */
void notify_warn(struct notify *n, json_t *list);

/* Sends an envelope without events. done as webhook_post's. -ENOENT: there is no such endpoint. */
int notify_test(struct notify *n, const char *name, void (*done)(void *arg, long status, const char *error),
                void *arg);

#endif
