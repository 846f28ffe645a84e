/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which backend gets a request: by the kernel's verdicts (read by memory map), by what this ring has at work
 * there, and by what it saw of late. One struct target for each backend of the plan, of one ring, shared with
 * nobody; a backend that stays keeps its record through every plan.
 *
 * Deterministic but for the random number that it is given, so that it can be tested without sockets: time is
 * an argument.
 */
#ifndef FL_PROXY_BALANCE_H
#define FL_PROXY_BALANCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "plan.h"
#include "shared.h"
#include "dataplane/http/view.h"

struct balance;

enum { AUTHORITY_MAX = 64 /* "[v6]:port" */ };

/* A backend as one ring knows it. The upstream connections hang on it. */
struct target {
    uint32_t id;
    uint16_t generation;
    uint16_t weight;
    uint32_t references;  /* the plan, connections and requests that hold it; it stays until they are gone */
    uint32_t service;     /* place in the plan */
    uint32_t requests;    /* at work */
    uint32_t relays;      /* of these, those of balance_ask.relay */
    uint32_t connections; /* open, in use or idle: upstream.c's */
    uint32_t carriers;    /* of these, those that carry HTTP/2: upstream_h2.c's */
    uint32_t failures;    /* in a row */
    uint32_t ejections;   /* in a row: each lasts longer */
    uint64_t ejected_until_ms;     /* 0: it never was */
    uint64_t up_since_ms;          /* of its last way up: slow start; 0: from the beginning */
    uint64_t latency_us;           /* to the response's head, smoothed by 1/8 */
    uint32_t latencies;            /* that are in it */
    uint8_t state;                 /* as seen last: enum abi_state */
    bool listed;                   /* the plan has it */
    bool full;                     /* upstream.c's: its connections carry all that they may, for now */
    struct target *same_hash;      /* balance.c's */
    struct target_slot *counted;   /* NULL: no slot was free */
    struct plan_backend where;     /* a copy: outlives the plan */
    char authority[AUTHORITY_MAX]; /* the same as text, once a request went there; "": not yet */
    struct upstream *idle;         /* upstream.c's list, */
    struct upstream *sessions;     /* and that of connections which carry HTTP/2 */
    uint32_t idle_count;
};

enum balance_why {
    BALANCE_OK,
    BALANCE_NONE, /* no backend at all, or all down */
    BALANCE_BUSY, /* all at their limits, or others wait already: queue */
    BALANCE_FULL, /* of its kind of requests there may be no more: not worth waiting for */
    BALANCE_SPENT /* no retry any more: the budget is used up */
};

static inline void target_count(struct target *t, enum target_counter_id id, uint64_t n)
{
    if (t->counted) { /* one writer: this ring */
        _Atomic uint64_t *v = &t->counted->value[id];
        atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + n, memory_order_relaxed);
    }
}

struct balance_ask {
    const struct plan_service
        *service; /* of the plan that counts, or of one before: of the same incarnation */
    uint32_t service_index;
    struct view
        key; /* PROXY_MAGLEV: the client's address; PROXY_DIGEST: the blob's digest; "": there is none */
    uint64_t random;
    uint64_t now_ms;
    const struct target *const *tried; /* not these, unless there is no other */
    unsigned tried_count;
    uint32_t prefer; /* 1 + id of the backend that has what this request is about; 0: none. It gets it if it
                        is up, draining or not, and waited for if it is at its limits */
    bool only;       /* that one or none */
    bool relay; /* of another handler, with a body that lasts as long as its client likes: all of them get
                   half of the connections that there may be, so that other requests always find some.
                   With `only`; balance_relayed is called before balance_finish. */
    bool alone; /* it needs a connection of its own, which speaks HTTP/1.1, also where backends get HTTP/2 */
    bool retry; /* counts against the retry budget, unless it is */
    bool free;  /* in place of an attempt that cost no backend anything */
    bool ahead; /* of those who wait: something that has begun goes on */
};

/* Of one ring, whose counters are borrowed. */
int balance_new(struct ring_counters *counters, struct balance **out);
void balance_free(struct balance *b);

/* The plan that counts from now on; borrowed until the next one. Records of backends that stay are kept. */
void balance_plan(struct balance *b, const struct plan *plan, uint64_t now_ms);

/* The kernel's verdicts: elements of u64 by backend id, mapped read-only, or NULL: there are none. */
void balance_verdicts(struct balance *b, const volatile uint64_t *verdicts, uint32_t count);

/* Where evidence for the kernel goes: ABI_EVIDENCE_SLOTS words that its clock empties (abi.h), or NULL. */
void balance_evidence(struct balance *b, uint64_t *slots);

/* Chooses, and counts the request as at work there: balance_finish ends it, until then the target stays. NULL
 * with *why. */
struct target *balance_choose(struct balance *b, const struct balance_ask *ask, enum balance_why *why);

/* What became of a request at a target. */
enum balance_outcome {
    BALANCE_GOOD,
    BALANCE_UNREACHABLE,  /* no connection could be made */
    BALANCE_FAILED,       /* reset, time-out, broken answer, a body that stopped */
    BALANCE_SERVER_ERROR, /* 5xx that counts */
    BALANCE_CANCELLED     /* says nothing */
};
/* latency_us: to the response's head; 0: not measured. */
void balance_finish(struct balance *b, struct target *t, enum balance_outcome outcome, uint64_t latency_us,
                    uint64_t now_ms);

/* A request with balance_ask.relay is over. */
void balance_relayed(struct target *t);

/* It is not full any more: whoever waits may be served. */
void balance_room(struct balance *b, struct target *t);

/* Whether the kernel says down (in this very moment; no system call). For transfers that are under way. */
bool balance_is_down(const struct balance *b, const struct target *t);

struct target *target_get(struct target *t);
void target_put(struct balance *b, struct target *t);
void target_authority(const struct target *t, char out[AUTHORITY_MAX]); /* "host:port" of its own */

/* A request that waits because all were at their limits: the queue of a service, in order of arrival. */
struct balance_waiter {
    struct balance_waiter *next, **prev; /* prev NULL: it does not wait */
    uint32_t service;
    /* Ask again: choose, and if that says BUSY once more, wait again (it keeps its place). Called from
     * balance_run alone; it does not wait any more then. */
    void (*wake)(struct balance_waiter *w);
};

/* False: queue_max wait already. The waiter is zeroed before its first use, and keeps its own time. */
bool balance_wait(struct balance *b, uint32_t service_index, struct balance_waiter *w, uint32_t queue_max);
void balance_leave(struct balance *b, struct balance_waiter *w); /* harmless if it does not wait */
void balance_run(struct balance *b, uint64_t now_ms); /* once a batch: wakes as many as there is room for */

#endif
