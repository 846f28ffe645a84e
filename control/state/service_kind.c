/* SPDX-License-Identifier: Apache-2.0 */
/* What a service has only because of its kind, and what it has for nothing. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/state/service.h"

void svc_kind_change(struct svc *s, enum svc_kind kind)
{
    struct svc before, after;
    char is[SVC_TEXT_MAX], was[SVC_TEXT_MAX], becomes[SVC_TEXT_MAX], err[SVC_ERROR_MAX];
    svc_init(&before, (enum svc_kind)s->kind);
    svc_init(&after, kind);
    for (size_t i = 0; i < svc_field_count(); i++) {
        const char *key = svc_field_key(i);
        svc_field_text(&before, key, was);
        svc_field_text(&after, key, becomes);
        if (strcmp(svc_field_text(s, key, is), was) == 0 && strcmp(was, becomes) != 0)
            CHECK(svc_field_set(s, key, becomes, err) == 0);
    }
}

bool svc_fields_unused(const struct svc *s, char out[SVC_TEXT_MAX])
{
    enum { KEYS_MAX = 400 };
    struct svc plain;
    char is[SVC_TEXT_MAX], was[SVC_TEXT_MAX], keys[KEYS_MAX] = "";
    size_t used = 0;
    svc_init(&plain, (enum svc_kind)s->kind);
    for (size_t i = 0; i < svc_field_count() && s->route == SVC_DIRECT; i++) {
        const char *key = svc_field_key(i);
        if (!svc_field_is_proxys(i) ||
            strcmp(svc_field_text(s, key, is), svc_field_text(&plain, key, was)) == 0)
            continue;
        bool fits = used + strlen(key) + sizeof(", , ...") < sizeof(keys);
        used +=
            (size_t)snprintf(keys + used, sizeof(keys) - used, "%s%s", used ? ", " : "", fits ? key : "...");
        if (!fits)
            break;
    }
    if (used)
        snprintf(
            out, SVC_TEXT_MAX,
            "service '%s' has path: direct, with which nobody reads %s; set path: proxy, or leave that out",
            s->name, keys);
    return used > 0;
}
