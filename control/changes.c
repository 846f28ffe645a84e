/* SPDX-License-Identifier: Apache-2.0 */
#include "control/changes.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "cmd.h"
#include "control/services_declare.h"
#include "control/state/state.h"
#include "control/transaction.h"

enum { ROOM = STATE_TRANSACTION_BYTES_MAX, TEXTS_ROOM = 2 * SVC_TEXT_MAX };

struct making {
    const struct changes_input *in;
    struct changes *out;
    struct transaction t;
};

/* --- the transaction --- */

static void add_setting(struct making *m, const char *key, const char *value)
{
    uint8_t fields[TEXTS_ROOM];
    struct wire_writer w = {.buf = fields, .cap = sizeof(fields)};
    wire_put_bytes(&w, key, strlen(key));
    if (value)
        wire_put_bytes(&w, value, strlen(value));
    CHECK(!w.failed);
    wire_put_u16(&m->t.w, value ? CMD_SETTING_SET : CMD_SETTING_UNSET);
    wire_put_bytes(&m->t.w, fields, w.len);
    m->t.count++;
}

static void end(struct making *m)
{
    transaction_end(&m->t);
    m->out->too_large = m->t.w.failed || m->t.count > STATE_PARTS_MAX;
    if (m->t.count && !m->out->too_large) {
        m->out->cmd = m->t.w.buf;
        m->out->len = m->t.w.len;
        return;
    }
    free(m->t.w.buf);
}

/* --- for people --- */

static json_t *row_new(struct making *m, const char *action, const char *kind, const char *name)
{
    json_t *row = json_pack("{s:s, s:s, s:s}", "action", action, "kind", kind, "name", name);
    CHECK(row);
    json_array_append_new(m->out->list, row);
    return row;
}

/* One field's change; NULL for what is not there. */
static void add_field(json_t *fields, const char *key, const char *old, const char *new)
{
    if (old && new &&strcmp(old, new) == 0)
        return;
    json_array_append_new(fields, json_pack("{s:s, s:s?, s:s?}", "key", key, "old", old, "new", new));
}

/* What differs between two services; from may be NULL. */
static void tell_service(struct making *m, const struct svc *from, const struct svc *to)
{
    json_t *row = row_new(m, from ? "change" : "add", "service", to->name), *fields = json_array();
    char old[SVC_TEXT_MAX], new[SVC_TEXT_MAX];
    for (size_t i = 0; i < svc_field_count(); i++) {
        const char *key = svc_field_key(i);
        add_field(fields, key, from ? svc_field_text(from, key, old) : NULL, svc_field_text(to, key, new));
    }
    json_object_set_new(row, "fields", fields);
}

static void tell_backend(struct making *m, const char *service, const struct svc_backend *from,
                         const struct svc_backend *to)
{
    json_t *row = row_new(m, from ? "change" : "add", "backend", to->name), *fields = json_array();
    char old[SVC_TEXT_MAX], new[SVC_TEXT_MAX];
    json_object_set_new(row, "service", json_string(service));
    for (size_t i = 0; i < svc_backend_field_count(); i++) {
        const char *key = svc_backend_field_key(i);
        if (strcmp(key, "name") != 0)
            add_field(fields, key, from ? svc_backend_field_text(from, key, old) : NULL,
                      svc_backend_field_text(to, key, new));
    }
    json_object_set_new(row, "fields", fields);
}

static void tell_setting(struct making *m, const char *action, int id, const char *old, const char *new)
{
    json_t *row = row_new(m, action, "setting", setting_info(id)->name), *fields = json_array();
    add_field(fields, "value", old, new);
    json_object_set_new(row, "fields", fields);
}

/* --- services and backends --- */

static void remove_services(struct making *m)
{
    const struct svc_table *state = m->in->state;
    for (size_t i = 0; i < state->count; i++) {
        const struct svc *s = &state->service[i];
        size_t len;
        if (s->origin == SVC_FROM_FILE || svc_find(m->in->file, s->name))
            continue;
        row_new(m, "remove", "service", s->name);
        void *cmd = services_cmd_rm(m->in->actor, m->in->source, s->name, SVC_FROM_API, &len);
        transaction_add(&m->t, cmd, len);
    }
}

static bool same_address(const struct svc_backend *a, const struct svc_backend *b)
{
    return memcmp(&a->address, &b->address, sizeof(a->address)) == 0;
}

/* Whether another backend of the service has the address that this one is to get: then it has to go first. */
static bool is_in_the_way(const struct svc_table *t, const struct svc *s, const struct svc_backend *wanted)
{
    for (size_t k = 0; k < s->backends; k++) {
        const struct svc_backend *b = &t->backend[s->first_backend + k];
        if (same_address(b, wanted) && strcmp(b->name, wanted->name) != 0)
            return true;
    }
    return false;
}

