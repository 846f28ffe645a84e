/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/events.h"

static const struct kernel_entries *on_compile(void *arg, const struct kernel_facts *facts)
{
    struct daemon *d = arg;
    struct daemon_kernel *half = d->kernel_half;
    const struct kernel_input input = {.services = &half->services, .facts = facts};
    struct kernel_entries *entries = kernel_compile(&input, half->entries);
    if (half->entries)
        kernel_entries_free(half->entries);
    half->entries = entries;
    return entries;
}

/* Who a backend is, for people. */
static void name_backend(const struct daemon_kernel *half, uint32_t id, char *out, size_t cap)
{
    char address[ADDRESS_TEXT_MAX];
    for (size_t i = 0; i < half->services.backend_count; i++) {
        const struct svc_backend *b = &half->services.backend[i];
        const struct svc *s = b->id == id ? svc_find_id(&half->services, b->service) : NULL;
        if (!s)
            continue;
        snprintf(out, cap, "%s/%s (%s)", s->name, b->name, svc_address_text(&b->address, address));
        return;
    }
    snprintf(out, cap, "backend %u", id);
}

static void on_changed(void *arg, const struct abi_change *change, uint64_t time_ms)
{
    static const char *const states[] = {"unknown", "up", "suspect", "down"};
    static const char *const kinds[] = {"backend.unknown", "backend.up", "backend.suspect", "backend.down"};
    static const char *const reasons[] = {
#define REASON_TEXT(symbol, name, text) text,
        ABI_REASONS(REASON_TEXT)
#undef REASON_TEXT
    };
    struct daemon *d = arg;
    uint32_t state = ABI_VERDICT_STATE(change->after) & 3, reason = ABI_VERDICT_REASON(change->after);
    char name[160], text[320], at[TIME_TEXT_MAX];
    name_backend(d->kernel_half, change->backend, name, sizeof(name));
    snprintf(text, sizeof(text), "%s is %s since %s: %s", name, states[state], journal_time_text(time_ms, at),
             reason < ABI_REASON_COUNT ? reasons[reason] : "a reason that this version does not know");
    events_note(d->events, kinds[state], text);
}

static void on_note(void *arg, const char *kind, const char *text)
{
    struct daemon *d = arg;
    events_note(d->events, kind, text);
}

void daemon_kernel_open(struct daemon *d)
{
    const struct kernel_config config = {
        .loop = &d->loop,
        .journal = d->journal,
        .instance = d->config.kernel.instance,
        .cgroup = d->config.kernel.cgroup,
        .exclude = (const char *const *)d->config.kernel.exclude,
        .exclude_count = d->config.kernel.exclude_count,
        .handlers = {.compile = on_compile, .changed = on_changed, .note = on_note},
        .arg = d,
    };
    struct daemon_kernel *half = calloc(1, sizeof(*half));
    CHECK(half);
    d->kernel_half = half;
    half->kernel = kernel_new(&config);
    daemon_kernel_update(d);
}

void daemon_kernel_close(struct daemon *d)
{
    struct daemon_kernel *half = d->kernel_half;
    if (!half)
        return;
    kernel_close(half->kernel);
    if (half->entries)
        kernel_entries_free(half->entries);
    svc_table_fini(&half->services);
    free(half);
    d->kernel_half = NULL;
}

void daemon_kernel_update(struct daemon *d)
{
    struct daemon_kernel *half = d->kernel_half;
    struct cluster_status status;
    enum setting_source source;
    if (!half || d->phase >= DAEMON_CLOSING)
        return;
    cluster_status(d->cluster, &status);
    const struct kernel_wishes wishes = {
        .enabled = setting_effective(&d->settings, SET_KERNEL_ENABLED, &source),
        .needed = d->config.kernel.given || half->services.count > 0,
        .probes = setting_effective(&d->settings, SET_KERNEL_PROBE, &source),
        .node_id = status.node_id,
        .tick_ms = (uint32_t)setting_effective(&d->settings, SET_KERNEL_TICK, &source),
        .backends_max = (uint32_t)setting_effective(&d->settings, SET_KERNEL_BACKENDS_MAX, &source),
        .rows_max = (uint32_t)setting_effective(&d->settings, SET_KERNEL_ROWS_MAX, &source),
    };
    kernel_update(half->kernel, &wishes);
}

void daemon_kernel_services(struct daemon *d, struct svc_table *services)
{
    struct daemon_kernel *half = d->kernel_half;
    if (!half) {
        svc_table_fini(services);
        return;
    }
    svc_table_fini(&half->services);
    half->services = *services;
    memset(services, 0, sizeof(*services));
    daemon_kernel_update(d);
}

void daemon_kernel_tick(struct daemon *d)
{
    if (d->kernel_half)
        kernel_tick(d->kernel_half->kernel);
}
