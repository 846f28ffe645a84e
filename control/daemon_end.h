/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a daemon takes a bounded time, whatever its disks do. Threads of the pool that wait for a store
 * which does not answer cannot be called back, and what they hold is not freed: so the state is closed
 * without them, and the process ends at once. What was acknowledged is durable long before.
 */
#ifndef FL_CONTROL_DAEMON_END_H
#define FL_CONTROL_DAEMON_END_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct daemon;

enum {
    /* A disk that works, however slowly, answers within seconds: what has taken so long, and was waited for
     * so long, does not come back. With the drain and what else is waited for it has to fit into the unit's
     * TimeoutStopSec. */
    DAEMON_END_MS = 6000,
    DAEMON_END_STATE_MS = 4000, /* then the state may take so long to be closed */
    DAEMON_END_STILL_MS =
        20000, /* so long the loop itself may stand still, in a call that waits for a disk */
    /* Instead of both where the process is to begin anew: it cannot do so while threads are left, and who
     * started it need not start it again. */
    DAEMON_END_RESTART_MS = 60000,
    DAEMON_END_TICK_MS = 250,
};

struct daemon_end {
    uv_timer_t timer;
    uint64_t began_ms, late_ms; /* of the loop's clock; late_ms 0: nothing was given up yet */
    bool begun, backup_stopped, state_closing;
};

/* Before everything else is told to end: that may wait for a disk, too. */
void daemon_end_begin(struct daemon *d);
/* Nobody on another thread reads the state any more: it is closed, once. */
void daemon_end_state(struct daemon *d);
/* The loop ran out: nothing has to be given up. */
void daemon_end_finish(struct daemon *d);

/* What has been waited for since the end began, and for how long work is under way: whether it is given up.
 * restart: the process is to begin anew. */
bool daemon_end_is_late(uint64_t waited_ms, uint64_t oldest_ms, bool restart);

#endif
