/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirrors_declare.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cmd.h"
#include "control/cluster.h"
#include "control/cluster_policy.h"
#include "control/journal.h"

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

/* A command becomes a part of the transaction: what is behind its head. Takes cmd. */
static void add_part(struct wire_writer *w, void *cmd, size_t len)
{
    struct wire_reader r = {.buf = cmd, .len = len};
    struct cmd_head head;
    cmd_get_head(&r, &head);
    wire_put_u16(w, head.type);
    wire_put_bytes(w, r.buf + r.pos, r.len - r.pos);
    free(cmd);
}

static size_t add_parts(struct wire_writer *w, const struct mirror_table *state,
                        const struct mirror_table *file)
{
    size_t count = 0, len;
    void *cmd;
    for (size_t i = 0; i < state->count; i++) {
        const struct mirror_rule *m = &state->list[i];
        if (!m->declared || mirror_find(file, m->name))
            continue;
        cmd = mirror_cmd_rm(actor, source, m->name, true, &len);
        add_part(w, cmd, len);
        count++;
    }
    for (size_t i = 0; i < file->count; i++) {
        struct mirror_rule wanted = file->list[i];
        const struct mirror_rule *now = mirror_find(state, wanted.name);
        if (now && now->declared && mirror_same(now, &wanted))
            continue;
        wanted.declared = true;
        cmd = mirror_cmd_set(actor, source, &wanted, &len);
        add_part(w, cmd, len);
        count++;
    }
    return count;
}

void *mirrors_diff(const struct mirror_table *state, const struct mirror_table *file, size_t *changes,
                   size_t *len)
{
    struct cmd_head head = {.type = CMD_TRANSACTION,
                            .actor = actor,
                            .actor_len = sizeof(actor) - 1,
                            .source = source,
                            .source_len = sizeof(source) - 1,
                            .request_id = ""};
    size_t cap = PART_ROOM * (1 + state->count + file->count);
    struct wire_writer w = {.buf = malloc(cap), .cap = cap};
    CHECK(w.buf);
    cmd_put_head(&w, &head);
    struct wire_writer count = w;
    wire_put_u32(&w, 0);
    *changes = add_parts(&w, state, file);
    wire_put_u32(&count, (uint32_t)*changes);
    CHECK(!w.failed);
    *len = w.len;
    if (*changes)
        return w.buf;
    free(w.buf);
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
