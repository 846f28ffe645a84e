/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/fetch/table.h"

#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include "check.h"
#include "limits.h"
#include "dataplane/loop.h"
#include "dataplane/store/store.h"

static struct {
    pthread_mutex_t mutex;
    struct fetch_entry entry[FETCHES_MAX];
    struct loop *loop[RINGS_MAX];
} table = {.mutex = PTHREAD_MUTEX_INITIALIZER};

_Static_assert(RINGS_MAX <= 64, "a bit for each ring");

uint8_t fetch_secret[32];

void fetch_table_ring(unsigned ring, struct loop *loop)
{
    CHECK(ring < RINGS_MAX);
    if (ring == 0)
        CHECK(getrandom(fetch_secret, sizeof(fetch_secret), 0) == (ssize_t)sizeof(fetch_secret));
    table.loop[ring] = loop;
}

/* ------------------------------------------------------------------ entries */

static struct fetch_entry *find(const struct digest *d)
{
    for (unsigned i = 0; i < FETCHES_MAX; i++)
        if (table.entry[i].listed && digest_equal(&table.entry[i].digest, d))
            return &table.entry[i];
    return NULL;
}

static struct fetch_entry *make(const struct digest *d, unsigned ring)
{
    struct fetch_entry *e = NULL;
    for (unsigned i = 0; i < FETCHES_MAX && !e; i++)
        if (!table.entry[i].used)
            e = &table.entry[i];
    if (!e)
        return NULL;
    e->digest = *d;
    e->fd = -1;
    e->used = e->listed = true;
    e->references = 0;
    e->ring = ring;
    atomic_store(&e->size, 0);
    atomic_store(&e->written, 0);
    atomic_store(&e->state, FETCH_ASKING);
    atomic_store(&e->fault, FETCH_FINE);
    atomic_store(&e->kept, FETCH_KEPT_UNKNOWN);
    atomic_store(&e->waiting, 0);
    atomic_store(&e->readers, 0);
    return e;
}

struct fetch_entry *fetch_entry_get(const struct digest *d, unsigned ring, bool *first)
{
    pthread_mutex_lock(&table.mutex);
    struct fetch_entry *e = find(d);
    *first = !e;
    if (!e)
        e = make(d, ring);
    if (e)
        e->references++;
    pthread_mutex_unlock(&table.mutex);
    return e;
}

void fetch_entry_hold(struct fetch_entry *e)
{
    pthread_mutex_lock(&table.mutex);
    e->references++;
    pthread_mutex_unlock(&table.mutex);
}

struct fetch_entry *fetch_entry_find(const struct digest *d)
{
    pthread_mutex_lock(&table.mutex);
    struct fetch_entry *e = find(d);
    if (e)
        e->references++;
    pthread_mutex_unlock(&table.mutex);
    return e;
}

void fetch_entry_put(struct fetch_entry *e, struct store_ring *store)
{
    int fd = -1;
    pthread_mutex_lock(&table.mutex);
    CHECK(e->references > 0);
    if (--e->references == 0) {
        fd = e->fd;
        e->fd = -1;
        e->used = e->listed = false;
    }
    pthread_mutex_unlock(&table.mutex);
    if (fd >= 0)
        store_close(store, fd);
}

void fetch_entry_unlist(struct fetch_entry *e)
{
    pthread_mutex_lock(&table.mutex);
    e->listed = false;
    pthread_mutex_unlock(&table.mutex);
}

void fetch_entry_forget(const struct digest *d)
{
    pthread_mutex_lock(&table.mutex);
    struct fetch_entry *e = find(d);
    if (e && atomic_load(&e->kept) == FETCH_KEPT)
        e->listed = false;
    pthread_mutex_unlock(&table.mutex);
}

void fetch_entry_file(struct fetch_entry *e, int fd, struct store_ring *store)
{
    pthread_mutex_lock(&table.mutex);
    int old = e->fd;
    e->fd = fd;
    pthread_mutex_unlock(&table.mutex);
    if (old >= 0)
        store_close(store, old);
}

/* ------------------------------------------------------------------ news */

/* A reader sets its ring's bit before it looks for the last time, so none of them sleeps over news. */
static void wake(struct fetch_entry *e)
{
    uint64_t rings = atomic_load(&e->waiting) ? atomic_exchange(&e->waiting, 0) : 0;
    for (unsigned i = 0; rings; i++, rings >>= 1)
        if ((rings & 1) && i != e->ring)
            loop_wake(table.loop[i]);
}

void fetch_entry_state(struct fetch_entry *e, enum fetch_state state, enum fetch_fault fault)
{
    atomic_store(&e->fault, (uint8_t)fault);
    atomic_store(&e->state, (uint8_t)state);
    wake(e);
}

void fetch_entry_kept(struct fetch_entry *e, bool kept)
{
    atomic_store(&e->kept, kept ? FETCH_KEPT : FETCH_KEPT_NOT);
    wake(e);
}

void fetch_entry_written(struct fetch_entry *e, uint64_t written)
{
    atomic_store(&e->written, written);
    wake(e);
}

uint64_t fetch_entry_visible(const struct fetch_entry *e)
{
    uint8_t state = atomic_load(&e->state);
    uint64_t size = atomic_load(&e->size), written = atomic_load(&e->written);
    uint64_t end = size > FETCH_HOLD_BACK ? size - FETCH_HOLD_BACK : 0;
    if (state == FETCH_WHOLE)
        return size;
    if (state == FETCH_ASKING)
        return 0;
    return written < end ? written : end;
}
