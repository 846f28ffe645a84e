/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "control/kernel_cgroup.h"
#include "control/kernel_edge.h"
#include "control/kernel_groups.h"
#include "control/kernel_loading.h"
#include "control/kernel_neighbours.h"
#include "control/kernel_network.h"
#include "control/kernel_sockets.h"
#include "control/kernel_wake.h"

enum { NS_PER_MS = 1000000, STALE_TICKS = 10, STALE_MS_MIN = 200, TIDY_MS = 10000 };

struct kernel {
    struct kernel_config config;
    struct kernel_loading *loading; /* under way */
    struct kernel_wishes wishes;
    enum kernel_phase phase;
    bool fail_quietly; /* the reason was logged already */
    char why[KERNEL_WHY_MAX];
    struct kernel_cgroup cgroup;
    struct bpf_load *load;
    struct bpf_attach *attach;
    struct kernel_maps *maps;
    struct kernel_sockets *sockets;
    struct kernel_network network;
    struct netlink_watch *watch;
    struct kernel_neighbours *neighbours;
    struct kernel_clock clock; /* tick_ifindex 0: there is none */
    char clock_why[KERNEL_CLOCK_WHY_MAX];
    struct kernel_wake *wake; /* NULL: changes are told once a second */
    struct abi_peer *peers;   /* ABI_PEERS_MAX */
    const struct kernel_entries *entries;
    struct kernel_edge edge;
    uint64_t tidy_ms; /* when what nothing needs is taken away; 0: it was */
    bool again;       /* the last apply found no room yet */
    int groups;       /* kernel_groups_open, while it is on */
    uint64_t changes_lost, skipped_devices;
    uint32_t unprobed; /* backends that cannot be probed, as told last */
};

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / NS_PER_MS;
}

struct kernel *kernel_new(const struct kernel_config *config)
{
    struct kernel *kernel = calloc(1, sizeof(*kernel));
    CHECK(kernel);
    kernel->config = *config;
    kernel->groups = -1;
    kernel->cgroup = (struct kernel_cgroup){.wanted = config->cgroup, .journal = config->journal};
    kernel->peers = calloc(ABI_PEERS_MAX, sizeof(*kernel->peers));
    CHECK(kernel->peers);
    snprintf(kernel->why, sizeof(kernel->why), "nothing needs it");
    return kernel;
}

static void note(struct kernel *kernel, const char *kind, const char *text)
{
    if (kernel->config.handlers.note)
        kernel->config.handlers.note(kernel->config.arg, kind, text);
}

/* Changes of verdicts. */

static void on_change(void *arg, const struct abi_change *change)
{
    struct kernel *kernel = arg;
    uint64_t now = now_ms(), then = change->time_ns / NS_PER_MS;
    uint64_t ago_ms = now > then ? now - then : 0;
    kernel_sockets_changed(kernel->sockets, change);
    kernel->config.handlers.changed(kernel->config.arg, change, journal_now_ms() - ago_ms);
}

static void read_changes(struct kernel *kernel)
{
    uint64_t lost = kernel_maps_changes(kernel->maps, on_change, kernel);
    if (lost)
        journal_warn(kernel->config.journal, "kernel",
                     "%llu changes of verdicts came too fast to be told; the verdicts themselves are right",
                     (unsigned long long)lost);
    kernel->changes_lost += lost;
}

static void on_wake(void *arg)
{
    read_changes(arg);
}

/* What is known of this node. */

static struct kernel_facts facts_of(struct kernel *kernel)
{
    bool peers = kernel_maps_peers(kernel->maps, kernel->peers) == 0;
    return (struct kernel_facts){.node_id = kernel->wishes.node_id,
                                 .probes = kernel->wishes.probes,
                                 .draining = kernel->wishes.draining,
                                 .tick_us = kernel->wishes.tick_ms * 1000,
                                 .backends_max = kernel_maps_backends_max(kernel->maps),
                                 .rows_max = kernel_maps_rows_max(kernel->maps),
                                 .local = kernel->network.local,
                                 .local_count = kernel->network.local_count,
                                 .source = kernel_network_source,
                                 .neighbour = kernel_network_neighbour,
                                 .arg = &kernel->network,
                                 .peers_now = peers ? kernel->peers : NULL,
                                 .peers_now_count = peers ? ABI_PEERS_MAX : 0};
}

