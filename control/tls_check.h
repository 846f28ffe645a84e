/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handshakes with backends that speak TLS: what the kernel, which does not, cannot see of them. A process
 * that stands still is connected to all the same, by its host; it answers no ClientHello. How each ends is
 * told; who is up is the kernel's to say.
 *
 * Few at a time, spread over the interval; sooner again after one that failed. One that this process itself
 * was too late to look at says nothing. An attempt without a connection says nothing either: that is what the
 * kernel probes.
 */
#ifndef FL_CONTROL_TLS_CHECK_H
#define FL_CONTROL_TLS_CHECK_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "abi.h"
#include "plan.h"

struct tls_checks;

enum { TLS_CHECK_WHY_MAX = 128 };

struct tls_check_target {
    uint32_t id;
    uint16_t generation;
    struct abi_endpoint at;
    SSL_CTX *context;           /* borrowed; who keeps the target has a reference of its own */
    char name[PLAN_DOMAIN_MAX]; /* said to it; "": none is */
    char host[PLAN_DOMAIN_MAX]; /* that its certificate has to be for, a name or an address; "": any */
    bool lenient;               /* a refusal is an answer, too: the handshake is not ours to make */
};

struct tls_check_times {
    uint32_t interval_ms, timeout_ms;
};

/* reason: ABI_PROBE_OK, ABI_TLS_TIMEOUT, ABI_TLS_FAILED or ABI_TLS_CERTIFICATE. */
typedef void tls_check_told(void *arg, uint32_t id, uint16_t generation, uint32_t reason);

/* What is known of one. */
struct tls_check_view {
    uint64_t checks, failures;   /* that were told */
    uint64_t told_ms;            /* when the last was, by the loop's clock; 0: none was */
    uint32_t reason, rtt_us;     /* of it; rtt_us from the ClientHello on */
    char why[TLS_CHECK_WHY_MAX]; /* it failed; "" */
};

/* mark: of the sockets (ABI_MARK: past what steers), which takes a right; 0: none. */
struct tls_checks *tls_checks_new(uv_loop_t *loop, uint32_t mark, tls_check_told *told, void *arg);

/* Closes all; memory is freed when the loop has run on. */
void tls_checks_close(struct tls_checks *checks);

/* Who is checked from now on, by ascending id; what is known of those that stay is kept. */
void tls_checks_set(struct tls_checks *checks, const struct tls_check_times *times,
                    const struct tls_check_target *targets, size_t count);

/* False: it is not checked. */
bool tls_checks_view(const struct tls_checks *checks, uint32_t id, uint16_t generation,
                     struct tls_check_view *out);

#endif
