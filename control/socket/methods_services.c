/* SPDX-License-Identifier: Apache-2.0 */
/* Services and backends on the control socket. What is refused here is refused before it is proposed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/daemon.h"
#include "control/services.h"
#include "control/services_declare.h"
#include "control/socket/edge_status.h"
#include "control/socket/methods.h"
#include "control/socket/propose.h"
#include "control/socket/server.h"
#include "control/socket/service_json.h"
#include "control/socket/service_status.h"

enum { PAGE_DEFAULT = 1000, PAGE_MAX = 5000, NAMES_MAX = 1024 };

#define HINT_FIELDS  "the manual fairlead.yaml(5) lists the fields with their values"
#define HINT_SERVICE "`fairlead service ls` lists the services"
#define HINT_BACKEND "`fairlead backend ls SERVICE` lists its backends"

/* The service, or NULL after the call was answered. */
static const struct svc *need_service(struct daemon *d, struct rpc_call *call, const char *name)
{
    const struct svc *s = svc_find(services_table(d->services), name);
    if (!s)
        rpc_fail(call, RPC_NOT_FOUND, HINT_SERVICE, "there is no service '%.64s'", name);
    return s;
}

static const struct svc_backend *need_backend(struct daemon *d, struct rpc_call *call, const struct svc *s,
                                              const char *name)
{
    const struct svc_backend *b = svc_find_backend(services_table(d->services), s, name);
    if (!b)
        rpc_fail(call, RPC_NOT_FOUND, HINT_BACKEND, "the service '%s' has no backend '%.64s'", s->name, name);
    return b;
}

static bool page_is_valid(struct rpc_call *call, json_int_t limit)
{
    if (limit >= 1 && limit <= PAGE_MAX)
        return true;
    rpc_fail(call, RPC_INVALID_PARAMS, "give a limit from 1 to 5000", "limit is out of range");
    return false;
}

void method_service_list(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *after = "";
    json_int_t limit = PAGE_DEFAULT;
    struct backend_glance glance;
    if (!rpc_params(call, params, "{s?s, s?I}", "after", &after, "limit", &limit) ||
        !page_is_valid(call, limit))
        return;
    const struct svc_table *t = services_table(d->services);
    json_t *rows = json_array();
    bool more = false;
    backend_glance_take(d, &glance);
    for (size_t i = 0; i < t->count && !more; i++) {
        if (strcmp(t->service[i].name, after) <= 0)
            continue;
        more = json_array_size(rows) == (size_t)limit;
        if (!more)
            json_array_append_new(rows, service_summary(d, &glance, &t->service[i]));
    }
    backend_glance_fini(&glance);
    rpc_reply(call, json_pack("{s:o, s:b}", "services", rows, "more", more));
}

static json_t *backend_row(struct daemon *d, const struct backend_glance *glance, const struct svc *s,
                           const struct svc_backend *b)
{
    struct backend_view view;
    backend_view(d, glance, b, &view);
    return backend_json(s, b, &view);
}

void method_service_show(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *name;
    struct backend_glance glance;
    if (!rpc_params(call, params, "{s:s}", "name", &name))
        return;
    const struct svc *s = need_service(d, call, name);
    if (!s)
        return;
    backend_glance_take(d, &glance);
    json_t *row = service_summary(d, &glance, s), *rows = json_array();
    for (size_t k = 0; k < s->backends; k++)
        json_array_append_new(
            rows, backend_row(d, &glance, s, &services_table(d->services)->backend[s->first_backend + k]));
    backend_glance_fini(&glance);
    json_object_set_new(row, "backends", rows);
    rpc_reply(call, row);
}

/* Whether the budget of probes allows it; one that does not grow is never refused. */
static bool budget_allows(struct daemon *d, struct rpc_call *call, const struct svc *s, uint32_t added)
{
    enum setting_source source;
    uint64_t budget = setting_effective(&d->settings, SET_KERNEL_PROBES_PER_S, &source);
    uint64_t before = services_probes_per_s(d->services, NULL, 0);
    uint64_t after = services_probes_per_s(d->services, s, added);
    if (after <= budget || after <= before)
        return true;
    rpc_fail(call, RPC_INVALID_PARAMS, "give a longer check.interval, or raise kernel.probes_per_s",
             "the checks would come to %llu probes a second, and kernel.probes_per_s allows %llu",
             (unsigned long long)after, (unsigned long long)budget);
    return false;
}

static bool room_allows(struct daemon *d, struct rpc_call *call, uint32_t added)
{
    enum setting_source source;
    uint64_t most = setting_effective(&d->settings, SET_KERNEL_BACKENDS_MAX, &source);
    if (services_table(d->services)->backend_count + added <= most)
        return true;
    rpc_fail(call, RPC_INVALID_PARAMS, "raise kernel.backends_max and restart fairleadd, or remove some",
             "there would be more backends than kernel.backends_max, %llu", (unsigned long long)most);
    return false;
}

