/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fixed memory for small objects: blocks of 512 bytes to 64 KiB in pages of 64 KiB, halved and joined again
 * (a buddy system). It knows no objects and evicts nothing: it tells which owners share a page, and its user
 * gives their blocks back. Memory is touched as it is first used.
 */
#ifndef FL_STORE_CACHE_H
#define FL_STORE_CACHE_H

#include <stddef.h>
#include <stdint.h>

enum {
    CACHE_BLOCK_BYTES = 512,
    CACHE_PAGE_BYTES = 64 << 10,
    CACHE_PAGE_BLOCKS = CACHE_PAGE_BYTES / CACHE_BLOCK_BYTES,
    CACHE_ORDERS = 8, /* 512 << 7 is a page */
};
#define CACHE_NONE UINT32_MAX

struct cache {
    uint8_t *base;
    uint32_t *owner; /* of the block that starts here */
    uint8_t *tag; /* of the block that starts here: its order and whether it is taken; 0 inside of a block */
    uint32_t pages, pages_used;
    uint32_t free[CACHE_ORDERS]; /* first free block of each order, or CACHE_NONE */
    size_t taken_bytes;
};

/* bytes: rounded down to pages, at least one. 0 or -ENOMEM. */
int cache_init(struct cache *c, size_t bytes);
void cache_fini(struct cache *c);

/* A block for size bytes (1 to CACHE_PAGE_BYTES), named by its number; CACHE_NONE if there is none that
 * large. */
uint32_t cache_alloc(struct cache *c, size_t size, uint32_t owner);
void cache_free(struct cache *c, uint32_t block);

static inline uint8_t *cache_bytes(const struct cache *c, uint32_t block)
{
    return c->base + (size_t)block * CACHE_BLOCK_BYTES;
}

/*
 * The owners of the taken blocks in the page of this block: at most CACHE_PAGE_BLOCKS, into owners. Returns
 * how many.
 */
uint32_t cache_page_owners(const struct cache *c, uint32_t block, uint32_t *owners);

/* Walks over everything and CHECKs that it holds together. */
void cache_check(const struct cache *c);

#endif