/* Those that the file does not have any more, if they are to go; and those that must make room. */
static void remove_backends(struct making *m, const struct svc *now, const struct svc *wanted)
{
    const char **name = calloc(now->backends + 1u, sizeof(*name));
    size_t count = 0, len;
    CHECK(name);
    for (size_t k = 0; k < now->backends; k++) {
        const struct svc_backend *b = &m->in->state->backend[now->first_backend + k];
        const struct svc_backend *w = svc_find_backend(m->in->file, wanted, b->name);
        if (w ? !same_address(w, b) && is_in_the_way(m->in->state, now, w)
              : m->in->prune && b->origin != SVC_FROM_FILE)
            name[count++] = b->name;
        if (!w && m->in->prune && b->origin != SVC_FROM_FILE)
            json_object_set_new(row_new(m, "remove", "backend", b->name), "service", json_string(now->name));
    }
    if (count) {
        void *cmd = services_cmd_names(m->in->actor, m->in->source, CMD_BACKEND_RM, now->name, SVC_FROM_API,
                                       name, count, &len);
        transaction_add(&m->t, cmd, len);
    }
    free(name);
}

static void set_service(struct making *m, const struct svc *now, const struct svc *wanted)
{
    size_t len;
    if (now && svc_same(now, wanted))
        return;
    tell_service(m, now, wanted);
    void *cmd = services_cmd_set(m->in->actor, m->in->source, wanted, CMD_REVISION_ANY, &len);
    transaction_add(&m->t, cmd, len);
}

static void set_backends(struct making *m, const struct svc *now, const struct svc *wanted)
{
    struct svc_backend *list = calloc(wanted->backends + 1u, sizeof(*list));
    size_t count = 0, len;
    CHECK(list);
    for (size_t k = 0; k < wanted->backends; k++) {
        struct svc_backend b = m->in->file->backend[wanted->first_backend + k];
        const struct svc_backend *there = now ? svc_find_backend(m->in->state, now, b.name) : NULL;
        b.origin = SVC_FROM_API;
        if (there && svc_backend_same(there, &b))
            continue;
        tell_backend(m, wanted->name, there, &b);
        list[count++] = b;
    }
    if (count) {
        void *cmd = services_cmd_backends(m->in->actor, m->in->source, wanted->name, CMD_REVISION_ANY, list,
                                          count, &len);
        transaction_add(&m->t, cmd, len);
    }
    free(list);
}

static void change_services(struct making *m)
{
    const struct svc_table *file = m->in->file;
    if (m->in->prune)
        remove_services(m);
    for (size_t i = 0; i < file->count; i++) {
        struct svc wanted = file->service[i];
        const struct svc *now = svc_find(m->in->state, wanted.name);
        wanted.origin = SVC_FROM_API;
        if (now)
            remove_backends(m, now, &file->service[i]);
        set_service(m, now, &wanted);
        set_backends(m, now, &file->service[i]);
    }
}

/* --- settings --- */

static void change_settings(struct making *m)
{
    const struct setting_values *state = m->in->state_settings, *file = m->in->file_settings;
    char old[SETTING_TEXT_MAX], new[SETTING_TEXT_MAX];
    for (int id = 0; id < SETTINGS_COUNT; id++) {
        if (state->given[id])
            setting_format(id, state->value[id], old);
        if (file->given[id])
            setting_format(id, file->value[id], new);
        if (file->given[id] && (!state->given[id] || state->value[id] != file->value[id])) {
            tell_setting(m, state->given[id] ? "change" : "add", id, state->given[id] ? old : NULL, new);
            add_setting(m, setting_info(id)->name, new);
        } else if (!file->given[id] && state->given[id] && m->in->prune) {
            tell_setting(m, "remove", id, old, NULL);
            add_setting(m, setting_info(id)->name, NULL);
        }
    }
}

/* --- policies --- */

static void tell_policy(struct making *m, const struct policy *from, const struct policy *to)
{
    json_t *row = row_new(m, from ? "change" : "add", "policy", policy_prefix_text(to->prefix));
    json_t *fields = json_array();
    char old[POLICY_TEXT_MAX], new[POLICY_TEXT_MAX];
    for (size_t i = 0; i < policy_field_count(); i++) {
        const char *key = policy_field_key(i);
        const char *now = policy_field_text(to, key, new);
        const char *was = from ? policy_field_text(from, key, old) : "";
        if (*now || *was)
            add_field(fields, key, *was ? was : NULL, *now ? now : NULL);
    }
    json_object_set_new(row, "fields", fields);
}

