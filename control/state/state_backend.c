/* SPDX-License-Identifier: Apache-2.0 */
/* Backends: added, changed, drained and removed; a command is about several of one service, all or none. */
#include <stdio.h>
#include <stdlib.h>

#include "state_service.h"

/* Refused: a walk over the command's list ends. */
enum { REFUSED = -ECANCELED };

static int refuse(struct state_event *out, enum cmd_status status, const char *format, const char *name)
{
    char text[SVC_ERROR_MAX];
    snprintf(text, sizeof(text), "backend '%s' ", name);
    state_refuse_format(out, status, "%s%s", text, format);
    return REFUSED;
}

/* Why the one that is there must not be changed so; 0 or REFUSED. */
static int change_check(const struct state_cmd *cmd, const struct svc_backend *old,
                        const struct svc_backend *b, struct state_event *out)
{
    if (cmd->revision == 0)
        return refuse(out, CMD_CONFLICT, "exists already", b->name);
    if (cmd->revision != CMD_REVISION_ANY && cmd->revision != old->revision)
        return refuse(out, CMD_CONFLICT, "was changed meanwhile; look and try again", b->name);
    if (old->origin == SVC_FROM_FILE && b->origin != SVC_FROM_FILE)
        return refuse(out, CMD_DECLARED, "is set in the configuration file", b->name);
    return 0;
}

/* Whether the service has the address already, in a backend of another name. 0, REFUSED, -errno. */
static int address_check(struct kv *kv, const struct svc *s, const struct svc_backend *b,
                         struct state_event *out)
{
    struct state_key at = state_key_backend_at(s->name, &b->address);
    struct kv_bytes owner;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&at), &owner);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (owner.len == strlen(b->name) && memcmp(owner.data, b->name, owner.len) == 0)
        return 0;
    return refuse(out, CMD_CONFLICT, "has the address of another backend of this service", b->name);
}

/* Judges one of the list. *fresh: it is a new one. */
static int set_check_one(struct kv *kv, const struct svc *s, const struct svc_backend *b, bool *fresh,
                         struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct svc_backend old;
    char err[SVC_ERROR_MAX];
    if (svc_backend_check(s, b, err)) {
        state_refuse_format(out, CMD_INVALID, "backend '%s': %s", b->name, err);
        return REFUSED;
    }
    int rc = state_backend_get(kv, s->name, b->name, &old);
    *fresh = rc == -ENOENT;
    if (rc && !*fresh)
        return rc;
    if (*fresh && cmd->revision != 0 && cmd->revision != CMD_REVISION_ANY)
        return refuse(out, CMD_BACKEND_UNKNOWN, "does not exist any more", b->name);
    rc = *fresh ? 0 : change_check(cmd, &old, b, out);
    return rc ? rc : address_check(kv, s, b, out);
}

static int compare_addresses(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct svc_address));
}

/* Judges the list as a whole: what is in it twice, and how many there would be. */
static int set_check(struct kv *kv, const struct svc *s, struct state_event *out)
{
    struct wire_reader r = out->cmd.backends;
    uint32_t count = out->cmd.backends_count, added = 0;
    struct state_counts counts;
    struct svc_address *address = calloc(count, sizeof(*address));
    CHECK(address);
    int rc = state_counts_get(kv, &counts);
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        struct svc_backend b;
        bool fresh;
        svc_backend_get(&r, &b);
        rc = set_check_one(kv, s, &b, &fresh, out);
        address[i] = b.address;
        added += rc == 0 && fresh;
    }
    qsort(address, count, sizeof(*address), compare_addresses);
    for (uint32_t i = 1; i < count && rc == 0; i++)
        if (memcmp(&address[i - 1], &address[i], sizeof(*address)) == 0) {
            state_refuse_text(out, CMD_CONFLICT, "two backends of the list have one address");
            rc = REFUSED;
        }
    free(address);
    if (rc == 0 &&
        (s->backends + added > SVC_BACKENDS_MAX || counts.backends + added > SVC_BACKENDS_ALL_MAX)) {
        state_refuse_format(out, CMD_LIMIT, "a service has at most %d backends, all together %d",
                            SVC_BACKENDS_MAX, SVC_BACKENDS_ALL_MAX);
        rc = REFUSED;
    }
    return rc;
}

/* Another address is another backend: a verdict on the old one says nothing about it. */
static int readdress(struct kv *kv, const struct svc *s, const struct svc_backend *old, struct svc_backend *b)
{
    struct state_key from = state_key_backend_at(s->name, &old->address);
    struct state_key to = state_key_backend_at(s->name, &b->address);
    b->generation = state_generation_next(old->generation);
    int rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&from));
    return rc ? rc : state_row_put(kv, PRIVATE_DATA, &to, b->name, strlen(b->name));
}

