/* SPDX-License-Identifier: Apache-2.0 */
/* Records of backends and their services: kept through plans, counted, and the queue of those who wait. */
#include "dataplane/proxy/balance.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/proxy/balance_private.h"

enum { WAKE_ANYWAY_MS = 32 }; /* a verdict's change tells nobody: those who wait ask now and then */

int balance_new(struct ring_counters *counters, struct balance **out)
{
    struct balance *b = calloc(1, sizeof(*b));
    if (!b)
        return -ENOMEM;
    b->counters = counters;
    int err = pool_init(&b->targets, sizeof(struct target), PLAN_BACKENDS_MAX + BALANCE_GONE_MAX);
    if (err)
        goto err_targets;
    err = pool_init(&b->tables, PLAN_BACKENDS_MAX * sizeof(struct target *), 2);
    if (err)
        goto err_tables;
    b->listed = pool_take(&b->tables);
    b->unlisted = pool_take(&b->tables);
    *out = b;
    return 0;
err_tables:
    pool_fini(&b->targets);
err_targets:
    free(b);
    return err;
}

void balance_free(struct balance *b)
{
    pool_fini(&b->tables);
    pool_fini(&b->targets);
    free(b);
}

void balance_verdicts(struct balance *b, const volatile uint64_t *verdicts, uint32_t count)
{
    b->verdicts = verdicts;
    b->verdict_count = verdicts ? count : 0;
}

void balance_evidence(struct balance *b, uint64_t *slots)
{
    b->evidence = slots;
}

/* ------------------------------------------------------------------ targets */

static struct target **bucket_of(struct balance *b, uint32_t id)
{
    return &b->bucket[id & (BALANCE_BUCKETS - 1)];
}

struct target *target_get(struct target *t)
{
    t->references++;
    return t;
}

/* Whether another record counts in the same slot: the same backend in another service's place. */
static bool find_key(struct balance *b, const struct target *t)
{
    for (const struct target *other = *bucket_of(b, t->id); other; other = other->same_hash)
        if (other != t && other->counted == t->counted)
            return true;
    return false;
}

/* The slot that has its key already (counting goes on there, also after a restart), or a free one. */
static struct target_slot *claim_slot(struct balance *b, const struct target *t)
{
    uint64_t key = target_key(t->id, t->generation);
    struct target_slot *unused = NULL;
    for (unsigned n = 0; n < TARGET_PROBES; n++) {
        struct target_slot *slot = &b->counters->target[target_place(key, n)];
        uint64_t its = atomic_load_explicit(&slot->key, memory_order_relaxed);
        if (its == key)
            return slot;
        if (!its && !unused)
            unused = slot;
    }
    if (!unused)
        return NULL;
    for (unsigned i = 0; i < TARGET_COUNTERS_COUNT; i++)
        atomic_store_explicit(&unused->value[i], 0, memory_order_relaxed);
    atomic_store_explicit(&unused->key, key, memory_order_release);
    return unused;
}

void target_put(struct balance *b, struct target *t)
{
    CHECK(t->references > 0);
    if (--t->references)
        return;
    CHECK(t->requests == 0 && t->connections == 0);
    if (t->counted && !find_key(b, t))
        atomic_store_explicit(&t->counted->key, 0, memory_order_relaxed);
    struct target **at = bucket_of(b, t->id);
    while (*at != t)
        at = &(*at)->same_hash;
    *at = t->same_hash;
    pool_give(&b->targets, t);
}

void target_authority(const struct target *t, char out[AUTHORITY_MAX])
{
    const struct plan_backend *where = &t->where;
    char text[INET6_ADDRSTRLEN] = "";
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    bool v4 = memcmp(where->ip, mapped, sizeof(mapped)) == 0;
    if (where->unix_path[0]) {
        memcpy(out, "localhost", sizeof("localhost"));
        return;
    }
    (void)inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? where->ip + 12 : where->ip, text, sizeof(text));
    (void)snprintf(out, AUTHORITY_MAX, v4 ? "%s:%u" : "[%s]:%u", text, where->port);
}

static struct target *find_target(struct balance *b, const struct plan_backend *where, uint32_t service)
{
    struct target *t = *bucket_of(b, where->id);
    while (t && (t->id != where->id || t->generation != where->generation || t->service != service))
        t = t->same_hash;
    return t;
}

