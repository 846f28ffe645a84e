/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A key-value transaction that keeps its writes in memory, over one that it only reads: what a command does
 * that is made of many and must be done as a whole or not at all. Pure.
 */
#ifndef FL_STATE_KV_OVERLAY_H
#define FL_STATE_KV_OVERLAY_H

#include "control/state/kv.h"

enum { KV_OVERLAY_LEVELS = 16 };

struct kv_overlay_row;

struct kv_overlay {
    struct kv kv; /* first: reads and writes go through it */
    struct kv *base;
    struct kv_overlay_row *head[KV_OVERLAY_LEVELS]; /* a skip list by database and key */
    uint64_t random;
};

void kv_overlay_init(struct kv_overlay *o, struct kv *base);

/* Makes the base what it shows through the overlay. 0 or -errno: then the base's transaction must be given
 * up. */
int kv_overlay_flush(struct kv_overlay *o);

void kv_overlay_fini(struct kv_overlay *o);

#endif
