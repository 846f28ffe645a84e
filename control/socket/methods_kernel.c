/* SPDX-License-Identifier: Apache-2.0 */
#include <bpf/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "control/bpf_support.h"
#include "control/daemon_feed.h"
#include "control/daemon_kernel.h"
#include "control/socket/edge_status.h"
#include "control/socket/methods.h"

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static const char *phase_name(enum kernel_phase phase)
{
    static const char *const names[] = {[KERNEL_OFF] = "off",
                                        [KERNEL_LOADING] = "loading",
                                        [KERNEL_FAILED] = "failed",
                                        [KERNEL_DETACHED] = "detached",
                                        [KERNEL_ON] = "on"};
    return names[phase];
}

static json_t *object_list(const struct kernel_view *view)
{
    json_t *list = json_array();
    size_t count = 0;
    const struct bpf_load_object *object = view->load ? bpf_load_objects(view->load, &count) : NULL;
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:b, s:b, s:s}", "name", object[i].name, "needed",
                                        object[i].needed, "loaded", object[i].loaded, "why", object[i].why));
    return list;
}

static json_t *place_list(const struct kernel_view *view)
{
    json_t *list = json_array();
    const struct bpf_attach_place *place;
    for (size_t i = 0; view->attach && (place = bpf_attach_place(view->attach, i)) != NULL; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s, s:s, s:o, s:s}", "object", place->object, "program",
                                        place->program, "hook", bpf_hook_name(place->hook), "where",
                                        place->where, "id", number(place->program_id), "why", place->why));
    return list;
}

/* What the kernel counts for a map; 0 if it does not say. */
static uint64_t map_bytes(int fd)
{
    char path[64], line[128];
    unsigned long long bytes = 0;
    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    FILE *info = fopen(path, "re");
    while (info && fgets(line, sizeof(line), info))
        if (strncmp(line, "memlock:", 8) == 0)
            bytes = strtoull(line + 8, NULL, 10);
    if (info)
        fclose(info);
    return bytes;
}

static json_t *map_list(const struct kernel_view *view, uint64_t *total)
{
    json_t *list = json_array();
    const char *name;
    int fd;
    for (size_t i = 0; view->load && (name = bpf_load_map_name(view->load, i, &fd)) != NULL; i++) {
        struct bpf_map_info info = {0};
        uint32_t len = sizeof(info);
        uint64_t bytes = map_bytes(fd);
        if (bpf_obj_get_info_by_fd(fd, &info, &len))
            continue;
        *total += bytes;
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o}", "name", name, "id", number(info.id),
                                              "entries", number(info.max_entries), "bytes", number(bytes)));
    }
    return list;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static json_t *clock_status(const struct kernel_view *view)
{
    struct abi_tick_state t;
    if (!view->clock || kernel_maps_tick(view->maps, &t))
        return json_null();
    uint64_t now = now_ns();
    json_t *age = t.last_ns && now > t.last_ns ? number((now - t.last_ns) / 1000) : json_null();
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "period_us",
                     number(view->clock->tick_ns / 1000), "ticks", number(t.ticks), "last_age_us", age,
                     "max_gap_us", number(t.max_gap_ns / 1000), "stale", number(t.stale), "storms",
                     number(t.storms), "errors", number(t.errors), "over_budget", number(t.over_budget),
                     "restarts", number(t.restarts));
}

static json_t *support_list(void)
{
    json_t *list = json_array();
    struct bpf_support support;
    for (size_t i = 0; bpf_support_try(i, &support); i++)
        json_array_append_new(list, json_pack("{s:s, s:o, s:s}", "feature", support.feature, "supported",
                                              support.known ? json_boolean(support.supported) : json_null(),
                                              "for", support.purpose));
    return list;
}

/* What does not work as it should, a line each. */
static json_t *degraded_list(const struct kernel_view *view)
{
    json_t *list = json_array();
    const struct bpf_attach_place *place;
    size_t count = 0;
    const struct bpf_load_object *object = view->load ? bpf_load_objects(view->load, &count) : NULL;
    if (view->phase == KERNEL_FAILED)
        json_array_append_new(list, json_string(view->why));
    for (size_t i = 0; i < count; i++)
        if (object[i].why[0])
            json_array_append_new(list, json_sprintf("%s: %s", object[i].name, object[i].why));
    for (size_t i = 0; view->attach && (place = bpf_attach_place(view->attach, i)) != NULL; i++)
        if (place->why[0])
            json_array_append_new(list,
                                  json_sprintf("%s on %s: %s", place->program, place->where, place->why));
    if (view->phase == KERNEL_ON && view->clock_why[0])
        json_array_append_new(list, json_sprintf("no clock: %s", view->clock_why));
    if (view->changes_lost)
        json_array_append_new(list, json_string("changes of verdicts came too fast to be told"));
    return list;
}

void method_kernel_status(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct kernel_view view;
    uint64_t total = 0;
    if (!rpc_params(call, params, "{}"))
        return;
    if (!d->kernel_half) {
        rpc_fail(call, RPC_UNAVAILABLE, "ask again in a second", "fairleadd is starting or stopping");
        return;
    }
    kernel_view(d->kernel_half->kernel, &view);
    json_t *maps = map_list(&view, &total);
    json_t *result = json_pack("{s:s, s:s, s:s, s:i, s:s, s:s}", "state", phase_name(view.phase), "why",
                               view.why, "instance", view.instance, "abi", ABI_VERSION, "cgroup", view.cgroup,
                               "pins", view.load ? bpf_load_pins(view.load)->set : "");
    CHECK(result);
    json_object_set_new(result, "objects", object_list(&view));
    json_object_set_new(result, "attached", place_list(&view));
    json_object_set_new(result, "maps", maps);
    json_object_set_new(result, "maps_bytes", number(total));
    json_object_set_new(result, "clock", clock_status(&view));
    json_object_set_new(result, "feed", daemon_feed_json(d));
    json_object_set_new(result, "edge", edge_status(d));
    json_object_set_new(result, "support", support_list());
    json_object_set_new(result, "degraded", degraded_list(&view));
    json_object_set_new(result, "devices_left_out", number(view.skipped_devices));
    rpc_reply(call, result);
}

void method_kernel_detach(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    char err[KERNEL_WHY_MAX];
    if (!rpc_params(call, params, "{}"))
        return;
    if (!d->kernel_half)
        rpc_fail(call, RPC_UNAVAILABLE, "ask again in a second", "fairleadd is starting or stopping");
    else if (kernel_detach(d->kernel_half->kernel, err))
        rpc_fail(call, RPC_INTERNAL, "fairlead kernel shows what is left", "%s", err);
    else
        rpc_reply(call, json_pack("{s:b}", "detached", 1));
}
