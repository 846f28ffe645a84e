/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What nghttp2 allocates: from pools of a few sizes, one set for all sessions of a ring, and counted for each
 * session against an allowance. A session over it gets nothing more, and is closed.
 */
#ifndef FL_HTTP2_MEMORY_H
#define FL_HTTP2_MEMORY_H

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/pool.h"

enum { H2_SIZES = 10 };

struct h2_memory {
    struct pool pool[H2_SIZES];
};

/* One session's part of it. */
struct h2_allowance {
    struct h2_memory *memory;
    size_t used, most; /* bytes, as the pools count them */
    bool exhausted;    /* something was refused: more than the allowance, or a pool is empty */
};

int h2_memory_init(struct h2_memory *m, uint32_t sessions); /* -ENOMEM */
void h2_memory_fini(struct h2_memory *m);
void h2_memory_trim(struct h2_memory *m, uint32_t most);

/* The functions for nghttp2; a is borrowed for as long as the session lives. */
nghttp2_mem h2_memory_for(struct h2_allowance *a);

#endif
