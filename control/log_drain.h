/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The consumer of the log rings that the data plane writes (shared.h). Nothing in them is trusted: a length
 * that cannot be true ends the reading there, and the ring goes on at its newest position.
 */
#ifndef FL_CONTROL_LOG_DRAIN_H
#define FL_CONTROL_LOG_DRAIN_H

#include <stddef.h>
#include <stdint.h>

#include "shared.h"

struct log_drain {
    uint64_t tail;     /* own copy: the one in shared memory may be written by anybody */
    uint64_t breaches; /* times that the ring's contents made no sense */
};

/* kind is a number that the producer chose; body is valid until the return. */
typedef void (*log_drain_record)(void *arg, unsigned kind, const char *body, size_t len);

/* Hands over at most max records. Returns how many. */
size_t log_drain_ring(struct log_drain *drain, struct log_ring *ring, size_t max, log_drain_record record,
                      void *arg);

#endif
