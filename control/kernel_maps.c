/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_maps.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "control/kernel_maps_private.h"

static const char *const map_names[MAP_COUNT] = {
    [MAP_NODE] = "node",
    [MAP_SERVICES] = "services",
    [MAP_ROWS] = "rows",
    [MAP_ENDPOINTS] = "endpoints",
    [MAP_BACKENDS] = "backends",
    [MAP_CHECKS] = "checks",
    [MAP_PLAN] = "probe_plan",
    [MAP_ORDER] = "probe_order",
    [MAP_PEERS] = "peers",
    [MAP_MEMBERS] = "peer_members",
    [MAP_ADDRESSES] = "addresses",
    [MAP_VERDICTS] = "verdicts",
    [MAP_HISTORY] = "history",
    [MAP_HEAD] = "history_head",
    [MAP_PROBE_STATE] = "probe_state",
    [MAP_TICK_STATE] = "tick_state",
    [MAP_STATS] = "backend_stats",
    [MAP_PEER_STATE] = "peer_state",
    [MAP_ADDRESS_STATE] = "address_state",
    [MAP_HANDSHAKES] = "handshakes",
};

static int open_map(const struct bpf_load *load, enum map_id id, struct map *map)
{
    struct bpf_map_info info = {0};
    uint32_t len = sizeof(info);
    map->fd = bpf_load_map(load, map_names[id]);
    if (map->fd < 0)
        return map->fd;
    if (bpf_obj_get_info_by_fd(map->fd, &info, &len))
        return -errno;
    map->max = info.max_entries;
    map->key_size = info.key_size;
    map->value_size = info.value_size;
    return 0;
}

static size_t mapped_bytes(const struct map *map)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (size_t)map->max * map->value_size;
    return (bytes + page - 1) / page * page;
}

static int map_memory(const struct map *map, int protection, const void **out)
{
    void *at = mmap(NULL, mapped_bytes(map), protection, MAP_SHARED, map->fd, 0);
    if (at == MAP_FAILED)
        return -errno;
    *out = at;
    return 0;
}

/* How far the history was told: it outlives this process. */
static int open_told(const struct bpf_load *load)
{
    char path[BPF_PINS_PATH_MAX + 8];
    snprintf(path, sizeof(path), "%s/told", bpf_load_pins(load)->set);
    int fd = bpf_obj_get(path);
    if (fd >= 0)
        return fd;
    fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "fl_told", sizeof(uint32_t), sizeof(uint64_t), 1, NULL);
    if (fd < 0)
        return -errno;
    if (bpf_obj_pin(fd, path) == 0)
        return fd;
    int result = -errno;
    close(fd);
    return result;
}

int kernel_maps_open(const struct bpf_load *load, struct kernel_maps **out)
{
    struct kernel_maps *maps = calloc(1, sizeof(*maps));
    int result = 0;
    CHECK(maps);
    maps->told = -1;
    for (int i = 0; i < MAP_COUNT && !result; i++)
        result = open_map(load, (enum map_id)i, &maps->map[i]);
    if (!result)
        result = map_memory(&maps->map[MAP_VERDICTS], PROT_READ, (const void **)&maps->verdicts);
    if (!result)
        result = map_memory(&maps->map[MAP_HEAD], PROT_READ, (const void **)&maps->head);
    if (!result)
        result = map_memory(&maps->map[MAP_HISTORY], PROT_READ, (const void **)&maps->history);
    if (!result)
        result =
            map_memory(&maps->map[MAP_HANDSHAKES], PROT_READ | PROT_WRITE, (const void **)&maps->handshakes);
    if (!result) {
        maps->told = open_told(load);
        result = maps->told < 0 ? maps->told : 0;
    }
    if (result)
        kernel_maps_close(maps);
    else
        *out = maps;
    return result;
}

void kernel_maps_close(struct kernel_maps *maps)
{
    if (maps->verdicts)
        munmap((void *)maps->verdicts, mapped_bytes(&maps->map[MAP_VERDICTS]));
    if (maps->head)
        munmap((void *)maps->head, mapped_bytes(&maps->map[MAP_HEAD]));
    if (maps->history)
        munmap((void *)maps->history, mapped_bytes(&maps->map[MAP_HISTORY]));
    if (maps->handshakes)
        munmap(maps->handshakes, mapped_bytes(&maps->map[MAP_HANDSHAKES]));
    if (maps->told >= 0)
        close(maps->told);
    free(maps->retired.region);
    free(maps->known);
    free(maps);
}

/* Single elements. */

int kernel_map_put(struct kernel_maps *maps, enum map_id id, const void *key, const void *value)
{
    maps->writes++;
    return bpf_map_update_elem(maps->map[id].fd, key, value, BPF_ANY) ? -errno : 0;
}