/* What an operator should know about what he did; it does not stop it. */
static json_t *advice(const struct svc *s)
{
    json_t *list = json_array();
    char unused[SVC_TEXT_MAX];
    if (svc_fields_unused(s, unused))
        json_array_append_new(list, json_string(unused));
    if (s->check.timeout_ms > s->check.interval_ms * 3ull && s->check.kind != SVC_CHECK_NONE)
        json_array_append_new(list,
                              json_string("check.timeout is more than three times check.interval: of the "
                                          "probes under way only the last four count"));
    if (s->edge == SVC_EDGE_DSR)
        json_array_append_new(list, json_string("edge: dsr needs the service's address on each backend, on a "
                                                "device that does not answer ARP for it"));
    return list;
}

/* Who changes a proxied service is answered when the data plane goes by it. */
static void on_committed(struct daemon *d, struct rpc_call *call, json_t *result)
{
    uint64_t before = d->generation;
    services_settle(d->services);
    if (d->generation != before)
        server_reply_applied(d->server, call, result, d->generation);
    else
        rpc_reply(call, result);
}

/* The row as it is now, with what was advised. */
static void on_service_committed(struct daemon *d, struct rpc_call *call, json_t *result)
{
    const struct svc *s =
        svc_find(services_table(d->services), json_string_value(json_object_get(result, "name")));
    if (s) {
        json_t *row = service_json(s);
        json_object_update_missing(result, row);
        json_decref(row);
    }
    on_committed(d, call, result);
}

/* Fills *s: the service as it is, or a new one. False: the call has been answered. */
static bool service_start(struct daemon *d, struct rpc_call *call, const char *name, bool create,
                          json_t *fields, struct svc *s)
{
    const struct svc *now = svc_find(services_table(d->services), name);
    const char *kind = json_string_value(json_object_get(fields, "kind"));
    char err[SVC_ERROR_MAX];
    if (now && create) {
        rpc_fail(call, RPC_INVALID_PARAMS, "`fairlead service set` changes it",
                 "the service '%s' exists already", now->name);
        return false;
    }
    if (!now && !create) {
        rpc_fail(call, RPC_NOT_FOUND, HINT_SERVICE, "there is no service '%.64s'", name);
        return false;
    }
    if (now) {
        struct svc wanted = *now;
        *s = *now;
        if (kind && svc_field_set(&wanted, "kind", kind, err) == 0 && wanted.kind != s->kind)
            svc_kind_change(s, (enum svc_kind)wanted.kind);
        return true;
    }
    if (!svc_name_valid(name, strlen(name))) {
        rpc_fail(call, RPC_INVALID_PARAMS, "write 1 to 63 letters, digits, '.', '_', '-' and ':'",
                 "'%.64s' cannot be the name of a service", name);
        return false;
    }
    svc_init(s, SVC_TCP);
    if (kind && svc_field_set(s, "kind", kind, err) == 0)
        svc_init(s, s->kind); /* with the defaults of the kind; an unknown one is told about below */
    memcpy(s->name, name, strlen(name) + 1);
    return true;
}

/* Whether this node can listen on the address, as far as that can be known before. */
static bool address_allows(struct daemon *d, struct rpc_call *call, const struct svc *s)
{
    const struct svc *now = svc_find(services_table(d->services), s->name);
    struct config_address address = {.service = SERVICE_PROXY};
    char text[ADDRESS_TEXT_MAX], err[SVC_ERROR_MAX];
    const char *hint;
    bool same = now && now->route == SVC_PROXY && memcmp(&now->address, &s->address, sizeof(s->address)) == 0;
    if (s->route != SVC_PROXY || same ||
        config_address_parse(svc_address_text(&s->address, text), &address, &hint))
        return true;
    if (listeners_try(&d->listeners, &address, err, sizeof(err)) == 0)
        return true;
    rpc_fail(call, RPC_INVALID_PARAMS, "give the service an address of its own", "%s", err);
    return false;
}

