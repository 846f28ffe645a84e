/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A GET or HEAD that is not answered in time is asked of a second backend, too. The second one's answer
 * counts if it comes first and is 2xx or 304, or if the first one has failed; the other question is taken
 * back with its connection.
 */
#ifndef FL_PROXY_HEDGE_H
#define FL_PROXY_HEDGE_H

#include <stdbool.h>

#include "dataplane/timer.h"

struct ask;
struct exchange;

struct hedge {
    struct timer timer;
    struct ask *ask; /* the second question, while it is open */
    bool awaited;    /* the first one has failed: what becomes of the second decides */
};

/* The first question is on its way. Nothing for requests that may not be asked twice. */
void hedge_begin(struct exchange *ex);

/* The first question has failed. True: the second one is still open; exchange_failed comes again if it fails,
 * too. */
bool hedge_awaited(struct exchange *ex);

/* There is an answer, or nobody wants one any more. Harmless if there is no hedge. */
void hedge_end(struct exchange *ex);

#endif
