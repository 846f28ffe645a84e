/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pool.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

/* What stands at the front of an object that is not taken. */
struct free_object {
    struct free_object *next;
    bool trimmed; /* its other pages were given back */
};

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
        p->free = p->free->next;
    else if (p->fresh < p->count)
        object = p->base + p->size * p->fresh++;
    if (object)
        p->used++;
    return object;
}

void pool_give(struct pool *p, void *object)
{
    CHECK(p->used > 0 && (uint8_t *)object >= p->base && (uint8_t *)object < p->base + p->size * p->count);
    struct free_object *f = object;
    *f = (struct free_object){.next = p->free};
    p->free = f;
    p->used--;
}

void pool_trim(struct pool *p, uint32_t keep, uint32_t most)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    struct free_object *f = p->free;
    for (uint32_t i = 0; f && i < keep + most; i++, f = f->next) {
        if (i < keep || f->trimmed)
            continue;
        uintptr_t from = ((uintptr_t)f + sizeof(*f) + page - 1) / page * page;
        uintptr_t to = ((uintptr_t)f + p->size) / page * page;
        if (from < to)
            (void)madvise((void *)from, to - from, MADV_DONTNEED);
        f->trimmed = true;
    }
}