static void change_policies(struct making *m)
{
    const struct policy_table *state = m->in->state_policies, *file = m->in->file_policies;
    const char **gone = calloc(state->count + 1, sizeof(*gone));
    struct policy *set = calloc(file->count + 1, sizeof(*set));
    size_t gone_count = 0, set_count = 0;
    CHECK(gone && set);
    for (size_t i = 0; i < state->count && m->in->prune; i++) {
        if (policy_find(file, state->list[i].prefix) || state->list[i].rules.origin == POLICY_FROM_FILE)
            continue;
        row_new(m, "remove", "policy", policy_prefix_text(state->list[i].prefix));
        gone[gone_count++] = state->list[i].prefix;
    }
    for (size_t i = 0; i < file->count; i++) {
        const struct policy *now = policy_find(state, file->list[i].prefix);
        if (now && policy_same(now, &file->list[i]))
            continue;
        tell_policy(m, now, &file->list[i]);
        set[set_count++] = file->list[i];
    }
    if (gone_count || set_count)
        m->out->policies_cmd = policy_cmd_set(m->in->actor, m->in->source, CMD_REVISION_ANY, gone, gone_count,
                                              set, set_count, &m->out->policies_len);
    free(gone);
    free(set);
}

/* --- mirrors --- */

static void tell_mirror(struct making *m, const struct mirror_rule *from, const struct mirror_rule *to)
{
    json_t *row = row_new(m, from ? "change" : "add", "mirror", to->name), *fields = json_array();
    char old[MIRROR_TEXT_MAX], new[MIRROR_TEXT_MAX];
    for (size_t i = 0; i < mirror_field_count(); i++) {
        const char *key = mirror_field_key(i);
        const char *was = from ? mirror_field_text(from, key, old) : NULL,
                   *now = mirror_field_text(to, key, new);
        if (was || *now)
            add_field(fields, key, was, now);
    }
    json_object_set_new(row, "fields", fields);
}

static void change_mirrors(struct making *m)
{
    const struct mirror_table *state = m->in->state_mirrors, *file = m->in->file_mirrors;
    size_t len;
    for (size_t i = 0; i < state->count && m->in->prune; i++) {
        const char *name = state->list[i].name;
        if (mirror_find(file, name) || state->list[i].declared)
            continue;
        row_new(m, "remove", "mirror", name);
        void *cmd = mirror_cmd_rm(m->in->actor, m->in->source, name, false, &len);
        transaction_add(&m->t, cmd, len);
    }
    for (size_t i = 0; i < file->count; i++) {
        const struct mirror_rule *now = mirror_find(state, file->list[i].name);
        if (now && mirror_same(now, &file->list[i]))
            continue;
        tell_mirror(m, now, &file->list[i]);
        void *cmd = mirror_cmd_set(m->in->actor, m->in->source, &file->list[i], &len);
        transaction_add(&m->t, cmd, len);
    }
}

/* --- sources --- */

static void tell_source(struct making *m, const struct source *from, const struct source *to)
{
    json_t *row = row_new(m, from ? "change" : "add", "source", to->prefix), *fields = json_array();
    for (size_t i = 0; i < source_field_count(); i++) {
        const char *key = source_field_key(i);
        const char *was = from ? source_field_text(from, key) : NULL, *now = source_field_text(to, key);
        if ((was && *was) || *now)
            add_field(fields, key, was && *was ? was : NULL, *now ? now : NULL);
    }
    json_object_set_new(row, "fields", fields);
}

static void change_sources(struct making *m)
{
    const struct source_table *state = m->in->state_sources, *file = m->in->file_sources;
    size_t len;
    for (size_t i = 0; i < state->count && m->in->prune; i++) {
        const struct source *s = &state->list[i];
        if (source_find(file, s->prefix) || s->origin == SOURCE_FROM_FILE)
            continue;
        row_new(m, "remove", "source", s->prefix);
        void *cmd = source_cmd_rm(m->in->actor, m->in->source, SOURCE_FROM_API, s->prefix, &len);
        transaction_add(&m->t, cmd, len);
    }
    for (size_t i = 0; i < file->count; i++) {
        const struct source *now = source_find(state, file->list[i].prefix);
        if (now && source_same(now, &file->list[i]))
            continue;
        tell_source(m, now, &file->list[i]);
        void *cmd = source_cmd_set(m->in->actor, m->in->source, CMD_REVISION_ANY, SOURCE_FROM_API,
                                   &file->list[i], &len);
        transaction_add(&m->t, cmd, len);
    }
}

void changes_make(const struct changes_input *in, struct changes *out)
{
    struct making m = {.in = in, .out = out};
    *out = (struct changes){.list = json_array()};
    transaction_begin(&m.t, in->actor, in->source, ROOM);
    if (in->has_services)
        change_services(&m);
    if (in->has_settings)
        change_settings(&m);
    if (in->has_policies)
        change_policies(&m);
    if (in->has_mirrors)
        change_mirrors(&m);
    if (in->has_sources)
        change_sources(&m);
    end(&m);
}

void changes_fini(struct changes *c)
{
    free(c->cmd);
    free(c->policies_cmd);
    json_decref(c->list);
    *c = (struct changes){.cmd = NULL};
}
