/* SPDX-License-Identifier: Apache-2.0 */
#include "control/retention.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

bool retention_init(struct retention *r, const struct names_policy *rules, uint64_t now_ms)
{
    uint64_t most = rules->keep_last;
    memset(r, 0, sizeof(*r));
    r->rules = *rules;
    r->now_ms = now_ms;
    if (rules->keep_last == 0 && rules->keep_for_s == 0)
        return false;
    r->most = most == 0 ? 1 : most > POLICY_KEEP_MAX ? POLICY_KEEP_MAX : (size_t)most;
    r->time = calloc(r->most, sizeof(*r->time));
    CHECK(r->time);
    /* What cannot be counted is not removed. */
    return most <= POLICY_KEEP_MAX;
}

void retention_fini(struct retention *r)
{
    free(r->time);
    r->time = NULL;
}

bool retention_same(const struct names_policy *a, const struct names_policy *b)
{
    return a->keep_last == b->keep_last && a->keep_for_s == b->keep_for_s &&
           a->retain_immutable == b->retain_immutable && strcmp(a->immutable, b->immutable) == 0 &&
           strcmp(a->retain_tags, b->retain_tags) == 0;
}

static void swap(uint64_t *a, uint64_t *b)
{
    uint64_t c = *a;
    *a = *b;
    *b = c;
}

static void sink_first(struct retention *r)
{
    size_t at = 0;
    for (;;) {
        size_t left = 2 * at + 1, least = at;
        if (left < r->count && r->time[left] < r->time[least])
            least = left;
        if (left + 1 < r->count && r->time[left + 1] < r->time[least])
            least = left + 1;
        if (least == at)
            return;
        swap(&r->time[at], &r->time[least]);
        at = least;
    }
}

void retention_see(struct retention *r, const char *tag, size_t len, uint64_t time_ms)
{
    if (!policy_retains(&r->rules, tag, len))
        return;
    if (r->count == r->most) {
        if (time_ms > r->time[0]) {
            r->time[0] = time_ms;
            sink_first(r);
        }
        return;
    }
    size_t at = r->count++;
    r->time[at] = time_ms;
    for (; at && r->time[at] < r->time[(at - 1) / 2]; at = (at - 1) / 2)
        swap(&r->time[at], &r->time[(at - 1) / 2]);
}

bool retention_goes(const struct retention *r, const char *tag, size_t len, uint64_t time_ms)
{
    if (r->count < r->most || time_ms >= r->time[0] || !policy_retains(&r->rules, tag, len))
        return false;
    return r->rules.keep_for_s == 0 ||
           (r->now_ms > time_ms && (r->now_ms - time_ms) / 1000 >= r->rules.keep_for_s);
}
