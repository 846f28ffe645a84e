/* SPDX-License-Identifier: Apache-2.0 */
#include "control/compile/kernel_needs.h"

/* Its address must not be answered for by the host's own stack (kernel_peers.c). */
static bool is_quiet(const struct svc *s)
{
    return s->route == SVC_PROXY && svc_address_is_v4(&s->address) && !svc_address_is_loopback(&s->address);
}

uint32_t kernel_needs(const struct svc_table *services, uint32_t peers)
{
    uint32_t needs = KERNEL_NEED_PROBE | (peers ? KERNEL_NEED_HEARTBEAT : 0u);
    for (size_t i = 0; i < services->count; i++) {
        const struct svc *s = &services->service[i];
        bool direct = s->route == SVC_DIRECT;
        needs |= (s->steer && direct ? KERNEL_NEED_STEER : 0u) | (s->cut ? KERNEL_NEED_CUT : 0u) |
                 (s->edge != SVC_EDGE_OFF ? KERNEL_NEED_EDGE : 0u) |
                 (s->takeover || is_quiet(s) ? KERNEL_NEED_TAKEOVER : 0u);
    }
    return needs;
}