void method_service_set(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *name;
    json_t *fields;
    int create = 0;
    struct svc s;
    char err[SVC_ERROR_MAX];
    size_t len;
    if (!rpc_params(call, params, "{s:s, s:o, s?b}", "name", &name, "set", &fields, "create", &create))
        return;
    if (!json_is_object(fields)) {
        rpc_fail(call, RPC_INVALID_PARAMS, HINT_FIELDS, "set must be an object of fields");
        return;
    }
    if (!service_start(d, call, name, create, fields, &s))
        return;
    uint64_t revision = s.revision;
    /* What the file says stays the file's: the state refuses it. */
    s.origin = SVC_FROM_API;
    if (service_json_set(&s, fields, err) || svc_check(&s, err)) {
        rpc_fail(call, RPC_INVALID_PARAMS, HINT_FIELDS, "%s", err);
        return;
    }
    if (!budget_allows(d, call, &s, 0) || !address_allows(d, call, &s))
        return;
    void *cmd = services_cmd_set(call->peer->actor, propose_source, &s, create ? 0 : revision, &len);
    propose_command(d, call, cmd, len, json_pack("{s:s, s:o}", "name", s.name, "advice", advice(&s)),
                    on_service_committed);
}

void method_service_delete(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *name;
    size_t len;
    if (!rpc_params(call, params, "{s:s}", "name", &name) || !need_service(d, call, name))
        return;
    void *cmd = services_cmd_rm(call->peer->actor, propose_source, name, SVC_FROM_API, &len);
    propose_command(d, call, cmd, len, json_pack("{s:s}", "name", name), on_committed);
}

/* Backends. */

/* Whether a row stands behind the place where the page before ended. */
static bool is_behind(const struct svc *s, const struct svc_backend *b, const char *service, const char *name)
{
    int order = strcmp(s->name, service);
    return order > 0 || (order == 0 && strcmp(b->name, name) > 0);
}

void method_backend_list(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *service = NULL, *after = "", *after_service = "";
    json_int_t limit = PAGE_DEFAULT;
    struct backend_glance glance;
    if (!rpc_params(call, params, "{s?s, s?s, s?s, s?I}", "service", &service, "after", &after,
                    "after_service", &after_service, "limit", &limit) ||
        !page_is_valid(call, limit) || (service && !need_service(d, call, service)))
        return;
    const struct svc_table *t = services_table(d->services);
    json_t *rows = json_array();
    bool more = false;
    backend_glance_take(d, &glance);
    for (size_t i = 0; i < t->count && !more; i++) {
        const struct svc *s = &t->service[i];
        for (size_t k = 0; k < s->backends && !more && (!service || strcmp(service, s->name) == 0); k++) {
            const struct svc_backend *b = &t->backend[s->first_backend + k];
            if (!is_behind(s, b, after_service, after))
                continue;
            more = json_array_size(rows) == (size_t)limit;
            if (!more)
                json_array_append_new(rows, backend_row(d, &glance, s, b));
        }
    }
    backend_glance_fini(&glance);
    rpc_reply(call, json_pack("{s:o, s:b}", "backends", rows, "more", more));
}

void method_backend_show(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *service, *name;
    struct backend_glance glance;
    struct backend_view view;
    if (!rpc_params(call, params, "{s:s, s:s}", "service", &service, "name", &name))
        return;
    const struct svc *s = need_service(d, call, service);
    const struct svc_backend *b = s ? need_backend(d, call, s, name) : NULL;
    if (!b)
        return;
    backend_glance_take(d, &glance);
    backend_view(d, &glance, b, &view);
    backend_glance_fini(&glance);
    json_t *row = backend_json(s, b, &view);
    json_t *figures = backend_figures_json(&view);
    edge_backend_figures(d, s, b, figures);
    json_object_set_new(row, "figures", figures);
    json_object_set_new(row, "history", backend_history(d, b));
    rpc_reply(call, row);
}

/* Fills *b from an element of the list: the backend as it is, or a new one. 0 or -EINVAL. */
static int backend_read(struct daemon *d, const struct svc *s, json_t *row, bool create,
                        struct svc_backend *b, char err[SVC_ERROR_MAX])
{
    const char *name = json_string_value(json_object_get(row, "name"));
    const char *address = json_string_value(json_object_get(row, "address"));
    const struct svc_backend *now = name ? svc_find_backend(services_table(d->services), s, name) : NULL;
    snprintf(err, SVC_ERROR_MAX, "a backend needs %s",
             create ? "an address" : "the name of one that is there");
    if (!json_is_object(row) || (create ? !address : !now))
        return -EINVAL;
    svc_backend_init(b);
    if (!create)
        *b = *now;
    json_t *fields = json_copy(row);
    json_object_del(fields, "name");
    int result = backend_json_set(b, fields, err);
    json_decref(fields);
    if (result)
        return result;
    b->origin = SVC_FROM_API;
    if (create && name && !svc_name_valid(name, strlen(name))) {
        snprintf(err, SVC_ERROR_MAX, "'%.64s' cannot be the name of a backend", name);
        return -EINVAL;
    }
    if (create && name)
        memcpy(b->name, name, strlen(name) + 1);
    else if (create)
        svc_backend_name_default(b, b->name);
    return svc_backend_check(s, b, err);
}

