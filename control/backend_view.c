/* SPDX-License-Identifier: Apache-2.0 */
#include "control/backend_view.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "control/daemon_kernel.h"
#include "control/kernel_history.h"

static const char *const states[] = {"unknown", "up", "suspect", "down"};
static const struct {
    const char *name, *text;
} reasons[] = {
#define REASON_ROW(symbol, name, text) {name, text},
    ABI_REASONS(REASON_ROW)
#undef REASON_ROW
};

const char *backend_reason_name(uint32_t reason)
{
    return reason < ARRAY_SIZE(reasons) ? reasons[reason].name : "unknown";
}

const char *backend_reason_text(uint32_t reason)
{
    return reason < ARRAY_SIZE(reasons) ? reasons[reason].text : "a reason that this version does not know";
}

const char *backend_state_name(const struct svc_backend *b, const struct backend_view *view)
{
    return b->admin == SVC_DRAIN ? "drain" : states[view->state & 3];
}

/* The maps, NULL while the kernel half is off. */
static const struct kernel_maps *maps_of(const struct daemon *d)
{
    struct kernel_view view = {.phase = KERNEL_OFF};
    if (d->kernel_half)
        kernel_view(d->kernel_half->kernel, &view);
    return view.phase == KERNEL_ON ? view.maps : NULL;
}

/* UTC of a time of the kernel's clock. */
static uint64_t utc_ms(uint64_t time_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    return journal_now_ms() - (now_ns > time_ns ? (now_ns - time_ns) / 1000000 : 0);
}

static bool glance_at(void *arg, const struct abi_change *change)
{
    struct backend_glance *glance = arg;
    if (change->backend < glance->count && glance->since_ms[change->backend] == 0)
        glance->since_ms[change->backend] = utc_ms(change->time_ns);
    return true;
}

void backend_glance_take(struct daemon *d, struct backend_glance *glance)
{
    const struct kernel_maps *maps = maps_of(d);
    glance->count = maps ? kernel_maps_backends_max(maps) : 0;
    glance->since_ms = calloc(glance->count + 1u, sizeof(*glance->since_ms));
    CHECK(glance->since_ms);
    if (maps)
        kernel_history_each(maps, glance_at, glance);
}

void backend_glance_fini(struct backend_glance *glance)
{
    free(glance->since_ms);
}

/* Whether the verdict still counts: one of heartbeats does as long as there is a peer. */
static bool is_said(const struct kernel_maps *maps, uint32_t id, uint64_t verdict)
{
    struct abi_backend b;
    return ABI_VERDICT_REASON(verdict) != ABI_HEARTBEAT || kernel_maps_backend(maps, id, &b) ||
           ABI_VERDICT_STATE_OF(verdict, b.generation, b.peer) != ABI_UNKNOWN;
}

void backend_view(struct daemon *d, const struct backend_glance *glance, const struct svc_backend *b,
                  struct backend_view *out)
{
    const struct kernel_maps *maps = maps_of(d);
    memset(out, 0, sizeof(*out));
    out->proxied = shared_memory_target(&d->memory, b->id, b->generation, out->proxy);
    if (!maps || b->id >= glance->count || !svc_backend_in_kernel(b))
        return;
    uint64_t verdict = kernel_maps_verdict(maps, b->id);
    out->known = true;
    out->handshaken = tls_checks_view(d->kernel_half->tls, b->id, b->generation, &out->tls);
    if (out->tls.told_ms)
        out->tls.told_ms = journal_now_ms() - (uv_now(&d->loop) - out->tls.told_ms);
    if (kernel_maps_probe(maps, b->id, &out->probe) || out->probe.generation != b->generation)
        memset(&out->probe, 0, sizeof(out->probe));
    if (kernel_maps_stats(maps, b->id, &out->stats))
        memset(&out->stats, 0, sizeof(out->stats));
    if (ABI_VERDICT_GENERATION(verdict) != b->generation || !is_said(maps, b->id, verdict))
        return;
    out->state = ABI_VERDICT_STATE(verdict);
    out->reason = ABI_VERDICT_REASON(verdict);
    out->changes = ABI_VERDICT_SEQUENCE(verdict);
    out->since_ms = glance->since_ms[b->id];
}

struct history {
    const struct svc_backend *backend;
    json_t *list;
};

static bool history_add(void *arg, const struct abi_change *change)
{
    struct history *h = arg;
    char at[TIME_TEXT_MAX];
    if (change->backend != h->backend->id || ABI_VERDICT_GENERATION(change->after) != h->backend->generation)
        return true;
    bool same = ABI_VERDICT_GENERATION(change->before) == h->backend->generation;
    json_array_append_new(h->list, json_pack("{s:s, s:s, s:s, s:s, s:I}", "time",
                                             journal_time_text(utc_ms(change->time_ns), at), "before",
                                             states[same ? ABI_VERDICT_STATE(change->before) & 3 : 0],
                                             "state", states[ABI_VERDICT_STATE(change->after) & 3], "reason",
                                             backend_reason_name(ABI_VERDICT_REASON(change->after)), "rtt_us",
                                             (json_int_t)change->rtt_us));
    return json_array_size(h->list) < BACKEND_HISTORY_SHOWN;
}

json_t *backend_history(struct daemon *d, const struct svc_backend *b)
{
    const struct kernel_maps *maps = maps_of(d);
    struct history h = {b, json_array()};
    if (maps)
        kernel_history_each(maps, history_add, &h);
    return h.list;
}
