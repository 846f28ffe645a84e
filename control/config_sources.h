/* SPDX-License-Identifier: Apache-2.0 */
/* The section `sources`: which registries stand behind which repositories, of the configuration file and of
 * a file of changes. */
#ifndef FL_CONTROL_CONFIG_SOURCES_H
#define FL_CONTROL_CONFIG_SOURCES_H

#include "control/state/source.h"

struct config_sources {
    struct source_table table; /* their services and credentials may come later, and go */
    char peers[PLAN_NAME_MAX]; /* the service of other replicas, for all repositories; "": none */
};

void config_sources_fini(struct config_sources *s);

#endif
