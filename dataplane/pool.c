/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pool.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int pool_init(struct pool *p, size_t size, uint32_t count)
{
    size = (size + 31) & ~(size_t)31;
    *p = (struct pool){.size = size, .count = count};
    p->base = reserve(size * count);
    p->stack = reserve(sizeof(*p->stack) * count);
    if (p->base && p->stack)
        return 0;
    pool_fini(p);
    return -ENOMEM;
}

void pool_fini(struct pool *p)
{
    if (p->base)
        munmap(p->base, p->size * p->count);
    if (p->stack)
        munmap(p->stack, sizeof(*p->stack) * p->count);
    p->base = NULL;
    p->stack = NULL;
}

void *pool_take(struct pool *p)
{
    uint32_t n;
    if (p->depth)
        n = p->stack[--p->depth];
    else if (p->fresh < p->count)
        n = p->fresh++;
    else
        return NULL;
    if (p->low > p->depth)
        p->low = p->depth;
    if (p->trimmed > p->depth)
        p->trimmed = p->depth;
    p->used++;
    return p->base + p->size * n;
}

void pool_give(struct pool *p, void *object)
{
    size_t at = (size_t)((uint8_t *)object - p->base);
    CHECK(p->used > 0 && at < p->size * p->count && at % p->size == 0);
    p->stack[p->depth++] = (uint32_t)(at / p->size);
    p->used--;
}

void pool_trim(struct pool *p, uint32_t most)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (; most && p->trimmed < p->low; p->trimmed++, most--) {
        uintptr_t at = (uintptr_t)(p->base + p->size * p->stack[p->trimmed]);
        uintptr_t from = (at + page - 1) / page * page, to = (at + p->size) / page * page;
        if (from < to)
            (void)madvise((void *)from, to - from, MADV_DONTNEED);
    }
    p->low = p->depth;
}
