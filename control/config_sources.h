/* SPDX-License-Identifier: Apache-2.0 */
/* The section `sources` of the configuration file: which registries stand behind which repositories. */
#ifndef FL_CONTROL_CONFIG_SOURCES_H
#define FL_CONTROL_CONFIG_SOURCES_H

#include <stddef.h>

#include "plan.h"

enum { CONFIG_TOKEN_SERVER_MAX = 256, CONFIG_REDIRECT_HOSTS_MAX = 16 };

struct config_source {
    char service[PLAN_NAME_MAX];                /* of the state: may come later, and go */
    struct plan_source source;                  /* but for its service */
    char credentials[PLAN_NAME_MAX];            /* of the section `credentials`; "": none */
    char token_server[CONFIG_TOKEN_SERVER_MAX]; /* where the realms of its challenges begin; "": anywhere */
    /* Where it may send its clients to: hosts, or *.domain; none: what source_way.h says. */
    char redirect_host[CONFIG_REDIRECT_HOSTS_MAX][PLAN_DOMAIN_MAX];
    size_t redirect_host_count;
};

struct config_sources {
    struct config_source *list;
    size_t count;
};

void config_sources_fini(struct config_sources *s);

#endif
