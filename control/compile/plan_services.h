/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The services of the state with path: proxy, as a plan has them (plan_compile.h). Pure.
 */
#ifndef FL_CONTROL_PLAN_SERVICES_H
#define FL_CONTROL_PLAN_SERVICES_H

#include <stddef.h>
#include <stdint.h>

#include "control/compile/kernel_compile.h"
#include "control/compile/plan_compile.h"
#include "control/state/service.h"

/* What is known of this node. */
struct plan_facts {
    uint32_t backends_max; /* ids from there on have no verdict */
    const struct kernel_peer_config *peer;
    uint32_t peer_count;
};

struct plan_services {
    struct plan_proxied *proxied; /* by place */
    size_t count;
    struct plan_backend *backend; /* of all */
    struct plan_rows **rows;      /* of each, NULL: it has none */
    struct plan_name *name;       /* of services that share an address */
    size_t name_count;
};

/* The place of a service. */
static inline uint16_t plan_place_of(const struct svc *s)
{
    return (uint16_t)(PLAN_PLACE_FIRST - 1 + s->id);
}

/* And back: the id of the service at a place. */
static inline uint32_t plan_service_at(uint16_t place)
{
    return place - (PLAN_PLACE_FIRST - 1u);
}

/*
 * New ones; the caller frees them. `before`, which may be NULL, are those of the last time: tables that are
 * the same are taken over from them, not made again.
 */
struct plan_services *plan_services_compile(const struct svc_table *table, const struct plan_facts *facts,
                                            const struct plan_services *before);
void plan_services_free(struct plan_services *services);

#endif
