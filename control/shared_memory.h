/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory that control shares with the data plane (shared.h, names.h), and sealed plans. Made by control,
 * kept over restarts of the data plane. Sizes are sealed, so that nobody can cut the memory under a reader.
 */
#ifndef FL_CONTROL_SHARED_MEMORY_H
#define FL_CONTROL_SHARED_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "names.h"
#include "shared.h"

struct plan;

struct shared_memory {
    int counters_fd, log_fd, epochs_fd;
    struct counters_page *counters;
    struct log_page *log;
    struct names_epochs *epochs;
    uint32_t rings;
    size_t log_bytes;
};

/* 0 or -errno. */
int shared_memory_open(struct shared_memory *memory, uint32_t rings);

/* The same memory as an earlier control's, from a data plane that outlived it: the three descriptors are
 * taken if it is what it should be (0), else -errno and they stay the caller's. */
int shared_memory_adopt(struct shared_memory *memory, uint32_t rings, int counters_fd, int log_fd,
                        int epochs_fd);

/* Whether every ring was seen without a reading of the names, in wait_ms: what it reads from then on is the
 * newest transaction, if nobody writes meanwhile. */
bool shared_memory_readers_rest(const struct shared_memory *memory, uint64_t wait_ms);

void shared_memory_close(struct shared_memory *memory);

/* What a data plane that is gone can no longer take back: gauges and readers' announcements go to zero. */
void shared_memory_reset_rings(struct shared_memory *memory);

/* A sealed memfd with the plan's bytes, or -errno. The caller closes it. */
int shared_memory_seal_plan(const struct plan *plan);

/* Sum of a counter over the rings. */
uint64_t shared_memory_sum(const struct shared_memory *memory, enum counter_id id);

/* What the rings count of a backend, summed. False: no ring has counted anything, and all are 0. */
bool shared_memory_target(const struct shared_memory *memory, uint32_t id, uint16_t generation,
                          uint64_t out[TARGET_COUNTERS_COUNT]);

#endif