int kernel_map_get(const struct kernel_maps *maps, enum map_id id, const void *key, void *out)
{
    return bpf_map_lookup_elem(maps->map[id].fd, key, out) ? -errno : 0;
}

static int put_one(struct kernel_maps *maps, enum map_id id, const void *value, void *old)
{
    const uint32_t zero = 0;
    int result = kernel_map_get(maps, id, &zero, old);
    if (result || memcmp(old, value, maps->map[id].value_size) == 0)
        return result;
    return kernel_map_put(maps, id, &zero, value);
}

/* Arrays. */

/* 0 or -errno: of one element after the other. */
static int read_each(const struct map *map, uint32_t first, uint32_t count, uint8_t *values)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t key = first + i;
        if (bpf_map_lookup_elem(map->fd, &key, values + (size_t)i * map->value_size))
            return -errno;
    }
    return 0;
}

/* With one call to the kernel for all of them; false: it is to be done otherwise. */
static bool read_batch(const struct map *map, uint32_t first, uint32_t count, uint8_t *values)
{
    uint32_t before = first - 1, last, got = count;
    uint32_t *keys = malloc((size_t)count * sizeof(*keys));
    CHECK(keys);
    int result = bpf_map_lookup_batch(map->fd, first ? &before : NULL, &last, keys, values, &got, NULL);
    bool whole = (result == 0 || errno == ENOENT) && got == count && keys[0] == first;
    free(keys);
    return whole;
}

void *kernel_map_read(const struct kernel_maps *maps, enum map_id id, uint32_t first, uint32_t count,
                      int *result)
{
    const struct map *map = &maps->map[id];
    uint8_t *values = malloc((size_t)count * map->value_size + 1);
    CHECK(values);
    *result = count > 1 && read_batch(map, first, count, values) ? 0 : read_each(map, first, count, values);
    if (!*result)
        return values;
    free(values);
    return NULL;
}

int kernel_map_write(struct kernel_maps *maps, enum map_id id, uint32_t first, uint32_t count,
                     const void *values, const void *now)
{
    size_t size = maps->map[id].value_size;
    int result = 0;
    for (uint32_t i = 0; i < count && !result; i++) {
        const uint8_t *value = (const uint8_t *)values + i * size;
        uint32_t key = first + i;
        if (!now || memcmp(value, (const uint8_t *)now + i * size, size) != 0)
            result = kernel_map_put(maps, id, &key, value);
    }
    return result;
}

/* Hash maps. */

void kernel_map_remove_others(struct kernel_maps *maps, enum map_id id, const void *keys, size_t count,
                              size_t stride)
{
    const struct map *map = &maps->map[id];
    uint8_t key[64], next[64];
    size_t gone_count = 0;
    uint8_t *gone = malloc((size_t)map->max * map->key_size);
    CHECK(gone && map->key_size <= sizeof(key));
    for (const void *from = NULL; bpf_map_get_next_key(map->fd, from, next) == 0 && gone_count < map->max;
         from = key) {
        bool kept = false;
        size_t low = 0, high = count;
        while (low < high && !kept) {
            size_t middle = (low + high) / 2;
            int order = memcmp(next, (const uint8_t *)keys + middle * stride, map->key_size);
            kept = order == 0;
            if (order < 0)
                high = middle;
            else
                low = middle + 1;
        }
        if (!kept)
            memcpy(gone + gone_count++ * map->key_size, next, map->key_size);
        memcpy(key, next, map->key_size);
    }
    for (size_t i = 0; i < gone_count; i++, maps->writes++)
        bpf_map_delete_elem(map->fd, gone + i * map->key_size);
    free(gone);
}

/* Writes an element of a hash map if it differs. */
static int put_hash(struct kernel_maps *maps, enum map_id id, const void *key, const void *value)
{
    uint8_t now[512];
    CHECK(maps->map[id].value_size <= sizeof(now));
    if (kernel_map_get(maps, id, key, now) == 0 && memcmp(now, value, maps->map[id].value_size) == 0)
        return 0;
    return kernel_map_put(maps, id, key, value);
}

/* A change. */

static int apply_array(struct kernel_maps *maps, enum map_id id, const void *values, uint32_t count)
{
    int result;
    void *now = kernel_map_read(maps, id, 0, count, &result);
    if (now)
        result = kernel_map_write(maps, id, 0, count, values, now);
    free(now);
    return result;
}

static bool array_differs(struct kernel_maps *maps, enum map_id id, const void *values, uint32_t count)
{
    int result;
    if (count == 0)
        return false;
    void *now = kernel_map_read(maps, id, 0, count, &result);
    bool differs = !now || memcmp(now, values, (size_t)count * maps->map[id].value_size) != 0;
    free(now);
    return differs;
}

