/* SPDX-License-Identifier: Apache-2.0 */
/* Which backend each row of a service's table names. Tables are shared between what is in force and what is
 * new, and made only when they differ. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/compile/kernel_internal.h"
#include "control/compile/maglev.h"

/* Rows for each backend: the paper's hundred, less when all tables together would be too large. */
static const uint32_t rows_per_backend[] = {100, 50, 25, 12, 6, 3, 2};

/* A table of rows, and how many entries use it. row is what entries see. */
struct rows {
    uint32_t users;
    struct abi_row row[];
};

static struct rows *rows_of(const struct abi_row *row)
{
    return container_of((struct abi_row *)row, struct rows, row);
}

/* The service's backends as the table sees them; by what names them, not by id. */
static uint32_t collect(const struct kernel_input *in, const struct svc *s, struct maglev_backend *out)
{
    const struct svc_table *t = in->services;
    uint64_t seed = maglev_hash(0, s->name, strlen(s->name));
    uint32_t count = 0;
    for (size_t k = 0; k < s->backends; k++) {
        const struct svc_backend *b = &t->backend[s->first_backend + k];
        if (b->id >= in->facts->backends_max)
            continue;
        uint64_t name = maglev_hash(seed, b->name, strlen(b->name));
        out[count++] = (struct maglev_backend){
            .hash = maglev_hash(name, &b->address, sizeof(b->address)), .id = b->id, .weight = b->weight};
    }
    return count;
}

static uint64_t rows_key(const struct maglev_backend *backend, uint32_t count, uint32_t rows)
{
    uint64_t key = rows;
    for (uint32_t i = 0; i < count; i++)
        key = maglev_hash(key, &backend[i], sizeof(backend[i]));
    return key;
}

/* The most generous number of rows a backend with which all tables fit; the last one if none does. */
static uint32_t choose_size(const struct kernel_input *in, struct maglev_backend *scratch)
{
    const struct svc_table *t = in->services;
    for (size_t i = 0; i < ARRAY_SIZE(rows_per_backend); i++) {
        uint64_t rows = 0;
        for (size_t k = 0; k < t->count; k++) {
            if (t->service[k].route != SVC_DIRECT)
                continue;
            uint32_t count = collect(in, &t->service[k], scratch);
            rows += count ? maglev_rows(scratch, count, rows_per_backend[i]) : 0;
        }
        if (rows <= in->facts->rows_max)
            return rows_per_backend[i];
    }
    return rows_per_backend[ARRAY_SIZE(rows_per_backend) - 1];
}

/* Services by id, for looking one up. */
static const struct kernel_service **by_id(const struct kernel_entries *e)
{
    const struct kernel_service **list = kernel_room(SVC_SERVICES_MAX + 1, sizeof(struct kernel_service *));
    for (uint32_t i = 0; e && i < e->service_count; i++)
        list[e->service[i].value.id] = &e->service[i];
    return list;
}

static struct abi_few few_of(const struct abi_backend *b, uint32_t id)
{
    bool v4 = b->addr.word[0] == 0 && b->addr.word[1] == 0 && b->addr.word[2] == htonl(0xffff);
    return (struct abi_few){
        .backend = id, .addr4 = v4 ? b->addr.word[3] : 0, .port = b->port, .generation = b->generation};
}

/* What fits into the service's own element, if a random one of them is what a random row names. */
static void name_few(struct abi_service *s, const struct kernel_entries *e,
                     const struct maglev_backend *backend, uint32_t count)
{
    uint32_t active = 0;
    for (uint32_t i = 0; i < count && active <= ABI_FEW; i++) {
        const struct abi_backend *b = &e->backend[backend[i].id];
        if (b->admin != ABI_ADMIN_ACTIVE)
            continue;
        if (backend[i].weight != backend[0].weight || active == ABI_FEW)
            active = ABI_FEW + 1;
        else
            s->few[active++] = few_of(b, backend[i].id);
    }
    if (active <= ABI_FEW)
        s->few_count = active;
    else
        memset(s->few, 0, sizeof(s->few));
}

static void fill(struct kernel_service *out, struct maglev_backend *backend, uint32_t count, uint32_t rows,
                 const struct kernel_service *before)
{
    out->value.rows = rows;
    out->rows_key = rows_key(backend, count, rows);
    if (before && before->row && before->rows_key == out->rows_key && before->value.rows == rows) {
        out->row = before->row;
        rows_of(out->row)->users++;
        return;
    }
    struct rows *made = malloc(sizeof(*made) + rows * sizeof(made->row[0]));
    CHECK(made);
    made->users = 1;
    maglev_fill(made->row, rows, backend, count);
    out->row = made->row;
}

void kernel_rows(const struct kernel_input *in, const struct kernel_entries *before, struct kernel_entries *e)
{
    struct kernel_service *service = e->service;
    const struct svc_table *t = in->services;
    struct maglev_backend *backend = kernel_room(SVC_BACKENDS_MAX, sizeof(*backend));
    const struct kernel_service **old = by_id(before);
    uint32_t per_backend = choose_size(in, backend);
    for (size_t i = 0; i < t->count; i++) {
        if (t->service[i].route != SVC_DIRECT)
            continue;
        uint32_t count = collect(in, &t->service[i], backend);
        name_few(&service->value, e, backend, count);
        if (count)
            fill(service, backend, count, maglev_rows(backend, count, per_backend), old[t->service[i].id]);
        service++;
    }
    free(old);
    free(backend);
}

void kernel_rows_free(struct kernel_service *service, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (service[i].row && --rows_of(service[i].row)->users == 0)
            free(rows_of(service[i].row));
}
