/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror_due.h"

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t backoff_ms(unsigned failures)
{
    uint64_t ms = MIRROR_BACKOFF_MS;
    for (unsigned i = 1; i < failures && ms < MIRROR_BACKOFF_MAX_MS; i++)
        ms *= 2;
    return earlier(ms, MIRROR_BACKOFF_MAX_MS);
}

uint64_t mirror_due_ms(const struct mirror_rule *rule, const struct mirror_clock *clock)
{
    uint64_t every_ms = rule->every_s * 1000, due = UINT64_MAX;
    if (rule->paused || (!rule->every_s && !rule->on_event))
        return UINT64_MAX;
    if (!clock->begun_ms) /* nobody knows what was missed before */
        return clock->since_ms + MIRROR_FIRST_MS;
    if (rule->every_s)
        due = clock->begun_ms + every_ms;
    if (clock->event_ms)
        due = earlier(due, clock->event_ms + MIRROR_GATHER_MS);
    if (!clock->failures)
        return due;
    uint64_t again = clock->ended_ms + backoff_ms(clock->failures);
    return rule->every_s ? earlier(again, clock->begun_ms + every_ms) : again;
}
