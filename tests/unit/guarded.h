/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory whose end is the end of a page with nothing mapped behind it: a parser that reads or writes one byte
 * too many faults at once.
 */
#ifndef FL_TEST_GUARDED_H
#define FL_TEST_GUARDED_H

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

struct guarded {
    char *end; /* the first byte that may not be touched */
    size_t cap;
};

static inline struct guarded guarded_new(size_t cap)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t size = (cap + page - 1) / page * page;
    char *base = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(base != MAP_FAILED);
    CHECK(mprotect(base + size, page, PROT_NONE) == 0);
    return (struct guarded){.end = base + size, .cap = size};
}

/* The last len bytes before the guard. */
static inline char *guarded_tail(const struct guarded *g, size_t len)
{
    CHECK(len <= g->cap);
    return g->end - len;
}

/* The same, filled with a copy of bytes. Overwrites what the previous call returned. */
static inline char *guarded_copy(const struct guarded *g, const void *bytes, size_t len)
{
    char *p = guarded_tail(g, len);
    if (len)
        memcpy(p, bytes, len);
    return p;
}

#endif
