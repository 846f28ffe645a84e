/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirrors_declare.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cmd.h"
#include "control/cluster.h"
#include "control/cluster_policy.h"
#include "control/declared.h"
#include "control/transaction.h"

struct mirrors_file {
    struct declared declared;
    struct mirror_table file;
};

enum { PART_ROOM = 4096 };

static const char actor[] = "system", source[] = "configuration";

static void add_parts(struct transaction *t, const struct mirror_table *state,
                      const struct mirror_table *file)
{
    size_t len;
    void *cmd;
    for (size_t i = 0; i < state->count; i++) {
        const struct mirror_rule *m = &state->list[i];
        if (!m->declared || mirror_find(file, m->name))
            continue;
        cmd = mirror_cmd_rm(actor, source, m->name, true, &len);
        transaction_add(t, cmd, len);
    }
    for (size_t i = 0; i < file->count; i++) {
        struct mirror_rule wanted = file->list[i];
        const struct mirror_rule *now = mirror_find(state, wanted.name);
        if (now && now->declared && mirror_same(now, &wanted))
            continue;
        wanted.declared = true;
        cmd = mirror_cmd_set(actor, source, &wanted, &len);
        transaction_add(t, cmd, len);
    }
}

void *mirrors_diff(const struct mirror_table *state, const struct mirror_table *file, size_t *changes,
                   size_t *len)
{
    struct transaction t;
    transaction_begin(&t, actor, source, PART_ROOM * (1 + state->count + file->count));
    add_parts(&t, state, file);
    transaction_end(&t);
    CHECK(!t.w.failed);
    *changes = t.count;
    *len = t.w.len;
    if (t.count)
        return t.w.buf;
    free(t.w.buf);
    return NULL;
}

static int diff(void *owner, void **cmd, size_t *changes, size_t *len)
{
    const struct mirrors_file *f = owner;
    struct mirror_table state;
    int rc = cluster_mirrors(f->declared.cluster, &state);
    if (rc == 0)
        *cmd = mirrors_diff(&state, &f->file, changes, len);
    mirror_table_fini(&state);
    return rc;
}

static const struct declared_kind kind = {
    .component = "mirrors", .what = "rules of mirroring", .version = CLUSTER_VERSION_SOURCES, .diff = diff};

void mirrors_declare(struct mirrors_file *f, const struct mirror_table *file)
{
    size_t before = f->file.count;
    mirror_table_fini(&f->file);
    for (size_t i = 0; i < file->count; i++)
        mirror_table_add(&f->file, &file->list[i]);
    declared_changed(&f->declared, file->count, before);
}

bool mirrors_file_has(const struct mirrors_file *f, const char *name)
{
    return mirror_find(&f->file, name) != NULL;
}

void mirrors_file_warn(const struct mirrors_file *f, json_t *list)
{
    if (f->declared.refused)
        json_array_append_new(
            list, json_string("the configuration's rules of mirroring were refused: look at the error log"));
}

struct mirrors_file *mirrors_file_new(uv_loop_t *loop, struct journal *journal, struct cluster *cluster)
{
    struct mirrors_file *f = calloc(1, sizeof(*f));
    CHECK(f);
    declared_init(&f->declared, &kind, f, loop, journal, cluster);
    return f;
}

void mirrors_file_close(struct mirrors_file *f)
{
    declared_close(&f->declared);
}

void mirrors_file_free(struct mirrors_file *f)
{
    if (!f)
        return;
    declared_fini(&f->declared);
    mirror_table_fini(&f->file);
    free(f);
}
