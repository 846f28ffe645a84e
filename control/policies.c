/* SPDX-License-Identifier: Apache-2.0 */
#include "control/policies.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster.h"
#include "control/cluster_policy.h"
#include "control/declared.h"

struct policies {
    struct declared declared;
    struct policy_table file;
};

void *policies_diff(const struct policy_table *state, const struct policy_table *file, size_t *changes,
                    size_t *len)
{
    const char **gone = calloc(state->count + 1, sizeof(*gone));
    struct policy *set = calloc(file->count + 1, sizeof(*set));
    size_t gone_count = 0, set_count = 0;
    void *cmd = NULL;
    CHECK(gone && set);
    for (size_t i = 0; i < state->count; i++)
        if (state->list[i].rules.origin == POLICY_FROM_FILE && !policy_find(file, state->list[i].prefix))
            gone[gone_count++] = state->list[i].prefix;
    for (size_t i = 0; i < file->count; i++) {
        const struct policy *now = policy_find(state, file->list[i].prefix);
        if (!now || now->rules.origin != POLICY_FROM_FILE || !policy_same(now, &file->list[i]))
            set[set_count++] = file->list[i];
    }
    *changes = gone_count + set_count;
    if (*changes)
        cmd = policy_cmd_declare(gone, gone_count, set, set_count, len);
    free(gone);
    free(set);
    return cmd;
}

static int diff(void *owner, void **cmd, size_t *changes, size_t *len)
{
    const struct policies *p = owner;
    struct policy_table state;
    int rc = cluster_policies(p->declared.cluster, &state, NULL);
    if (rc == 0)
        *cmd = policies_diff(&state, &p->file, changes, len);
    policy_table_fini(&state);
    return rc;
}

static const struct declared_kind kind = {.component = "policies", .what = "policies", .diff = diff};

void policies_declare(struct policies *p, const struct policy_table *file)
{
    size_t before = p->file.count;
    policy_table_fini(&p->file);
    for (size_t i = 0; i < file->count; i++)
        policy_table_add(&p->file, &file->list[i]);
    declared_changed(&p->declared, file->count, before);
}

bool policies_has(const struct policies *p, const char *prefix)
{
    return policy_find(&p->file, prefix) != NULL;
}

void policies_warn(const struct policies *p, json_t *list)
{
    if (p->declared.refused)
        json_array_append_new(
            list, json_string("the configuration's policies were refused: look at the error log"));
}

struct policies *policies_new(uv_loop_t *loop, struct journal *journal, struct cluster *cluster)
{
    struct policies *p = calloc(1, sizeof(*p));
    CHECK(p);
    declared_init(&p->declared, &kind, p, loop, journal, cluster);
    return p;
}

void policies_close(struct policies *p)
{
    declared_close(&p->declared);
}

void policies_free(struct policies *p)
{
    if (!p)
        return;
    declared_fini(&p->declared);
    policy_table_fini(&p->file);
    free(p);
}
