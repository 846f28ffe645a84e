/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/mesh.h"

static const struct {
    const char *name, *text;
} reasons[MESH_REASON_COUNT] = {
#define MESH_REASON(symbol, name, text) [MESH_##symbol] = {name, text},
#include "mesh_reasons.def"
#undef MESH_REASON
};

const char *mesh_reason_name(enum mesh_reason reason)
{
    return reason < MESH_REASON_COUNT ? reasons[reason].name : "unknown";
}

const char *mesh_reason_text(enum mesh_reason reason)
{
    return reason < MESH_REASON_COUNT ? reasons[reason].text : "unknown";
}
