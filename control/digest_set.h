/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A set of digests that may take one for another: of each only 64 bits are kept. So it is for questions where
 * a wrong yes costs a little work. At most DIGEST_SET_MAX; more are not taken.
 */
#ifndef FL_CONTROL_DIGEST_SET_H
#define FL_CONTROL_DIGEST_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"

enum { DIGEST_SET_MAX = 1 << 20 };

/* All zeros: empty. */
struct digest_set {
    uint64_t *slot;
    size_t cap, count;
};

void digest_set_add(struct digest_set *set, const struct digest *digest);
bool digest_set_has(const struct digest_set *set, const struct digest *digest);
void digest_set_fini(struct digest_set *set);

#endif
