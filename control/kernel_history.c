/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_history.h"

#include "control/kernel_maps_private.h"

void kernel_history_each(const struct kernel_maps *maps,
                         bool (*each)(void *arg, const struct abi_change *change), void *arg)
{
    uint64_t head = maps->head[0], end = head > ABI_HISTORY ? head - ABI_HISTORY : 0;
    struct abi_change change;
    for (uint64_t number = head; number > end; number--)
        if (slot_copy(maps, number - 1, &change) == number - 1 && change.time_ns && !each(arg, &change))
            return;
}
