/* SPDX-License-Identifier: Apache-2.0 */
/* Which service has an address, or a name at it. */
#include "state_service.h"

/* The service of a row, unless it is s: -EEXIST with its name; 0: nobody else. */
static int other_owner(struct kv *kv, const struct state_key *key, const struct svc *s,
                       char owner[SVC_NAME_MAX + 1])
{
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(key), &value);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (value.len > SVC_NAME_MAX)
        return -EUCLEAN;
    memcpy(owner, value.data, value.len);
    owner[value.len] = '\0';
    return strcmp(owner, s->name) == 0 ? 0 : -EEXIST;
}

/* Some other service at the address of s: -EEXIST with its name; 0: there is none. All that are there go
 * with each other, so that one is as good as any. */
static int neighbour(struct kv *kv, const struct svc *s, char owner[SVC_NAME_MAX + 1])
{
    struct state_key at = state_key_service_at(&s->address), key = state_key_service_name(&s->address, "");
    const size_t prefix = key.len;
    int rc = other_owner(kv, &at, s, owner);
    while (rc == 0) {
        struct kv_bytes found, value;
        rc = kv_seek(kv, PRIVATE_DATA, state_key_bytes(&key), true, &found, &value);
        if (rc == 0 && (found.len <= prefix || memcmp(found.data, key.data, prefix) != 0))
            rc = -ENOENT;
        if (rc)
            break;
        memcpy(key.data, found.data, found.len);
        key.len = found.len;
        rc = other_owner(kv, &key, s, owner);
    }
    return rc == -ENOENT ? 0 : rc;
}

static int names_check(struct kv *kv, const struct svc *s, struct state_event *out)
{
    char name[PLAN_DOMAIN_MAX], owner[SVC_NAME_MAX + 1], err[SVC_ERROR_MAX];
    const char *list = s->names;
    while (svc_names_next(&list, name)) {
        struct state_key key = state_key_service_name(&s->address, name);
        int rc = other_owner(kv, &key, s, owner);
        if (rc == -EEXIST) {
            svc_name_taken(s, name, owner, err);
            state_refuse_text(out, CMD_CONFLICT, err);
        }
        if (rc)
            return rc;
    }
    return 0;
}

int state_place_check(struct kv *kv, const struct svc *s, struct state_event *out)
{
    char owner[SVC_NAME_MAX + 1], err[SVC_ERROR_MAX];
    struct svc other;
    int rc = names_check(kv, s, out);
    if (rc)
        return rc;
    rc = neighbour(kv, s, owner);
    if (rc != -EEXIST)
        return rc;
    rc = state_service_get(kv, owner, &other);
    if (rc)
        return rc == -ENOENT ? -EUCLEAN : rc;
    if (svc_share_check(s, &other, err) == 0)
        return 0;
    state_refuse_text(out, CMD_CONFLICT, err);
    return -EEXIST;
}

int state_place_drop(struct kv *kv, const struct svc *s)
{
    struct state_key at = state_key_service_at(&s->address);
    char name[PLAN_DOMAIN_MAX];
    const char *list = s->names;
    int rc = s->names[0] ? 0 : kv_del(kv, PRIVATE_DATA, state_key_bytes(&at));
    while (rc == 0 && svc_names_next(&list, name)) {
        struct state_key key = state_key_service_name(&s->address, name);
        rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
    }
    return rc;
}

int state_place_move(struct kv *kv, const struct svc *old, const struct svc *s)
{
    struct state_key at = state_key_service_at(&s->address);
    char name[PLAN_DOMAIN_MAX];
    const char *list = s->names;
    if (old->id && memcmp(&old->address, &s->address, sizeof(s->address)) == 0 &&
        strcmp(old->names, s->names) == 0)
        return 0;
    int rc = old->id ? state_place_drop(kv, old) : 0;
    if (rc == 0 && !s->names[0])
        rc = state_row_put(kv, PRIVATE_DATA, &at, s->name, strlen(s->name));
    while (rc == 0 && svc_names_next(&list, name)) {
        struct state_key key = state_key_service_name(&s->address, name);
        rc = state_row_put(kv, PRIVATE_DATA, &key, s->name, strlen(s->name));
    }
    return rc;
}
