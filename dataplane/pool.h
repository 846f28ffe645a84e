/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects of one size, all reserved at start and backed by memory as they are first used. The last one given
 * back is the next one taken, so what is touched follows the load and not the size of the pool. Running out
 * is an ordinary answer (NULL).
 */
#ifndef FL_POOL_H
#define FL_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct free_object;

struct pool {
    uint8_t *base;
    struct free_object *free;    /* the last one given back first */
    size_t size;                 /* of an object, bytes */
    uint32_t count, used, fresh; /* objects in all, taken now, ever taken */
};

int pool_init(struct pool *p, size_t size, uint32_t count); /* -ENOMEM */
void pool_fini(struct pool *p);
void *pool_take(struct pool *p); /* not cleared */
void pool_give(struct pool *p, void *object);

/*
 * Gives back to the kernel the pages of free objects but the `keep` that were used last, looking at `most` at
 * a time; for objects larger than a page.
 */
void pool_trim(struct pool *p, uint32_t keep, uint32_t most);

#endif
