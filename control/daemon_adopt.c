/* SPDX-License-Identifier: Apache-2.0 */
#include "control/daemon_adopt.h"

#include <stdatomic.h>
#include <sys/stat.h>

#include "control/orphan.h"

static void adopt_positions(struct daemon *d)
{
    for (uint32_t i = 0; i < d->memory.rings; i++)
        d->drains[i].tail = atomic_load(&d->memory.log->ring[i].tail);
    d->generation = d->adopted.generation;
}

/* There is no room to let all of them leave in peace; it would go on serving what nobody wants served. */
static bool has_more_addresses(const struct adopted *a)
{
    for (int i = 0; i < LISTENERS_MAX; i++)
        if (a->listener_fd[i] >= 0) /* not taken by a configured address */
            return true;
    return false;
}

const char *daemon_adopt_memory(struct daemon *d, uint32_t rings)
{
    const int *fds = d->adopted.fds;
    if (!d->adopted.same_layout)
        return "it is of another version";
    if (d->adopted.rings != rings)
        return "it has another number of rings";
    if (d->store.turned)
        return "it has the store as it was before";
    if (has_more_addresses(&d->adopted))
        return "it listens on too many addresses that are not configured any more";
    if (shared_memory_adopt(&d->memory, rings, fds[ADOPT_COUNTERS], fds[ADOPT_LOG], fds[ADOPT_EPOCHS]))
        return "its memory is not what it should be";
    if (!shared_memory_readers_rest(&d->memory, DAEMON_READERS_WAIT_MS)) {
        shared_memory_close(&d->memory);
        d->adopted.fds[ADOPT_COUNTERS] = d->adopted.fds[ADOPT_LOG] = d->adopted.fds[ADOPT_EPOCHS] = -1;
        return "a ring has stood still in a reading";
    }
    d->adopted.fds[ADOPT_COUNTERS] = d->adopted.fds[ADOPT_LOG] = d->adopted.fds[ADOPT_EPOCHS] = -1;
    adopt_positions(d);
    return NULL;
}

void daemon_replace_orphan(struct daemon *d, const char *why)
{
    journal_warn(d->journal, "supervise",
                 "the data plane of an earlier fairleadd is replaced: %s; what it runs has %d ms to finish",
                 why, DAEMON_ORPHAN_WAIT_MS);
    orphan_end(&d->folders, d->journal, DAEMON_ORPHAN_WAIT_MS);
}

bool daemon_adopted_names(struct daemon *d)
{
    struct stat theirs, ours;
    return fstat(d->adopted.fds[ADOPT_NAMES], &theirs) == 0 &&
           stat(cluster_names_path(d->cluster), &ours) == 0 && theirs.st_dev == ours.st_dev &&
           theirs.st_ino == ours.st_ino;
}
