/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "check.h"
#include "control/certs_store.h"
#include "control/daemon.h"
#include "control/socket/methods.h"
#include "control/socket/server.h"

static bool uses(const struct plan_tls *tls, const char *name)
{
    for (int i = 0; i < tls->certificate_count; i++)
        if (strcmp(tls->certificate[i], name) == 0)
            return true;
    return strcmp(tls->client_ca, name) == 0;
}

/* Addresses of the registry and admin, and services, that name it. */
static json_t *users(const struct daemon *d, const char *name)
{
    json_t *list = json_array();
    const struct plan *plan = d->plan;
    for (uint32_t i = 0; plan && i < plan->listener_count; i++)
        if (uses(&plan_listener(plan, i)->tls, name))
            json_array_append_new(list, json_string(plan_listener(plan, i)->address));
    for (uint32_t i = 0; plan && i < plan->service_count; i++) {
        const struct plan_service *s = plan_service(plan, i);
        if (s->kind == SERVICE_PROXY && (uses(&s->tls, name) || strcmp(s->proxy.backend_ca, name) == 0 ||
                                         strcmp(s->proxy.backend_certificate, name) == 0))
            json_array_append_new(list, json_string(s->name));
    }
    return list;
}

static json_t *text_or_null(const char *text)
{
    return text && *text ? json_string(text) : json_null();
}

static json_t *time_or_null(const struct certs_view *v, int64_t seconds)
{
    char text[TIME_TEXT_MAX];
    return v->cert ? json_string(journal_time_text((uint64_t)(seconds > 0 ? seconds : 0) * 1000, text))
                   : json_null();
}

static json_t *ocsp_until(const struct certs_view *v)
{
    return v->ocsp_until_s && v->ocsp_until_s != INT64_MAX ? time_or_null(v, v->ocsp_until_s) : json_null();
}

static json_t *certificates(struct daemon *d)
{
    json_t *list = json_array();
    for (size_t i = 0; i < certs_count(d->certs); i++) {
        struct certs_view v;
        certs_show(d->certs, i, &v);
        json_t *row =
            json_pack("{s:s, s:o, s:o, s:o, s:o, s:b, s:b, s:o, s:b, s:o}", "name", v.name, "subject",
                      text_or_null(v.subject), "names", text_or_null(v.names), "not_before",
                      time_or_null(&v, v.not_before_s), "not_after", time_or_null(&v, v.not_after_s), "ca",
                      v.ca != NULL, "ocsp", v.has_ocsp, "ocsp_until", ocsp_until(&v), "loaded", v.loaded,
                      "problem", text_or_null(v.problem));
        CHECK(row);
        json_object_set_new(row, "used_by", users(d, v.name));
        json_array_append_new(list, row);
    }
    return list;
}

void method_certificate_list(void *context, struct rpc_call *call, json_t *params)
{
    if (rpc_params(call, params, "{}"))
        rpc_reply(call, json_pack("{s:o}", "certificates", certificates(context)));
}

void method_certificate_reload(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    if (!rpc_params(call, params, "{}"))
        return;
    if (certs_reload(d->certs))
        daemon_publish_certs(d);
    rpc_reply(call, json_pack("{s:o}", "certificates", certificates(d)));
}
