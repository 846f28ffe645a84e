/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Chooses a backend of a service for a new connection. Order of preference: up (or not known yet), then
 * suspect, then, where the service fails open, any that is active; rows in turn from the one of the hash,
 * the candidates of each row in order. The caller counts and notes; nothing is written here.
 */
#ifndef FL_BPF_CHOOSE_H
#define FL_BPF_CHOOSE_H

#include "common.h"
#include "maps.h"
#include "verdict.h"

/* Which backends the caller can reach. */
enum choose_family { CHOOSE_V4 = 1, CHOOSE_V6 = 2, CHOOSE_ANY = CHOOSE_V4 | CHOOSE_V6 };

enum {
    /* Rows for each backend of the service that are looked at before "all are down" is believed: with four
     * candidates a row, one backend that is up among many is missed once in 8 million times. */
    CHOOSE_ROWS_PER_BACKEND = 4,
    CHOOSE_ROWS_MAX = 1024,
};

struct choose_scan {
    __u32 first_row;
    __u32 rows;
    __u32 start;
    __u32 families;
    __u32 up; /* ids, or ABI_NO_BACKEND */
    __u32 suspect;
    __u32 active;
};

/* Where a candidate stands: ABI_UP, ABI_SUSPECT, ABI_DOWN (active all the same), ABI_UNKNOWN: not eligible.
 */
INLINE __u32 choose_rank(__u32 id, __u32 families)
{
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    const __u64 *verdict = bpf_map_lookup_elem(&verdicts, &id);
    if (!b || !verdict || b->admin != ABI_ADMIN_ACTIVE)
        return ABI_UNKNOWN;
    if (!(families & (addr_is_v4(&b->addr) ? CHOOSE_V4 : CHOOSE_V6)))
        return ABI_UNKNOWN;
    __u64 v = *(const volatile __u64 *)verdict;
    if (verdict_usable(v, b, false))
        return ABI_UP;
    return verdict_usable(v, b, true) ? ABI_SUSPECT : ABI_DOWN;
}

/* One row; the rest is not needed once one is up, or when a row had room for all backends there are. */
static long choose_row(__u32 i, void *context)
{
    struct choose_scan *scan = context;
    if (scan->rows == 0)
        return 1;
    __u32 index = scan->first_row + (scan->start + i) % scan->rows;
    const struct abi_row *row = bpf_map_lookup_elem(&rows, &index);
    if (!row)
        return 1;
    for (int c = 0; c < ABI_CANDIDATES; c++) {
        __u32 id = row->backend[c];
        if (id == ABI_NO_BACKEND)
            return 1;
        __u32 rank = choose_rank(id, scan->families);
        if (rank == ABI_UP) {
            scan->up = id;
            return 1;
        }
        if (rank == ABI_SUSPECT && scan->suspect == ABI_NO_BACKEND)
            scan->suspect = id;
        if (rank != ABI_UNKNOWN && scan->active == ABI_NO_BACKEND)
            scan->active = id;
    }
    return 0;
}

INLINE __u32 choose_rows_to_scan(const struct abi_service *s)
{
    __u64 wanted = (__u64)s->backend_count * CHOOSE_ROWS_PER_BACKEND;
    if (wanted < ABI_ROW_SCANS)
        wanted = ABI_ROW_SCANS;
    if (wanted > CHOOSE_ROWS_MAX)
        wanted = CHOOSE_ROWS_MAX;
    return wanted < s->rows ? wanted : s->rows;
}

