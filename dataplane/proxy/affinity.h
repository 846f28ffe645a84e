/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which backend has something that only it has: an upload session of a registry, a session of BuildKit. One
 * bounded table for the whole process, since what belongs together comes over connections of different rings;
 * without a lock, and a hint only: an entry may be lost to others at any time, or, once in four thousand
 * million times, be another key's. Whoever finds nothing chooses as for any other request.
 */
#ifndef FL_PROXY_AFFINITY_H
#define FL_PROXY_AFFINITY_H

#include <stdint.h>

#include "dataplane/http/view.h"

/* Before the threads. */
void affinity_init(void);

/* scope: another one for each service. A backend is 1 + its id; 0: none is known. */
uint32_t affinity_find(uint64_t scope, struct view key, uint64_t now_ms);
void affinity_note(uint64_t scope, struct view key, uint32_t backend, uint64_t now_ms);

#endif
