/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Canaries: one idle TCP connection to each checked backend, held open so that the kernel sees at once when
 * the process behind it ends (bpf/watch.bpf.c). Nothing is sent over them, and what comes is thrown away.
 * They come from the ports ABI_CANARY_PORT_FIRST.. and carry the mark ABI_MARK, so steer and cut leave them
 * alone.
 *
 * A canary is never a verdict: one that cannot be had, or is closed, is opened again after a pause that
 * grows. A server that closes idle connections by design closes a canary twice; from then on it is renewed
 * before the server's time is up. One that closes them within canary_times.life_min_ms gets hardly any. What
 * ends when the backend goes down ended with its process, and says nothing about rules.
 */
#ifndef FL_CONTROL_CANARY_H
#define FL_CONTROL_CANARY_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "abi.h"

struct canaries;

/* In milliseconds; tests have shorter ones. Pauses vary by a quarter. */
struct canary_times {
    uint32_t retry_ms, retry_max_ms;       /* first pause after a failure; it doubles up to the second */
    uint32_t life_min_ms;                  /* a server that closes before this does not want canaries */
    uint32_t died_ms;                      /* down so soon after its end: it was the end of the process */
    uint32_t unwanted_ms, unwanted_max_ms; /* pauses then */
    uint32_t connect_ms;                   /* an attempt takes this long at most */
};

extern const struct canary_times canary_times_usual;

struct canary_counts {
    uint64_t wanted, open; /* now */
    uint64_t over_budget;  /* backends without one, now */
    uint64_t attempts, failures;
    uint64_t closed;  /* by the other end */
    uint64_t renewed; /* by us, before the server would have */
};

/* At most `max` at a time: of those wanted, the first. */
struct canaries *canaries_new(uv_loop_t *loop, const struct canary_times *times, uint32_t max);

/* Closes all; memory is freed when the loop has run once more. */
void canaries_close(struct canaries *canaries);

/* The endpoints wanted from now on, each once, sorted as by canary_compare(); what is known of those that
 * stay is kept. */
void canaries_set(struct canaries *canaries, const struct abi_endpoint *endpoints, size_t count);

/* The backend is down: what happens to its canary from now on, and did just before, is no rule of its server.
 */
void canaries_down(struct canaries *canaries, const struct abi_endpoint *endpoint);

/* The backend is up again: no need to wait. Nothing happens if it has its canary or is not wanted. */
void canaries_retry(struct canaries *canaries, const struct abi_endpoint *endpoint);

struct canary_counts canaries_counts(const struct canaries *canaries);

/* Order of endpoints, for qsort. */
int canary_compare(const void *a, const void *b);

#endif
