/* SPDX-License-Identifier: Apache-2.0 */
#include "control/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* One question; its thread's until it is in the list of those that are answered. */
struct question {
    struct question *next;
    struct shared *shared;
    resolve_done done;
    void *arg;
    struct resolve_answer answer;
    char name[RESOLVE_NAME_MAX + 1];
};

/* What threads and loop share; it lives as long as anybody refers to it. */
struct shared {
    pthread_mutex_t mutex;
    unsigned references;
    bool closed;
    struct question *answered;
    uv_async_t *wake; /* the loop's; not after closed */
};

struct resolver {
    uv_async_t wake;
    struct shared *shared;
    unsigned underway;
};

static void shared_put(struct shared *s)
{
    pthread_mutex_lock(&s->mutex);
    bool last = --s->references == 0;
    pthread_mutex_unlock(&s->mutex);
    if (!last)
        return;
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

static void take_addresses(struct question *q, const struct addrinfo *list)
{
    for (const struct addrinfo *a = list; a && q->answer.count < RESOLVE_ADDRESSES_MAX; a = a->ai_next) {
        uint8_t *ip = q->answer.ip[q->answer.count];
        memset(ip, 0, sizeof(q->answer.ip[0]));
        if (a->ai_family == AF_INET) {
            const struct sockaddr_in *in4 = (const struct sockaddr_in *)(const void *)a->ai_addr;
            ip[10] = ip[11] = 0xff;
            memcpy(ip + 12, &in4->sin_addr, 4);
        } else if (a->ai_family == AF_INET6) {
            const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)a->ai_addr;
            memcpy(ip, &in6->sin6_addr, 16);
        } else {
            continue;
        }
        q->answer.count++;
    }
}

static void *ask(void *arg)
{
    struct question *q = arg;
    struct shared *s = q->shared;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int err = getaddrinfo(q->name, NULL, &hints, &list);
    if (err == 0) {
        take_addresses(q, list);
        freeaddrinfo(list);
    }
    q->answer.error = err ? gai_strerror(err) : "it has no addresses";
    pthread_mutex_lock(&s->mutex);
    bool closed = s->closed;
    if (!closed) {
        q->next = s->answered;
        s->answered = q;
        uv_async_send(s->wake);
    }
    pthread_mutex_unlock(&s->mutex);
    if (closed)
        free(q);
    shared_put(s);
    return NULL;
}

static void on_wake(uv_async_t *wake)
{
    struct resolver *r = wake->data;
    pthread_mutex_lock(&r->shared->mutex);
    struct question *q = r->shared->answered;
    r->shared->answered = NULL;
    pthread_mutex_unlock(&r->shared->mutex);
    while (q) {
        struct question *next = q->next;
        r->underway--;
        q->done(q->arg, &q->answer);
        free(q);
        q = next;
    }
}

struct resolver *resolver_new(uv_loop_t *loop)
{
    struct resolver *r = calloc(1, sizeof(*r));
    CHECK(r);
    r->shared = calloc(1, sizeof(*r->shared));
    CHECK(r->shared && pthread_mutex_init(&r->shared->mutex, NULL) == 0);
    CHECK(uv_async_init(loop, &r->wake, on_wake) == 0);
    r->wake.data = r;
    r->shared->references = 1;
    r->shared->wake = &r->wake;
    return r;
}

static void on_closed(uv_handle_t *handle)
{
    struct resolver *r = handle->data;
    shared_put(r->shared);
    free(r);
}

void resolver_close(struct resolver *r)
{
    pthread_mutex_lock(&r->shared->mutex);
    r->shared->closed = true;
    struct question *q = r->shared->answered;
    r->shared->answered = NULL;
    pthread_mutex_unlock(&r->shared->mutex);
    while (q) {
        struct question *next = q->next;
        free(q);
        q = next;
    }
    uv_close((uv_handle_t *)&r->wake, on_closed);
}

int resolve_name(struct resolver *r, const char *name, resolve_done done, void *arg)
{
    pthread_attr_t attr;
    pthread_t thread;
    if (r->underway >= RESOLVES_MAX)
        return -EBUSY;
    struct question *q = calloc(1, sizeof(*q));
    CHECK(q && strlen(name) <= RESOLVE_NAME_MAX);
    *q = (struct question){.shared = r->shared, .done = done, .arg = arg};
    snprintf(q->name, sizeof(q->name), "%s", name);
    pthread_mutex_lock(&r->shared->mutex);
    r->shared->references++;
    pthread_mutex_unlock(&r->shared->mutex);
    CHECK(pthread_attr_init(&attr) == 0);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int err = pthread_create(&thread, &attr, ask, q);
    pthread_attr_destroy(&attr);
    if (err) {
        free(q);
        shared_put(r->shared);
        return -EAGAIN;
    }
    r->underway++;
    return 0;
}
