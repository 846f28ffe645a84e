/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pool.h"

#include <errno.h>
#include <sys/mman.h>

#include "check.h"

int pool_init(struct pool *p, size_t size, uint32_t count)
{
    size = (size + 31) & ~(size_t)31;
    void *base =
        mmap(NULL, size * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return -ENOMEM;
    *p = (struct pool){.base = base, .size = size, .count = count};
    return 0;
}

void pool_fini(struct pool *p)
{
    if (p->base)
        munmap(p->base, p->size * p->count);
    p->base = NULL;
}

void *pool_take(struct pool *p)
{
    void *object = p->free;
    if (object)
        p->free = *(void **)object;
    else if (p->fresh < p->count)
        object = p->base + p->size * p->fresh++;
    if (object)
        p->used++;
    return object;
}

void pool_give(struct pool *p, void *object)
{
    CHECK(p->used > 0 && (uint8_t *)object >= p->base && (uint8_t *)object < p->base + p->size * p->count);
    *(void **)object = p->free;
    p->free = object;
    p->used--;
}
