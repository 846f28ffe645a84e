/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/http2/memory.h"

#include <errno.h>
#include <string.h>

#include "check.h"

/* Sizes with their heads, and how many objects there are for a hundred sessions. The last two take nghttp2's
 * copies of heads: of 16 KiB with a hundred fields, and of the largest there may be. */
static const struct {
    size_t bytes;
    uint32_t percent;
} sizes[H2_SIZES] = {
    {64, 12800}, {128, 6400}, {256, 6400}, {512, 6400},     {1024, 1600},
    {2048, 800}, {4096, 800}, {8192, 400}, {24 << 10, 200}, {80 << 10, 25},
};

enum { OBJECTS_LEAST = 256 }; /* a session alone may want as many of a size */

/* Stands before each object. */
struct object {
    _Alignas(16) uint32_t size; /* index into sizes */
    uint32_t room;              /* bytes behind it */
};

int h2_memory_init(struct h2_memory *m, uint32_t sessions)
{
    memset(m, 0, sizeof(*m));
    for (unsigned i = 0; i < H2_SIZES; i++) {
        uint64_t count = ((uint64_t)sessions * sizes[i].percent + 99) / 100;
        count = count > OBJECTS_LEAST ? count : OBJECTS_LEAST;
        if (pool_init(&m->pool[i], sizes[i].bytes, count < UINT32_MAX ? (uint32_t)count : UINT32_MAX)) {
            h2_memory_fini(m);
            return -ENOMEM;
        }
    }
    return 0;
}

void h2_memory_fini(struct h2_memory *m)
{
    for (unsigned i = 0; i < H2_SIZES; i++)
        if (m->pool[i].base)
            pool_fini(&m->pool[i]);
}

void h2_memory_trim(struct h2_memory *m, uint32_t most)
{
    for (unsigned i = 0; i < H2_SIZES; i++)
        pool_trim(&m->pool[i], most);
}

static void *take(size_t bytes, void *user)
{
    struct h2_allowance *a = user;
    unsigned i = 0;
    while (i < H2_SIZES && sizes[i].bytes - sizeof(struct object) < bytes)
        i++;
    struct object *o = NULL;
    if (i < H2_SIZES && a->used + sizes[i].bytes <= a->most)
        o = pool_take(&a->memory->pool[i]);
    if (!o) {
        a->exhausted = true;
        return NULL;
    }
    a->used += sizes[i].bytes;
    o->size = i;
    o->room = (uint32_t)(sizes[i].bytes - sizeof(*o));
    return o + 1;
}

static void give(void *p, void *user)
{
    struct h2_allowance *a = user;
    if (!p)
        return;
    struct object *o = (struct object *)p - 1;
    CHECK(o->size < H2_SIZES && a->used >= sizes[o->size].bytes);
    a->used -= sizes[o->size].bytes;
    pool_give(&a->memory->pool[o->size], o);
}

static void *take_clear(size_t count, size_t bytes, void *user)
{
    if (bytes && count > SIZE_MAX / bytes)
        return NULL;
    void *p = take(count * bytes, user);
    if (p)
        memset(p, 0, count * bytes);
    return p;
}

static void *change(void *p, size_t bytes, void *user)
{
    if (!p)
        return take(bytes, user);
    size_t room = ((struct object *)p - 1)->room;
    if (bytes <= room)
        return p;
    void *larger = take(bytes, user);
    if (!larger)
        return NULL;
    memcpy(larger, p, room);
    give(p, user);
    return larger;
}

nghttp2_mem h2_memory_for(struct h2_allowance *a)
{
    return (nghttp2_mem){
        .mem_user_data = a, .malloc = take, .free = give, .calloc = take_clear, .realloc = change};
}
