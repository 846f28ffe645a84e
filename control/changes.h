/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file of services, backends, settings, policies, rules of mirroring and sources against what the state
 * says: the differences, as one transaction and for people. Pure.
 */
#ifndef FL_CONTROL_CHANGES_H
#define FL_CONTROL_CHANGES_H

#include <stdbool.h>
#include <jansson.h>

#include "control/settings.h"
#include "control/state/mirror.h"
#include "control/state/policy.h"
#include "control/state/service.h"
#include "control/state/source.h"

struct changes_input {
    const struct svc_table *state;
    const struct svc_table *file; /* sorted as the configuration's; every origin counts as SVC_FROM_API */
    const struct setting_values *state_settings;
    const struct setting_values *file_settings;
    const struct policy_table *state_policies, *file_policies;
    const struct mirror_table *state_mirrors, *file_mirrors;
    const struct source_table *state_sources, *file_sources;
    /* The file has these sections. */
    bool has_services, has_settings, has_policies, has_mirrors, has_sources;
    /* What the state has and the sections of the file do not goes. What the configuration file says stays. */
    bool prune;
    const char *actor, *source; /* of the transaction */
};

struct changes {
    void *cmd; /* CMD_TRANSACTION, malloc'd; NULL: there is nothing to do */
    size_t len;
    /* CMD_POLICY_SET, to be proposed before the transaction: names and configuration are in two files. NULL:
     * there is nothing to do. */
    void *policies_cmd;
    size_t policies_len;
    /* [{"action": "add" | "change" | "remove", "kind": "service" | "backend" | "setting" | "policy" |
     * "mirror" | "source", "name", "service" (a backend's), "fields": [{"key", "old", "new"}]}] */
    json_t *list;
    bool too_large; /* for one transaction: there is no command */
};

void changes_make(const struct changes_input *in, struct changes *out);
void changes_fini(struct changes *c);

#endif