static struct target *make_target(struct balance *b, const struct plan_backend *where, uint32_t service)
{
    struct target *t = pool_take(&b->targets);
    if (!t)
        return NULL;
    struct target **at = bucket_of(b, where->id);
    *t = (struct target){
        .id = where->id, .generation = where->generation, .service = service, .same_hash = *at};
    *at = t;
    t->counted = claim_slot(b, t);
    return t;
}

uint32_t balance_verdict(const struct balance *b, const struct target *t)
{
    if (!t->where.checked || t->id >= b->verdict_count)
        return ABI_UNKNOWN;
    /* Relaxed: one word, whole; nothing else is read by it. */
    uint64_t word = __atomic_load_n(&b->verdicts[t->id], __ATOMIC_RELAXED);
    return ABI_VERDICT_STATE_OF(word, t->generation, t->where.peer);
}

uint32_t balance_observe(const struct balance *b, struct target *t, uint64_t now_ms)
{
    uint32_t state = balance_verdict(b, t);
    if (t->state == ABI_DOWN && state != ABI_DOWN)
        t->up_since_ms = now_ms;
    t->state = (uint8_t)state;
    return state;
}

bool balance_is_down(const struct balance *b, const struct target *t)
{
    return balance_verdict(b, t) == ABI_DOWN;
}

/* ------------------------------------------------------------------ plans */

/* The record of one backend of the next plan. One that joins others starts slowly. */
static struct target *list_target(struct balance *b, const struct plan_backend *where, uint32_t service,
                                  bool joins, uint64_t now_ms)
{
    struct target *t = find_target(b, where, service);
    if (!t) {
        t = make_target(b, where, service);
        if (!t)
            return NULL;
        t->up_since_ms = joins ? now_ms : 0;
    } else if ((t->where.draining && !where->draining) || !t->listed) {
        t->up_since_ms = now_ms;
    }
    t->where = *where;
    t->authority[0] = '\0';
    t->weight = where->weight ? where->weight : 1;
    return target_get(t);
}

static void list_service(struct balance *b, const struct plan *plan, uint32_t place, uint64_t now_ms)
{
    const struct plan_service *ps = plan_service(plan, place);
    struct balance_service *s = &b->service[place];
    bool joins = s->incarnation == ps->incarnation && s->count > 0;
    if (s->incarnation != ps->incarnation) {
        memset(s->asked, 0, sizeof(s->asked));
        memset(s->retried, 0, sizeof(s->retried));
    }
    s->incarnation = ps->incarnation;
    s->first = ps->first_backend;
    s->count = ps->kind == SERVICE_PROXY ? ps->backend_count : 0;
    s->weight_max = 1;
    s->looked_ms = 0;
    s->room = true;
    for (uint32_t i = s->first; i < s->first + s->count; i++) {
        struct target *t = list_target(b, plan_backend(plan, i), place, joins, now_ms);
        b->unlisted[i] = t;
        if (t && t->weight > s->weight_max)
            s->weight_max = t->weight;
    }
}

/* What a process before this one counted, of backends that are not there any more. */
static void sweep_slots(struct balance *b)
{
    for (unsigned i = 0; i < TARGET_SLOTS; i++) {
        struct target_slot *slot = &b->counters->target[i];
        const struct target *t =
            *bucket_of(b, (uint32_t)atomic_load_explicit(&slot->key, memory_order_relaxed));
        while (t && t->counted != slot)
            t = t->same_hash;
        if (!t)
            atomic_store_explicit(&slot->key, 0, memory_order_relaxed);
    }
}

void balance_plan(struct balance *b, const struct plan *plan, uint64_t now_ms)
{
    memset(b->unlisted, 0, plan->backend_count * sizeof(struct target *));
    for (uint32_t i = 0; i < plan->service_count; i++)
        list_service(b, plan, i, now_ms);
    for (uint32_t i = plan->service_count; i < b->service_count; i++) {
        b->service[i].count = 0;
        b->service[i].incarnation = 0;
        b->service[i].room = true;
    }
    for (uint32_t i = 0; i < b->listed_count; i++)
        if (b->listed[i]) {
            b->listed[i]->listed = false;
            target_put(b, b->listed[i]);
        }
    struct target **before = b->listed;
    b->listed = b->unlisted;
    b->unlisted = before;
    b->listed_count = plan->backend_count;
    b->service_count = plan->service_count;
    if (!b->plan)
        sweep_slots(b);
    b->plan = plan;
    for (uint32_t i = 0; i < plan->service_count; i++)
        b->service[i].requests = 0;
    for (uint32_t i = 0; i < b->listed_count; i++)
        if (b->listed[i]) {
            b->listed[i]->listed = true;
            b->listed[i]->full = false; /* it may have more connections now: asked again */
            b->service[b->listed[i]->service].requests += b->listed[i]->requests;
        }
}