/* Elements behind `count` that an earlier apply used become empty ones. */
static int clear_behind(struct kernel_maps *maps, enum map_id id, uint32_t count, uint32_t before)
{
    uint32_t more = before > count ? before - count : 0;
    int result;
    void *now = kernel_map_read(maps, id, count, more, &result);
    if (!now)
        return result;
    void *empty = calloc(more + 1, maps->map[id].value_size);
    CHECK(empty);
    result = kernel_map_write(maps, id, count, more, empty, now);
    free(empty);
    free(now);
    return result;
}

/* Members move while no peer refers to them: a peer that goes down in between is left to the probes. */
static int apply_peers(struct kernel_maps *maps, const struct kernel_entries *e)
{
    int result = 0;
    if (array_differs(maps, MAP_MEMBERS, e->member, e->member_count)) {
        struct abi_peer *now = kernel_map_read(maps, MAP_PEERS, 0, maps->map[MAP_PEERS].max, &result);
        for (uint32_t i = 0; i < maps->map[MAP_PEERS].max && !result; i++) {
            if (now[i].members_count == 0)
                continue;
            now[i].members_count = 0;
            result = kernel_map_put(maps, MAP_PEERS, &i, &now[i]);
        }
        free(now);
        if (!result)
            result = apply_array(maps, MAP_MEMBERS, e->member, e->member_count);
    }
    if (!result)
        result = apply_array(maps, MAP_PEERS, e->peer, e->peer_count);
    return result ? result : clear_behind(maps, MAP_PEERS, e->peer_count, maps->map[MAP_PEERS].max);
}

/* The order moves while no class refers to it. */
static int apply_plan(struct kernel_maps *maps, const struct kernel_entries *e)
{
    struct abi_probe_plan now, none = {0};
    int result = 0;
    if (array_differs(maps, MAP_ORDER, e->order, e->order_count)) {
        result = put_one(maps, MAP_PLAN, &none, &now);
        if (!result)
            result = apply_array(maps, MAP_ORDER, e->order, e->order_count);
    }
    return result ? result : put_one(maps, MAP_PLAN, &e->plan, &now);
}

static int apply_referred(struct kernel_maps *maps, const struct kernel_entries *e)
{
    int result = apply_array(maps, MAP_CHECKS, e->check, e->check_count);
    if (!result)
        result = apply_array(maps, MAP_BACKENDS, e->backend, e->backend_count);
    for (uint32_t i = 0; i < e->endpoint_count && !result; i++)
        result = put_hash(maps, MAP_ENDPOINTS, &e->endpoint[i].key, &e->endpoint[i].value);
    return result;
}

static int apply_addresses(struct kernel_maps *maps, const struct kernel_entries *e)
{
    int result = 0;
    kernel_map_remove_others(maps, MAP_ADDRESSES, e->address, e->address_count, sizeof(*e->address));
    for (uint32_t i = 0; i < e->address_count && !result; i++)
        result = put_hash(maps, MAP_ADDRESSES, &e->address[i].key, &e->address[i].value);
    return result;
}

static bool fits(const struct kernel_maps *maps, const struct kernel_entries *e)
{
    return e->backend_count <= maps->map[MAP_BACKENDS].max && e->order_count <= maps->map[MAP_ORDER].max &&
           e->member_count <= maps->map[MAP_MEMBERS].max && e->peer_count <= maps->map[MAP_PEERS].max &&
           e->check_count <= maps->map[MAP_CHECKS].max && e->endpoint_count <= maps->map[MAP_ENDPOINTS].max;
}

int kernel_maps_apply(struct kernel_maps *maps, const struct abi_node *node,
                      const struct kernel_entries *entries, uint64_t now_ms)
{
    struct abi_node before, during = *node, after = *node;
    if (!fits(maps, entries))
        return -E2BIG;
    int result = kernel_maps_node(maps, &before);
    if (result)
        return result;
    after.backends = entries->backend_count;
    during.backends = before.backends > after.backends ? before.backends : after.backends;
    result = apply_referred(maps, entries);
    if (!result)
        result = put_one(maps, MAP_NODE, &during, &before);
    if (result)
        return result;
    int room = kernel_services_apply(maps, entries, now_ms);
    result = apply_peers(maps, entries);
    if (!result)
        result = apply_plan(maps, entries);
    if (!result)
        result = apply_addresses(maps, entries);
    kernel_map_remove_others(maps, MAP_ENDPOINTS, entries->endpoint, entries->endpoint_count,
                             sizeof(*entries->endpoint));
    if (!result)
        result = clear_behind(maps, MAP_BACKENDS, entries->backend_count, during.backends);
    if (!result)
        result = put_one(maps, MAP_NODE, &after, &before);
    return result ? result : room;
}

