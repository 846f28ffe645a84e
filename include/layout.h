/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One number for everything that a running data plane and a control that did not start it must agree on: the
 * version of the program, the layouts of what they share, the order of settings and counters. Where it
 * differs, control lets the data plane finish and starts its own.
 */
#ifndef FL_LAYOUT_H
#define FL_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "msg.h"
#include "names.h"
#include "plan.h"
#include "shared.h"

/* FNV-1a, continued from `hash`. */
static inline uint64_t layout_mix(uint64_t hash, const void *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3;
    return hash;
}

static inline uint64_t layout_id(void)
{
    static const char facts[] = FL_VERSION
#define SETTING(symbol, name, type, min, max, def, text) "\n" name
#include "settings.def"
#undef SETTING
#define COUNTER(symbol, name, kind, unit, text) "\n" name
#include "counters.def"
#undef COUNTER
#define REASON(symbol, name, is_error, text) "\n" name
#include "reasons.def"
#undef REASON
#define TARGET(symbol, name, kind, unit, text) "\n" name
#include "targets.def"
#undef TARGET
#define MESH_REASON(symbol, name, text) "\n" name
#include "mesh_reasons.def"
#undef MESH_REASON
#define ELECTION_CAUSE(symbol, name, text) "\n" name
#include "election_causes.def"
#undef ELECTION_CAUSE
        ;
    static const uint64_t sizes[] = {
        LINK_VERSION,
        PLAN_VERSION,
        SHARED_VERSION,
        NAMES_VERSION,
        sizeof(struct plan),
        sizeof(struct plan_service),
        sizeof(struct plan_listener),
        sizeof(struct plan_backend),
        sizeof(struct counters_page),
        sizeof(struct log_page),
        sizeof(struct names_epochs),
        NAMES_MAP_BYTES,
    };
    return layout_mix(layout_mix(0xcbf29ce484222325, facts, sizeof(facts)), sizes, sizeof(sizes));
}

#endif