static struct abi_node node_of(const struct kernel *kernel)
{
    const struct kernel_clock *clock = &kernel->clock;
    uint64_t tick_ns = (uint64_t)kernel->wishes.tick_ms * NS_PER_MS, stale_ns = tick_ns * STALE_TICKS;
    struct abi_node node = {.abi_version = ABI_VERSION,
                            .node_id = kernel->wishes.node_id,
                            .tick_ifindex = clock->tick_ifindex,
                            .out_ifindex = clock->out_ifindex,
                            .fan_ifindex = clock->fan_ifindex,
                            .pace_ifindex = clock->pace_ifindex,
                            .inner = clock->inner,
                            .inner6 = clock->inner6,
                            .tick_ns = clock->tick_ifindex ? clock->tick_ns : tick_ns};
    node.stale_ns = stale_ns < STALE_MS_MIN * NS_PER_MS ? STALE_MS_MIN * NS_PER_MS : stale_ns;
    node.flags = (kernel->wishes.probes ? ABI_NODE_PROBES : 0u) |
                 (kernel->wishes.draining ? ABI_NODE_DRAINING : 0u) | (clock->token ? ABI_NODE_TOKEN : 0u) |
                 (kernel->wishes.fed ? ABI_NODE_FED : 0u);
    return node;
}

/* Bringing it up to date. */

/* Without a clock nothing is probed, no heartbeat is sent, and verdicts come from traffic alone. */
static void ensure_clock(struct kernel *kernel)
{
    char why[KERNEL_CLOCK_WHY_MAX] = "";
    int result =
        kernel_clock_ensure(kernel->config.instance, kernel->wishes.tick_ms * 1000, &kernel->clock, why);
    if (!result) {
        kernel->clock_why[0] = '\0';
        return;
    }
    memset(&kernel->clock, 0, sizeof(kernel->clock));
    if (strcmp(why, kernel->clock_why) == 0)
        return;
    memcpy(kernel->clock_why, why, sizeof(why));
    journal_warn(kernel->config.journal, "kernel",
                 "there is no clock in the kernel, so nothing is probed and no heartbeat is sent: %s", why);
}

/* Once, and again when there are more. */
static void tell_unprobed(struct kernel *kernel)
{
    uint32_t now = kernel->entries->unprobed;
    if (now > kernel->unprobed)
        journal_warn(
            kernel->config.journal, "kernel",
            "%u backends are behind devices that carry no Ethernet frames or are excluded, so they cannot be "
            "probed: they are up until their own connections say otherwise",
            now);
    kernel->unprobed = now;
}

static void apply(struct kernel *kernel)
{
    struct kernel_facts facts = facts_of(kernel);
    struct abi_node node = node_of(kernel);
    kernel_network_age(&kernel->network, now_ms());
    kernel->entries = kernel->config.handlers.compile(kernel->config.arg, &facts);
    kernel_sockets_set(kernel->sockets, kernel->entries, !kernel->wishes.fed);
    kernel_neighbours_set(kernel->neighbours, kernel->entries);
    tell_unprobed(kernel);
    size_t refused =
        kernel_groups_apply(kernel->groups, bpf_load_map(kernel->load, "addresses"), kernel->entries);
    if (refused)
        journal_warn(
            kernel->config.journal, "kernel",
            "%zu devices do not take in what is sent to the groups of IPv6 addresses; these addresses "
            "may not be answered there",
            refused);
    int result = kernel_maps_apply(kernel->maps, &node, kernel->entries, now_ms());
    kernel->again = result == -EAGAIN;
    if (result == -ENOSPC)
        journal_error(kernel->config.journal, "kernel",
                      "there is no room for the rows of all services: raise kernel.rows_max (now %u), and "
                      "restart fairleadd; services without room go on with their old backends",
                      kernel_maps_rows_max(kernel->maps));
    else if (result && result != -EAGAIN)
        journal_error(kernel->config.journal, "kernel", "the maps cannot be written: %s; what they say stays",
                      strerror(-result));
}

static bool matches(const char *const *patterns, size_t count, const struct netlink_device *device)
{
    for (size_t i = 0; i < count; i++)
        if (fnmatch(patterns[i], device->name, 0) == 0)
            return true;
    return false;
}

static bool is_excluded(const struct kernel *kernel, const struct netlink_device *device)
{
    return matches(kernel->config.exclude, kernel->config.exclude_count, device);
}

