/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the programs for the kernel there is work for. Pure. */
#ifndef FL_CONTROL_KERNEL_NEEDS_H
#define FL_CONTROL_KERNEL_NEEDS_H

#include <stdint.h>

#include "control/state/service.h"

/* Bits; which object is behind each is known to bpf_load.c. */
enum kernel_need {
    KERNEL_NEED_PROBE = 1 << 0, /* the clock, probes and evidence: always */
    KERNEL_NEED_STEER = 1 << 1,
    KERNEL_NEED_CUT = 1 << 2,
    KERNEL_NEED_EDGE = 1 << 3,
    KERNEL_NEED_HEARTBEAT = 1 << 4,
    KERNEL_NEED_TAKEOVER = 1 << 5,
};

/* What these services and so many peers need. */
uint32_t kernel_needs(const struct svc_table *services, uint32_t peers);

#endif
