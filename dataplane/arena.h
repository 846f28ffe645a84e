/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of one request: taken piece by piece, given back all at once. Running out is an ordinary answer. */
#ifndef FL_ARENA_H
#define FL_ARENA_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct arena {
    uint8_t *base;
    size_t cap, used; /* bytes */
};

static inline void arena_init(struct arena *a, void *base, size_t cap)
{
    a->base = base;
    a->cap = cap;
    a->used = 0;
}

/* Aligned for any object; not cleared. NULL if it does not fit. Valid until the arena is reset. */
static inline void *arena_alloc(struct arena *a, size_t size)
{
    size_t at = (a->used + 15) & ~(size_t)15;
    if (at > a->cap || size > a->cap - at)
        return NULL;
    a->used = at + size;
    return a->base + at;
}

static inline void *arena_zalloc(struct arena *a, size_t size)
{
    void *p = arena_alloc(a, size);
    if (p)
        memset(p, 0, size);
    return p;
}

/* A copy with a NUL after it. */
static inline char *arena_copy(struct arena *a, const void *data, size_t len)
{
    char *p = arena_alloc(a, len + 1);
    if (p) {
        memcpy(p, data, len);
        p[len] = '\0';
    }
    return p;
}

#endif