/* Packets of a port of a bridge or bond pass the bridge or bond too; those of a VRF's device do not. */
static bool is_port(const struct kernel *kernel, const struct netlink_device *device)
{
    const struct netlink_device *master =
        device->master ? kernel_network_device(&kernel->network, device->master) : NULL;
    return device->master && (!master || strcmp(master->kind, "vrf") != 0);
}

/* Whether the programs are on it. */
static bool is_watched(void *arg, const struct netlink_device *device)
{
    const struct kernel *kernel = arg;
    return !device->loopback && device->ethernet && !is_port(kernel, device) && !is_excluded(kernel, device);
}

static enum bpf_device_role role_of(const struct kernel *kernel, const struct netlink_device *device)
{
    const struct kernel_clock *clock = &kernel->clock;
    if (clock->tick_ifindex == 0)
        return BPF_DEVICE_TRAFFIC;
    if (device->ifindex == clock->tick_ifindex)
        return BPF_DEVICE_TICK;
    if (device->ifindex == clock->out_ifindex || device->ifindex == clock->pace_ifindex)
        return BPF_DEVICE_OUT;
    if (device->ifindex == clock->fan_ifindex || device->ifindex == clock->paced_ifindex)
        return BPF_DEVICE_FAN;
    return BPF_DEVICE_TRAFFIC;
}

static bool is_there(void *arg, uint32_t ifindex)
{
    const struct kernel *kernel = arg;
    return kernel_network_device(&kernel->network, ifindex) != NULL;
}

static void set_for_edge(struct kernel *kernel)
{
    kernel_edge_apply(&kernel->edge, kernel->config.instance, kernel->entries, kernel->attach, now_ms());
}

static void attach_devices(struct kernel *kernel)
{
    kernel->skipped_devices = 0;
    for (size_t i = 0; i < kernel->network.device_count; i++) {
        const struct netlink_device *device = &kernel->network.device[i];
        enum bpf_device_role role = role_of(kernel, device);
        if (role != BPF_DEVICE_TRAFFIC) {
            bpf_attach_device(kernel->attach, device, role);
            continue;
        }
        if (!is_watched(kernel, device)) {
            kernel->skipped_devices++;
            continue;
        }
        bool xdp = matches(kernel->config.xdp, kernel->config.xdp_count, device);
        bpf_attach_device(kernel->attach, device, xdp ? BPF_DEVICE_XDP : BPF_DEVICE_TRAFFIC);
    }
    bpf_attach_keep(kernel->attach, is_there, kernel);
    kernel_edge_links(bpf_load_map(kernel->load, "edge_links"), kernel->attach);
    set_for_edge(kernel);
}

static void on_network(void *arg)
{
    struct kernel *kernel = arg;
    if (kernel->phase != KERNEL_ON)
        return;
    ensure_clock(kernel);
    kernel_network_read(&kernel->network, kernel->config.journal);
    apply(kernel);
    attach_devices(kernel);
}

/* Services or settings have changed, and the network has not: what the kernel is told does not wait for what
 * is slow about that. */
static void apply_change(struct kernel *kernel)
{
    apply(kernel);
    set_for_edge(kernel);
}

/* Starting and ending. */

static void let_go(struct kernel *kernel)
{
    if (kernel->wake)
        kernel_wake_close(kernel->wake);
    if (kernel->watch)
        netlink_watch_close(kernel->watch);
    if (kernel->neighbours)
        kernel_neighbours_close(kernel->neighbours);
    kernel_network_close(&kernel->network);
    if (kernel->attach)
        bpf_attach_free(kernel->attach);
    if (kernel->sockets)
        kernel_sockets_close(kernel->sockets);
    if (kernel->maps)
        kernel_maps_close(kernel->maps);
    if (kernel->load)
        bpf_load_close(kernel->load);
    if (kernel->groups >= 0)
        close(kernel->groups);
    kernel->groups = -1;
    kernel->wake = NULL;
    kernel->watch = NULL;
    kernel->neighbours = NULL;
    kernel->attach = NULL;
    kernel->sockets = NULL;
    kernel->maps = NULL;
    kernel->load = NULL;
    kernel->entries = NULL;
    kernel->again = false;
    memset(&kernel->clock, 0, sizeof(kernel->clock));
}

