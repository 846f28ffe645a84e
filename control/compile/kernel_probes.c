/* SPDX-License-Identifier: Apache-2.0 */
/* When each backend is probed: backends of about the same interval are a class, spread evenly over it. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/compile/kernel_internal.h"
#include "control/compile/maglev.h"

/* A backend's place while they are ordered. */
struct slot {
    uint32_t divisor; /* ticks between its probes */
    uint32_t id;
    uint64_t spread;
};

static int compare_slots(const void *a, const void *b)
{
    const struct slot *one = a, *other = b;
    if (one->divisor != other->divisor)
        return one->divisor < other->divisor ? -1 : 1;
    if (one->spread != other->spread)
        return one->spread < other->spread ? -1 : 1;
    return one->id < other->id ? -1 : one->id > other->id;
}

/* Ticks to the service's shortest interval: never later than asked for. */
static uint32_t divisor_of(const struct svc *s, uint64_t tick_us)
{
    uint64_t interval_us = s->check.interval_ms * 1000ull;
    if (s->check.kind == SVC_CHECK_HTTP && s->check.http_interval_ms * 1000ull < interval_us)
        interval_us = s->check.http_interval_ms * 1000ull;
    uint64_t ticks = interval_us / (tick_us ? tick_us : 1);
    return ticks ? (uint32_t)ticks : 1;
}

static uint32_t collect(const struct kernel_input *in, const struct kernel_entries *e, struct slot *slot)
{
    const struct svc_table *t = in->services;
    uint32_t count = 0;
    for (size_t i = 0; i < t->count; i++) {
        const struct svc *s = &t->service[i];
        uint32_t divisor = divisor_of(s, in->facts->tick_us);
        for (size_t k = 0; k < s->backends; k++) {
            uint32_t id = t->backend[s->first_backend + k].id;
            if (id < e->backend_count && e->backend[id].admin != ABI_ADMIN_NONE)
                slot[count++] = (struct slot){
                    .divisor = divisor, .id = id, .spread = maglev_hash(divisor, &id, sizeof(id))};
        }
    }
    return count;
}

static uint32_t distinct(const struct slot *slot, uint32_t count)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < count; i++)
        n += i == 0 || slot[i].divisor != slot[i - 1].divisor;
    return n;
}

/* More intervals than classes: each is shortened to the next of a geometric row from the shortest on. */
static void merge(struct slot *slot, uint32_t count)
{
    uint64_t step = 2, first = slot[0].divisor, last = slot[count - 1].divisor;
    for (;; step++) {
        uint64_t end = first;
        for (int i = 1; i < ABI_PROBE_CLASSES && end * step <= last; i++)
            end *= step;
        if (end * step > last)
            break;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint64_t divisor = first;
        while (divisor * step <= slot[i].divisor)
            divisor *= step;
        slot[i].divisor = (uint32_t)divisor;
    }
}

static void deal(struct kernel_entries *e, const struct slot *slot, uint32_t count)
{
    struct abi_probe_plan *plan = &e->plan;
    e->order = kernel_room(count, sizeof(*e->order));
    e->order_count = count;
    for (uint32_t i = 0; i < count; i++) {
        if (i == 0 || slot[i].divisor != slot[i - 1].divisor) {
            CHECK(plan->classes < ABI_PROBE_CLASSES);
            plan->class[plan->classes++] = (struct abi_probe_class){.first = i, .divisor = slot[i].divisor};
        }
        plan->class[plan->classes - 1].count++;
        e->order[i] = slot[i].id;
    }
}

void kernel_probes(const struct kernel_input *in, struct kernel_entries *e)
{
    const struct svc_table *t = in->services;
    if (!in->facts->probes)
        return;
    for (size_t i = 0; i < t->count; i++)
        e->probes_per_s += (uint64_t)svc_probes_per_s(&t->service[i]) * t->service[i].backends;
    struct slot *slot = kernel_room(t->backend_count, sizeof(*slot));
    uint32_t count = collect(in, e, slot);
    qsort(slot, count, sizeof(*slot), compare_slots);
    if (distinct(slot, count) > ABI_PROBE_CLASSES) {
        merge(slot, count);
        qsort(slot, count, sizeof(*slot), compare_slots);
    }
    deal(e, slot, count);
    free(slot);
}
