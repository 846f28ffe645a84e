/* SPDX-License-Identifier: Apache-2.0 */
/* Names by which clients of TLS choose among services that share an address: tls.names. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/state/service.h"

enum { LABEL_MAX = 63 };

bool svc_names_next(const char **list, char out[PLAN_DOMAIN_MAX])
{
    size_t len = strcspn(*list, ",");
    if (len == 0)
        return false;
    CHECK(len < PLAN_DOMAIN_MAX);
    memcpy(out, *list, len);
    out[len] = '\0';
    *list += len + ((*list)[len] == ',');
    return true;
}

static bool label_valid(const char *p, size_t len)
{
    if (len == 0 || len > LABEL_MAX || p[0] == '-' || p[len - 1] == '-')
        return false;
    for (size_t i = 0; i < len; i++)
        if (!(p[i] >= 'a' && p[i] <= 'z') && !(p[i] >= '0' && p[i] <= '9') && p[i] != '-' && p[i] != '_')
            return false;
    return true;
}

/* A host's name, in lower case, or a * before one: any one label. An address is none (RFC 6066, 3). */
static bool name_valid(const char *name)
{
    const char *last = name;
    bool star = name[0] == '*' && name[1] == '.';
    if (strlen(name) >= PLAN_DOMAIN_MAX)
        return false;
    for (const char *p = name + (star ? 2 : 0);;) {
        size_t len = strcspn(p, ".");
        if (!label_valid(p, len))
            return false;
        last = p;
        if (!p[len])
            break;
        p += len + 1;
    }
    return strspn(last, "0123456789") != strlen(last);
}

static bool is_listed(const char *list, const char *name)
{
    char each[PLAN_DOMAIN_MAX];
    while (svc_names_next(&list, each))
        if (strcmp(each, name) == 0)
            return true;
    return false;
}

int svc_names_parse(const char *text, char out[SVC_NAMES_MAX + 1])
{
    char list[SVC_NAMES_MAX + 1] = "", name[PLAN_DOMAIN_MAX];
    size_t used = 0;
    while (*text) {
        size_t len = strcspn(text, ",");
        if (len >= sizeof(name) || used + len + 1 >= sizeof(list) || (text[len] && !text[len + 1]))
            return -EINVAL;
        for (size_t i = 0; i < len; i++)
            name[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] | 0x20 : text[i]);
        name[len] = '\0';
        if (!name_valid(name) || is_listed(list, name))
            return -EINVAL;
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used ? "," : "", name);
        text += len + (text[len] == ',');
    }
    memcpy(out, list, sizeof(list));
    return 0;
}

static bool may_share(const struct svc *s)
{
    return s->route == SVC_PROXY && s->tls.mode != PLAN_TLS_OFF;
}

int svc_share_check(const struct svc *s, const struct svc *other, char err[SVC_ERROR_MAX])
{
    char text[ADDRESS_TEXT_MAX];
    svc_address_text(&s->address, text);
    if (!may_share(s) || !may_share(other) || (!s->names[0] && !other->names[0])) {
        snprintf(
            err, SVC_ERROR_MAX,
            "%s is the address of the service '%s'; with path: proxy and TLS on both they can share it, by "
            "tls.names",
            text, other->name);
        return -EINVAL;
    }
    if (s->tls.proxy_protocol != other->tls.proxy_protocol) {
        snprintf(err, SVC_ERROR_MAX,
                 "proxy_protocol: its header comes before the name, so all services at %s say the same; '%s' "
                 "says %s",
                 text, other->name, other->tls.proxy_protocol ? "true" : "false");
        return -EINVAL;
    }
    return 0;
}

void svc_name_taken(const struct svc *s, const char *name, const char *owner, char err[SVC_ERROR_MAX])
{
    char text[ADDRESS_TEXT_MAX];
    snprintf(err, SVC_ERROR_MAX, "tls.names: '%.100s' at %s is a name of the service '%.63s'", name,
             svc_address_text(&s->address, text), owner);
}

/* ------------------------------------------------------------------ all of a table */

static int compare_places(const void *a, const void *b)
{
    const struct svc *one = *(const struct svc *const *)a, *other = *(const struct svc *const *)b;
    int order = memcmp(&one->address, &other->address, sizeof(one->address));
    return order ? order : strcmp(one->name, other->name);
}

struct claim {
    char name[PLAN_DOMAIN_MAX];
    const struct svc *s;
};

static int compare_claims(const void *a, const void *b)
{
    return strcmp(((const struct claim *)a)->name, ((const struct claim *)b)->name);
}

/* Of services at one address: no name twice. */
static int check_claims(const struct svc *const *list, size_t count, char err[SVC_ERROR_MAX])
{
    struct claim *claim = NULL;
    size_t claims = 0;
    int result = 0;
    for (size_t i = 0; i < count; i++) {
        const char *names = list[i]->names;
        char name[PLAN_DOMAIN_MAX];
        while (svc_names_next(&names, name)) {
            if ((claims & (claims - 1)) == 0) {
                void *more = reallocarray(claim, claims ? claims * 2 : 1, sizeof(*claim));
                CHECK(more);
                claim = more;
            }
            claim[claims].s = list[i];
            memcpy(claim[claims++].name, name, sizeof(name));
        }
    }
    if (claims)
        qsort(claim, claims, sizeof(*claim), compare_claims);
    for (size_t i = 1; i < claims && !result; i++) {
        if (strcmp(claim[i - 1].name, claim[i].name) != 0)
            continue;
        svc_name_taken(claim[i].s, claim[i].name, claim[i - 1].s->name, err);
        result = -EINVAL;
    }
    free(claim);
    return result;
}

/* The first one without names stands for all: who goes with it, and is no second one, goes with all. */
static int check_place(const struct svc *const *list, size_t count, char err[SVC_ERROR_MAX])
{
    const struct svc *first = list[0];
    for (size_t i = 0; i < count; i++)
        if (!list[i]->names[0]) {
            first = list[i];
            break;
        }
    for (size_t i = 0; i < count; i++)
        if (list[i] != first && svc_share_check(list[i], first, err))
            return -EINVAL;
    return check_claims(list, count, err);
}

int svc_table_addresses_check(const struct svc_table *t, char err[SVC_ERROR_MAX])
{
    const struct svc **list = calloc(t->count + 1, sizeof(*list));
    int result = 0;
    CHECK(list);
    for (size_t i = 0; i < t->count; i++)
        list[i] = &t->service[i];
    if (t->count)
        qsort(list, t->count, sizeof(*list), compare_places);
    for (size_t i = 0, end; i < t->count && !result; i = end) {
        for (end = i + 1;
             end < t->count && memcmp(&list[i]->address, &list[end]->address, sizeof(list[i]->address)) == 0;)
            end++;
        if (end - i > 1)
            result = check_place(&list[i], end - i, err);
    }
    free(list);
    return result;
}