static int open_rest(struct kernel *kernel)
{
    int result = kernel_maps_open(kernel->load, &kernel->maps);
    if (!result)
        result = kernel_network_open(&kernel->network);
    if (!result)
        result = netlink_watch_open(kernel->config.loop, on_network, kernel, &kernel->watch);
    if (!result)
        result = kernel_neighbours_open(kernel->config.loop, on_network, kernel, &kernel->neighbours);
    kernel->groups = kernel_groups_open();
    if (!result)
        kernel->sockets = kernel_sockets_new(kernel->config.loop, kernel->config.journal, kernel->maps);
    return result;
}

static void tell_objects(struct kernel *kernel, const struct bpf_load *load)
{
    size_t count;
    const struct bpf_load_object *object = bpf_load_objects(load, &count);
    for (size_t i = 0; i < count; i++)
        if (object[i].why[0])
            journal_warn(kernel->config.journal, "kernel", "%s %s: %s", object[i].name,
                         object[i].loaded ? "is loaded" : "is not loaded", object[i].why);
}

static void fail(struct kernel *kernel, int result)
{
    if (!kernel->why[0])
        snprintf(kernel->why, sizeof(kernel->why), "%s", strerror(-result));
    if (!kernel->fail_quietly)
        journal_warn(kernel->config.journal, "kernel",
                     "the kernel half is off: %s; services are not steered, checked or balanced",
                     kernel->why);
    kernel->fail_quietly = true;
    let_go(kernel);
    kernel->phase = KERNEL_FAILED;
}

static void on_more(void *arg, struct bpf_load *more, int result, const char *why)
{
    struct kernel *kernel = arg;
    (void)result;
    (void)why;
    kernel->loading = NULL;
    tell_objects(kernel, more);
    bpf_load_merge(kernel->load, more);
    kernel_cgroup_attach(&kernel->cgroup, kernel->attach);
    on_network(kernel);
    kernel_update(kernel, &kernel->wishes);
}

/* Something is needed now that was not before. */
static void load_more(struct kernel *kernel)
{
    if (bpf_load_lacks(kernel->load, kernel->wishes.needs))
        kernel->loading = kernel_loading_more(
            kernel->config.loop, bpf_load_more(kernel->load, kernel->wishes.needs), on_more, kernel);
}

/* What an earlier daemon left of objects that nothing needs goes, once the state has had time to say so. */
static void tidy(struct kernel *kernel)
{
    if (kernel->loading || !kernel->tidy_ms || now_ms() < kernel->tidy_ms)
        return;
    for (size_t i = 0; i < kernel->network.device_count; i++)
        bpf_attach_drop(kernel->attach, &kernel->network.device[i]);
    bpf_load_drop_idle(kernel->load);
    kernel->tidy_ms = 0;
}

static void start_loaded(struct kernel *kernel)
{
    int result = open_rest(kernel);
    if (result) {
        fail(kernel, result);
        return;
    }
    kernel->network.watched = is_watched;
    kernel->network.arg = kernel;
    kernel->edge = (struct kernel_edge){.journal = kernel->config.journal, .begun_ms = now_ms()};
    kernel->phase = KERNEL_ON;
    tell_objects(kernel, kernel->load);
    kernel->attach = bpf_attach_new(kernel->load, kernel->config.instance);
    ensure_clock(kernel);
    kernel_network_read(&kernel->network, kernel->config.journal);
    bool is_new = bpf_load_is_new(kernel->load);
    apply(kernel);
    size_t carried = bpf_load_carry_verdicts(kernel->load);
    kernel_cgroup_attach(&kernel->cgroup, kernel->attach);
    attach_devices(kernel);
    result = bpf_load_settle(kernel->load);
    if (result)
        journal_warn(kernel->config.journal, "kernel", "an older set of maps cannot be removed: %s",
                     strerror(-result));
    kernel->wake = kernel_wake_open(kernel->config.loop, bpf_load_map(kernel->load, "wake"), on_wake, kernel);
    read_changes(kernel);
    journal_info(kernel->config.journal, "kernel",
                 is_new ? "the programs are in the kernel, with new maps and %zu verdicts of older ones"
                        : "the programs are in the kernel, with the maps and verdicts that were there",
                 carried);
    note(kernel, "kernel.attached", "the programs are in the kernel");
    kernel->config.handlers.maps(kernel->config.arg, kernel->load);
    kernel->tidy_ms = now_ms() + TIDY_MS;
    load_more(kernel);
}

