/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says about backends, for people and for figures. */
#ifndef FL_CONTROL_BACKEND_VIEW_H
#define FL_CONTROL_BACKEND_VIEW_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#include "abi.h"
#include "control/state/service.h"
#include "control/tls_check.h"
#include "shared.h"

struct daemon;

enum { BACKEND_HISTORY_SHOWN = 16 };

struct backend_view {
    bool known;        /* the kernel half is on and has the backend */
    uint32_t state;    /* enum abi_state */
    uint32_t reason;   /* enum abi_reason */
    uint32_t changes;  /* of the verdict, since the kernel half began (modulo 2^32) */
    uint64_t since_ms; /* UTC, of the last change; 0: the kernel does not remember */
    struct abi_probe_state probe;
    struct abi_backend_stats stats;
    bool handshaken; /* it is checked by TLS: */
    struct tls_check_view tls;
    bool proxied; /* the data plane sends requests there: */
    uint64_t proxy[TARGET_COUNTERS_COUNT];
};

/* Looks at the kernel's maps once for many backends: times of the last changes by id. */
struct backend_glance {
    uint64_t *since_ms;
    uint32_t count;
};
void backend_glance_take(struct daemon *d, struct backend_glance *glance);
void backend_glance_fini(struct backend_glance *glance);

void backend_view(struct daemon *d, const struct backend_glance *glance, const struct svc_backend *b,
                  struct backend_view *out);

/* "up", "suspect", "down", "unknown"; "drain" for one that takes no new connections. */
const char *backend_state_name(const struct svc_backend *b, const struct backend_view *view);
const char *backend_reason_name(uint32_t reason);
const char *backend_reason_text(uint32_t reason);

/* The last changes, newest first: {time, before, state, reason, rtt_us}. */
json_t *backend_history(struct daemon *d, const struct svc_backend *b);

#endif
