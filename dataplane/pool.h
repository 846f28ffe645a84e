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

struct pool {
    uint8_t *base;
    uint32_t *stack;             /* numbers of the objects that were given back, the last one on top */
    uint32_t depth, low;         /* of the stack: now, the least since the last trim */
    uint32_t trimmed;            /* of its lower end the memory was given back to the kernel */
    size_t size;                 /* of an object, bytes */
    uint32_t count, used, fresh; /* objects in all, taken now, ever taken */
};

int pool_init(struct pool *p, size_t size, uint32_t count); /* -ENOMEM */
void pool_fini(struct pool *p);
void *pool_take(struct pool *p); /* not cleared */
void pool_give(struct pool *p, void *object);

/* Gives the memory of objects that were free ever since the last call back to the kernel, of `most` at a
 * time. */
void pool_trim(struct pool *p, uint32_t most);

#endif
