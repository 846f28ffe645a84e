/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Webhooks that ask for pulls are told by the node that was pulled from: its data plane writes what it gave
 * into the log rings, and here it is put on the disk, a queue for each webhook (pull_queue.h), and sent from
 * there, again until it is answered with 2xx. So a pull that is on the disk is told at least once; one on the
 * way there is lost with the process, or when more come than is taken, which is counted. Nothing of it is in
 * the log of the cluster.
 */
#ifndef FL_CONTROL_PULLS_H
#define FL_CONTROL_PULLS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>
#include <uv.h>

#include "control/notify_send.h"
#include "control/state/notice.h"

struct cluster;
struct control_counters;
struct events;
struct pulls;

struct pulls_config {
    uv_loop_t *loop;
    struct cluster *cluster;
    struct events *events;
    const char *node;                 /* this one's name */
    int state_fd;                     /* the folder in which that of the queues is made */
    _Atomic uint32_t *wanted;         /* what the data plane tells (enum pulls_wanted) */
    uint64_t (*bytes_max)(void *arg); /* of one queue */
    uint64_t (*untold)(void *arg);    /* pulls that the data plane could not tell */
    void *arg;
};

/* Borrows secrets. */
struct pulls *pulls_new(const struct pulls_config *config, const struct notify_secrets *secrets);

/* What is here goes to the disk first; what is left is freed by the loop. */
void pulls_close(struct pulls *p);

/* The endpoints as they are now. Borrowed: the table's contents may change between two calls, not while one
 * of this file's is on the stack. */
void pulls_endpoints(struct pulls *p, const struct endpoint_table *table);

/* A record of the log ring. */
void pulls_add(struct pulls *p, const void *data, size_t len);

/* How this node's pulls are with one endpoint; NULL: it wants none. */
json_t *pulls_json(const struct pulls *p, const char *name);
void pulls_warn(const struct pulls *p, json_t *list);
void pulls_publish(const struct pulls *p, struct control_counters *out);

#endif
