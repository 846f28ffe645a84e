/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Outliers: a backend that fails again and again, or is much slower than the others, is left out for a while,
 * longer each time. The verdict stays what it is: this is one ring's own caution.
 */
#include "dataplane/proxy/balance_private.h"

#include <stdatomic.h>

enum {
    LONGEST = 10,         /* times eject_ms */
    LATENCIES_LEAST = 16, /* before a backend is judged by them */
    JUDGED_LEAST = 3,     /* backends that make a median */
    JUDGE_MS = 1000,
    LATENCY_FLOOR_US = 5000, /* a difference that is not worth it */
};

static uint32_t ejected_now(const struct balance *b, const struct balance_service *s, uint64_t now_ms)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        const struct target *t = balance_target(b, s, i);
        n += t && target_ejected(t, now_ms);
    }
    return n;
}

static uint64_t ejection_ms(const struct plan_proxy *p, uint32_t ejections)
{
    uint64_t times = ejections >= 5 ? LONGEST : 1ull << (ejections - 1); /* 1, 2, 4, 8, 10 */
    return times * p->eject_ms;
}

/* At most half of them at a time: else it is not the backends that are wrong. */
static void eject(struct balance *b, struct balance_service *s, const struct plan_proxy *p, struct target *t,
                  uint64_t now_ms)
{
    if (target_ejected(t, now_ms) || p->eject_ms == 0 || ejected_now(b, s, now_ms) + 1 > s->count / 2)
        return;
    t->ejections++;
    target_count(t, TARGET_EJECTIONS, 1);
    t->ejected_until_ms = now_ms + ejection_ms(p, t->ejections);
    t->failures = 0;
    t->latencies = 0; /* judged anew when it is back */
    s->looked_ms = 0;
    atomic_fetch_add_explicit(&b->counters->counter[CTR_PROXY_EJECTIONS], 1, memory_order_relaxed);
}

/* The kernel probes at once what fails here. Several rings write: a word goes only where none is; the same
 * said twice before the clock's next tick is said once. */
static void tell_kernel(struct balance *b, const struct target *t, enum balance_outcome outcome)
{
    uint64_t none = 0;
    if (!b->evidence || t->where.unix_path[0])
        return;
    uint64_t word = ABI_EVIDENCE_WORD(t->id, t->generation,
                                      outcome == BALANCE_UNREACHABLE ? ABI_EVIDENCE_HARD : ABI_EVIDENCE_SOFT);
    (void)__atomic_compare_exchange_n(&b->evidence[t->id % ABI_EVIDENCE_SLOTS], &none, word, false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

void balance_judge(struct balance *b, struct balance_service *s, const struct plan_proxy *p, struct target *t,
                   enum balance_outcome outcome, uint64_t now_ms)
{
    if (outcome == BALANCE_CANCELLED)
        return;
    if (outcome == BALANCE_GOOD) {
        t->failures = 0;
        /* As long without a failure as it was out: forgotten. */
        if (t->ejections && now_ms > t->ejected_until_ms + ejection_ms(p, t->ejections))
            t->ejections = 0;
        return;
    }
    t->failures++;
    tell_kernel(b, t, outcome);
    if (p->eject_failures && t->failures >= p->eject_failures)
        eject(b, s, p, t, now_ms);
}

/* The value at place `k` of what would be the sorted order (Hoare 1961). */
static uint64_t select_kth(uint64_t *v, uint32_t n, uint32_t k)
{
    uint32_t low = 0, high = n - 1;
    while (low < high) {
        uint64_t pivot = v[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (v[i] < pivot)
                i++;
            while (v[j] > pivot)
                j--;
            if (i > j)
                break;
            uint64_t swapped = v[i];
            v[i++] = v[j];
            v[j--] = swapped;
        }
        if ((int64_t)k <= j)
            high = (uint32_t)j;
        else if ((int64_t)k >= i)
            low = (uint32_t)i;
        else
            break;
    }
    return v[k];
}

void balance_judge_latency(struct balance *b, struct balance_service *s, const struct plan_proxy *p,
                           uint64_t now_ms)
{
    uint32_t n = 0;
    if (p->eject_latency == 0 || now_ms < s->judged_ms + JUDGE_MS)
        return;
    s->judged_ms = now_ms;
    for (uint32_t i = 0; i < s->count; i++) {
        const struct target *t = balance_target(b, s, i);
        if (t && t->latencies >= LATENCIES_LEAST)
            b->latencies[n++] = t->latency_us;
    }
    if (n < JUDGED_LEAST)
        return;
    uint64_t median = select_kth(b->latencies, n, (n - 1) / 2);
    uint64_t bound = median * p->eject_latency / 100;
    for (uint32_t i = 0; i < s->count; i++) {
        struct target *t = balance_target(b, s, i);
        if (t && t->latencies >= LATENCIES_LEAST && t->latency_us > bound &&
            t->latency_us > median + LATENCY_FLOOR_US)
            eject(b, s, p, t, now_ms);
    }
}
