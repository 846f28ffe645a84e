/* SPDX-License-Identifier: Apache-2.0 */
/* Between the files that write the shared maps: kernel_maps.c and kernel_services.c. */
#ifndef FL_CONTROL_KERNEL_MAPS_PRIVATE_H
#define FL_CONTROL_KERNEL_MAPS_PRIVATE_H

#include <stdbool.h>

#include "control/kernel_maps.h"

enum map_id {
    MAP_NODE,
    MAP_SERVICES,
    MAP_ROWS,
    MAP_ENDPOINTS,
    MAP_BACKENDS,
    MAP_CHECKS,
    MAP_PLAN,
    MAP_ORDER,
    MAP_PEERS,
    MAP_MEMBERS,
    MAP_ADDRESSES,
    MAP_VERDICTS,
    MAP_HISTORY,
    MAP_HEAD,
    MAP_PROBE_STATE,
    MAP_TICK_STATE,
    MAP_STATS,
    MAP_PEER_STATE,
    MAP_ADDRESS_STATE,
    MAP_HANDSHAKES,
    MAP_COUNT
};

struct map {
    int fd; /* borrowed */
    uint32_t max, key_size, value_size;
};

/* A part of `rows`. */
struct region {
    uint32_t first, count;
    uint64_t free_ms; /* when it may be used again */
};

struct regions {
    struct region *region;
    size_t count, cap;
};

/* What the service at a key had at the last apply: equal rows need not be read to be known equal. */
struct known_rows {
    struct abi_endpoint key;
    uint64_t rows_key;
};

struct kernel_maps {
    struct map map[MAP_COUNT];
    struct regions retired;
    struct known_rows *known;
    size_t known_count;
    uint64_t writes;
    int told; /* a map of one u64: the number of the next change to tell */
    const volatile uint64_t *verdicts, *head;
    const struct abi_change *history;
    uint64_t *handshakes;
};

/* kernel_maps.c. 0 or -errno. */
int kernel_map_put(struct kernel_maps *maps, enum map_id id, const void *key, const void *value);
int kernel_map_get(const struct kernel_maps *maps, enum map_id id, const void *key, void *out);

/* [first, first + count) of an array, to be freed; NULL with -errno in *result. */
void *kernel_map_read(const struct kernel_maps *maps, enum map_id id, uint32_t first, uint32_t count,
                      int *result);

/* Writes those of `count` elements from `first` on that differ. `now` is what is there, NULL: not known. */
int kernel_map_write(struct kernel_maps *maps, enum map_id id, uint32_t first, uint32_t count,
                     const void *values, const void *now);

/* Removes the elements whose key is not among `count` sorted keys, `stride` bytes apart. */
void kernel_map_remove_others(struct kernel_maps *maps, enum map_id id, const void *keys, size_t count,
                              size_t stride);

/* kernel_services.c: the services and their rows, as kernel_maps_apply says. */
int kernel_services_apply(struct kernel_maps *maps, const struct kernel_entries *e, uint64_t now_ms);

/*
 * Copies the slot of a change. A writer in the kernel takes the slot's number away, fills it, and gives it
 * its number last: the copy is whole if the number was the same before and after, which is returned; else
 * UINT64_MAX. Each field is loaded with acquire, so that none is read after the second look at the number.
 */
static inline uint64_t slot_copy(const struct kernel_maps *maps, uint64_t number, struct abi_change *out)
{
    const struct abi_change *slot = &maps->history[number & (ABI_HISTORY - 1)];
    out->number = __atomic_load_n(&slot->number, __ATOMIC_ACQUIRE);
    out->time_ns = __atomic_load_n(&slot->time_ns, __ATOMIC_ACQUIRE);
    out->before = __atomic_load_n(&slot->before, __ATOMIC_ACQUIRE);
    out->after = __atomic_load_n(&slot->after, __ATOMIC_ACQUIRE);
    out->backend = __atomic_load_n(&slot->backend, __ATOMIC_ACQUIRE);
    out->rtt_us = __atomic_load_n(&slot->rtt_us, __ATOMIC_ACQUIRE);
    return __atomic_load_n(&slot->number, __ATOMIC_RELAXED) == out->number ? out->number : UINT64_MAX;
}

#endif
