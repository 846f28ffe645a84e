/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which tags of copied repositories were found to be current, and when: one table for all rings, bounded,
 * without a lock. What it has forgotten is asked for again.
 */
#ifndef FL_FETCH_FRESH_H
#define FL_FETCH_FRESH_H

#include <stdbool.h>
#include <stdint.h>

#include "digest.h"

/* key: a hash of what it is about. */
void fresh_note(const struct digest *key, uint64_t now_ms);
bool fresh_within(const struct digest *key, uint64_t now_ms, uint64_t ttl_ms);

#endif
