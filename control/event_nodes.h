/* SPDX-License-Identifier: Apache-2.0 */
/* What an audit record says about commands of nodes, tokens and the cluster. */
#ifndef FL_CONTROL_EVENT_NODES_H
#define FL_CONTROL_EVENT_NODES_H

#include <jansson.h>

#include "control/state/state.h"

/* Adds to the record; nothing for commands of other kinds. */
void event_set_node(json_t *event, const struct state_event *in);

#endif
