/* SPDX-License-Identifier: Apache-2.0 */
/* Services, their checks, backends and endpoints; the other entries are in the files beside this one. */
#include "control/compile/kernel_compile.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/compile/kernel_internal.h"
#include "control/compile/maglev.h"

/* The state's numbers are the kernel's: both are written down, so that neither moves alone. */
_Static_assert((int)SVC_RANDOM == (int)ABI_POLICY_RANDOM && (int)SVC_MAGLEV == (int)ABI_POLICY_MAGLEV &&
                   (int)SVC_LEAST == (int)ABI_POLICY_LEAST,
               "policies");
_Static_assert((int)SVC_EDGE_NAT == (int)ABI_EDGE_NAT && (int)SVC_EDGE_FULL_NAT == (int)ABI_EDGE_FULL_NAT &&
                   (int)SVC_EDGE_DSR == (int)ABI_EDGE_DSR,
               "edge modes");
_Static_assert((int)SVC_REFUSE == (int)ABI_ALL_DOWN_REFUSE && (int)SVC_OPEN == (int)ABI_ALL_DOWN_OPEN,
               "all down");
_Static_assert((int)SVC_CHECK_TCP == (int)ABI_CHECK_TCP && (int)SVC_CHECK_HTTP == (int)ABI_CHECK_HTTP &&
                   (int)SVC_CHECK_TLS == (int)ABI_CHECK_TLS,
               "checks");
_Static_assert((int)SVC_ACTIVE == (int)ABI_ADMIN_ACTIVE && (int)SVC_DRAIN == (int)ABI_ADMIN_DRAIN, "admin");
_Static_assert(sizeof(((struct svc_check *)NULL)->statuses) == sizeof(((struct abi_check *)NULL)->statuses),
               "statuses");

void *kernel_room(size_t count, size_t size)
{
    void *room = calloc(count ? count : 1, size);
    CHECK(room);
    return room;
}

void kernel_addr_set(struct abi_addr *out, const struct svc_address *a)
{
    memcpy(out->word, a->ip, sizeof(out->word));
}

