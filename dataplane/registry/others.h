/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a ring knows of the other replicas, as takers of copies: which of them have failed of late, and how
 * much each was ordered to do. Embedded, zeroed at first; no memory, no clock of its own.
 */
#ifndef FL_REGISTRY_OTHERS_H
#define FL_REGISTRY_OTHERS_H

#include <stdbool.h>
#include <stdint.h>

#include "digest.h"

struct plan;

enum {
    OTHERS_BAD_MS = 10000, /* who has failed is not asked for so long */
    OTHERS_BAD_MAX = 32,
    OTHERS_ORDERED_MAX = 256,
};

struct others {
    struct {
        uint64_t node, until_ms;
    } bad[OTHERS_BAD_MAX];
    unsigned bad_at;
    struct {
        uint64_t node;
        uint32_t count; /* 0: the place is free */
    } order[OTHERS_ORDERED_MAX];
};

void others_note_bad(struct others *o, uint64_t node, uint64_t now_ms);

/* What ranks them: the digest, or as long as it is not known the session's id, whose beginning is chance. */
struct digest others_key(const struct digest *d, const char *session);

struct others_tried {
    const uint64_t *node;
    unsigned count;
    bool bad_too; /* those who have failed of late are asked, too, if there is nobody else */
    /* Stores that are to have it, or have it already: replicas that share one of them are not asked. */
    const uint64_t *holder;
    unsigned holder_count;
};

/* The best-ranked replica that was not tried yet, and has another store than this node; 0: there is none. */
uint64_t others_next(const struct others *o, const struct plan *plan, const struct digest *key,
                     const struct others_tried *tried, uint64_t now_ms);

/* What the replica is as a holder of blobs. */
uint64_t others_holder(const struct plan *plan, uint64_t node);

/*
 * An order is done when the other replica has asked this one for the bytes, by the same kind of connection:
 * of those that go to one replica orders get a quarter, and relays the half (balance.h), so that such
 * questions always find one. Without that two replicas that order from each other could hold all of them, and
 * each wait for one of the other's. False: not now.
 */
bool others_order(struct others *o, const struct plan *plan, uint64_t node);
void others_order_end(struct others *o, uint64_t node);

#endif
