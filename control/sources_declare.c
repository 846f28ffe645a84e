/* SPDX-License-Identifier: Apache-2.0 */
#include "control/sources_declare.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster.h"
#include "control/cluster_policy.h"
#include "control/journal.h"
#include "control/state/state.h"
#include "control/transaction.h"

struct sources_declared {
    struct journal *journal;
    struct cluster *cluster;
    struct source_table file;
    bool emptied; /* it had some before, and it is not said yet that it has none now */
    uv_timer_t retry;
    bool under_way;
    bool again; /* the file was read again meanwhile */
    bool refused;
    bool closing;
    size_t changes; /* of the command that is under way */
};

static void add_parts(struct transaction *t, const struct source_table *state,
                      const struct source_table *file)
{
    size_t len;
    for (size_t i = 0; i < state->count; i++) {
        const struct source *s = &state->list[i];
        if (s->origin != SOURCE_FROM_FILE || source_find(file, s->prefix))
            continue;
        void *cmd = source_cmd_rm("system", "configuration", SOURCE_FROM_FILE, s->prefix, &len);
        transaction_add(t, cmd, len);
    }
    for (size_t i = 0; i < file->count; i++) {
        const struct source *now = source_find(state, file->list[i].prefix);
        if (now && now->origin == SOURCE_FROM_FILE && source_same(now, &file->list[i]))
            continue;
        void *cmd = source_cmd_set("system", "configuration", CMD_REVISION_ANY, SOURCE_FROM_FILE,
                                   &file->list[i], &len);
        transaction_add(t, cmd, len);
    }
}

void *sources_diff(const struct source_table *state, const struct source_table *file, size_t *changes,
                   size_t *len)
{
    struct transaction t;
    transaction_begin(&t, "system", "configuration", STATE_TRANSACTION_BYTES_MAX);
    add_parts(&t, state, file);
    transaction_end(&t);
    CHECK(!t.w.failed); /* 255 of each would fit */
    *changes = t.count;
    *len = t.w.len;
    if (t.count)
        return t.w.buf;
    free(t.w.buf);
    return NULL;
}

static void look(struct sources_declared *s);

static void on_retry(uv_timer_t *timer)
{
    look(timer->data);
}

static void look_later(struct sources_declared *s)
{
    if (!s->closing)
        uv_timer_start(&s->retry, on_retry, SOURCES_RETRY_MS, 0);
}

static void on_proposed(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                        size_t detail_len)
{
    struct sources_declared *s = arg;
    (void)index;
    s->under_way = false;
    switch (status) {
    case CMD_OK:
        journal_info(s->journal, "source", "the configuration changed %zu sources", s->changes);
        break;
    case CMD_NO_LEADER:
    case CMD_BUSY:
    case CMD_UNKNOWN_OUTCOME:
    case CMD_NO_SPACE:
    case CMD_TOO_NEW: /* a node that is not upgraded yet; or this one is new, and has not said its version */
        look_later(s);
        return;
    default:
        s->refused = true;
        journal_error(s->journal, "source", "the configuration's sources were refused: %.*s", (int)detail_len,
                      (const char *)detail);
    }
    s->emptied &= s->again;
    if (s->again)
        look(s);
}

static void look(struct sources_declared *s)
{
    struct source_table state;
    size_t len;
    s->again = s->under_way;
    if (s->under_way || s->closing || (s->file.count == 0 && !s->emptied && cluster_has_others(s->cluster)))
        return;
    int rc = cluster_sources(s->cluster, &state);
    void *cmd = rc ? NULL : sources_diff(&state, &s->file, &s->changes, &len);
    source_table_fini(&state);
    if (rc) {
        look_later(s);
        return;
    }
    if (!cmd) {
        s->emptied = false;
        return;
    }
    if (!cluster_knows(s->cluster, CLUSTER_VERSION_SOURCES)) {
        /* Who leads may be a node that is not upgraded yet, and would refuse what it does not know for good.
         */
        free(cmd);
        look_later(s);
        return;
    }
    s->under_way = true;
    cluster_propose(s->cluster, cmd, len, on_proposed, s);
}

void sources_declare(struct sources_declared *s, const struct source_table *file)
{
    s->emptied = file->count == 0 && (s->emptied || s->file.count > 0);
    source_table_fini(&s->file);
    for (size_t i = 0; i < file->count; i++)
        source_table_add(&s->file, &file->list[i]);
    s->refused = false;
    look(s);
}

void sources_declared_warn(const struct sources_declared *s, json_t *list)
{
    if (s->refused)
        json_array_append_new(
            list, json_string("the configuration's sources were refused: look at the error log; they hold on "
                              "this node alone"));
}

struct sources_declared *sources_declared_new(uv_loop_t *loop, struct journal *journal,
                                              struct cluster *cluster)
{
    struct sources_declared *s = calloc(1, sizeof(*s));
    CHECK(s);
    s->journal = journal;
    s->cluster = cluster;
    uv_timer_init(loop, &s->retry);
    s->retry.data = s;
    return s;
}

void sources_declared_close(struct sources_declared *s)
{
    s->closing = true;
    uv_close((uv_handle_t *)&s->retry, NULL);
}

void sources_declared_free(struct sources_declared *s)
{
    if (!s)
        return;
    CHECK(!s->under_way);
    source_table_fini(&s->file);
    free(s);
}
