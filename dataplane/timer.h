/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A timing wheel: coarse (TIMER_TICK_MS), constant time to set, change and clear. Moving a deadline later
 * costs one store: the entry stays where it is and is put right when the wheel comes by.
 */
#ifndef FL_TIMER_H
#define FL_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TIMER_TICK_MS = 32, TIMER_SLOTS = 1024 };

struct timer {
    struct timer *next, **prev;                     /* prev NULL: not set */
    uint64_t deadline_ms;                           /* CLOCK_MONOTONIC */
    void (*fire)(struct timer *t, uint64_t now_ms); /* the timer is clear when it is called */
};

struct timer_wheel {
    uint64_t tick; /* the next one to look at */
    struct timer *slot[TIMER_SLOTS];
};

void timer_wheel_init(struct timer_wheel *w, uint64_t now_ms);
void timer_set(struct timer_wheel *w, struct timer *t, uint64_t deadline_ms);
void timer_clear(struct timer *t);
/* Fires what is due. Returns when to call again at the latest. */
uint64_t timer_wheel_run(struct timer_wheel *w, uint64_t now_ms);

static inline bool timer_is_set(const struct timer *t)
{
    return t->prev != NULL;
}

#endif
