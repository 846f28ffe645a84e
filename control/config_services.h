/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the configuration file about services, peers and takeover. */
#ifndef FL_CONTROL_CONFIG_SERVICES_H
#define FL_CONTROL_CONFIG_SERVICES_H

#include <stddef.h>
#include <stdint.h>

#include "control/compile/kernel_compile.h"
#include "control/state/service.h"

struct config_services {
    /* services: sorted by name, each with its backends sorted by name; origin SVC_FROM_FILE. */
    struct svc_table table;
    /* peers: and takeover: of this node alone. */
    struct kernel_peer_config *peer;
    uint32_t peer_count;
    struct kernel_takeover_config takeover;
};

void config_services_fini(struct config_services *s);

/* A copy of its own. */
void config_services_copy(struct config_services *to, const struct config_services *from);

#endif
