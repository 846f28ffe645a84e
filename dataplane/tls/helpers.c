/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/tls/helpers.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "check.h"
#include "dataplane/tls/tls_private.h"

enum { HELPER_NICE = 5 }; /* rings come first: they serve everybody else */

struct tls_helpers {
    _Atomic(struct tls *) given; /* by rings, the newest first */
    _Atomic unsigned waiting;
    unsigned waiting_max;
    sem_t jobs;
    pthread_mutex_t lock; /* among helpers, of `first` */
    struct tls *first;    /* the oldest first */
    BIO_METHOD *out_method;
    unsigned thread_count, started;
    pthread_t thread[TLS_HELPERS_MAX];
    _Atomic bool ending;
};

struct tls_helpers *tls_helpers_new(unsigned threads, unsigned waiting_max)
{
    struct tls_helpers *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->thread_count = threads < TLS_HELPERS_MAX ? threads : TLS_HELPERS_MAX;
    h->waiting_max = waiting_max;
    h->out_method = tls_out_method_new();
    if (h->out_method && sem_init(&h->jobs, 0, 0) == 0 && pthread_mutex_init(&h->lock, NULL) == 0)
        return h;
    BIO_meth_free(h->out_method);
    free(h);
    return NULL;
}

const BIO_METHOD *tls_helpers_method(const struct tls_helpers *h)
{
    return h->out_method;
}

static struct tls *reversed(struct tls *t)
{
    struct tls *oldest = NULL;
    while (t) {
        struct tls *next = t->next_job;
        t->next_job = oldest;
        oldest = t;
        t = next;
    }
    return oldest;
}

/* The one that waits longest; NULL only at the end. */
static struct tls *take(struct tls_helpers *h)
{
    pthread_mutex_lock(&h->lock);
    if (!h->first)
        h->first = reversed(atomic_exchange(&h->given, NULL));
    struct tls *t = h->first;
    if (t)
        h->first = t->next_job;
    pthread_mutex_unlock(&h->lock);
    if (t)
        atomic_fetch_sub(&h->waiting, 1);
    return t;
}

static void push(_Atomic(struct tls *) *list, struct tls *t)
{
    t->next_job = atomic_load(list);
    while (!atomic_compare_exchange_weak(list, &t->next_job, t))
        ;
}

static void *helper(void *arg)
{
    struct tls_helpers *h = arg;
    (void)setpriority(PRIO_PROCESS, 0,
                      HELPER_NICE); /* of this thread; without it they are as good as rings */
    for (;;) {
        while (sem_wait(&h->jobs))
            ;
        struct tls *t = take(h);
        if (!t && atomic_load(&h->ending))
            return NULL;
        if (!t)
            continue;
        struct tls_ring *tr = t->tr;
        tls_handshake_step(t, h->out_method);
        push(&tr->returned, t);
        loop_wake(tr->loop);
    }
}

int tls_helpers_start(struct tls_helpers *h)
{
    while (h->started < h->thread_count) {
        int err = pthread_create(&h->thread[h->started], NULL, helper, h);
        if (err)
            return -err;
        h->started++;
    }
    return 0;
}

void tls_helpers_stop(struct tls_helpers *h)
{
    atomic_store(&h->ending, true);
    for (unsigned i = 0; i < h->started; i++)
        sem_post(&h->jobs);
    for (unsigned i = 0; i < h->started; i++)
        pthread_join(h->thread[i], NULL);
    CHECK(!h->first && !atomic_load(&h->given));
}

void tls_helpers_free(struct tls_helpers *h)
{
    sem_destroy(&h->jobs);
    pthread_mutex_destroy(&h->lock);
    BIO_meth_free(h->out_method);
    free(h);
}

bool tls_helpers_give(struct tls_helpers *h, struct tls *t, bool first)
{
    if (atomic_fetch_add(&h->waiting, 1) >= h->waiting_max && first) {
        atomic_fetch_sub(&h->waiting, 1);
        return false;
    }
    push(&h->given, t);
    sem_post(&h->jobs);
    return true;
}
