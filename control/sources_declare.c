/* SPDX-License-Identifier: Apache-2.0 */
#include "control/sources_declare.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster.h"
#include "control/cluster_policy.h"
#include "control/journal.h"
#include "control/state/state.h"

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

/* What is behind a command's head becomes a part. Takes cmd. */
static void add_part(struct wire_writer *w, void *cmd, size_t len)
{
    struct wire_reader r = {.buf = cmd, .len = len};
    struct cmd_head head;
    cmd_get_head(&r, &head);
    wire_put_u16(w, head.type);
    wire_put_bytes(w, r.buf + r.pos, r.len - r.pos);
    free(cmd);
}

static size_t add_parts(struct wire_writer *w, const struct source_table *state,
                        const struct source_table *file)
{
    size_t count = 0, len;
    for (size_t i = 0; i < state->count; i++) {
        const struct source *s = &state->list[i];
        if (s->origin != SOURCE_FROM_FILE || source_find(file, s->prefix))
            continue;
        void *cmd = source_cmd_rm("system", "configuration", SOURCE_FROM_FILE, s->prefix, &len);
        add_part(w, cmd, len);
        count++;
    }
    for (size_t i = 0; i < file->count; i++) {
        const struct source *now = source_find(state, file->list[i].prefix);
        if (now && now->origin == SOURCE_FROM_FILE && source_same(now, &file->list[i]))
            continue;
        void *cmd = source_cmd_set("system", "configuration", CMD_REVISION_ANY, SOURCE_FROM_FILE,
                                   &file->list[i], &len);
        add_part(w, cmd, len);
        count++;
    }
    return count;
}

void *sources_diff(const struct source_table *state, const struct source_table *file, size_t *changes,
                   size_t *len)
{
    struct wire_writer w = {.buf = malloc(STATE_TRANSACTION_BYTES_MAX), .cap = STATE_TRANSACTION_BYTES_MAX};
    struct cmd_head head = {.type = CMD_TRANSACTION,
                            .actor = "system",
                            .actor_len = strlen("system"),
                            .source = "configuration",
                            .source_len = strlen("configuration"),
                            .request_id = ""};
    CHECK(w.buf);
    cmd_put_head(&w, &head);
    struct wire_writer count = {.buf = w.buf + w.len, .cap = 4};
    wire_put_u32(&w, 0);
    *changes = add_parts(&w, state, file);
    wire_put_u32(&count, (uint32_t)*changes);
    CHECK(!w.failed); /* 255 of each would fit */
    *len = w.len;
    if (*changes)
        return w.buf;
    free(w.buf);
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
