/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring: one thread of the data plane with everything it needs, shared with nobody: loop, pools, timers, its
 * part of the store, its channel to control, its page of counters and its log. The root object of that
 * thread.
 */
#ifndef FL_RING_H
#define FL_RING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "plan.h"
#include "shared.h"
#include "dataplane/loop.h"
#include "dataplane/pool.h"
#include "dataplane/refused.h"
#include "dataplane/timer.h"
#include "dataplane/move/buffers.h"

struct conn;
struct http2;
struct stream;
struct store;
struct store_ring;
struct names;
struct channel;
struct proxy;
struct tcp_ring;
struct door_ring;
struct copying;
struct heirs;
struct fetches;
struct passes;
struct detours;
struct jobs;
struct kernel_words;
struct tls_helpers;
struct tls_table;

enum {
    RING_ENTRIES = 512,
    RING_RECV_BUFFERS = 512,
    RING_ACCEPTORS_MAX = 2 * LISTENERS_MAX, /* some of them are being stopped */
    RING_BODY_BUFFERS = 128,                /* of BODY_BUFFER_BYTES: two make an upload run at full speed */
    RING_FILLS_MAX = 32,       /* of them for parts that handlers write: only their end frees them */
    RING_LARGE_HEADS = 256,    /* heads that are larger than a stream's own memory for them */
    PARTIAL_HEAD_BYTES = 1024, /* of a head that is not complete yet, without a stream */
    PARTIAL_REST_BYTES = RECV_BUFFER_BYTES, /* of one that is longer, or what came behind a request */
};

/* A listening socket that this ring accepts from, and its own to close; fd -1: none, the place is free. */
struct acceptor {
    struct op op;
    struct timer retry;
    struct ring *ring;
    int fd;
    uint16_t slot;     /* the listening socket's number in plans */
    uint16_t service;  /* index into the plan's services */
    uint16_t listener; /* into its listeners; PLAN_LISTENERS_MAX: it is not there */
    uint16_t port;     /* 0: no TCP */
    bool stopped;
    bool stale; /* no plan says what it serves: whoever comes is sent away */
};

struct ring {
    unsigned index;
    struct loop *loop;
    const struct plan *plan;                            /* borrowed from main, swapped between two batches */
    _Atomic(const struct plan *) offered;               /* the next one; NULL when taken */
    _Atomic(const struct kernel_words *) offered_words; /* stays until there are others; NULL: none yet */
    _Atomic(const struct kernel_words *) words;         /* those in use: main unmaps older ones */
    _Atomic uint64_t generation;                        /* of the plan in use: main unmaps older ones */
    _Atomic(const struct tls_table *)
        offered_table;                 /* taken with the next plan that is offered; NULL: none */
    _Atomic uint64_t table_generation; /* of the table in use: main drops older ones */
    _Atomic uint64_t drain_by_ms;      /* CLOCK_MONOTONIC; 0: not draining */

    struct pool conns, streams, heads, partials, rests, bodies, manifests;
    struct buffers buffers; /* of pumps */
    struct timer_wheel wheel;
    uint8_t *scratch; /* COMMAND_BYTES_MAX */
    bool scratch_used;
    struct store *store_shared;
    struct store_ring *store;
    struct names *names;
    struct http2 *http2;
    struct channel *channel;
    struct proxy *proxy; /* what proxied services need */
    struct tcp_ring *tcp;
    struct door_ring *door;
    struct fetches *fetches; /* of blobs that are not here */
    struct passes *passes;   /* what sources are shown */
    struct detours *detours; /* where they send us */
    struct jobs *jobs;
    struct copying *copying; /* of what is pushed, to other replicas */
    struct heirs *heirs;     /* who goes on with what was pushed to a replica that is away */

    struct counters_page *page;
    struct ring_counters *counters;
    struct log_page *log_page;
    struct log_ring *log;

    struct acceptor acceptors[RING_ACCEPTORS_MAX];
    unsigned acceptor_count;
    _Atomic(struct acceptor_order *) orders; /* of main, the newest first */

    struct conn *conn_list;                 /* all that are open */
    struct refused refused;                 /* clients that there was no room for */
    struct stream *ready, **ready_tail;     /* have bytes to move now, without waiting for anything */
    struct stream *starved, **starved_tail; /* wait for a body buffer */
    struct conn *unfed, **unfed_tail;       /* found no receive buffer */
    struct stream *unwatched;               /* their clients' ends are looked for from the next tick on */
    uint32_t fills;                         /* body buffers of parts that handlers write */

    uint64_t next_id;
    uint64_t date_s; /* second of the text in date */
    char date[32];
    bool draining;
    _Atomic bool stopped; /* the thread has ended its work */
    pthread_t thread;
};

/* A listener that main hands to a running ring, or takes away from it: then the ring closes fd. */
struct acceptor_order {
    struct acceptor_order *next;
    int fd;
    uint16_t slot, service;
    bool stop;
};

struct ring_config {
    unsigned index, rings;
    const struct plan *plan;
    struct store *store;
    struct names *names; /* the ring's own reader; taken */
    struct counters_page *page;
    struct log_page *log_page;
    int channel_fd; /* taken */
    struct tls_helpers *helpers;
    const struct tls_table *table; /* of the plan */
};

/* Everything is reserved here, before the sandbox and the threads. *why: a sentence for the operator. */
int ring_new(const struct ring_config *config, struct ring **out, const char **why);
int ring_listen(struct ring *ring, const struct acceptor_order *order); /* before ring_run */
void ring_run(struct ring *ring); /* the thread's life: returns when drained */
void ring_free(struct ring *ring);

static inline uint64_t ring_setting(const struct ring *ring, enum setting_id id)
{
    return ring->plan->setting[id];
}

static inline void counter_add(_Atomic uint64_t *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}

static inline void ring_count(struct ring *ring, enum counter_id id, uint64_t n)
{
    counter_add(&ring->counters->counter[id], n);
}

static inline uint64_t ring_now_ms(const struct ring *ring)
{
    return loop_now_ms(ring->loop);
}

/* IMF-fixdate of now, HTTP_DATE_LEN bytes. */
const char *ring_date(struct ring *ring);

/* Whether who has a body buffer and waits for its client should rather let go of it. */
static inline bool ring_bodies_short(const struct ring *ring)
{
    return ring->bodies.used > ring->bodies.count / 2;
}

/* A stream has bytes to move: it gets its turn once a batch. */
void ring_ready(struct ring *ring, struct stream *s);

/* A body buffer, or NULL: then s is put in line and stream_fed is called when one is free. */
void *ring_body_take(struct ring *ring, struct stream *s);
void ring_body_give(struct ring *ring, void *buffer);
void ring_body_line(struct ring *ring, struct stream *s);  /* into the line, whatever is free */
void ring_body_leave(struct ring *ring, struct stream *s); /* out of the line */

#endif
