/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of balance share: records and plan (balance.c), choice (balance_choose.c), outliers
 * (balance_eject.c). */
#ifndef FL_PROXY_BALANCE_PRIVATE_H
#define FL_PROXY_BALANCE_PRIVATE_H

#include "abi.h"
#include "dataplane/pool.h"
#include "dataplane/proxy/balance.h"

enum {
    BALANCE_BUCKETS = 16384, /* of the hash of targets, a power of two */
    BALANCE_GONE_MAX = 8192, /* targets that no plan has any more, but requests */
    BALANCE_LOOK_MS = 100,   /* how old what is known of a service as a whole may be */
    BALANCE_BUDGET_SECONDS = 10,
};

/* What is known of the service at one place of the plan. */
struct balance_service {
    uint32_t incarnation;
    uint32_t first, count; /* in balance.listed */
    uint32_t weight_max;
    uint64_t requests;      /* at work at listed targets */
    uint64_t usable_weight; /* of those that new requests may go to; as of looked_ms */
    uint64_t looked_ms, judged_ms;
    /* The retry budget: what was asked for in each of the last seconds. */
    uint64_t budget_s;
    uint32_t asked[BALANCE_BUDGET_SECONDS], retried[BALANCE_BUDGET_SECONDS];
    /* Who waits. */
    struct balance_waiter *waiters, **last_waiter;
    uint32_t waiting;
    bool room; /* something has ended, or changed, since nobody could be served */
    struct balance_service *next_waited, **prev_waited; /* services that somebody waits for */
};

struct balance {
    struct ring_counters *counters;
    struct pool targets;
    struct target *bucket[BALANCE_BUCKETS];
    struct target **listed, **unlisted; /* by place in the plan; NULL: no memory for its record */
    struct pool tables;                 /* their memory */
    const struct plan *plan;
    uint32_t listed_count, service_count;
    const volatile uint64_t *verdicts;
    uint32_t verdict_count;
    uint64_t *evidence;
    struct balance_service *waited;
    struct balance_service *waking; /* whose waiter is being woken now */
    uint64_t tried_ms;              /* waiters were woken without a reason */
    struct balance_service service[PLAN_SERVICES_MAX];
    uint64_t latencies[PLAN_SERVICE_BACKENDS_MAX]; /* scratch of the median */
};

static inline struct target *balance_target(const struct balance *b, const struct balance_service *s,
                                            uint32_t i)
{
    return b->listed[s->first + i];
}

/* The kernel's word on it: enum abi_state. */
uint32_t balance_verdict(const struct balance *b, const struct target *t);

/* The same, and notes a way up. */
uint32_t balance_observe(const struct balance *b, struct target *t, uint64_t now_ms);

static inline bool target_ejected(const struct target *t, uint64_t now_ms)
{
    return t->ejected_until_ms > now_ms;
}

/* Its weight times 1024, less while it starts slowly. */
uint64_t balance_weight(const struct plan_proxy *p, const struct target *t, uint64_t now_ms);

/* Looks at all targets of a service, at most once in BALANCE_LOOK_MS, and judges latencies. */
void balance_look(struct balance *b, struct balance_service *s, const struct plan_proxy *p, uint64_t now_ms);

/* What became of a request, for ejection. */
void balance_judge(struct balance *b, struct balance_service *s, const struct plan_proxy *p, struct target *t,
                   enum balance_outcome outcome, uint64_t now_ms);
void balance_judge_latency(struct balance *b, struct balance_service *s, const struct plan_proxy *p,
                           uint64_t now_ms);

#endif
