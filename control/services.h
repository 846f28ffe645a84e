/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The services of this node: what the state says, kept as a table and compiled for the kernel; and what the
 * configuration file says, proposed to the state.
 */
#ifndef FL_CONTROL_SERVICES_H
#define FL_CONTROL_SERVICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>
#include <uv.h>

#include "control/cluster.h"
#include "control/compile/kernel_compile.h"
#include "control/state/node.h"
#include "control/config_services.h"
#include "control/journal.h"
#include "control/state/service.h"

struct services;

enum {
    SERVICES_SETTLE_MS = 5,   /* changes that come together are compiled together */
    SERVICES_RETRY_MS = 1000, /* what the file says, when nobody leads */
};

struct services_config {
    uv_loop_t *loop;
    struct journal *journal;
    struct cluster *cluster;
    /* The table has changed: the kernel is to be brought up to date. */
    void (*changed)(void *arg);
    void *arg;
};

/* Reads the state. */
struct services *services_new(const struct services_config *config);

/* Close before the cluster closes, free when the loop has ended. */
void services_close(struct services *services);
void services_free(struct services *services);

/* An entry was applied. */
void services_event(struct services *services, const struct state_event *event);

/* The whole state is another one. */
void services_reload(struct services *services);

/* What was applied so far counts at once: changed() comes before the return, if something has changed. */
void services_settle(struct services *services);

/* Makes the state say what the file says: proposes the differences, tries again while nobody leads. Peers and
 * takeover count at once. Copies from. */
void services_declare(struct services *services, const struct config_services *from);

/* As the state is now; valid until the next turn of the loop. */
const struct svc_table *services_table(struct services *services);

/* The backend that an id means now, and its service; false if it is not in use. */
bool services_find(struct services *s, uint32_t id, const struct svc **service, const struct svc_backend **b);

/* Compiles for the kernel; the entries stay valid until the next call. */
const struct kernel_entries *services_compile(struct services *services, const struct kernel_facts *facts);

/* The nodes are others: whose managers take addresses over where the file does not say. Copied. */
void services_set_nodes(struct services *services, const struct node_table *nodes, uint64_t self);

/* The peers of the file, and those that take addresses over with this node; count in *count. */
const struct kernel_peer_config *services_peers(const struct services *services, uint32_t *count);

/* What of the kernel half they need (enum kernel_need): those of the state, and those that the configuration
 * file is about to make. */
uint32_t services_needs(struct services *s);

/* The shortest of default_ms and all intervals, in milliseconds: what the clock's period must be. */
uint32_t services_tick_ms(struct services *services, uint32_t default_ms);

/* Probes a second of all checks together, as they would be with `changed` in the place of the service of its
 * name (NULL: as they are), and added more backends. */
uint64_t services_probes_per_s(struct services *services, const struct svc *changed, uint32_t added);

/* The same of a table. */
uint64_t services_probes_of(const struct svc_table *t);

/* What an operator should know, as texts: adds to the list. */
void services_warn(struct services *services, json_t *list);

#endif
