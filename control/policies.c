/* SPDX-License-Identifier: Apache-2.0 */
#include "control/policies.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster.h"
#include "control/cluster_policy.h"
#include "control/journal.h"

struct policies {
    struct journal *journal;
    struct cluster *cluster;
    struct policy_table file;
    bool emptied; /* it had some before, and it is not said yet that it has none now */
    uv_timer_t retry;
    bool under_way;
    bool again; /* the file was read again meanwhile, or the command has to be made anew */
    bool refused;
    bool closing;
    size_t changes; /* of the command that is under way */
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

static void look(struct policies *p);

static void on_retry(uv_timer_t *timer)
{
    look(timer->data);
}

static void look_later(struct policies *p)
{
    if (!p->closing)
        uv_timer_start(&p->retry, on_retry, POLICIES_RETRY_MS, 0);
}

static void on_proposed(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                        size_t detail_len)
{
    struct policies *p = arg;
    (void)index;
    p->under_way = false;
    switch (status) {
    case CMD_OK:
        journal_info(p->journal, "policies", "the configuration changed %zu policies", p->changes);
        break;
    case CMD_NO_LEADER:
    case CMD_BUSY:
    case CMD_UNKNOWN_OUTCOME:
    case CMD_NO_SPACE:
    case CMD_TOO_NEW: /* a node that is not upgraded yet; or this one is new, and has not said its version */
        look_later(p);
        return;
    default:
        p->refused = true;
        journal_error(p->journal, "policies", "the configuration's policies were refused: %.*s",
                      (int)detail_len, (const char *)detail);
    }
    p->emptied &= p->again;
    if (p->again)
        look(p);
}

static void look(struct policies *p)
{
    struct policy_table state;
    size_t len;
    p->again = p->under_way;
    if (p->under_way || p->closing || (p->file.count == 0 && !p->emptied && cluster_has_others(p->cluster)))
        return;
    int rc = cluster_policies(p->cluster, &state, NULL);
    void *cmd = rc ? NULL : policies_diff(&state, &p->file, &p->changes, &len);
    policy_table_fini(&state);
    if (rc) {
        look_later(p);
        return;
    }
    if (!cmd) {
        p->emptied = false;
        return;
    }
    p->under_way = true;
    cluster_propose(p->cluster, cmd, len, on_proposed, p);
}

void policies_declare(struct policies *p, const struct policy_table *file)
{
    p->emptied = file->count == 0 && (p->emptied || p->file.count > 0);
    policy_table_fini(&p->file);
    for (size_t i = 0; i < file->count; i++)
        policy_table_add(&p->file, &file->list[i]);
    p->refused = false;
    look(p);
}

bool policies_has(const struct policies *p, const char *prefix)
{
    return policy_find(&p->file, prefix) != NULL;
}

void policies_warn(const struct policies *p, json_t *list)
{
    if (p->refused)
        json_array_append_new(
            list, json_string("the configuration's policies were refused: look at the error log"));
}

struct policies *policies_new(uv_loop_t *loop, struct journal *journal, struct cluster *cluster)
{
    struct policies *p = calloc(1, sizeof(*p));
    CHECK(p);
    p->journal = journal;
    p->cluster = cluster;
    uv_timer_init(loop, &p->retry);
    p->retry.data = p;
    return p;
}

void policies_close(struct policies *p)
{
    p->closing = true;
    uv_close((uv_handle_t *)&p->retry, NULL);
}

void policies_free(struct policies *p)
{
    if (!p)
        return;
    CHECK(!p->under_way);
    policy_table_fini(&p->file);
    free(p);
}
