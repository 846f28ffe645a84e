/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the configuration file says of rows of the state, proposed to it: tried again while nobody leads, or a
 * node is not upgraded yet; refused once, it stays so until the file is read again. policies.h has the rule.
 */
#ifndef FL_CONTROL_DECLARED_H
#define FL_CONTROL_DECLARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct cluster;
struct journal;

enum { DECLARED_RETRY_MS = 250 };

struct declared_kind {
    const char *component, *what; /* of the log: "policies" */
    uint32_t version;             /* of the cluster, before which nothing is proposed; 0: any */
    /* The command that brings the state to what the file says, malloc'd; NULL: it says so already. 0 or
     * -errno: the state cannot be read now. */
    int (*diff)(void *owner, void **cmd, size_t *changes, size_t *len);
};

/* Embedded at a place that stays; all but `refused` is its own. */
struct declared {
    const struct declared_kind *kind;
    void *owner;
    struct journal *journal;
    struct cluster *cluster;
    uv_timer_t retry;
    bool none;    /* the file has no rows */
    bool emptied; /* it had some before, and it is not said yet that it has none now */
    bool under_way;
    bool again; /* the file was read again meanwhile */
    bool refused;
    bool closing;
    size_t changes; /* of the command that is under way */
};

void declared_init(struct declared *d, const struct declared_kind *kind, void *owner, uv_loop_t *loop,
                   struct journal *journal, struct cluster *cluster);

/* The owner has what the file says now: `count` rows, `before` the last time. */
void declared_changed(struct declared *d, size_t count, size_t before);

/* Close before the cluster closes, fini when the loop has ended. */
void declared_close(struct declared *d);
void declared_fini(struct declared *d);

#endif