/* ------------------------------------------------------------------ the end of a request */

void balance_finish(struct balance *b, struct target *t, enum balance_outcome outcome, uint64_t latency_us,
                    uint64_t now_ms)
{
    static const int8_t counts[] = {[BALANCE_GOOD] = -1,
                                    [BALANCE_UNREACHABLE] = TARGET_UNREACHABLE,
                                    [BALANCE_FAILED] = TARGET_FAILED,
                                    [BALANCE_SERVER_ERROR] = TARGET_SERVER_ERRORS,
                                    [BALANCE_CANCELLED] = -1};
    CHECK(t->requests > 0);
    t->requests--;
    target_count(t, TARGET_ACTIVE, (uint64_t)-1);
    if (counts[outcome] >= 0)
        target_count(t, (enum target_counter_id)counts[outcome], 1);
    if (latency_us) {
        target_count(t, TARGET_ANSWERS, 1);
        target_count(t, TARGET_LATENCY_US, latency_us);
    }
    if (t->listed) {
        struct balance_service *s = &b->service[t->service];
        s->requests--;
        s->room = true;
        if (latency_us) {
            t->latency_us = t->latencies ? t->latency_us - t->latency_us / 8 + latency_us / 8 : latency_us;
            t->latencies += t->latencies < UINT32_MAX;
        }
        balance_judge(b, s, &plan_service(b->plan, t->service)->proxy, t, outcome, now_ms);
    }
    target_put(b, t);
}

/* ------------------------------------------------------------------ the queue */

void balance_room(struct balance *b, struct target *t)
{
    t->full = false;
    if (t->listed)
        b->service[t->service].room = true;
}

static void link_waited(struct balance *b, struct balance_service *s)
{
    s->next_waited = b->waited;
    s->prev_waited = &b->waited;
    if (b->waited)
        b->waited->prev_waited = &s->next_waited;
    b->waited = s;
}

static void unlink_waited(struct balance_service *s)
{
    *s->prev_waited = s->next_waited;
    if (s->next_waited)
        s->next_waited->prev_waited = s->prev_waited;
    s->prev_waited = NULL;
}

bool balance_wait(struct balance *b, uint32_t service_index, struct balance_waiter *w, uint32_t queue_max)
{
    struct balance_service *s = &b->service[service_index];
    bool again = b->waking == s; /* it was the first in line, and stays it */
    CHECK(!w->prev && service_index < PLAN_SERVICES_MAX);
    if (s->waiting >= queue_max && !again)
        return false;
    if (!s->waiters)
        s->last_waiter = &s->waiters;
    struct balance_waiter **at = again ? &s->waiters : s->last_waiter;
    w->next = *at;
    w->prev = at;
    w->service = service_index;
    if (w->next)
        w->next->prev = &w->next;
    else
        s->last_waiter = &w->next;
    *at = w;
    if (s->waiting++ == 0 && !s->prev_waited)
        link_waited(b, s);
    if (again)
        s->room = false;
    return true;
}

void balance_leave(struct balance *b, struct balance_waiter *w)
{
    struct balance_service *s = &b->service[w->service];
    if (!w->prev)
        return;
    *w->prev = w->next;
    if (w->next)
        w->next->prev = w->prev;
    else
        s->last_waiter = w->prev;
    w->prev = NULL;
    s->waiting--;
    /* While its waiters are being woken, balance_run does this. */
    if (!s->waiting && b->waking != s)
        unlink_waited(s);
}

/* The first in line, then the next, until one has to wait again. */
static void wake_waiters(struct balance *b, struct balance_service *s)
{
    b->waking = s;
    s->room = true;
    for (uint32_t n = s->waiting; n > 0 && s->waiters && s->room; n--) {
        struct balance_waiter *w = s->waiters;
        balance_leave(b, w);
        w->wake(w);
    }
    b->waking = NULL;
    if (!s->waiting)
        unlink_waited(s);
}

void balance_run(struct balance *b, uint64_t now_ms)
{
    bool anyway = b->waited && now_ms >= b->tried_ms + WAKE_ANYWAY_MS;
    if (anyway)
        b->tried_ms = now_ms;
    for (struct balance_service *s = b->waited, *next; s; s = next) {
        next = s->next_waited;
        if (s->room || anyway)
            wake_waiters(b, s);
    }
}
