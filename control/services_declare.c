/* SPDX-License-Identifier: Apache-2.0 */
#include "control/services_declare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/state/cmd_new.h"

enum {
    NAME_ROOM = SVC_NAME_MAX + 8,
    BACKEND_ROOM = 2 * NAME_ROOM + PLAN_UNIX_PATH_MAX + 40,
    WHAT_MAX = 128,
};

void *services_cmd_set(const char *actor, const char *source, const struct svc *s, uint64_t revision,
                       size_t *len)
{
    struct wire_writer w = cmd_new(CMD_SERVICE_SET, actor, source, SVC_ROW_BYTES_MAX);
    wire_put_u64(&w, revision);
    svc_put(&w, s);
    return cmd_end(&w, len);
}

void *services_cmd_rm(const char *actor, const char *source, const char *service, enum svc_origin origin,
                      size_t *len)
{
    struct wire_writer w = cmd_new(CMD_SERVICE_RM, actor, source, NAME_ROOM);
    wire_put_bytes(&w, service, strlen(service));
    wire_put_u8(&w, (uint8_t)origin);
    return cmd_end(&w, len);
}

void *services_cmd_backends(const char *actor, const char *source, const char *service, uint64_t revision,
                            const struct svc_backend *b, size_t count, size_t *len)
{
    struct wire_writer w = cmd_new(CMD_BACKEND_SET, actor, source, NAME_ROOM + count * BACKEND_ROOM);
    wire_put_bytes(&w, service, strlen(service));
    wire_put_u64(&w, revision);
    wire_put_u32(&w, (uint32_t)count);
    for (size_t i = 0; i < count; i++)
        svc_backend_put(&w, &b[i]);
    return cmd_end(&w, len);
}

void *services_cmd_names(const char *actor, const char *source, int type, const char *service, uint8_t what,
                         const char *const *name, size_t count, size_t *len)
{
    struct wire_writer w = cmd_new((enum cmd_type)type, actor, source, NAME_ROOM * (count + 1));
    wire_put_bytes(&w, service, strlen(service));
    wire_put_u8(&w, what);
    wire_put_u32(&w, (uint32_t)count);
    for (size_t i = 0; i < count; i++)
        wire_put_bytes(&w, name[i], strlen(name[i]));
    return cmd_end(&w, len);
}

/* The difference. */

struct diff {
    const struct svc_table *state, *file;
    declare_command each;
    void *arg;
    size_t count;
};

static const char actor[] = "system", source[] = "configuration";

static void tell(struct diff *d, void *cmd, size_t len, const char *what, const char *service)
{
    char text[WHAT_MAX];
    snprintf(text, sizeof(text), "%s of service '%s'", what, service);
    d->count++;
    d->each(d->arg, cmd, len, text);
}

