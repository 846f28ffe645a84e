/* SPDX-License-Identifier: Apache-2.0 */
#include "control/sources_declare.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster.h"
#include "control/cluster_policy.h"
#include "control/declared.h"
#include "control/state/state.h"
#include "control/transaction.h"

struct sources_declared {
    struct declared declared;
    struct source_table file;
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

static int diff(void *owner, void **cmd, size_t *changes, size_t *len)
{
    const struct sources_declared *s = owner;
    struct source_table state;
    int rc = cluster_sources(s->declared.cluster, &state);
    if (rc == 0)
        *cmd = sources_diff(&state, &s->file, changes, len);
    source_table_fini(&state);
    return rc;
}

static const struct declared_kind kind = {
    .component = "source", .what = "sources", .version = CLUSTER_VERSION_SOURCES, .diff = diff};

void sources_declare(struct sources_declared *s, const struct source_table *file)
{
    size_t before = s->file.count;
    source_table_fini(&s->file);
    for (size_t i = 0; i < file->count; i++)
        source_table_add(&s->file, &file->list[i]);
    declared_changed(&s->declared, file->count, before);
}

void sources_declared_warn(const struct sources_declared *s, json_t *list)
{
    if (s->declared.refused)
        json_array_append_new(
            list, json_string("the configuration's sources were refused: look at the error log; they hold on "
                              "this node alone"));
}

struct sources_declared *sources_declared_new(uv_loop_t *loop, struct journal *journal,
                                              struct cluster *cluster)
{
    struct sources_declared *s = calloc(1, sizeof(*s));
    CHECK(s);
    declared_init(&s->declared, &kind, s, loop, journal, cluster);
    return s;
}

void sources_declared_close(struct sources_declared *s)
{
    declared_close(&s->declared);
}

void sources_declared_free(struct sources_declared *s)
{
    if (!s)
        return;
    declared_fini(&s->declared);
    source_table_fini(&s->file);
    free(s);
}
