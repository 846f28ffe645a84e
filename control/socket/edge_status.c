/* SPDX-License-Identifier: Apache-2.0 */
#include "control/socket/edge_status.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "check.h"
#include "control/daemon_kernel.h"
#include "control/services.h"

/* A figure: its member, its name, what it is. All count from when the maps were made. */
struct figure {
    size_t offset;
    const char *name, *text;
};

#define SERVICE_FIGURE(member, text)                                                                         \
    {                                                                                                        \
        offsetof(struct abi_edge_stats, member), #member, text                                               \
    }
static const struct figure service_figures[] = {
    SERVICE_FIGURE(flows, "Connections that the edge began to balance."),
    SERVICE_FIGURE(no_backend, "Connections begun while all backends were down."),
    SERVICE_FIGURE(moved, "New connections on known ports that went to another backend than the one before."),
    SERVICE_FIGURE(resets, "Resets sent to clients."),
    SERVICE_FIGURE(icmp, "ICMP errors forwarded to clients and backends."),
    SERVICE_FIGURE(fragments, "Fragments forwarded, the first of each packet not counted."),
    SERVICE_FIGURE(malformed, "Packets dropped for what is wrong in them."),
    SERVICE_FIGURE(expired, "Packets dropped because their time to live was over."),
    SERVICE_FIGURE(too_big, "Packets dropped because the way out does not take their size."),
    SERVICE_FIGURE(told, "Senders told that their packets are too large (ICMP)."),
    SERVICE_FIGURE(no_route, "Packets dropped for want of a way to the backend or the client."),
    SERVICE_FIGURE(no_port, "Packets dropped because no port towards the backend was free."),
};
#undef SERVICE_FIGURE

#define BACKEND_FIGURE(member, text)                                                                         \
    {                                                                                                        \
        offsetof(struct abi_edge_backend, member), #member, text                                             \
    }
static const struct figure backend_figures[] = {
    BACKEND_FIGURE(flows, "Connections through the edge that both ends have taken part in."),
    BACKEND_FIGURE(packets, "Packets of clients that the edge sent there."),
    BACKEND_FIGURE(bytes, "Bytes of these packets, headers included."),
    BACKEND_FIGURE(back_packets, "Packets of its answers that came back through the edge."),
    BACKEND_FIGURE(back_bytes, "Bytes of these packets, headers included."),
};
#undef BACKEND_FIGURE

static uint64_t figure_of(const void *counts, const struct figure *f)
{
    uint64_t value;
    memcpy(&value, (const uint8_t *)counts + f->offset, sizeof(value));
    return value;
}

/* The maps, and room for an element: a value for each processor. */
struct edge_maps {
    int services, backends; /* negative: the edge is not in the kernel */
    int processors;
    __u64 *room;
};

static bool maps_open(const struct daemon *d, struct edge_maps *m)
{
    struct kernel_view view = {.phase = KERNEL_OFF};
    if (d->kernel_half)
        kernel_view(d->kernel_half->kernel, &view);
    if (view.phase != KERNEL_ON)
        return false;
    *m = (struct edge_maps){.services = bpf_load_map(view.load, "edge_stats"),
                            .backends = bpf_load_map(view.load, "edge_backends"),
                            .processors = libbpf_num_possible_cpus()};
    if (m->services < 0 || m->backends < 0 || m->processors <= 0)
        return false;
    size_t words = sizeof(struct abi_edge_stats) / sizeof(*m->room);
    m->room = calloc((size_t)m->processors * words, sizeof(*m->room));
    CHECK(m->room);
    return true;
}

_Static_assert(sizeof(struct abi_edge_backend) <= sizeof(struct abi_edge_stats), "room for either");

/* The sum over the processors; all of its members are counts. Zero where nothing is known. */
static void read_sum(const struct edge_maps *m, int map, uint32_t key, void *out, size_t bytes)
{
    size_t count = bytes / sizeof(__u64);
    __u64 *sum = out; /* the type of the members */
    memset(out, 0, bytes);
    if (bpf_map_lookup_elem(map, &key, m->room))
        return;
    for (int cpu = 0; cpu < m->processors; cpu++)
        for (size_t i = 0; i < count; i++)
            sum[i] += m->room[(size_t)cpu * count + i];
}

static void read_backend(const struct edge_maps *m, uint32_t id, struct abi_edge_backend *out)
{
    read_sum(m, m->backends, id, out, sizeof(*out));
}

