/* SPDX-License-Identifier: Apache-2.0 */
#include "control/compile/plan_compile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/settings.h"

/* The arrays while they are filled. */
struct arrays {
    struct plan_service *service;
    struct plan_listener *listener;
    struct plan_backend *backend;
    uint16_t *row;
    struct plan_name *name;
};

static uint64_t place_section(struct plan *plan, uint64_t bytes)
{
    uint64_t at = plan->bytes;
    plan->bytes = (at + bytes + 7) / 8 * 8;
    return at;
}

/* Numbers and places of the arrays, from the input. */
static int compile_layout(const struct plan_input *in, struct plan *head, const char **err_text)
{
    uint64_t services = PLAN_PLACE_PEERS, backends = 0, rows = 0;
    for (size_t i = 0; i < in->proxied_count; i++) {
        const struct plan_proxied *p = &in->proxied[i];
        *err_text = "a service does not fit the plan";
        if (p->place < services || p->place >= PLAN_SERVICES_MAX ||
            p->service.backend_count > PLAN_SERVICE_BACKENDS_MAX)
            return -EINVAL;
        services = p->place + 1u;
        backends += p->service.backend_count;
        rows += p->service.row_count;
    }
    *err_text = "there are more backends, addresses, names, sources or nodes than a plan can hold";
    if (backends > PLAN_BACKENDS_MAX || rows > UINT32_MAX || in->address_count > PLAN_LISTENERS_MAX ||
        in->name_count > PLAN_NAMES_MAX || in->source_count > PLAN_SOURCES_MAX ||
        in->member_count > PLAN_MEMBERS_MAX)
        return -EINVAL;
    head->service_count = (uint32_t)(services < PLAN_PLACE_FIRST ? PLAN_PLACE_FIRST : services);
    head->listener_count = (uint32_t)in->address_count;
    head->backend_count = (uint32_t)backends;
    head->row_count = (uint32_t)rows;
    head->name_count = (uint32_t)in->name_count;
    head->source_count = (uint32_t)in->source_count;
    head->member_count = (uint32_t)in->member_count;
    head->store_closed = in->store_closed;
    head->bytes = (sizeof(*head) + 7) / 8 * 8;
    head->service_at = place_section(head, head->service_count * sizeof(struct plan_service));
    head->listener_at = place_section(head, in->address_count * sizeof(struct plan_listener));
    head->backend_at = place_section(head, backends * sizeof(struct plan_backend));
    head->row_at = place_section(head, rows * sizeof(uint16_t));
    head->name_at = place_section(head, in->name_count * sizeof(struct plan_name));
    head->source_at = place_section(head, in->source_count * sizeof(struct plan_source));
    head->member_at = place_section(head, in->member_count * sizeof(uint64_t));
    return 0;
}

static void own_service(struct plan_service *service, enum service_kind kind, const char *name)
{
    service->kind = (uint8_t)kind;
    service->policy = POLICY_ALLOW_ALL;
    service->tls.http2 = kind == SERVICE_REGISTRY;
    memcpy(service->name, name, strlen(name) + 1);
}

static void compile_services(const struct plan_input *in, const struct arrays *to)
{
    uint32_t backend = 0, row = 0;
    own_service(&to->service[PLAN_PLACE_REGISTRY], SERVICE_REGISTRY, "registry");
    own_service(&to->service[PLAN_PLACE_ADMIN], SERVICE_ADMIN, "admin");
    own_service(&to->service[PLAN_PLACE_PEER], SERVICE_PEER, "peer");
    for (size_t i = 0; i < in->proxied_count; i++) {
        const struct plan_proxied *p = &in->proxied[i];
        struct plan_service *service = &to->service[p->place];
        *service = p->service;
        service->kind = SERVICE_PROXY;
        service->first_backend = backend;
        service->first_row = row;
        if (service->backend_count)
            memcpy(to->backend + backend, p->backend, service->backend_count * sizeof(*p->backend));
        if (service->row_count)
            memcpy(to->row + row, p->row, service->row_count * sizeof(*p->row));
        backend += service->backend_count;
        row += service->row_count;
    }
    if (in->name_count)
        memcpy(to->name, in->name, in->name_count * sizeof(*in->name));
}

static int compile_address(const struct plan *plan, struct plan_listener *out, const struct plan_address *in,
                           const char **err_text)
{
    size_t len = strlen(in->text);
    *err_text = "an address has no policy that says who may use it";
    if (!in->allow_all)
        return -EINVAL;
    *err_text = "an address does not fit the plan";
    if (len == 0 || len >= ADDRESS_TEXT_MAX || !plan_service_of(plan, in->place))
        return -EINVAL;
    if (in->count == 0 || in->first + in->count > LISTENERS_MAX)
        return -EINVAL;
    out->service = in->place;
    out->first = in->first;
    out->count = in->count;
    memcpy(out->address, in->text, len);
    if (in->tls)
        out->tls = *in->tls;
    return 0;
}

static int compile_settings(struct plan *plan, const uint64_t *value, const char **err_text)
{
    for (int i = 0; i < SETTINGS_COUNT; i++) {
        const struct setting_info *info = setting_info(i);
        *err_text = info->name;
        if (value[i] < info->min || value[i] > info->max)
            return -EINVAL;
        plan->setting[i] = value[i];
    }
    return 0;
}

static int compile_into(const struct plan_input *in, struct plan *plan, const char **err_text)
{
    char *base = (char *)plan;
    struct arrays to = {(struct plan_service *)(void *)(base + plan->service_at),
                        (struct plan_listener *)(void *)(base + plan->listener_at),
                        (struct plan_backend *)(void *)(base + plan->backend_at),
                        (uint16_t *)(void *)(base + plan->row_at),
                        (struct plan_name *)(void *)(base + plan->name_at)};
    plan->magic = PLAN_MAGIC;
    plan->version = PLAN_VERSION;
    plan->generation = in->generation;
    memcpy(plan->cluster_id, in->cluster_id, sizeof(plan->cluster_id));
    plan->node_id = in->node_id;
    plan->copies = in->copies;
    plan->next_node = in->next_node;
    int err = compile_settings(plan, in->setting, err_text);
    compile_services(in, &to);
    if (in->source_count)
        memcpy(base + plan->source_at, in->source, in->source_count * sizeof(*in->source));
    if (in->member_count)
        memcpy(base + plan->member_at, in->member, in->member_count * sizeof(*in->member));
    for (size_t i = 0; i < in->address_count && !err; i++)
        err = compile_address(plan, &to.listener[i], &in->address[i], err_text);
    if (err)
        return err;
    *err_text = "a service does not fit the plan";
    return plan_check(plan, plan->bytes) ? 0 : -EINVAL;
}

int plan_compile(const struct plan_input *in, struct plan **out, const char **err_text)
{
    struct plan head = {0};
    int err = compile_layout(in, &head, err_text);
    if (err)
        return err;
    *err_text = "no memory for a plan";
    struct plan *plan = calloc(1, head.bytes);
    if (!plan)
        return -ENOMEM;
    *plan = head;
    err = compile_into(in, plan, err_text);
    if (err) {
        free(plan);
        return err;
    }
    *out = plan;
    return 0;
}