static void on_loaded(void *arg, struct bpf_load *load, int result, const char *why)
{
    struct kernel *kernel = arg;
    kernel->loading = NULL;
    kernel->load = load;
    kernel->phase = KERNEL_OFF;
    snprintf(kernel->why, sizeof(kernel->why), "%s", why);
    if (result) {
        fail(kernel, result);
    } else if (kernel->wishes.enabled) {
        start_loaded(kernel);
    } else {
        let_go(kernel);
        kernel_update(kernel, &kernel->wishes);
    }
}

static void start(struct kernel *kernel)
{
    const struct bpf_load_config config = {.instance = kernel->config.instance,
                                           .needs = kernel->wishes.needs,
                                           .backends_max = kernel->wishes.backends_max,
                                           .rows_max = kernel->wishes.rows_max,
                                           .flows_max = kernel->wishes.flows_max};
    kernel->phase = KERNEL_LOADING;
    snprintf(kernel->why, sizeof(kernel->why), "the programs are being loaded");
    kernel->loading = kernel_loading_start(kernel->config.loop, &config, on_loaded, kernel);
}

void kernel_update(struct kernel *kernel, const struct kernel_wishes *wishes)
{
    char err[KERNEL_WHY_MAX];
    bool other_clock = kernel->wishes.tick_ms != wishes->tick_ms;
    kernel->wishes = *wishes;
    if (kernel->loading)
        return; /* they count when it is done */
    if (!wishes->enabled) {
        bool there = kernel->phase == KERNEL_ON || bpf_pins_exist(kernel->config.instance);
        if (there && kernel_detach(kernel, err))
            journal_error(kernel->config.journal, "kernel", "%s", err);
        kernel->phase = KERNEL_OFF;
        kernel->fail_quietly = false;
        snprintf(kernel->why, sizeof(kernel->why), "kernel.enabled is false");
        return;
    }
    if (kernel->phase == KERNEL_ON) {
        if (other_clock)
            on_network(kernel);
        else
            apply_change(kernel);
        load_more(kernel);
    } else if (kernel->phase != KERNEL_DETACHED &&
               (wishes->needed || bpf_pins_exist(kernel->config.instance))) {
        start(kernel);
    }
}

void kernel_tick(struct kernel *kernel)
{
    if (kernel->phase != KERNEL_ON)
        return;
    read_changes(kernel);
    if (kernel->again)
        apply(kernel);
    set_for_edge(kernel); /* others may change settings at any time */
    kernel_cgroup_tick(&kernel->cgroup, kernel->attach);
    tidy(kernel);
}

void kernel_close(struct kernel *kernel)
{
    if (kernel->loading)
        kernel_loading_forget(kernel->loading);
    let_go(kernel);
    kernel_network_fini(&kernel->network);
    free(kernel->peers);
    free(kernel);
}

/* Detaching. */

int kernel_detach(struct kernel *kernel, char err[KERNEL_WHY_MAX])
{
    if (kernel->loading) {
        snprintf(err, KERNEL_WHY_MAX, "the programs are being loaded; try again in a second");
        return -EBUSY;
    }
    let_go(kernel);
    kernel->config.handlers.maps(kernel->config.arg, NULL);
    int result = kernel_detach_instance(kernel->config.instance, err);
    kernel->phase = KERNEL_DETACHED;
    snprintf(kernel->why, sizeof(kernel->why),
             "it was detached; `fairlead set kernel.enabled false`, then true, attaches it again");
    if (!result) {
        journal_info(kernel->config.journal, "kernel", "everything was taken out of the kernel");
        note(kernel, "kernel.detached", "everything was taken out of the kernel");
    }
    return result;
}

void kernel_view(const struct kernel *kernel, struct kernel_view *out)
{
    *out = (struct kernel_view){.phase = kernel->phase,
                                .why = kernel->phase == KERNEL_ON ? "" : kernel->why,
                                .instance = kernel->config.instance,
                                .cgroup = kernel->cgroup.path,
                                .load = kernel->load,
                                .attach = kernel->attach,
                                .maps = kernel->maps,
                                .entries = kernel->entries,
                                .clock = kernel->clock.tick_ifindex ? &kernel->clock : NULL,
                                .clock_why = kernel->clock_why,
                                .changes_lost = kernel->changes_lost,
                                .skipped_devices = kernel->skipped_devices};
}