/* Sums of a service's backends. */
static void read_traffic(const struct edge_maps *m, const struct svc_table *t, const struct svc *s,
                         struct abi_edge_backend *out)
{
    memset(out, 0, sizeof(*out));
    for (size_t k = 0; k < s->backends; k++) {
        struct abi_edge_backend one;
        read_backend(m, t->backend[s->first_backend + k].id, &one);
        out->flows += one.flows;
        out->packets += one.packets;
        out->bytes += one.bytes;
        out->back_packets += one.back_packets;
        out->back_bytes += one.back_bytes;
    }
}

static bool is_balanced(const struct svc *s)
{
    return s->route == SVC_DIRECT && s->edge != SVC_EDGE_OFF;
}

json_t *edge_status(struct daemon *d)
{
    const struct svc_table *t = services_table(d->services);
    json_t *list = json_array();
    struct edge_maps m;
    if (!maps_open(d, &m))
        return list;
    for (size_t i = 0; i < t->count; i++) {
        struct abi_edge_stats stats;
        struct abi_edge_backend traffic;
        if (!is_balanced(&t->service[i]))
            continue;
        read_sum(&m, m.services, t->service[i].id, &stats, sizeof(stats));
        read_traffic(&m, t, &t->service[i], &traffic);
        json_t *row =
            json_pack("{s:s, s:I}", "service", t->service[i].name, "established", (json_int_t)traffic.flows);
        for (size_t f = 0; f < ARRAY_SIZE(service_figures); f++)
            json_object_set_new(row, service_figures[f].name,
                                json_integer((json_int_t)figure_of(&stats, &service_figures[f])));
        for (size_t f = 1; f < ARRAY_SIZE(backend_figures); f++)
            json_object_set_new(row, backend_figures[f].name,
                                json_integer((json_int_t)figure_of(&traffic, &backend_figures[f])));
        json_array_append_new(list, row);
    }
    free(m.room);
    return list;
}

void edge_backend_figures(struct daemon *d, const struct svc *s, const struct svc_backend *b, json_t *figures)
{
    struct edge_maps m;
    struct abi_edge_backend counts;
    if (!is_balanced(s) || !maps_open(d, &m))
        return;
    read_backend(&m, b->id, &counts);
    for (size_t f = 0; f < ARRAY_SIZE(backend_figures); f++) {
        char key[32];
        snprintf(key, sizeof(key), "edge_%s", backend_figures[f].name);
        json_object_set_new(figures, key, json_integer((json_int_t)figure_of(&counts, &backend_figures[f])));
    }
    free(m.room);
}

static void print_head(FILE *out, const char *what, const struct figure *f)
{
    fprintf(out, "# HELP fairlead_%s_edge_%s_total %s\n# TYPE fairlead_%s_edge_%s_total counter\n", what,
            f->name, f->text, what, f->name);
}

static void print_services(const struct edge_maps *m, const struct svc_table *t, FILE *out)
{
    for (size_t f = 0; f < ARRAY_SIZE(service_figures); f++) {
        print_head(out, "service", &service_figures[f]);
        for (size_t i = 0; i < t->count; i++) {
            struct abi_edge_stats stats;
            if (!is_balanced(&t->service[i]))
                continue;
            read_sum(m, m->services, t->service[i].id, &stats, sizeof(stats));
            fprintf(out, "fairlead_service_edge_%s_total{service=\"%s\"} %llu\n", service_figures[f].name,
                    t->service[i].name, (unsigned long long)figure_of(&stats, &service_figures[f]));
        }
    }
}

static void print_backends(const struct edge_maps *m, const struct svc_table *t, const struct svc *s,
                           const struct figure *f, FILE *out)
{
    for (size_t k = 0; is_balanced(s) && k < s->backends; k++) {
        const struct svc_backend *b = &t->backend[s->first_backend + k];
        struct abi_edge_backend counts;
        read_backend(m, b->id, &counts);
        fprintf(out, "fairlead_backend_edge_%s_total{service=\"%s\",backend=\"%s\"} %llu\n", f->name, s->name,
                b->name, (unsigned long long)figure_of(&counts, f));
    }
}

void edge_metrics(struct daemon *d, FILE *out)
{
    const struct svc_table *t = services_table(d->services);
    struct edge_maps m;
    if (!maps_open(d, &m))
        return;
    print_services(&m, t, out);
    for (size_t f = 0; f < ARRAY_SIZE(backend_figures); f++) {
        print_head(out, "backend", &backend_figures[f]);
        for (size_t i = 0; i < t->count; i++)
            print_backends(&m, t, &t->service[i], &backend_figures[f], out);
    }
    free(m.room);
}
