/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan: the compiled configuration, made by control, sealed in a memfd and mapped read-only by the data
 * plane, which swaps it between two batches of events. One flat structure without pointers; whoever maps it
 * calls plan_check first.
 */
#ifndef FL_PLAN_H
#define FL_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "limits.h"

enum {
    PLAN_MAGIC = 0x31504c46, /* "FLP1" */
    PLAN_VERSION = 1,
};

enum setting_type { SETTING_BOOL, SETTING_NUMBER, SETTING_BYTES, SETTING_MS, SETTING_BYTES_PER_S };

enum setting_id {
#define SETTING(symbol, name, type, min, max, def, text) SET_##symbol,
#include "settings.def"
#undef SETTING
    SETTINGS_COUNT
};

/* What a listening address serves. */
enum service_kind {
    SERVICE_REGISTRY = 1, /* the embedded registry */
    SERVICE_ADMIN = 2,    /* /metrics, /healthz, /readyz */
};

/* Who may do what. Access control will add kinds; the data plane refuses to serve a plan without one. */
enum policy_kind {
    POLICY_ALLOW_ALL = 1, /* everybody may do everything: for loopback, or where the operator said so */
};

struct plan_service {
    uint8_t kind;   /* enum service_kind */
    uint8_t policy; /* enum policy_kind */
    uint8_t pad[6];
    char name[56];
};

/* A listening address: `count` sockets of one SO_REUSEPORT group, in the slots [first, first + count)
 * (msg.h). They are closed when the address is not configured any more, never for another reason. */
struct plan_listener {
    uint16_t service; /* index into services */
    uint16_t first;
    uint16_t count;
    uint16_t pad;
    char address[ADDRESS_TEXT_MAX];
};

enum { PLAN_SERVICES_MAX = 64, PLAN_LISTENERS_MAX = 64 };

struct plan {
    uint32_t magic;
    uint32_t version;
    uint64_t bytes;      /* sizeof(struct plan) */
    uint64_t generation; /* grows by one with each plan */
    uint8_t cluster_id[16];
    uint64_t node_id;
    uint64_t setting[SETTINGS_COUNT];
    uint16_t service_count;
    uint16_t listener_count;
    uint32_t pad;
    struct plan_service service[PLAN_SERVICES_MAX];
    struct plan_listener listener[PLAN_LISTENERS_MAX];
};

/* Whether a mapping of `bytes` holds a plan of this version with every index in range. */
static inline bool plan_check(const struct plan *p, uint64_t bytes)
{
    if (bytes < sizeof(*p) || p->magic != PLAN_MAGIC || p->version != PLAN_VERSION || p->bytes != sizeof(*p))
        return false;
    if (p->service_count > PLAN_SERVICES_MAX || p->listener_count > PLAN_LISTENERS_MAX)
        return false;
    for (unsigned i = 0; i < p->listener_count; i++) {
        const struct plan_listener *l = &p->listener[i];
        if (l->service >= p->service_count || l->count == 0 || l->first + l->count > LISTENERS_MAX)
            return false;
    }
    return true;
}

#endif
