/* SPDX-License-Identifier: Apache-2.0 */
/* Services: made, changed and removed. */
#include "state_service.h"

void state_service_name(const struct state_cmd *cmd, char out[SVC_NAME_MAX + 1])
{
    CHECK(cmd->service.len <= SVC_NAME_MAX);
    memcpy(out, cmd->service.data, cmd->service.len);
    out[cmd->service.len] = '\0';
}

int state_service_need(struct kv *kv, const struct state_cmd *cmd, struct svc *s, struct state_event *out)
{
    char name[SVC_NAME_MAX + 1];
    state_service_name(cmd, name);
    int rc = state_service_get(kv, name, s);
    if (rc == -ENOENT)
        state_refuse_format(out, CMD_SERVICE_UNKNOWN, "there is no service '%s'", name);
    return rc;
}

/* Whether the backends that are there go with what the service becomes. 0, -EINVAL (refused), -errno. */
static int backends_check(struct kv *kv, const struct svc *s, struct state_event *out)
{
    struct svc_backend b = {.name = ""};
    char err[SVC_ERROR_MAX];
    int rc;
    while ((rc = state_backend_next(kv, s->name, b.name, &b)) == 0) {
        if (svc_backend_check(s, &b, err) == 0)
            continue;
        state_refuse_format(out, CMD_INVALID, "backend '%s': %s", b.name, err);
        return -EINVAL;
    }
    return rc == -ENOENT ? 0 : rc;
}

/* Whether the command may change the service it found. 0, -EPERM (refused). */
static int change_check(const struct state_cmd *cmd, const struct svc *old, struct state_event *out)
{
    if (cmd->revision == 0) {
        state_refuse_format(out, CMD_CONFLICT, "the service '%s' exists already", old->name);
        return -EPERM;
    }
    if (cmd->revision != CMD_REVISION_ANY && cmd->revision != old->revision) {
        state_refuse_format(out, CMD_CONFLICT, "the service '%s' was changed meanwhile; look and try again",
                            old->name);
        return -EPERM;
    }
    if (old->origin == SVC_FROM_FILE && cmd->svc.origin != SVC_FROM_FILE) {
        state_refuse_format(out, CMD_DECLARED, "the service '%s' is set in the configuration file",
                            old->name);
        return -EPERM;
    }
    return 0;
}

/* Writes what was checked; old->id 0: a new one. */
static int service_write(struct kv *kv, const struct svc *old, struct state_event *out)
{
    struct svc *s = &out->cmd.svc;
    struct state_counts counts;
    int rc = 0;
    s->id = old->id;
    s->backends = old->backends;
    s->created_ms = old->id ? old->created_ms : out->cmd.head.time_ms;
    s->updated_ms = out->cmd.head.time_ms;
    s->revision = out->index;
    if (!old->id) {
        rc = state_counts_get(kv, &counts);
        if (rc == 0)
            rc = state_service_id_take(kv, &counts, &s->id);
        if (rc == 0)
            rc = state_counts_put(kv, &counts);
    }
    if (rc == 0)
        rc = state_place_move(kv, old, s);
    out->changed = rc == 0;
    return rc ? rc : state_service_put(kv, s);
}

int state_service_set(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct svc old = {.id = 0};
    struct state_counts counts;
    int rc = state_service_get(kv, cmd->svc.name, &old);
    if (rc && rc != -ENOENT)
        return rc;
    bool there = rc == 0;
    if (there && change_check(cmd, &old, out))
        return 0;
    if (!there && cmd->revision != 0 && cmd->revision != CMD_REVISION_ANY)
        return state_refuse_format(out, CMD_SERVICE_UNKNOWN, "there is no service '%s' any more",
                                   cmd->svc.name);
    rc = state_counts_get(kv, &counts);
    if (rc)
        return rc;
    if (!there && counts.services >= SVC_SERVICES_MAX)
        return state_refuse_format(out, CMD_LIMIT, "there are %d services already", SVC_SERVICES_MAX);
    rc = state_place_check(kv, &cmd->svc, out);
    if (rc == 0 && there)
        rc = backends_check(kv, &cmd->svc, out);
    if (rc)
        return rc == -EEXIST || rc == -EINVAL ? 0 : rc;
    if (there && svc_same(&old, &cmd->svc))
        return 0;
    return service_write(kv, &old, out);
}

int state_service_rm(struct kv *kv, struct state_event *out)
{
    struct svc s;
    struct svc_backend b;
    struct state_counts counts;
    int rc = state_service_need(kv, &out->cmd, &s, out);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (s.origin == SVC_FROM_FILE && out->cmd.origin != SVC_FROM_FILE)
        return state_refuse_format(out, CMD_DECLARED, "the service '%s' is set in the configuration file",
                                   s.name);
    rc = state_counts_get(kv, &counts);
    while (rc == 0 && (rc = state_backend_next(kv, s.name, "", &b)) == 0)
        rc = state_backend_drop(kv, s.name, &b, &counts);
    if (rc != -ENOENT)
        return rc;
    struct state_key key = state_key_service(s.name);
    rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
    if (rc == 0)
        rc = state_place_drop(kv, &s);
    if (rc == 0)
        rc = state_service_id_give(kv, &counts, s.id);
    out->changed = rc == 0;
    return rc ? rc : state_counts_put(kv, &counts);
}
