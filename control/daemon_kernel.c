/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "control/certs_store.h"
#include "control/daemon_feed.h"
#include "control/daemon_heartbeats.h"
#include "control/events.h"
#include "control/nodes.h"
#include "control/peer_events.h"
#include "control/services.h"
#include "control/tls_targets.h"

static const struct kernel_entries *on_compile(void *arg, const struct kernel_facts *facts)
{
    struct daemon *d = arg;
    return services_compile(d->services, facts);
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
    static const char *const names[] = {
#define REASON_NAME(symbol, name, text) name,
        ABI_REASONS(REASON_NAME)
#undef REASON_NAME
    };
    struct daemon *d = arg;
    uint32_t state = ABI_VERDICT_STATE(change->after) & 3, reason = ABI_VERDICT_REASON(change->after);
    char text[256], at[TIME_TEXT_MAX], service_name[SVC_NAME_MAX + 1] = "", name[32 + SVC_NAME_MAX];
    const struct svc *s;
    const struct svc_backend *b;
    snprintf(name, sizeof(name), "%u", change->backend);
    if (services_find(d->services, change->backend, &s, &b)) {
        snprintf(service_name, sizeof(service_name), "%s", s->name);
        snprintf(name, sizeof(name), "%s", b->name);
    }
    snprintf(text, sizeof(text), "%s since %s: %s", states[state], journal_time_text(time_ms, at),
             reason < ABI_REASON_COUNT ? reasons[reason] : "a reason that this version does not know");
    const struct events_backend about = {.kind = kinds[state],
                                         .service = service_name,
                                         .backend = name,
                                         .before = states[ABI_VERDICT_STATE(change->before) & 3],
                                         .reason = reason < ABI_REASON_COUNT ? names[reason] : "unknown",
                                         .text = text,
                                         .time_ms = time_ms,
                                         .rtt_us = change->rtt_us};
    events_backend(d->events, &about);
    daemon_feed_changed(d, change);
}

static void on_note(void *arg, const char *kind, const char *text)
{
    struct daemon *d = arg;
    events_note(d->events, kind, text);
}

/* The data plane chooses backends by the same words. */
static void on_maps(void *arg, const struct bpf_load *load)
{
    struct daemon *d = arg;
    uint32_t count = 0, slots;
    d->routing &= load != NULL; /* the routes of services went with the maps */
    daemon_feed_maps(d);
    if (!d->supervise)
        return;
    int verdicts = load ? bpf_load_map_open(load, "verdicts", &count) : -1;
    int evidence = verdicts >= 0 ? bpf_load_map_open(load, "evidence", &slots) : verdicts;
    if (evidence >= 0) {
        supervise_set_words(d->supervise, verdicts, evidence, count);
        return;
    }
    if (load)
        journal_error(d->journal, "kernel", "the data plane does not get the verdicts: %s",
                      strerror(-evidence));
    if (verdicts >= 0)
        close(verdicts);
    supervise_set_words(d->supervise, -1, -1, 0);
}

/* Where nobody writes verdicts, those of an earlier time must not be believed for ever. */
static void forget_maps(struct daemon *d)
{
    struct kernel_view view;
    kernel_view(d->kernel_half->kernel, &view);
    if (view.phase != KERNEL_ON && view.phase != KERNEL_LOADING && d->supervise)
        supervise_set_words(d->supervise, -1, -1, 0);
}

/* The kernel's maps, NULL while it is off. */
static const struct kernel_maps *maps_of(const struct daemon_kernel *half)
{
    struct kernel_view view;
    kernel_view(half->kernel, &view);
    return view.phase == KERNEL_ON ? view.maps : NULL;
}

/* Its clock empties the slots; while that stands still, verdicts do, too. */
static void on_handshake(void *arg, uint32_t id, uint16_t generation, uint32_t reason)
{
    struct daemon *d = arg;
    const struct kernel_maps *maps = maps_of(d->kernel_half);
    if (maps)
        (void)kernel_maps_handshake(maps, id, generation, reason);
}

/* A mapping of what the data plane would get; NULL: there are no certificates. */
static const struct certs *certs_map(const struct daemon *d)
{
    uint64_t generation;
    struct stat st;
    int fd = certs_seal(d->certs, &generation);
    void *p = MAP_FAILED;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0)
        p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return p == MAP_FAILED ? NULL : p;
}

