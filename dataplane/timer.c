/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/timer.h"

#include <stddef.h>
#include <string.h>

void timer_wheel_init(struct timer_wheel *w, uint64_t now_ms)
{
    memset(w, 0, sizeof(*w));
    w->tick = now_ms / TIMER_TICK_MS;
}

static void link_into(struct timer **head, struct timer *t)
{
    t->next = *head;
    t->prev = head;
    if (t->next)
        t->next->prev = &t->next;
    *head = t;
}

/* The slot of the first tick at which the deadline has passed; a deadline beyond the wheel's turn is put
 * right as it comes by. */
static void place(struct timer_wheel *w, struct timer *t)
{
    uint64_t tick = t->deadline_ms / TIMER_TICK_MS + 1;
    if (tick < w->tick)
        tick = w->tick;
    if (tick >= w->tick + TIMER_SLOTS)
        tick = w->tick + TIMER_SLOTS - 1;
    link_into(&w->slot[tick % TIMER_SLOTS], t);
}

void timer_clear(struct timer *t)
{
    if (!t->prev)
        return;
    *t->prev = t->next;
    if (t->next)
        t->next->prev = t->prev;
    t->prev = NULL;
}

void timer_set(struct timer_wheel *w, struct timer *t, uint64_t deadline_ms)
{
    bool later = t->prev && deadline_ms >= t->deadline_ms;
    t->deadline_ms = deadline_ms;
    if (later)
        return;
    timer_clear(t);
    place(w, t);
}

static void run_slot(struct timer_wheel *w, struct timer **slot, uint64_t now_ms)
{
    struct timer *due = *slot;
    *slot = NULL;
    if (due)
        due->prev = &due;
    while (due) {
        struct timer *t = due;
        timer_clear(t);
        if (t->deadline_ms <= now_ms)
            t->fire(t, now_ms);
        else
            place(w, t);
    }
}

uint64_t timer_wheel_run(struct timer_wheel *w, uint64_t now_ms)
{
    uint64_t now = now_ms / TIMER_TICK_MS;
    if (now > w->tick + TIMER_SLOTS) /* the machine slept: one full turn reaches everything */
        w->tick = now - TIMER_SLOTS;
    while (w->tick <= now) {
        struct timer **slot = &w->slot[w->tick % TIMER_SLOTS];
        w->tick++;
        if (*slot)
            run_slot(w, slot, now_ms);
    }
    return w->tick * TIMER_TICK_MS;
}
