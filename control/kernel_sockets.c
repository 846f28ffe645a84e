/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_sockets.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cut_idle.h"

struct kernel_sockets {
    struct journal *journal;
    const struct kernel_maps *maps;
    const struct kernel_entries *entries;
    struct canaries *canaries;
    struct cut_idle *cut; /* NULL: this kernel cannot */
    uint64_t over_budget; /* as last told */
};

struct kernel_sockets *kernel_sockets_new(uv_loop_t *loop, struct journal *journal,
                                          const struct kernel_maps *maps)
{
    struct kernel_sockets *sockets = calloc(1, sizeof(*sockets));
    CHECK(sockets);
    sockets->journal = journal;
    sockets->maps = maps;
    sockets->canaries = canaries_new(loop, &canary_times_usual, KERNEL_CANARIES_MAX);
    int result = cut_idle_open(loop, &sockets->cut);
    if (result)
        journal_warn(journal, "kernel",
                     "idle connections to backends that are down cannot be ended (%s); those that send are",
                     result == -EOPNOTSUPP ? "this kernel has no CONFIG_INET_DIAG_DESTROY"
                                           : strerror(-result));
    return sockets;
}

void kernel_sockets_close(struct kernel_sockets *sockets)
{
    canaries_close(sockets->canaries);
    if (sockets->cut)
        cut_idle_close(sockets->cut);
    free(sockets);
}

static struct abi_endpoint endpoint_of(const struct abi_backend *b)
{
    return (struct abi_endpoint){.addr = b->addr, .port = b->port};
}

static bool wants_canary(const struct abi_backend *b)
{
    return b->admin != ABI_ADMIN_NONE && !(b->flags & ABI_BACKEND_UNCHECKED);
}

static void tell_budget(struct kernel_sockets *sockets)
{
    uint64_t over = canaries_counts(sockets->canaries).over_budget;
    if (over > 0 && over != sockets->over_budget)
        journal_info(sockets->journal, "kernel", "%llu backends have no canary: there are at most %d",
                     (unsigned long long)over, KERNEL_CANARIES_MAX);
    sockets->over_budget = over;
}

void kernel_sockets_set(struct kernel_sockets *sockets, const struct kernel_entries *entries, bool canaries)
{
    struct abi_endpoint *at = calloc(entries->backend_count + 1, sizeof(*at));
    size_t count = 0, distinct = 0;
    CHECK(at);
    sockets->entries = entries;
    for (uint32_t id = 0; canaries && id < entries->backend_count; id++)
        if (wants_canary(&entries->backend[id]))
            at[count++] = endpoint_of(&entries->backend[id]);
    qsort(at, count, sizeof(*at), canary_compare);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || canary_compare(&at[i], &at[i - 1]) != 0)
            at[distinct++] = at[i];
    canaries_set(sockets->canaries, at, distinct);
    free(at);
    tell_budget(sockets);
}

/* Whether every backend at the address of this one is down, and all are to be cut. */
static bool all_down_there(const struct kernel_sockets *sockets, const struct abi_endpoint *at)
{
    const struct kernel_entries *entries = sockets->entries;
    for (uint32_t id = 0; id < entries->backend_count; id++) {
        const struct abi_backend *b = &entries->backend[id];
        struct abi_endpoint other = endpoint_of(b);
        if (b->admin == ABI_ADMIN_NONE || canary_compare(&other, at) != 0)
            continue;
        uint64_t verdict = kernel_maps_verdict(sockets->maps, id);
        if (!(b->flags & ABI_BACKEND_CUT) ||
            ABI_VERDICT_STATE_OF(verdict, b->generation, b->peer) != ABI_DOWN)
            return false;
    }
    return true;
}

void kernel_sockets_changed(struct kernel_sockets *sockets, const struct abi_change *change)
{
    const struct kernel_entries *entries = sockets->entries;
    if (!entries || change->backend >= entries->backend_count)
        return;
    const struct abi_backend *b = &entries->backend[change->backend];
    struct abi_endpoint at = endpoint_of(b);
    uint32_t state = ABI_VERDICT_STATE(change->after);
    if (b->admin == ABI_ADMIN_NONE || ABI_VERDICT_GENERATION(change->after) != b->generation)
        return;
    if (state == ABI_UP)
        canaries_retry(sockets->canaries, &at);
    if (state != ABI_DOWN)
        return;
    canaries_down(sockets->canaries, &at);
    if (sockets->cut && all_down_there(sockets, &at) && cut_idle_add(sockets->cut, &at) != 0)
        journal_warn(sockets->journal, "kernel",
                     "too many backends went down at once: idle connections to "
                     "some of them are not ended");
}

struct kernel_sockets_counts kernel_sockets_counts(const struct kernel_sockets *sockets)
{
    return (struct kernel_sockets_counts){.canaries = canaries_counts(sockets->canaries),
                                          .ended = sockets->cut ? cut_idle_ended(sockets->cut) : 0,
                                          .ends_idle_ones = sockets->cut != NULL};
}
