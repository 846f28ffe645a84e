/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the process knows of damaged blobs: those that must not be opened (their files are still in their
 * places), and, for each ring, those that it has to let go of. And the pace of what looks for them.
 */
#include "dataplane/store/store_private.h"

#include <errno.h>

/* ------------------------------------------------------------------ condemned */

void condemned_init(struct condemned *c)
{
    pthread_mutex_init(&c->mutex, NULL);
}

void condemned_fini(struct condemned *c)
{
    pthread_mutex_destroy(&c->mutex);
}

static uint32_t find(const struct condemned *c, const struct digest *d)
{
    uint32_t i = 0, count = atomic_load_explicit(&c->count, memory_order_relaxed);
    while (i < count && !digest_equal(&c->list[i], d))
        i++;
    return i;
}

/* The list of those that cannot even be moved away is short, or the disk has no good blobs at all: one that
 * finds no room is found to be damaged again. */
void store_condemn(struct store *s, const struct digest *d)
{
    struct condemned *c = &s->condemned;
    pthread_mutex_lock(&c->mutex);
    uint32_t count = atomic_load_explicit(&c->count, memory_order_relaxed);
    if (count < CONDEMNED_MAX && find(c, d) == count) {
        c->list[count] = *d;
        atomic_store_explicit(&c->count, count + 1, memory_order_relaxed);
    }
    uint64_t news = atomic_load_explicit(&c->news, memory_order_relaxed);
    c->news_list[news % CONDEMNED_NEWS] = *d;
    atomic_store_explicit(&c->news, news + 1, memory_order_release);
    pthread_mutex_unlock(&c->mutex);
}

void blob_replaced(struct store *s, const struct digest *d)
{
    store_condemn(s, d);
    store_pardon(s, d);
}

void store_pardon(struct store *s, const struct digest *d)
{
    struct condemned *c = &s->condemned;
    if (!atomic_load_explicit(&c->count, memory_order_relaxed))
        return;
    pthread_mutex_lock(&c->mutex);
    uint32_t count = atomic_load_explicit(&c->count, memory_order_relaxed), i = find(c, d);
    if (i < count) {
        c->list[i] = c->list[count - 1];
        atomic_store_explicit(&c->count, count - 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&c->mutex);
}

bool store_is_condemned(struct store *s, const struct digest *d)
{
    struct condemned *c = &s->condemned;
    if (!atomic_load_explicit(&c->count, memory_order_relaxed))
        return false;
    pthread_mutex_lock(&c->mutex);
    bool found = find(c, d) < atomic_load_explicit(&c->count, memory_order_relaxed);
    pthread_mutex_unlock(&c->mutex);
    return found;
}

/* ------------------------------------------------------------------ news */

/* One that was away for too long for the news lets go of everything. */
void store_ring_news(struct store_ring *r)
{
    struct condemned *c = &r->store->condemned;
    struct digest list[CONDEMNED_NEWS];
    pthread_mutex_lock(&c->mutex);
    uint64_t news = atomic_load_explicit(&c->news, memory_order_relaxed), from = r->news_seen;
    bool missed = news - from > CONDEMNED_NEWS;
    for (uint64_t i = from; i < news && !missed; i++)
        list[i - from] = c->news_list[i % CONDEMNED_NEWS];
    pthread_mutex_unlock(&c->mutex);
    r->news_seen = news;
    if (missed)
        blobs_condemn_all(r);
    for (uint64_t i = from; i < news && !missed; i++)
        blob_condemn(r, &list[i - from]);
}

/* ------------------------------------------------------------------ places */

/* Not by the first bytes: what comes one after the other in their order would be in each other's way. */
static _Atomic int32_t *place_of(struct store *s, const struct digest *d)
{
    return &s->place[(d->bytes[4] << 8 | d->bytes[5]) % PLACES];
}

bool place_enter(struct store *s, const struct digest *d)
{
    _Atomic int32_t *place = place_of(s, d);
    int32_t users = atomic_load(place);
    while (users >= 0)
        if (atomic_compare_exchange_weak(place, &users, users + 1))
            return true;
    return false;
}

void place_leave(struct store *s, const struct digest *d)
{
    CHECK(atomic_fetch_sub(place_of(s, d), 1) > 0);
}

bool place_close(struct store *s, const struct digest *d)
{
    _Atomic int32_t *place = place_of(s, d);
    int32_t users = atomic_load(place);
    while (users <= 0)
        if (atomic_compare_exchange_weak(place, &users, users - 1))
            return true;
    return false;
}

void place_open(struct store *s, const struct digest *d)
{
    CHECK(atomic_fetch_add(place_of(s, d), 1) < 0);
}

/* ------------------------------------------------------------------ pace */

uint64_t store_pace(struct store *s, uint64_t bytes, uint64_t now_ms)
{
    uint64_t rate = atomic_load_explicit(&s->scrub_rate, memory_order_relaxed);
    uint64_t cost_us = rate ? bytes * 1000000 / rate : 0, now_us = now_ms * 1000;
    uint64_t next_us = atomic_load_explicit(&s->paced_until_us, memory_order_relaxed), at_us;
    do
        at_us = next_us > now_us ? next_us : now_us;
    while (!atomic_compare_exchange_weak(&s->paced_until_us, &next_us, at_us + cost_us));
    return at_us / 1000;
}
