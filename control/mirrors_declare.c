/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirrors_declare.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cmd.h"
#include "control/cluster.h"
#include "control/cluster_policy.h"
#include "control/journal.h"
#include "control/transaction.h"

struct mirrors_file {
    struct journal *journal;
    struct cluster *cluster;
    struct mirror_table file;
    bool emptied; /* it had some before, and it is not said yet that it has none now */
    uv_timer_t retry;
    bool under_way;
    bool again; /* the file was read again meanwhile */
    bool refused, closing;
    size_t changes; /* of the command that is under way */
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

static void look(struct mirrors_file *f);

static void on_retry(uv_timer_t *timer)
{
    look(timer->data);
}

static void look_later(struct mirrors_file *f)
{
    if (!f->closing)
        uv_timer_start(&f->retry, on_retry, MIRRORS_RETRY_MS, 0);
}

static void on_proposed(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                        size_t detail_len)
{
    struct mirrors_file *f = arg;
    (void)index;
    f->under_way = false;
    switch (status) {
    case CMD_OK:
        journal_info(f->journal, "mirrors", "the configuration changed %zu rules of mirroring", f->changes);
        break;
    case CMD_NO_LEADER:
    case CMD_BUSY:
    case CMD_UNKNOWN_OUTCOME:
    case CMD_NO_SPACE:
    case CMD_TOO_NEW: /* a node that is not upgraded yet; or this one is new, and has not said its version */
        look_later(f);
        return;
    default:
        f->refused = true;
        journal_error(f->journal, "mirrors", "the configuration's rules of mirroring were refused: %.*s",
                      (int)detail_len, (const char *)detail);
    }
    f->emptied &= f->again;
    if (f->again)
        look(f);
}

static void look(struct mirrors_file *f)
{
    struct mirror_table state;
    size_t len;
    f->again = f->under_way;
    if (f->under_way || f->closing || (f->file.count == 0 && !f->emptied && cluster_has_others(f->cluster)))
        return;
    int rc = cluster_mirrors(f->cluster, &state);
    void *cmd = rc ? NULL : mirrors_diff(&state, &f->file, &f->changes, &len);
    mirror_table_fini(&state);
    if (rc) {
        look_later(f);
        return;
    }
    if (!cmd) {
        f->emptied = false;
        return;
    }
    if (!cluster_knows(f->cluster, CLUSTER_VERSION_SOURCES)) {
        /* Who leads may be a node that is not upgraded yet, and would refuse what it does not know for good.
         */
        free(cmd);
        look_later(f);
        return;
    }
    f->under_way = true;
    cluster_propose(f->cluster, cmd, len, on_proposed, f);
}

void mirrors_declare(struct mirrors_file *f, const struct mirror_table *file)
{
    f->emptied = file->count == 0 && (f->emptied || f->file.count > 0);
    mirror_table_fini(&f->file);
    for (size_t i = 0; i < file->count; i++)
        mirror_table_add(&f->file, &file->list[i]);
    f->refused = false;
    look(f);
}

bool mirrors_file_has(const struct mirrors_file *f, const char *name)
{
    return mirror_find(&f->file, name) != NULL;
}

void mirrors_file_warn(const struct mirrors_file *f, json_t *list)
{
    if (f->refused)
        json_array_append_new(
            list, json_string("the configuration's rules of mirroring were refused: look at the error log"));
}

struct mirrors_file *mirrors_file_new(uv_loop_t *loop, struct journal *journal, struct cluster *cluster)
{
    struct mirrors_file *f = calloc(1, sizeof(*f));
    CHECK(f);
    f->journal = journal;
    f->cluster = cluster;
    uv_timer_init(loop, &f->retry);
    f->retry.data = f;
    return f;
}

void mirrors_file_close(struct mirrors_file *f)
{
    f->closing = true;
    uv_close((uv_handle_t *)&f->retry, NULL);
}

void mirrors_file_free(struct mirrors_file *f)
{
    if (!f)
        return;
    CHECK(!f->under_way);
    mirror_table_fini(&f->file);
    free(f);
}
