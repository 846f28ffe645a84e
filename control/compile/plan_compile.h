/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiles what the operator configured and what the state says into a plan for the data plane. Pure: the
 * same input gives the same bytes.
 */
#ifndef FL_CONTROL_PLAN_COMPILE_H
#define FL_CONTROL_PLAN_COMPILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plan.h"

/* A place of the plan: a connection and a listening socket know their service by it, and outlive a plan. */
enum plan_place {
    PLAN_PLACE_REGISTRY = 0,
    PLAN_PLACE_ADMIN = 1,
    PLAN_PLACE_PEER = 2,     /* what other replicas fetch from here */
    PLAN_PLACE_PEERS = 3,    /* a proxied service that no client sees: what is fetched from them */
    PLAN_PLACE_WAYS = 4,     /* likewise: where sources send their clients to; up to */
    PLAN_PLACE_SOURCES = 20, /* likewise: sources with backends of their own; up to */
    PLAN_PLACE_FIRST = PLAN_PLACE_SOURCES + SOURCES_OWN_MAX,
};

/* A listening address with its group of sockets, [first, first + count) in the order of the handing over. */
struct plan_address {
    const char *text;
    uint16_t place;
    bool allow_all;
    uint16_t first, count;
    const struct plan_tls *tls; /* of the registry or admin; NULL: none */
};

/* A proxied service. `service` is as in the plan, but for where its backends and rows stand:
 * that is written here. */
struct plan_proxied {
    uint16_t place; /* from PLAN_PLACE_PEERS on; in ascending order, each once */
    struct plan_service service;
    const struct plan_backend *backend; /* service.backend_count */
    const uint16_t *row;                /* service.row_count */
};

/* Borrowed until plan_compile returns. */
struct plan_input {
    uint64_t generation;
    uint8_t cluster_id[16];
    uint64_t node_id;
    struct plan_copies copies;
    const uint64_t *setting; /* SETTINGS_COUNT effective values */
    const struct plan_address *address;
    size_t address_count;
    const struct plan_proxied *proxied;
    size_t proxied_count;
    const struct plan_name *name; /* those of an address together, as the services say */
    size_t name_count;
    const struct plan_source *source; /* at most PLAN_SOURCES_MAX */
    size_t source_count;
    const uint64_t *member; /* ids of nodes, ascending; at most PLAN_MEMBERS_MAX */
    size_t member_count;
    uint64_t next_node;
    bool store_closed;
};

/*
 * *out: the plan, from malloc. 0; -ENOMEM; -EINVAL if an address has a text, group, place or number that no
 * plan can hold, a service stands at a place or has more of something than there is room for, a setting is
 * outside its range, or nothing says who may use an address (*err_text then says what).
 */
int plan_compile(const struct plan_input *in, struct plan **out, const char **err_text);

#endif
