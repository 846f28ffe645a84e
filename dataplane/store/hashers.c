/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/store/hashers.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/hash.h"
#include "dataplane/loop.h"

/* A thread and its one place: whoever puts a piece there wakes it. */
struct hasher {
    _Atomic(struct hash_job *) job;
    sem_t given;
    pthread_t thread;
};

struct hashers {
    unsigned count;
    atomic_uint started; /* the rings turn already while they are started */
    struct hasher hasher[HASHERS_MAX];
};

unsigned hashers_wanted(unsigned rings)
{
    cpu_set_t set;
    unsigned others = sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) - 1 : 0;
    unsigned wanted = rings < others ? rings : others;
    return wanted < HASHERS_MAX ? wanted : HASHERS_MAX;
}

struct hashers *hashers_new(unsigned threads)
{
    struct hashers *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->count = threads < HASHERS_MAX ? threads : HASHERS_MAX;
    for (unsigned i = 0; i < h->count; i++) {
        CHECK(sem_init(&h->hasher[i].given, 0, 0) == 0);
    }
    return h;
}

static void give_back(struct hash_job *job)
{
    struct hash_back *back = job->back;
    job->next = atomic_load(&back->list);
    while (!atomic_compare_exchange_weak(&back->list, &job->next, job))
        ;
    loop_wake(back->loop);
}

static void *hasher(void *arg)
{
    struct hasher *self = arg;
    for (;;) {
        while (sem_wait(&self->given))
            ;
        struct hash_job *job = atomic_load(&self->job);
        if (!job)
            return NULL; /* the end */
        hash_add(job->hash, job->bytes, job->len);
        atomic_store(&self->job, NULL);
        give_back(job);
    }
}

int hashers_start(struct hashers *h)
{
    for (unsigned i = 0; i < h->count; i++) {
        struct hasher *next = &h->hasher[i];
        int err = pthread_create(&next->thread, NULL, hasher, next);
        if (err)
            return -err;
        atomic_store(&h->started, i + 1);
    }
    return 0;
}

void hashers_stop(struct hashers *h)
{
    unsigned started = atomic_load(&h->started);
    for (unsigned i = 0; i < started; i++) {
        CHECK(!atomic_load(&h->hasher[i].job));
        sem_post(&h->hasher[i].given);
        pthread_join(h->hasher[i].thread, NULL);
    }
    atomic_store(&h->started, 0);
}

void hashers_free(struct hashers *h)
{
    for (unsigned i = 0; i < h->count; i++)
        sem_destroy(&h->hasher[i].given);
    free(h);
}

bool hashers_give(struct hashers *h, struct hash_job *job)
{
    unsigned started = atomic_load_explicit(&h->started, memory_order_acquire);
    for (unsigned i = 0; i < started; i++) {
        struct hasher *to = &h->hasher[i];
        struct hash_job *none = NULL;
        if (!atomic_load_explicit(&to->job, memory_order_relaxed) &&
            atomic_compare_exchange_strong(&to->job, &none, job)) {
            sem_post(&to->given);
            return true;
        }
    }
    return false;
}

struct hash_job *hashers_back(struct hash_back *back)
{
    if (!atomic_load_explicit(&back->list, memory_order_relaxed))
        return NULL;
    return atomic_exchange(&back->list, NULL);
}
