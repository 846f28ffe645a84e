/* SPDX-License-Identifier: Apache-2.0 */
/* The note of which process the data plane is, for the control that comes after this one. */
#ifndef FL_CONTROL_ORPHAN_H
#define FL_CONTROL_ORPHAN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "control/folders.h"
#include "control/journal.h"

int orphan_note(const struct folders *folders, pid_t pid);
void orphan_forget(const struct folders *folders);

/* A pidfd of the data plane of an earlier control, if it still runs, else -errno. */
int orphan_find(const struct folders *folders, pid_t *pid);

/* Whether a data plane of an earlier control still runs. */
bool orphan_runs(const struct folders *folders);

/*
 * Ends it: SIGTERM, then SIGKILL after wait_ms. Waits for its end, for its readers must be gone before the
 * names are written. Returns whether there was one.
 */
bool orphan_end(const struct folders *folders, struct journal *journal, uint64_t wait_ms);

#endif
