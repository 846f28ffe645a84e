/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services and their rows: each service's rows are a region of the map. Rows that changed are written where
 * nobody reads, then the service's element is replaced, and the old region is left alone for a while.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/kernel_maps_private.h"

static void add_region(struct regions *regions, uint32_t first, uint32_t count, uint64_t free_ms)
{
    if (count == 0)
        return;
    if (regions->count == regions->cap) {
        regions->cap = regions->cap * 2 + 16;
        regions->region = reallocarray(regions->region, regions->cap, sizeof(*regions->region));
        CHECK(regions->region);
    }
    regions->region[regions->count++] = (struct region){first, count, free_ms};
}

static int compare_regions(const void *a, const void *b)
{
    const struct region *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static void drop_expired(struct regions *retired, uint64_t now_ms)
{
    size_t kept = 0;
    for (size_t i = 0; i < retired->count; i++)
        if (retired->region[i].free_ms > now_ms)
            retired->region[kept++] = retired->region[i];
    retired->count = kept;
}

/* What services that are in the kernel use. */
static void used_regions(const struct kernel_maps *maps, struct regions *out)
{
    struct abi_endpoint key, next;
    struct abi_service service;
    for (const void *from = NULL; bpf_map_get_next_key(maps->map[MAP_SERVICES].fd, from, &next) == 0;
         from = &key) {
        if (kernel_map_get(maps, MAP_SERVICES, &next, &service) == 0)
            add_region(out, service.first_row, service.rows, UINT64_MAX);
        key = next;
    }
}

/* The first gap that is large enough, among regions in any order. False: there is none. */
static bool find_gap(struct regions *used, uint32_t rows_max, uint32_t count, uint32_t *first)
{
    uint32_t at = 0;
    if (used->count)
        qsort(used->region, used->count, sizeof(*used->region), compare_regions);
    for (size_t i = 0; i < used->count; i++) {
        const struct region *r = &used->region[i];
        if (r->first >= at && r->first - at >= count)
            break;
        if (r->first + r->count > at)
            at = r->first + r->count;
    }
    *first = at;
    return at <= rows_max && rows_max - at >= count;
}

/* Both begin with the service's key, by which services are sorted. */
_Static_assert(offsetof(struct known_rows, key) == 0 && offsetof(struct kernel_service, key) == 0, "keys");

static int compare_keys(const void *key, const void *row)
{
    return memcmp(key, row, sizeof(struct abi_endpoint));
}

static bool rows_known(const struct kernel_maps *maps, const struct kernel_service *s)
{
    const struct known_rows *known = maps->known_count ? bsearch(&s->key, maps->known, maps->known_count,
                                                                 sizeof(*maps->known), compare_keys)
                                                       : NULL;
    return known && known->rows_key == s->rows_key;
}

/* Whether the rows that the service has in the kernel are the wanted ones. */
static bool rows_equal(const struct kernel_maps *maps, const struct abi_service *now,
                       const struct kernel_service *s)
{
    int result;
    if (now->rows != s->value.rows || now->first_row + now->rows > maps->map[MAP_ROWS].max)
        return false;
    if (now->rows == 0 || rows_known(maps, s)) /* a service without backends has none */
        return true;
    void *rows = kernel_map_read(maps, MAP_ROWS, now->first_row, now->rows, &result);
    bool equal = rows && memcmp(rows, s->row, now->rows * sizeof(*s->row)) == 0;
    free(rows);
    return equal;
}

/* Puts the service's rows where nobody reads, then the element that points there. */
static int move_service(struct kernel_maps *maps, struct regions *used, const struct kernel_service *s,
                        const struct abi_service *now, uint64_t now_ms)
{
    struct abi_service value = s->value;
    bool gap = find_gap(used, maps->map[MAP_ROWS].max, value.rows, &value.first_row);
    if (!gap)
        return maps->retired.count ? -EAGAIN : -ENOSPC;
    add_region(used, value.first_row, value.rows, UINT64_MAX);
    int result = kernel_map_write(maps, MAP_ROWS, value.first_row, value.rows, s->row, NULL);
    if (!result)
        result = kernel_map_put(maps, MAP_SERVICES, &s->key, &value);
    if (!result && now)
        add_region(&maps->retired, now->first_row, now->rows, now_ms + KERNEL_ROWS_GRACE_MS);
    return result;
}

static int apply_service(struct kernel_maps *maps, struct regions *used, const struct kernel_service *s,
                         uint64_t now_ms)
{
    struct abi_service now, value = s->value;
    int result = kernel_map_get(maps, MAP_SERVICES, &s->key, &now);
    if (result && result != -ENOENT)
        return result;
    if (result || !rows_equal(maps, &now, s))
        return move_service(maps, used, s, result ? NULL : &now, now_ms);
    value.first_row = now.first_row;
    return memcmp(&now, &value, sizeof(now)) == 0 ? 0 : kernel_map_put(maps, MAP_SERVICES, &s->key, &value);
}

static void remember_rows(struct kernel_maps *maps, const struct kernel_entries *e)
{
    maps->known = reallocarray(maps->known, e->service_count + 1, sizeof(*maps->known));
    CHECK(maps->known);
    maps->known_count = e->service_count;
    for (uint32_t i = 0; i < e->service_count; i++)
        maps->known[i] = (struct known_rows){e->service[i].key, e->service[i].rows_key};
}

/* Regions of services that are about to go. */
static void retire_removed(struct kernel_maps *maps, const struct kernel_entries *e, uint64_t now_ms)
{
    struct abi_endpoint key, next;
    struct abi_service service;
    for (const void *from = NULL; bpf_map_get_next_key(maps->map[MAP_SERVICES].fd, from, &next) == 0;
         from = &key) {
        bool kept = bsearch(&next, e->service, e->service_count, sizeof(*e->service), compare_keys) != NULL;
        if (!kept && kernel_map_get(maps, MAP_SERVICES, &next, &service) == 0)
            add_region(&maps->retired, service.first_row, service.rows, now_ms + KERNEL_ROWS_GRACE_MS);
        key = next;
    }
}

/* A service without room does not keep the others from theirs. */
int kernel_services_apply(struct kernel_maps *maps, const struct kernel_entries *e, uint64_t now_ms)
{
    struct regions used = {0};
    int first = 0;
    drop_expired(&maps->retired, now_ms);
    retire_removed(maps, e, now_ms);
    kernel_map_remove_others(maps, MAP_SERVICES, e->service, e->service_count, sizeof(*e->service));
    used_regions(maps, &used);
    for (size_t i = 0; i < maps->retired.count; i++)
        add_region(&used, maps->retired.region[i].first, maps->retired.region[i].count, UINT64_MAX);
    for (uint32_t i = 0; i < e->service_count; i++) {
        int result = apply_service(maps, &used, &e->service[i], now_ms);
        first = first ? first : result;
    }
    free(used.region);
    if (!first)
        remember_rows(maps, e);
    else
        maps->known_count = 0;
    return first;
}