static bool same_address(const struct svc_address *a, const struct svc_address *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

static void remove_services(struct diff *d)
{
    for (size_t i = 0; i < d->state->count; i++) {
        const struct svc *s = &d->state->service[i];
        size_t len;
        if (s->origin != SVC_FROM_FILE || svc_find(d->file, s->name))
            continue;
        void *cmd = services_cmd_rm(actor, source, s->name, SVC_FROM_FILE, &len);
        tell(d, cmd, len, "removal", s->name);
    }
}

/* Backends of the file that it does not name any more, and those that move. */
static void remove_backends_of(struct diff *d, const struct svc *now, const struct svc *wanted)
{
    const char **name = calloc(now->backends + 1u, sizeof(*name));
    size_t count = 0, len;
    CHECK(name);
    for (size_t k = 0; k < now->backends; k++) {
        const struct svc_backend *b = &d->state->backend[now->first_backend + k];
        const struct svc_backend *w = svc_find_backend(d->file, wanted, b->name);
        if (w ? !same_address(&w->address, &b->address) : b->origin == SVC_FROM_FILE)
            name[count++] = b->name;
    }
    if (count) {
        void *cmd =
            services_cmd_names(actor, source, CMD_BACKEND_RM, now->name, SVC_FROM_FILE, name, count, &len);
        tell(d, cmd, len, "backends that go", now->name);
    }
    free(name);
}

static void remove_backends(struct diff *d)
{
    for (size_t i = 0; i < d->state->count; i++) {
        const struct svc *wanted = svc_find(d->file, d->state->service[i].name);
        if (wanted)
            remove_backends_of(d, &d->state->service[i], wanted);
    }
}

static bool has_name(const char *list, const char *name)
{
    char each[PLAN_DOMAIN_MAX];
    while (svc_names_next(&list, each))
        if (strcmp(each, name) == 0)
            return true;
    return false;
}

/* Whether the file gives a name at the address ("": what is for everybody else) to another service. */
static bool goes_elsewhere(const struct diff *d, const struct svc *now, const char *name)
{
    for (size_t i = 0; i < d->file->count; i++) {
        const struct svc *s = &d->file->service[i];
        if (same_address(&s->address, &now->address) && strcmp(s->name, now->name) != 0 &&
            (*name ? has_name(s->names, name) : !s->names[0]))
            return true;
    }
    return false;
}

/* The names that a service keeps, into left; false: none of the others goes to another service. */
static bool names_left(const struct diff *d, const struct svc *now, const struct svc *wanted,
                       char left[SVC_NAMES_MAX + 1])
{
    char name[PLAN_DOMAIN_MAX];
    const char *list = now->names;
    bool same = same_address(&now->address, &wanted->address), moves = false;
    size_t used = 0;
    left[0] = '\0';
    while (svc_names_next(&list, name)) {
        if (same && has_name(wanted->names, name))
            used += (size_t)snprintf(left + used, SVC_NAMES_MAX + 1 - used, "%s%s", used ? "," : "", name);
        else
            moves |= goes_elsewhere(d, now, name);
    }
    return now->names[0] ? moves : goes_elsewhere(d, now, "");
}

/* A name has to be let go before another service can have it, in whatever order they stand; two may even
 * exchange theirs. Who keeps none has one for the moment that nobody says. */
static void release_names(struct diff *d)
{
    for (size_t i = 0; i < d->state->count; i++) {
        struct svc left = d->state->service[i];
        const struct svc *wanted = svc_find(d->file, left.name);
        size_t len;
        if (!wanted || left.tls.mode == PLAN_TLS_OFF ||
            !names_left(d, &d->state->service[i], wanted, left.names))
            continue;
        if (!left.names[0])
            snprintf(left.names, sizeof(left.names), "moving-%u.invalid", left.id);
        left.origin = SVC_FROM_FILE;
        void *cmd = services_cmd_set(actor, source, &left, CMD_REVISION_ANY, &len);
        tell(d, cmd, len, "names that move", left.name);
    }
}

static void set_services(struct diff *d)
{
    for (size_t i = 0; i < d->file->count; i++) {
        const struct svc *s = &d->file->service[i], *now = svc_find(d->state, s->name);
        size_t len;
        if (now && svc_same(now, s))
            continue;
        void *cmd = services_cmd_set(actor, source, s, CMD_REVISION_ANY, &len);
        tell(d, cmd, len, "settings", s->name);
    }
}

static void set_backends(struct diff *d)
{
    for (size_t i = 0; i < d->file->count; i++) {
        const struct svc *s = &d->file->service[i], *now = svc_find(d->state, s->name);
        struct svc_backend *list = calloc(s->backends + 1u, sizeof(*list));
        size_t count = 0, len;
        CHECK(list);
        for (size_t k = 0; k < s->backends; k++) {
            const struct svc_backend *b = &d->file->backend[s->first_backend + k];
            const struct svc_backend *there = now ? svc_find_backend(d->state, now, b->name) : NULL;
            if (!there || !svc_backend_same(there, b))
                list[count++] = *b;
        }
        if (count) {
            void *cmd = services_cmd_backends(actor, source, s->name, CMD_REVISION_ANY, list, count, &len);
            tell(d, cmd, len, "backends", s->name);
        }
        free(list);
    }
}

size_t services_declare_diff(const struct svc_table *state, const struct svc_table *file,
                             declare_command each, void *arg)
{
    struct diff d = {state, file, each, arg, 0};
    remove_services(&d);
    remove_backends(&d);
    release_names(&d);
    set_services(&d);
    set_backends(&d);
    return d.count;
}
