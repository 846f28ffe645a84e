/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where sources send their clients to (redirects to object stores; msg.h, WAY_WANTED): whether that host may
 * be asked, its addresses, and its place in the plan, where it is for as long as it is used.
 *
 *   wanted -> rules -> known and in the data plane's plan: told at once
 *                 '-> name looked up -> plan with it -> applied -> told
 *
 * The registry is a stranger, and its word opens a connection from inside: over TLS, to a host that proves
 * its name, anywhere (or to those that redirect_hosts names); in clear only where the source itself is spoken
 * to in clear, and then to its own hosts, or to those that are named.
 */
#ifndef FL_CONTROL_SOURCE_WAY_H
#define FL_CONTROL_SOURCE_WAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "msg.h"
#include "control/compile/plan_compile.h"
#include "control/state/source.h"

struct source_ways;

enum { WAYS_MAX = PLAN_PLACE_SOURCES - PLAN_PLACE_WAYS };

/* What holds for a source at the moment; valid until the next change of the configuration or the plan. */
struct way_access {
    const struct source *source;
    const struct plan_proxied *service;
};

struct source_ways_config {
    uv_loop_t *loop;
    bool (*look)(void *arg, uint64_t source, struct way_access *access);
    /* Makes a plan with what source_ways_list says, and returns its generation. */
    uint64_t (*publish)(void *arg);
    void (*tell)(void *arg, const char *prefix, const char *text); /* for people: what is not followed */
    void *arg;
};

struct source_ways *source_ways_new(const struct source_ways_config *config);
/* Whoever waits is told WAY_UNAVAILABLE. */
void source_ways_close(struct source_ways *s);

struct source_way_question {
    uint64_t source;
    const char *host; /* no NUL in it, or at its end */
    size_t host_len;
    uint16_t port;
    bool tls;
};

typedef void (*source_way_done)(void *arg, const struct frame_way *way);

/* Copies everything. done comes once, perhaps before the return. */
void source_way_get(struct source_ways *s, const struct source_way_question *q, source_way_done done,
                    void *arg);

/* The data plane uses that plan. */
void source_ways_applied(struct source_ways *s, uint64_t generation);

/* Once a second. */
void source_ways_tick(struct source_ways *s);

/* For a plan, by place: borrowed until the next call of this file. Returns how many. */
size_t source_ways_list(const struct source_ways *s, struct plan_proxied out[WAYS_MAX]);

#endif
