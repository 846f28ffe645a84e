/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A free block holds the links of its list in its own first bytes. A block's buddy is the other half of the
 * block of the next order: their numbers differ in one bit, as pages are aligned to their size.
 */
#include "dataplane/store/cache.h"

#include <errno.h>
#include <sys/mman.h>

#include "check.h"

enum { TAG_ORDER = 0x0f, TAG_FREE = 0x10, TAG_TAKEN = 0x20 };

struct links {
    uint32_t prev, next;
};

static struct links *links_of(const struct cache *c, uint32_t block)
{
    return (struct links *)(void *)cache_bytes(c, block);
}

static size_t blocks_of(const struct cache *c)
{
    return (size_t)c->pages * CACHE_PAGE_BLOCKS;
}

/* Zeroed memory that costs nothing until it is touched, and then by small pages; NULL: no address space. */
static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    (void)madvise(p, bytes, MADV_NOHUGEPAGE); /* a kernel without huge pages does not know it */
    return p;
}

int cache_init(struct cache *c, size_t bytes)
{
    *c = (struct cache){.pages = (uint32_t)(bytes / CACHE_PAGE_BYTES)};
    if (c->pages == 0)
        c->pages = 1;
    for (int order = 0; order < CACHE_ORDERS; order++)
        c->free[order] = CACHE_NONE;
    c->base = reserve((size_t)c->pages * CACHE_PAGE_BYTES);
    c->owner = reserve(blocks_of(c) * sizeof(*c->owner));
    c->tag = reserve(blocks_of(c));
    if (c->base && c->owner && c->tag)
        return 0;
    cache_fini(c);
    return -ENOMEM;
}

void cache_fini(struct cache *c)
{
    if (c->base)
        munmap(c->base, (size_t)c->pages * CACHE_PAGE_BYTES);
    if (c->owner)
        munmap(c->owner, blocks_of(c) * sizeof(*c->owner));
    if (c->tag)
        munmap(c->tag, blocks_of(c));
    *c = (struct cache){0};
}

static void list_push(struct cache *c, uint32_t block, unsigned order)
{
    struct links *l = links_of(c, block);
    *l = (struct links){.prev = CACHE_NONE, .next = c->free[order]};
    if (l->next != CACHE_NONE)
        links_of(c, l->next)->prev = block;
    c->free[order] = block;
    c->tag[block] = (uint8_t)(TAG_FREE | order);
}

static void list_remove(struct cache *c, uint32_t block, unsigned order)
{
    const struct links *l = links_of(c, block);
    if (l->prev != CACHE_NONE)
        links_of(c, l->prev)->next = l->next;
    else
        c->free[order] = l->next;
    if (l->next != CACHE_NONE)
        links_of(c, l->next)->prev = l->prev;
    c->tag[block] = 0;
}

/* A free block of exactly this order, off its list; larger ones are halved on the way. */
static uint32_t take(struct cache *c, unsigned order)
{
    unsigned from = order;
    while (from < CACHE_ORDERS && c->free[from] == CACHE_NONE)
        from++;
    uint32_t block;
    if (from < CACHE_ORDERS) {
        block = c->free[from];
        list_remove(c, block, from);
    } else if (c->pages_used < c->pages) {
        block = c->pages_used++ * CACHE_PAGE_BLOCKS;
        from = CACHE_ORDERS - 1;
    } else {
        return CACHE_NONE;
    }
    while (from > order) {
        from--;
        list_push(c, block + (1u << from), from);
    }
    return block;
}

uint32_t cache_alloc(struct cache *c, size_t size, uint32_t owner)
{
    CHECK(size > 0 && size <= CACHE_PAGE_BYTES);
    unsigned order = 0;
    while ((size_t)CACHE_BLOCK_BYTES << order < size)
        order++;
    uint32_t block = take(c, order);
    if (block == CACHE_NONE)
        return CACHE_NONE;
    c->tag[block] = (uint8_t)(TAG_TAKEN | order);
    c->owner[block] = owner;
    c->taken_bytes += (size_t)CACHE_BLOCK_BYTES << order;
    return block;
}

void cache_free(struct cache *c, uint32_t block)
{
    CHECK(block < blocks_of(c) && (c->tag[block] & TAG_TAKEN));
    unsigned order = c->tag[block] & TAG_ORDER;
    c->taken_bytes -= (size_t)CACHE_BLOCK_BYTES << order;
    c->tag[block] = 0;
    for (; order < CACHE_ORDERS - 1; order++) {
        uint32_t buddy = block ^ (1u << order);
        if (c->tag[buddy] != (TAG_FREE | order))
            break;
        list_remove(c, buddy, order);
        block &= ~(1u << order);
    }
    list_push(c, block, order);
}

uint32_t cache_page_owners(const struct cache *c, uint32_t block, uint32_t *owners)
{
    uint32_t first = block & ~(uint32_t)(CACHE_PAGE_BLOCKS - 1), count = 0;
    for (uint32_t i = first; i < first + CACHE_PAGE_BLOCKS; i++)
        if (c->tag[i] & TAG_TAKEN)
            owners[count++] = c->owner[i];
    return count;
}

static size_t check_page(const struct cache *c, uint32_t page)
{
    uint32_t at = page * CACHE_PAGE_BLOCKS, end = at + CACHE_PAGE_BLOCKS;
    size_t taken = 0;
    while (at < end) {
        uint8_t tag = c->tag[at];
        unsigned order = tag & TAG_ORDER;
        CHECK(tag & (TAG_FREE | TAG_TAKEN));
        CHECK(order < CACHE_ORDERS && at % (1u << order) == 0);
        for (uint32_t i = 1; i < 1u << order; i++)
            CHECK(c->tag[at + i] == 0);
        if (tag & TAG_TAKEN)
            taken += (size_t)CACHE_BLOCK_BYTES << order;
        else if (order < CACHE_ORDERS - 1)
            CHECK(c->tag[at ^ (1u << order)] != (TAG_FREE | order)); /* would have been joined */
        at += 1u << order;
    }
    return taken;
}

void cache_check(const struct cache *c)
{
    size_t taken = 0, free_bytes = 0;
    for (uint32_t page = 0; page < c->pages_used; page++)
        taken += check_page(c, page);
    CHECK(taken == c->taken_bytes);
    for (unsigned order = 0; order < CACHE_ORDERS; order++) {
        for (uint32_t b = c->free[order]; b != CACHE_NONE; b = links_of(c, b)->next) {
            CHECK(c->tag[b] == (TAG_FREE | order));
            free_bytes += (size_t)CACHE_BLOCK_BYTES << order;
        }
    }
    CHECK(taken + free_bytes == (size_t)c->pages_used * CACHE_PAGE_BYTES);
}
