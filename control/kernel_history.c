/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_history.h"

#include <stdatomic.h>

#include "control/kernel_maps_private.h"

/* Whether the slot of this number was whole while it was copied. */
static bool read_slot(const struct kernel_maps *maps, uint64_t number, struct abi_change *out)
{
    const struct abi_change *slot = &maps->history[number & (ABI_HISTORY - 1)];
    const volatile __u64 *tag = &slot->number;
    uint64_t before = *tag;
    atomic_thread_fence(memory_order_acquire);
    *out = *slot;
    atomic_thread_fence(memory_order_acquire);
    return before == number && *tag == number && out->time_ns;
}

void kernel_history_each(const struct kernel_maps *maps,
                         bool (*each)(void *arg, const struct abi_change *change), void *arg)
{
    uint64_t head = maps->head[0], end = head > ABI_HISTORY ? head - ABI_HISTORY : 0;
    struct abi_change change;
    for (uint64_t number = head; number > end; number--)
        if (read_slot(maps, number - 1, &change) && !each(arg, &change))
            return;
}