/* Reading. */

uint64_t kernel_maps_writes(const struct kernel_maps *maps)
{
    return maps->writes;
}

uint32_t kernel_maps_backends_max(const struct kernel_maps *maps)
{
    return maps->map[MAP_BACKENDS].max;
}

uint32_t kernel_maps_rows_max(const struct kernel_maps *maps)
{
    return maps->map[MAP_ROWS].max;
}

int kernel_maps_node(const struct kernel_maps *maps, struct abi_node *out)
{
    const uint32_t zero = 0;
    return kernel_map_get(maps, MAP_NODE, &zero, out);
}

int kernel_maps_tick(const struct kernel_maps *maps, struct abi_tick_state *out)
{
    const uint32_t zero = 0;
    return kernel_map_get(maps, MAP_TICK_STATE, &zero, out);
}

int kernel_maps_backend(const struct kernel_maps *maps, uint32_t id, struct abi_backend *out)
{
    return kernel_map_get(maps, MAP_BACKENDS, &id, out);
}

int kernel_maps_probe(const struct kernel_maps *maps, uint32_t id, struct abi_probe_state *out)
{
    return kernel_map_get(maps, MAP_PROBE_STATE, &id, out);
}

int kernel_maps_stats(const struct kernel_maps *maps, uint32_t id, struct abi_backend_stats *out)
{
    return kernel_map_get(maps, MAP_STATS, &id, out);
}

int kernel_maps_peer(const struct kernel_maps *maps, uint32_t index, struct abi_peer *out)
{
    return kernel_map_get(maps, MAP_PEERS, &index, out);
}

int kernel_maps_peer_state(const struct kernel_maps *maps, uint32_t index, struct abi_peer_state *out)
{
    return kernel_map_get(maps, MAP_PEER_STATE, &index, out);
}

int kernel_maps_address_state(const struct kernel_maps *maps, const struct abi_address_key *key,
                              struct abi_address_state *out)
{
    return kernel_map_get(maps, MAP_ADDRESS_STATE, key, out);
}

int kernel_maps_peers(const struct kernel_maps *maps, struct abi_peer *out)
{
    int result;
    void *now = kernel_map_read(maps, MAP_PEERS, 0, ABI_PEERS_MAX, &result);
    if (now)
        memcpy(out, now, ABI_PEERS_MAX * sizeof(*out));
    free(now);
    return result;
}

uint64_t kernel_maps_verdict(const struct kernel_maps *maps, uint32_t id)
{
    return id < maps->map[MAP_VERDICTS].max ? maps->verdicts[id] : 0;
}

bool kernel_maps_handshake(const struct kernel_maps *maps, uint32_t id, uint16_t generation, uint32_t reason)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t word = ABI_HANDSHAKE_WORD(id, generation, reason, (uint64_t)now.tv_sec & 0xff);
    for (uint32_t i = 0; i < ABI_HANDSHAKE_SLOTS; i++) {
        uint64_t none = 0;
        if (__atomic_compare_exchange_n(&maps->handshakes[(id + i) % ABI_HANDSHAKE_SLOTS], &none, word, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return true;
    }
    return false;
}

enum slot { SLOT_WHOLE, SLOT_NOT_YET, SLOT_LOST };

/* A writer takes the number first and fills the slot then: until it has, the slot says another number. */
static enum slot read_change(const struct kernel_maps *maps, uint64_t number, struct abi_change *out)
{
    uint64_t found = slot_copy(maps, number, out);
    if (found == number)
        return out->time_ns ? SLOT_WHOLE : SLOT_NOT_YET;
    return found != UINT64_MAX && found > number ? SLOT_LOST : SLOT_NOT_YET;
}

uint64_t kernel_maps_changes(struct kernel_maps *maps,
                             void (*each)(void *arg, const struct abi_change *change), void *arg)
{
    const uint32_t zero = 0;
    uint64_t told = 0, lost = 0, head = maps->head[0];
    if (bpf_map_lookup_elem(maps->told, &zero, &told) || told > head)
        told = head;
    uint64_t next = told;
    if (head - next > ABI_HISTORY) {
        lost = head - next - ABI_HISTORY;
        next = head - ABI_HISTORY;
    }
    for (; next < head; next++) {
        struct abi_change change;
        enum slot slot = read_change(maps, next, &change);
        if (slot == SLOT_NOT_YET)
            break;
        if (slot == SLOT_WHOLE)
            each(arg, &change);
        lost += slot == SLOT_LOST;
    }
    if (next != told)
        bpf_map_update_elem(maps->told, &zero, &next, BPF_ANY);
    return lost;
}