static int write_one(struct kv *kv, struct svc *s, struct svc_backend *b, struct state_counts *counts,
                     struct state_event *out)
{
    struct svc_backend old;
    int rc = state_backend_get(kv, s->name, b->name, &old);
    if (rc && rc != -ENOENT)
        return rc;
    if (rc == 0 && svc_backend_same(&old, b))
        return 0;
    b->service = s->id;
    b->revision = out->index;
    b->created_ms = b->updated_ms = out->cmd.head.time_ms;
    if (rc == 0) {
        b->id = old.id;
        b->admin = old.admin;
        b->generation = old.generation;
        b->created_ms = old.created_ms;
        if (memcmp(&old.address, &b->address, sizeof(b->address)) != 0)
            rc = readdress(kv, s, &old, b);
        else if (strcmp(old.node, b->node) != 0)
            b->generation =
                state_generation_next(old.generation); /* a verdict by the old node's heartbeats */
    } else {
        struct state_key at = state_key_backend_at(s->name, &b->address);
        rc = state_backend_id_take(kv, counts, &b->id, &b->generation);
        if (rc == 0)
            rc = state_row_put(kv, PRIVATE_DATA, &at, b->name, strlen(b->name));
        s->backends++;
    }
    out->changed = true;
    return rc ? rc : state_backend_put(kv, s->name, b);
}

int state_backend_set(struct kv *kv, struct state_event *out)
{
    struct wire_reader r = out->cmd.backends;
    struct state_counts counts;
    struct svc s;
    int rc = state_service_need(kv, &out->cmd, &s, out);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = set_check(kv, &s, out);
    if (rc)
        return rc == REFUSED ? 0 : rc;
    uint32_t before = s.backends;
    rc = state_counts_get(kv, &counts);
    for (uint32_t i = 0; i < out->cmd.backends_count && rc == 0; i++) {
        struct svc_backend b;
        svc_backend_get(&r, &b);
        rc = write_one(kv, &s, &b, &counts, out);
    }
    if (rc || s.backends == before)
        return rc;
    rc = state_service_put(kv, &s);
    return rc ? rc : state_counts_put(kv, &counts);
}

/* The next name of the list, and its backend; refuses one that is not there. 0, REFUSED, -errno. */
static int next_named(struct kv *kv, const struct svc *s, struct wire_reader *r, struct svc_backend *b,
                      struct state_event *out)
{
    char name[SVC_NAME_MAX + 1];
    size_t len;
    const uint8_t *data = wire_get_bytes(r, &len);
    CHECK(len <= SVC_NAME_MAX);
    memcpy(name, data, len);
    name[len] = '\0';
    int rc = state_backend_get(kv, s->name, name, b);
    if (rc == -ENOENT)
        return refuse(out, CMD_BACKEND_UNKNOWN, "is not known", name);
    if (rc == 0 && out->cmd.head.type == CMD_BACKEND_RM && b->origin == SVC_FROM_FILE &&
        out->cmd.origin != SVC_FROM_FILE)
        return refuse(out, CMD_DECLARED, "is set in the configuration file", name);
    return rc;
}

/* Looks at all before the first is changed. */
static int names_check(struct kv *kv, const struct svc *s, struct state_event *out)
{
    struct wire_reader r = out->cmd.backends;
    struct svc_backend b;
    int rc = 0;
    for (uint32_t i = 0; i < out->cmd.backends_count && rc == 0; i++)
        rc = next_named(kv, s, &r, &b, out);
    return rc;
}

int state_backend_rm(struct kv *kv, struct state_event *out)
{
    struct wire_reader r = out->cmd.backends;
    struct state_counts counts;
    struct svc s;
    int rc = state_service_need(kv, &out->cmd, &s, out);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = names_check(kv, &s, out);
    if (rc)
        return rc == REFUSED ? 0 : rc;
    if (s.backends < out->cmd.backends_count)
        return -EUCLEAN;
    s.backends -= out->cmd.backends_count;
    rc = state_counts_get(kv, &counts);
    for (uint32_t i = 0; i < out->cmd.backends_count && rc == 0; i++) {
        struct svc_backend b;
        rc = next_named(kv, &s, &r, &b, out);
        if (rc == 0)
            rc = state_backend_drop(kv, s.name, &b, &counts);
    }
    if (rc)
        return rc;
    out->changed = true;
    rc = state_service_put(kv, &s);
    return rc ? rc : state_counts_put(kv, &counts);
}

int state_backend_admin(struct kv *kv, struct state_event *out)
{
    struct wire_reader r = out->cmd.backends;
    struct svc s;
    int rc = state_service_need(kv, &out->cmd, &s, out);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    rc = names_check(kv, &s, out);
    if (rc)
        return rc == REFUSED ? 0 : rc;
    for (uint32_t i = 0; i < out->cmd.backends_count && rc == 0; i++) {
        struct svc_backend b;
        rc = next_named(kv, &s, &r, &b, out);
        if (rc || b.admin == out->cmd.admin)
            continue;
        b.admin = out->cmd.admin;
        b.revision = out->index;
        b.updated_ms = out->cmd.head.time_ms;
        out->changed = true;
        rc = state_backend_put(kv, s.name, &b);
    }
    return rc;
}