static int compare_backends(const void *a, const void *b)
{
    return strcmp(((const struct svc_backend *)a)->name, ((const struct svc_backend *)b)->name);
}

/* All of the list into b, ascending. False: the call has been answered. */
static bool backends_read(struct daemon *d, struct rpc_call *call, const struct svc *s, json_t *list,
                          bool create, struct svc_backend *b)
{
    char err[SVC_ERROR_MAX];
    size_t i, count = json_array_size(list);
    json_t *row;
    json_array_foreach(list, i, row)
    {
        if (!backend_read(d, s, row, create, &b[i], err))
            continue;
        rpc_fail(call, RPC_INVALID_PARAMS, create ? HINT_FIELDS : HINT_BACKEND, "%s", err);
        return false;
    }
    qsort(b, count, sizeof(*b), compare_backends);
    for (i = 1; i < count; i++) {
        if (strcmp(b[i - 1].name, b[i].name) != 0)
            continue;
        rpc_fail(call, RPC_INVALID_PARAMS, "name each backend once", "the backend '%s' is named twice",
                 b[i].name);
        return false;
    }
    return !create || (room_allows(d, call, (uint32_t)count) && budget_allows(d, call, s, (uint32_t)count));
}

static json_t *names_json(const struct svc_backend *b, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_string(b[i].name));
    return list;
}

void method_backend_set(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *service;
    json_t *list;
    int create = 0;
    size_t len;
    if (!rpc_params(call, params, "{s:s, s:o, s?b}", "service", &service, "backends", &list, "create",
                    &create))
        return;
    const struct svc *s = need_service(d, call, service);
    if (!s)
        return;
    size_t count = json_array_size(list);
    if (count == 0 || count > NAMES_MAX) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give a list of 1 to 1024 objects", "backends is not such a list");
        return;
    }
    struct svc_backend *b = calloc(count, sizeof(*b));
    CHECK(b);
    if (backends_read(d, call, s, list, create, b)) {
        uint64_t revision = create ? 0 : count == 1 ? b[0].revision : CMD_REVISION_ANY;
        void *cmd =
            services_cmd_backends(call->peer->actor, propose_source, service, revision, b, count, &len);
        propose_command(d, call, cmd, len,
                        json_pack("{s:s, s:o}", "service", service, "names", names_json(b, count)),
                        on_committed);
    }
    free(b);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A command about backends that are named in a list. */
static void propose_names(struct daemon *d, struct rpc_call *call, int type, const char *service,
                          uint8_t what, json_t *list)
{
    const char *name[NAMES_MAX];
    size_t i, len, count = json_array_size(list);
    json_t *row;
    const struct svc *s = need_service(d, call, service);
    if (!s)
        return;
    if (count == 0 || count > NAMES_MAX) {
        rpc_fail(call, RPC_INVALID_PARAMS, "give a list of 1 to 1024 names", "names is not such a list");
        return;
    }
    json_array_foreach(list, i, row)
    {
        name[i] = json_string_value(row) ? json_string_value(row) : "";
        if (!need_backend(d, call, s, name[i]))
            return;
    }
    qsort(name, count, sizeof(name[0]), compare_names);
    for (i = 1; i < count; i++) {
        if (strcmp(name[i - 1], name[i]) == 0) {
            rpc_fail(call, RPC_INVALID_PARAMS, "name each backend once", "'%s' is named twice", name[i]);
            return;
        }
    }
    void *cmd = services_cmd_names(call->peer->actor, propose_source, type, service, what, name, count, &len);
    propose_command(d, call, cmd, len, json_pack("{s:s, s:O}", "service", service, "names", list),
                    on_committed);
}

void method_backend_admin(void *context, struct rpc_call *call, json_t *params)
{
    const char *service, *admin;
    json_t *list;
    if (!rpc_params(call, params, "{s:s, s:o, s:s}", "service", &service, "names", &list, "admin", &admin))
        return;
    bool drain = strcmp(admin, "drain") == 0;
    if (!drain && strcmp(admin, "active") != 0)
        rpc_fail(call, RPC_INVALID_PARAMS, "write drain or active", "'%.40s' is not a state of a backend",
                 admin);
    else
        propose_names(context, call, CMD_BACKEND_ADMIN, service, drain ? SVC_DRAIN : SVC_ACTIVE, list);
}

void method_backend_delete(void *context, struct rpc_call *call, json_t *params)
{
    const char *service;
    json_t *list;
    if (rpc_params(call, params, "{s:s, s:o}", "service", &service, "names", &list))
        propose_names(context, call, CMD_BACKEND_RM, service, SVC_FROM_API, list);
}