static void set_tls_checks(struct daemon *d)
{
    struct daemon_kernel *half = d->kernel_half;
    const struct kernel_maps *maps = maps_of(half);
    enum setting_source source;
    const struct tls_check_times times = {
        .interval_ms = (uint32_t)setting_effective(&d->settings, SET_KERNEL_TLS_INTERVAL, &source),
        .timeout_ms = (uint32_t)setting_effective(&d->settings, SET_KERNEL_TLS_TIMEOUT, &source)};
    struct tls_targets targets = {0};
    bool told = daemon_feed_wanted(d) && daemon_feed_counts(d);
    if (maps && !told && setting_effective(&d->settings, SET_KERNEL_PROBE, &source)) {
        const struct certs *certs = certs_map(d);
        tls_targets_make(services_table(d->services), certs, kernel_maps_backends_max(maps), &targets);
        if (certs)
            munmap((void *)(uintptr_t)certs, certs->bytes);
    }
    tls_checks_set(half->tls, &times, targets.target, targets.count);
    tls_targets_fini(&targets);
    half->tls_stale = !maps;
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
        .xdp = (const char *const *)d->config.kernel.xdp,
        .xdp_count = d->config.kernel.xdp_count,
        .handlers = {.compile = on_compile, .changed = on_changed, .maps = on_maps, .note = on_note},
        .arg = d,
    };
    struct daemon_kernel *half = calloc(1, sizeof(*half));
    CHECK(half);
    d->kernel_half = half;
    half->kernel = kernel_new(&config);
    half->seen = peer_events_new();
    half->tls = tls_checks_new(&d->loop, ABI_MARK, on_handshake, d);
    half->feed = daemon_feed_open(d);
    half->heartbeats = daemon_heartbeats_open(d);
    daemon_kernel_update(d);
}

void daemon_kernel_close(struct daemon *d)
{
    struct daemon_kernel *half = d->kernel_half;
    if (!half)
        return;
    tls_checks_close(half->tls);
    daemon_feed_close(half->feed);
    daemon_heartbeats_close(half->heartbeats);
    kernel_close(half->kernel);
    peer_events_free(half->seen);
    free(half);
    d->kernel_half = NULL;
}

/* A node that is drained gives its addresses away, and says so to its peers. */
static bool is_drained(const struct daemon *d, uint64_t node_id)
{
    const struct node *self = d->nodes ? node_find(nodes_table(d->nodes), node_id) : NULL;
    return self && self->availability == NODE_DRAIN;
}

void daemon_kernel_update(struct daemon *d)
{
    struct daemon_kernel *half = d->kernel_half;
    struct cluster_status status;
    enum setting_source source;
    uint32_t peers;
    if (!half || d->phase >= DAEMON_CLOSING)
        return;
    cluster_status(d->cluster, &status);
    services_peers(d->services, &peers);
    const struct kernel_wishes wishes = {
        .enabled = setting_effective(&d->settings, SET_KERNEL_ENABLED, &source),
        .needed = d->config.kernel.given || services_table(d->services)->count > 0 || peers > 0,
        .needs = services_needs(d->services),
        .probes = setting_effective(&d->settings, SET_KERNEL_PROBE, &source),
        .fed = daemon_feed_wanted(d),
        .draining = is_drained(d, status.node_id),
        .node_id = status.node_id,
        .tick_ms = services_tick_ms(d->services,
                                    (uint32_t)setting_effective(&d->settings, SET_KERNEL_TICK, &source)),
        .backends_max = (uint32_t)setting_effective(&d->settings, SET_KERNEL_BACKENDS_MAX, &source),
        .rows_max = (uint32_t)setting_effective(&d->settings, SET_KERNEL_ROWS_MAX, &source),
        .flows_max = (uint32_t)setting_effective(&d->settings, SET_KERNEL_FLOWS_MAX, &source),
    };
    kernel_update(half->kernel, &wishes);
    half->tls_stale = true;
    forget_maps(d);
}

void daemon_kernel_certs(struct daemon *d)
{
    if (d->kernel_half)
        d->kernel_half->tls_stale = true;
}

void daemon_kernel_tick(struct daemon *d)
{
    if (!d->kernel_half)
        return;
    kernel_tick(d->kernel_half->kernel);
    forget_maps(d);
    if (d->kernel_half->tls_stale)
        set_tls_checks(d);
    peer_events_look(d->kernel_half->seen, d);
}