/* The backend for a hash. */
INLINE __u32 choose_by_row(const struct abi_service *s, __u32 hash, __u32 families)
{
    if (s->rows == 0)
        return ABI_NO_BACKEND;
    __u32 start = hash % s->rows;
    __u32 index = s->first_row + start;
    const struct abi_row *row = bpf_map_lookup_elem(&rows, &index);
    if (row && choose_rank(row->backend[0], families) == ABI_UP)
        return row->backend[0];
    struct choose_scan scan = {
        .first_row = s->first_row,
        .rows = s->rows,
        .start = start,
        .families = families,
        .up = ABI_NO_BACKEND,
        .suspect = ABI_NO_BACKEND,
        .active = ABI_NO_BACKEND,
    };
    bpf_loop(choose_rows_to_scan(s), choose_row, &scan, 0);
    if (scan.up != ABI_NO_BACKEND)
        return scan.up;
    if (scan.suspect != ABI_NO_BACKEND)
        return scan.suspect;
    return s->all_down == ABI_ALL_DOWN_OPEN ? scan.active : ABI_NO_BACKEND;
}

/* A random one that is up, from the service's own list; NULL: the rows decide. */
INLINE const struct abi_few *choose_few(const struct abi_service *s, __u32 hash)
{
    __u32 count = s->few_count;
    if (!count)
        return NULL;
    __u32 at = hash % count;
    if (at >= ABI_FEW)
        return NULL;
    const struct abi_few *few = &s->few[at];
    const __u64 *verdict = bpf_map_lookup_elem(&verdicts, &few->backend);
    if (!verdict)
        return NULL;
    __u64 v = *(const volatile __u64 *)verdict;
    return ABI_VERDICT_STATE(v) == ABI_UP && ABI_VERDICT_GENERATION(v) == few->generation ? few : NULL;
}

INLINE __u32 choose_random(const struct abi_service *s, __u32 hash, __u32 families)
{
    const struct abi_few *few = choose_few(s, hash);
    if (few && families & (few->addr4 ? CHOOSE_V4 : CHOOSE_V6))
        return few->backend;
    return choose_by_row(s, hash, families);
}

INLINE __u32 choose_second_hash(__u32 hash)
{
    return (hash ^ hash >> 15) * 0x9e3779b1u + 0x7f4a7c15u;
}

INLINE __u64 choose_load(__u32 id)
{
    const struct abi_backend_stats *stats = bpf_map_lookup_elem(&backend_stats, &id);
    __u64 active = stats ? *(const volatile __u64 *)&stats->active : 0;
    return ABI_ACTIVE_COUNT(active);
}

/* Of two, the one with less load for its weight. */
INLINE __u32 choose_less_loaded(__u32 a, __u32 b, __u32 families, __u64 load_a, __u64 load_b)
{
    if (a == b || a == ABI_NO_BACKEND || b == ABI_NO_BACKEND)
        return a != ABI_NO_BACKEND ? a : b;
    __u32 rank_a = choose_rank(a, families), rank_b = choose_rank(b, families);
    if (rank_a != rank_b)
        return rank_a == ABI_UP || (rank_a == ABI_SUSPECT && rank_b == ABI_DOWN) ? a : b;
    const struct abi_backend *backend_a = bpf_map_lookup_elem(&backends, &a);
    const struct abi_backend *backend_b = bpf_map_lookup_elem(&backends, &b);
    if (!backend_a || !backend_b)
        return a;
    return load_b * backend_a->weight < load_a * backend_b->weight ? b : a;
}

/* A backend's id, or ABI_NO_BACKEND: all are down (and the service does not fail open), drained, of the wrong
 * family, or there are none. `hash`: of the flow for ABI_POLICY_MAGLEV, else random. `families`: enum
 * choose_family. */
INLINE __u32 choose(const struct abi_service *s, __u32 hash, __u32 families)
{
    if (s->policy == ABI_POLICY_MAGLEV)
        return choose_by_row(s, hash, families);
    __u32 first = choose_random(s, hash, families);
    if (s->policy != ABI_POLICY_LEAST || first == ABI_NO_BACKEND)
        return first;
    __u32 second = choose_random(s, choose_second_hash(hash), families);
    return choose_less_loaded(first, second, families, choose_load(first), choose_load(second));
}

#endif
