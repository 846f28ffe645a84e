/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The counters page as Prometheus text (exposition format 0.0.4), in pieces. The page may be written
 * meanwhile: each value is read whole, different ones are of slightly different times.
 */
#ifndef FL_ADMIN_METRICS_H
#define FL_ADMIN_METRICS_H

#include <stdbool.h>
#include <stddef.h>

#include "plan.h"
#include "shared.h"

/* Room that the largest single metric needs. */
enum { METRICS_CAP_MIN = 15 << 10 };

/* Where the next piece begins; all zero at the beginning. */
struct metrics_cursor {
    unsigned next;    /* metric */
    unsigned service; /* of the backend shown last */
};

/*
 * Writes metrics from the cursor on into buf, as many as fit, and moves it. plan
 * names the backends, and is the same from the beginning to the end (NULL: none are shown). Returns the
 * bytes; *done after the last one. cap is at least METRICS_CAP_MIN.
 */
size_t metrics_write(const struct counters_page *page, const struct plan *plan, struct metrics_cursor *at,
                     char *buf, size_t cap, bool *done);

#endif