bool kernel_addr_equal(const struct abi_addr *a, const struct abi_addr *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

bool kernel_addr_is_local(const struct kernel_facts *facts, const struct abi_addr *a)
{
    for (size_t i = 0; i < facts->local_count; i++)
        if (kernel_addr_equal(&facts->local[i].addr, a))
            return true;
    return false;
}

static struct abi_endpoint endpoint_of(const struct svc_address *a)
{
    struct abi_endpoint e = {.port = htons(a->port)};
    kernel_addr_set(&e.addr, a);
    return e;
}

/* For a backend without a route: what was true of it before, so that its probes fail and do not stop. */
static void source_before(const struct kernel_entries *before, uint32_t id, struct abi_backend *b)
{
    if (before && id < before->backend_count && kernel_addr_equal(&before->backend[id].addr, &b->addr))
        b->source = before->backend[id].source;
}

static void compile_backend(const struct kernel_input *in, const struct kernel_entries *before,
                            const struct svc *s, const struct svc_backend *from, struct kernel_entries *e)
{
    const struct kernel_facts *facts = in->facts;
    if (from->id >= facts->backends_max) {
        e->left_out++;
        return;
    }
    struct abi_backend *b = &e->backend[from->id];
    kernel_addr_set(&b->addr, &from->address);
    b->port = htons(from->address.port);
    b->generation = from->generation;
    b->weight = from->weight;
    b->admin = from->admin;
    b->service = s->id;
    b->next_same = ABI_NO_BACKEND;
    b->flags = (s->check.kind == SVC_CHECK_NONE ? ABI_BACKEND_UNCHECKED : 0) | (s->cut ? ABI_BACKEND_CUT : 0);
    bool watched = true;
    if (kernel_addr_is_local(facts, &b->addr)) {
        b->flags |= ABI_BACKEND_LOCAL;
    } else if (!facts->source(facts->arg, &b->addr, &b->source, &watched)) {
        memset(&b->source, 0, sizeof(b->source));
        source_before(before, from->id, b);
        e->unreachable++;
    }
    if (!watched) {
        e->unprobed += s->check.kind != SVC_CHECK_NONE;
        b->flags |= ABI_BACKEND_UNCHECKED | ABI_BACKEND_UNPROBED;
    }
}

static void compile_backends(const struct kernel_input *in, const struct kernel_entries *before,
                             struct kernel_entries *e)
{
    const struct svc_table *t = in->services;
    for (size_t i = 0; i < t->backend_count; i++)
        if (t->backend[i].id >= e->backend_count && t->backend[i].id < in->facts->backends_max)
            e->backend_count = t->backend[i].id + 1;
    e->backend = kernel_room(e->backend_count, sizeof(*e->backend));
    for (size_t i = 0; i < t->count; i++) {
        const struct svc *s = &t->service[i];
        for (size_t k = 0; k < s->backends; k++)
            if (svc_backend_in_kernel(&t->backend[s->first_backend + k]))
                compile_backend(in, before, s, &t->backend[s->first_backend + k], e);
    }
}

/* An endpoint of a backend, while they are sorted. */
struct place {
    struct abi_endpoint key;
    uint32_t id;
};

static int compare_places(const void *a, const void *b)
{
    const struct place *one = a, *other = b;
    int order = memcmp(&one->key, &other->key, sizeof(one->key));
    return order ? order : one->id < other->id ? -1 : one->id > other->id;
}

/* Backends of several services can be one endpoint: what is seen in traffic counts for each of them. */
static void compile_endpoints(struct kernel_entries *e)
{
    struct place *place = kernel_room(e->backend_count, sizeof(*place));
    uint32_t count = 0;
    for (uint32_t id = 0; id < e->backend_count; id++) {
        const struct abi_backend *b = &e->backend[id];
        if (b->admin != ABI_ADMIN_NONE)
            place[count++] = (struct place){.key = {.addr = b->addr, .port = b->port}, .id = id};
    }
    qsort(place, count, sizeof(*place), compare_places);
    e->endpoint = kernel_room(count, sizeof(*e->endpoint));
    for (uint32_t i = 0; i < count; i++) {
        if (i && memcmp(&place[i - 1].key, &place[i].key, sizeof(place[i].key)) == 0)
            e->backend[place[i - 1].id].next_same = place[i].id;
        else
            e->endpoint[e->endpoint_count++] =
                (struct kernel_endpoint){.key = place[i].key, .value.first = place[i].id};
    }
    free(place);
}

static void compile_check(const struct svc *s, struct abi_check *out)
{
    const struct svc_check *c = &s->check;
    char request[ABI_REQUEST_MAX + 1];
    *out = (struct abi_check){.kind = (uint8_t)svc_check_kind(s),
                              .rise = c->rise,
                              .fall = c->fall,
                              .interval_us = c->interval_ms * 1000,
                              .http_interval_us = c->http_interval_ms * 1000,
                              .timeout_us = c->timeout_ms * 1000,
                              .http_timeout_us = c->http_timeout_ms * 1000};
    memcpy(out->statuses, c->statuses, sizeof(out->statuses));
    if (c->kind != SVC_CHECK_HTTP)
        return;
    out->request_bytes = (uint16_t)svc_check_request(s, request, sizeof(request));
    memcpy(out->request, request, out->request_bytes);
}

static void compile_checks(const struct kernel_input *in, struct kernel_entries *e)
{
    const struct svc_table *t = in->services;
    for (size_t i = 0; i < t->count; i++)
        if (t->service[i].id >= e->check_count)
            e->check_count = t->service[i].id + 1;
    e->check = kernel_room(e->check_count, sizeof(*e->check));
    for (size_t i = 0; i < t->count; i++)
        compile_check(&t->service[i], &e->check[t->service[i].id]);
}

/* The host's address towards the service's backends, as far as there is one way to all. Those on this host
 * say nothing of it: they are reached by their own address. */
static void edge_source(const struct kernel_entries *e, const struct svc_table *t, const struct svc *s,
                        struct abi_addr *out)
{
    static const struct abi_addr none;
    for (size_t k = 0; k < s->backends; k++) {
        uint32_t id = t->backend[s->first_backend + k].id;
        if (id >= e->backend_count || kernel_addr_equal(&e->backend[id].source, &none))
            continue;
        *out = e->backend[id].source;
        if (!(e->backend[id].flags & ABI_BACKEND_LOCAL))
            return;
    }
}

static int compare_services(const void *a, const void *b)
{
    return memcmp(&((const struct kernel_service *)a)->key, &((const struct kernel_service *)b)->key,
                  sizeof(struct abi_endpoint));
}

static void compile_services(const struct kernel_input *in, const struct kernel_entries *before,
                             struct kernel_entries *e)
{
    const struct svc_table *t = in->services;
    e->service = kernel_room(t->count, sizeof(*e->service));
    for (size_t i = 0; i < t->count; i++) {
        const struct svc *s = &t->service[i];
        if (s->route != SVC_DIRECT) /* its connections are the data plane's */
            continue;
        struct kernel_service *out = &e->service[e->service_count++];
        out->key = endpoint_of(&s->address);
        out->value = (struct abi_service){.id = s->id,
                                          .policy = s->policy,
                                          .edge = s->edge,
                                          .all_down = s->all_down,
                                          .flags = (uint8_t)((s->cut ? ABI_SERVICE_CUT : 0) |
                                                             (s->steer ? ABI_SERVICE_STEER : 0) |
                                                             (s->takeover ? ABI_SERVICE_TAKEOVER : 0)),
                                          .seed = (uint32_t)maglev_hash(0, s->name, strlen(s->name)),
                                          .backend_count = s->backends};
        if (s->edge == SVC_EDGE_FULL_NAT)
            edge_source(e, t, s, &out->value.edge_source);
    }
    kernel_rows(in, before, e);
    qsort(e->service, e->service_count, sizeof(*e->service), compare_services);
}

uint64_t kernel_tick_us(const struct kernel_input *in, uint64_t default_us)
{
    uint64_t tick_us = default_us;
    for (size_t i = 0; i < in->services->count; i++) {
        const struct svc_check *c = &in->services->service[i].check;
        if (c->kind != SVC_CHECK_NONE && c->interval_ms * 1000ull < tick_us)
            tick_us = c->interval_ms * 1000ull;
        if (c->kind == SVC_CHECK_HTTP && c->http_interval_ms * 1000ull < tick_us)
            tick_us = c->http_interval_ms * 1000ull;
    }
    for (uint32_t i = 0; i < in->peer_count; i++)
        if (in->peer[i].interval_ms * 1000ull < tick_us)
            tick_us = in->peer[i].interval_ms * 1000ull;
    return tick_us;
}

struct kernel_entries *kernel_compile(const struct kernel_input *in, const struct kernel_entries *before)
{
    struct kernel_entries *e = kernel_room(1, sizeof(*e));
    compile_backends(in, before, e);
    compile_endpoints(e);
    compile_checks(in, e);
    compile_services(in, before, e);
    kernel_probes(in, e);
    kernel_peers(in, e);
    kernel_addresses(in, e);
    return e;
}

void kernel_entries_free(struct kernel_entries *e)
{
    if (!e)
        return;
    kernel_rows_free(e->service, e->service_count);
    free(e->service);
    free(e->backend);
    free(e->endpoint);
    free(e->check);
    free(e->order);
    free(e->peer);
    free(e->member);
    free(e->address);
    free(e);
}
