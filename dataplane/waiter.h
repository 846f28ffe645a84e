/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a slow step of somebody else tells its caller that it is done: the caller embeds a waiter, hands it
 * over with the call, and is woken exactly once, later, on the same ring, never from within the call itself.
 * A wake stores the result and lets the caller's own state machine take its next step; it decides nothing.
 */
#ifndef FL_WAITER_H
#define FL_WAITER_H

struct waiter {
    void (*wake)(struct waiter *w, int res); /* res: 0 or what the call documents, or -errno */
};

#endif
