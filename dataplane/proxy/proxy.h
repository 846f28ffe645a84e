/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handler of proxied services (kinds http, registry, docker, kubernetes), and what one ring needs for
 * them: the choice of backends and the connections to them.
 */
#ifndef FL_PROXY_H
#define FL_PROXY_H

#include <stdbool.h>
#include <stdint.h>

#include "plan.h"
#include "dataplane/stream.h"

struct asks;
struct attempt;
struct balance;
struct coalesce;
struct exchange;
struct kernel_words;
struct ring;
struct upstreams;

struct proxy {
    struct ring *ring;
    struct balance *balance;
    struct upstreams *upstreams;
    struct asks *asks;
    struct coalesce *coalesce;
    struct attempt *asked;      /* all that wait for an answer */
    struct exchange *relaying;  /* all that pass an answer's body on, */
    struct exchange *look_next; /* and the one that is looked at next; NULL: the first */
    uint64_t random;
};

extern const struct handler proxy_handler;

/* Why another handler's request has no answer. */
enum proxy_refusal {
    PROXY_AWAY,  /* its backend is not there; it was asked nothing, and nothing of the body was taken */
    PROXY_BUSY,  /* a limit of this node: later it may be asked */
    PROXY_BROKE, /* the backend broke off; it may have been acted on */
    PROXY_SLOW,  /* it did not answer in time, or not as it should */
};

/*
 * A request at which another handler looked first, for one backend of a service that no client comes to. It
 * goes on as it came, path and all, and so does the answer. It may last as long as its client likes, so such
 * requests together get a part of the backend's connections, and wait for none beyond it (balance.h).
 */
struct proxy_order {
    uint16_t service;           /* place in the plan */
    uint32_t backend;           /* its id: this one or none, and once */
    uint32_t answer_timeout_ms; /* once all of the request is out */
    /* There is no answer. The stream is as it was before proxy_relay, its arena empty, but for the body
     * (PROXY_AWAY): the callee sets a handler, which answers, at once or later. */
    void (*refuse)(struct stream *s, enum proxy_refusal why);
};

/* Takes the stream over from its handler, whose memory in the arena is lost. Only before it has asked for the
 * body, and while nothing of its own is under way. False: there is no such service now; nothing has changed.
 */
bool proxy_relay(struct stream *s, const struct proxy_order *order);

int proxy_new(struct ring *ring, struct proxy **out);
void proxy_free(struct proxy *p);
void proxy_plan(struct proxy *p, const struct plan *plan, uint64_t now_ms); /* counts from now on */
void proxy_words(struct proxy *p, const struct kernel_words *words);        /* the kernel's, from now on */
void proxy_run(struct proxy *p, uint64_t now_ms);                           /* once a batch */
void proxy_tick(struct proxy *p);                                           /* ten times a second */
/* A text that this service of this process has, and no other one. */
enum { PROXY_MARK_BYTES = 3 + 16 };
void proxy_mark(uint32_t service_index, uint64_t incarnation, char out[PROXY_MARK_BYTES]);

uint64_t proxy_random(struct proxy *p);

#endif
