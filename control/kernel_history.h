/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's history of verdicts, for those who show it. */
#ifndef FL_CONTROL_KERNEL_HISTORY_H
#define FL_CONTROL_KERNEL_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/kernel_maps.h"

/* Calls for each change that the kernel still holds, newest first, until it says false. */
void kernel_history_each(const struct kernel_maps *maps,
                         bool (*each)(void *arg, const struct abi_change *change), void *arg);

#endif
