/* SPDX-License-Identifier: Apache-2.0 */
#include "control/compile/plan_compile.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "control/settings.h"

static const char *service_name(enum service_kind kind)
{
    return kind == SERVICE_ADMIN ? "admin" : "registry";
}

/* The index of the service of a kind, made if it is not there yet. */
static uint16_t service_index(struct plan *plan, enum service_kind kind)
{
    for (uint16_t i = 0; i < plan->service_count; i++)
        if (plan->service[i].kind == kind)
            return i;
    CHECK(plan->service_count < PLAN_SERVICES_MAX);
    struct plan_service *service = &plan->service[plan->service_count];
    service->kind = (uint8_t)kind;
    service->policy = POLICY_ALLOW_ALL;
    memcpy(service->name, service_name(kind), strlen(service_name(kind)) + 1);
    return plan->service_count++;
}

static int compile_address(struct plan *plan, const struct plan_address *in, const char **err_text)
{
    size_t len = strlen(in->text);
    *err_text = "an address has no policy that says who may use it";
    if (!in->allow_all)
        return -EINVAL;
    *err_text = "an address does not fit the plan";
    if (len == 0 || len >= ADDRESS_TEXT_MAX || plan->listener_count == PLAN_LISTENERS_MAX)
        return -EINVAL;
    if (in->count == 0 || in->first + in->count > LISTENERS_MAX)
        return -EINVAL;
    struct plan_listener *listener = &plan->listener[plan->listener_count++];
    listener->service = service_index(plan, in->service);
    listener->first = in->first;
    listener->count = in->count;
    memcpy(listener->address, in->text, len);
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

int plan_compile(const struct plan_input *in, struct plan *out, const char **err_text)
{
    memset(out, 0, sizeof(*out));
    out->magic = PLAN_MAGIC;
    out->version = PLAN_VERSION;
    out->bytes = sizeof(*out);
    out->generation = in->generation;
    memcpy(out->cluster_id, in->cluster_id, sizeof(out->cluster_id));
    out->node_id = in->node_id;
    int err = compile_settings(out, in->setting, err_text);
    /* In every plan at the same place: connections and listening sockets know them by index, and outlive a
     * plan. */
    service_index(out, SERVICE_REGISTRY);
    service_index(out, SERVICE_ADMIN);
    for (size_t i = 0; !err && i < in->address_count; i++)
        err = compile_address(out, &in->address[i], err_text);
    if (err)
        return err;
    CHECK(plan_check(out, sizeof(*out)));
    return 0;
}
