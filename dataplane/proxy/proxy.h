/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handler of proxied services (kinds http, registry, docker, kubernetes), and what one ring needs for
 * them: the choice of backends and the connections to them.
 */
#ifndef FL_PROXY_H
#define FL_PROXY_H

#include <stdint.h>

#include "plan.h"
#include "dataplane/stream.h"

struct asks;
struct attempt;
struct balance;
struct coalesce;
struct kernel_words;
struct ring;
struct upstreams;

struct proxy {
    struct ring *ring;
    struct balance *balance;
    struct upstreams *upstreams;
    struct asks *asks;
    struct coalesce *coalesce;
    struct attempt *asked; /* all that wait for an answer */
    uint64_t random;
};

extern const struct handler proxy_handler;

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
