/* SPDX-License-Identifier: Apache-2.0 */
#include "control/compile/plan_services.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/compile/maglev.h"

/* The state's numbers are the plan's: both are written down, so that neither moves alone. */
_Static_assert((int)SVC_TCP == (int)PROXY_TCP && (int)SVC_HTTP == (int)PROXY_HTTP &&
                   (int)SVC_REGISTRY == (int)PROXY_REGISTRY && (int)SVC_DOCKER == (int)PROXY_DOCKER &&
                   (int)SVC_KUBERNETES == (int)PROXY_KUBERNETES,
               "kinds");
_Static_assert((int)SVC_RANDOM == (int)PROXY_RANDOM && (int)SVC_MAGLEV == (int)PROXY_MAGLEV &&
                   (int)SVC_LEAST == (int)PROXY_LEAST && (int)SVC_DIGEST == (int)PROXY_DIGEST,
               "policies");
_Static_assert((int)SVC_BACKENDS_MAX == (int)PLAN_SERVICE_BACKENDS_MAX &&
                   (int)SVC_BACKENDS_ALL_MAX <= (int)PLAN_BACKENDS_MAX &&
                   (int)SVC_SERVICES_MAX + 2 <= (int)PLAN_SERVICES_MAX &&
                   (int)SVC_NAME_MAX < (int)PLAN_NAME_MAX,
               "bounds");

/* A table, which several compilations share. */
struct plan_rows {
    uint32_t users;
    uint32_t count;
    uint64_t key; /* equal keys: equal rows */
    uint16_t row[];
};

static void *room(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    CHECK(p);
    return p;
}

/* Few backends are dealt finely, many within a bound. */
static uint32_t rows_per_backend(uint32_t count)
{
    return count <= 64 ? 100 : count <= 512 ? 25 : 6;
}

/* As the kernel's tables have them: by what names a backend, so that each node deals alike. */
static void collect(const struct svc *s, const struct svc_backend *backend, struct maglev_backend *out)
{
    uint64_t seed = maglev_hash(0, s->name, strlen(s->name));
    for (uint32_t k = 0; k < s->backends; k++) {
        uint64_t name = maglev_hash(seed, backend[k].name, strlen(backend[k].name));
        out[k] = (struct maglev_backend){
            .hash = maglev_hash(name, &backend[k].address, sizeof(backend[k].address)),
            .id = k,
            .weight = backend[k].weight};
    }
}

static struct plan_rows *make_rows(struct maglev_backend *list, uint32_t count, uint32_t rows, uint64_t key)
{
    struct plan_rows *made = room(1, sizeof(*made) + rows * sizeof(made->row[0]));
    struct abi_row *table = room(rows, sizeof(*table));
    maglev_fill(table, rows, list, count);
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t owner = table[i].backend[0];
        made->row[i] = owner < count ? (uint16_t)owner : (uint16_t)PLAN_NO_ROW;
    }
    free(table);
    made->count = rows;
    made->key = key;
    return made;
}

static struct plan_rows *rows_before(const struct plan_services *before, uint16_t place)
{
    for (size_t i = 0; before && i < before->count; i++)
        if (before->proxied[i].place == place)
            return before->rows[i];
    return NULL;
}

static struct plan_rows *compile_rows(const struct svc *s, const struct svc_backend *backend,
                                      const struct plan_services *before)
{
    if ((s->policy != SVC_MAGLEV && s->policy != SVC_DIGEST) || s->backends == 0)
        return NULL;
    struct maglev_backend *list = room(s->backends, sizeof(*list));
    collect(s, backend, list);
    uint32_t rows = maglev_rows(list, s->backends, rows_per_backend(s->backends));
    uint64_t key = maglev_hash(rows, list, s->backends * sizeof(*list));
    struct plan_rows *there = rows_before(before, plan_place_of(s));
    if (!there || there->key != key || there->count != rows)
        there = make_rows(list, s->backends, rows, key);
    there->users++;
    free(list);
    return there;
}

static uint32_t peer_of(const struct plan_facts *facts, const char *node)
{
    for (uint32_t i = 0; *node && i < facts->peer_count; i++)
        if (strcmp(facts->peer[i].name, node) == 0)
            return i + 1;
    return 0;
}

static void compile_backend(const struct svc *s, const struct svc_backend *from,
                            const struct plan_facts *facts, struct plan_backend *out)
{
    out->id = from->id;
    out->generation = from->generation;
    out->weight = from->weight;
    out->draining = from->admin == SVC_DRAIN;
    memcpy(out->name, from->name, strlen(from->name) + 1);
    memcpy(out->unix_path, from->unix_path, strlen(from->unix_path) + 1);
    if (svc_backend_is_unix(from))
        return;
    out->port = from->address.port;
    memcpy(out->ip, from->address.ip, sizeof(out->ip));
    if (!svc_backend_in_kernel(from))
        return;
    out->peer = peer_of(facts, from->node);
    out->checked = from->id < facts->backends_max && (s->check.kind != SVC_CHECK_NONE || out->peer);
}

/*
 * A change of these makes it another service for connections that are there: it was removed and made again,
 * or what is spoken on them is something else. Never 0, which is that of the services of the node itself.
 */
