/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a registry sends whoever reads there (a redirect, to an object store mostly). The same server is
 * asked at once. Another one may be asked if control says so, which looks its name up and makes it a place of
 * the plan: the data plane knows no names, and connects to nobody who is not in the plan.
 *
 *   question --307--> detour_find --WAY_WANTED--> control --rules, addresses, plan--> WAY --> question there
 */
#ifndef FL_FETCH_DETOUR_H
#define FL_FETCH_DETOUR_H

#include <stdbool.h>
#include <stdint.h>

#include "msg.h"
#include "dataplane/http/view.h"

struct detour;
struct detours;
struct ring;

enum {
    DETOURS_MAX = 256, /* of a ring, at a time */
    DETOUR_TARGET_MAX = 4096,
    DETOUR_AUTHORITY_MAX = WAY_HOST_MAX + 10,
    DETOUR_ASK_MS = 15000,
};

int detours_new(struct ring *ring, struct detours **out);
void detours_free(struct detours *all);

struct detour_from {
    uint64_t source; /* plan_source.id */
    uint16_t place;  /* of the service that is left */
    uint32_t incarnation;
    bool tls;              /* it is spoken to over TLS */
    struct view host;      /* as it was written into the request */
    struct view authority; /* of the detour before; absent: there was none */
    struct view location;
};

typedef void (*detour_done)(struct detour *d, enum way_status status, void *arg);

/* Copies what it needs. done comes once, unless it is dropped before, and never from within the call. 0;
 * -EINVAL: it is no place to go to, or too long; -ENOBUFS: no room; -ENOTCONN, -EAGAIN: control is away, or
 * busy. */
int detour_find(struct detours *all, const struct detour_from *from, detour_done done, void *arg,
                struct detour **out);

/* After WAY_OK. */
uint16_t detour_place(const struct detour *d);
uint32_t detour_incarnation(const struct detour *d);
struct view detour_authority(const struct detour *d); /* for Host; absent: it is the registry itself */
struct view detour_target(const struct detour *d);

/* At any time; NULL is nothing. */
void detour_drop(struct detour *d);

#endif