static uint32_t incarnation_of(const struct svc *s)
{
    const uint8_t spoken[] = {s->kind == SVC_TCP, s->tls.mode, s->tls.proxy_protocol};
    uint64_t hash = maglev_hash(s->created_ms, s->name, strlen(s->name));
    hash = maglev_hash(hash, spoken, sizeof(spoken));
    return (uint32_t)(hash ^ hash >> 32) | 1;
}

static void compile_service(const struct svc *s, struct plan_service *out)
{
    out->kind = SERVICE_PROXY;
    out->policy = POLICY_ALLOW_ALL;
    out->incarnation = incarnation_of(s);
    memcpy(out->name, s->name, strlen(s->name) + 1);
    out->tls = s->tls;
    out->proxy = s->proxy;
    out->proxy.kind = s->kind;
    out->proxy.policy = s->policy;
    out->proxy.all_down = s->all_down;
    out->backend_count = s->backends;
}

static int compare_proxied(const void *a, const void *b)
{
    return (int)((const struct plan_proxied *)a)->place - (int)((const struct plan_proxied *)b)->place;
}

/* Those of one address beside each other. */
static int compare_addresses(const void *a, const void *b)
{
    const struct svc *one = *(const struct svc *const *)a, *other = *(const struct svc *const *)b;
    return memcmp(&one->address, &other->address, sizeof(one->address));
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct plan_name *)a)->name, ((const struct plan_name *)b)->name);
}

static void add_names(const struct svc *s, struct plan_services *out)
{
    const char *list = s->names;
    char name[PLAN_DOMAIN_MAX] = "";
    while (svc_names_next(&list, name)) {
        size_t count = out->name_count++;
        if ((count & (count - 1)) == 0) {
            out->name = reallocarray(out->name, count ? count * 2 : 1, sizeof(*out->name));
            CHECK(out->name);
        }
        out->name[count] = (struct plan_name){.place = plan_place_of(s)};
        memcpy(out->name[count].name, name, strlen(name) + 1);
    }
}

/* The names at one address, which all of its services get. */
static void compile_place(const struct svc *const *list, size_t count, struct plan_services *out)
{
    size_t first = out->name_count;
    uint16_t nameless = 0;
    for (size_t i = 0; i < count; i++) {
        add_names(list[i], out);
        if (!list[i]->names[0])
            nameless = plan_place_of(list[i]);
    }
    size_t names = out->name_count - first;
    if (names == 0)
        return;
    qsort(out->name + first, names, sizeof(*out->name), compare_names);
    for (size_t i = 0; i < count; i++) {
        struct plan_proxied key = {.place = plan_place_of(list[i])};
        struct plan_proxied *p =
            bsearch(&key, out->proxied, out->count, sizeof(*out->proxied), compare_proxied);
        CHECK(p);
        p->service.nameless = nameless;
        p->service.first_name = (uint32_t)first;
        p->service.name_count = (uint32_t)names;
    }
}

/* list: the proxied services, in any order. */
static void compile_names(const struct svc **list, struct plan_services *out)
{
    qsort(list, out->count, sizeof(*list), compare_addresses);
    for (size_t i = 0, end; i < out->count; i = end) {
        for (end = i + 1; end < out->count && compare_addresses(&list[i], &list[end]) == 0;)
            end++;
        compile_place(&list[i], end - i, out);
    }
}

static int compare_places(const void *a, const void *b)
{
    const struct svc *one = *(const struct svc *const *)a, *other = *(const struct svc *const *)b;
    return one->id < other->id ? -1 : one->id > other->id;
}

struct plan_services *plan_services_compile(const struct svc_table *table, const struct plan_facts *facts,
                                            const struct plan_services *before)
{
    struct plan_services *out = room(1, sizeof(*out));
    const struct svc **list = room(table->count, sizeof(*list));
    size_t backends = 0;
    for (size_t i = 0; i < table->count; i++) {
        if (table->service[i].route != SVC_PROXY)
            continue;
        list[out->count++] = &table->service[i];
        backends += table->service[i].backends;
    }
    qsort(list, out->count, sizeof(*list), compare_places);
    out->proxied = room(out->count, sizeof(*out->proxied));
    out->rows = room(out->count, sizeof(*out->rows));
    out->backend = room(backends, sizeof(*out->backend));
    struct plan_backend *next = out->backend;
    for (size_t i = 0; i < out->count; i++) {
        const struct svc_backend *from = &table->backend[list[i]->first_backend];
        struct plan_proxied *p = &out->proxied[i];
        p->place = plan_place_of(list[i]);
        compile_service(list[i], &p->service);
        p->backend = next;
        for (uint32_t k = 0; k < list[i]->backends; k++)
            compile_backend(list[i], &from[k], facts, next++);
        out->rows[i] = compile_rows(list[i], from, before);
        if (out->rows[i]) {
            p->row = out->rows[i]->row;
            p->service.row_count = out->rows[i]->count;
        }
    }
    compile_names(list, out);
    free(list);
    return out;
}

void plan_services_free(struct plan_services *services)
{
    if (!services)
        return;
    for (size_t i = 0; i < services->count; i++)
        if (services->rows[i] && --services->rows[i]->users == 0)
            free(services->rows[i]);
    free(services->rows);
    free(services->backend);
    free(services->name);
    free(services->proxied);
    free(services);
}
