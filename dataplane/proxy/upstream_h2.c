/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backends that speak HTTP/2: a few connections to each, which carry sessions (dataplane/http2), and on these
 * a stream for each request. A carrier is in its target's list from its beginning until its session is gone;
 * streams that came while it connects wait on it.
 */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/http2/http2.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/upstream_private.h"
#include "dataplane/tls/tls.h"

enum {
    WAITING_MOST = 64,  /* on one carrier that connects: then there is another one */
    CARRIERS_MOST = 64, /* to one backend, where the service says nothing */
};

bool upstream_speaks_h2(const struct plan_service *service)
{
    return service->proxy.backend_http == 2 && service->proxy.kind != PROXY_TCP;
}

/* ------------------------------------------------------------------ carriers */

static void carrier_enter(struct upstream *c)
{
    struct target *t = c->target;
    struct upstreams *us = c->us;
    c->next = t->sessions;
    c->prev = &t->sessions;
    if (c->next)
        c->next->prev = &c->next;
    t->sessions = c;
    c->next_idle = us->carriers;
    c->prev_idle = &us->carriers;
    if (c->next_idle)
        c->next_idle->prev_idle = &c->next_idle;
    us->carriers = c;
}

static void carrier_leave(struct upstream *c)
{
    *c->prev = c->next;
    if (c->next)
        c->next->prev = c->prev;
    *c->prev_idle = c->next_idle;
    if (c->next_idle)
        c->next_idle->prev_idle = c->prev_idle;
}

static unsigned waiting_on(const struct upstream *c)
{
    unsigned n = 0;
    for (const struct upstream *u = c->waiting; u; u = u->next)
        n++;
    return n;
}

static void stream_leave(struct upstream *u)
{
    *u->prev = u->next;
    if (u->next)
        u->next->prev = u->prev;
    u->next = NULL;
    u->prev = NULL;
}

static void session_gone(void *arg, struct h2_session *s, enum close_reason why)
{
    struct upstream *c = arg;
    (void)s;
    (void)why;
    carrier_leave(c);
    upstream_drop(c);
}

static bool is_h2(const struct wire *w)
{
    return !tls_is(w) || strcmp(tls_protocol(w), "h2") == 0;
}

/* The first one that takes one more exchange. */
static struct upstream *find_room(const struct target *t)
{
    for (struct upstream *c = t->sessions; c; c = c->next)
        if (c->session && h2_client_room(c->session))
            return c;
    return NULL;
}

void upstream_h2_tick(struct upstreams *us)
{
    for (struct upstream *c = us->carriers; c; c = c->next_idle)
        if (c->session && (us->ring->draining || !upstream_wanted(us, c->target)) &&
            h2_client_busy(c->session) == 0)
            h2_client_close(c->session);
}

/* ------------------------------------------------------------------ streams */

static bool open_stream(struct upstream *u, struct upstream *c)
{
    if (!h2_client_open(c->session, &u->wire))
        return false;
    u->reused = c->requests > 0;
    c->requests++;
    return true;
}

static void stream_told(struct op *op, const struct event *ev)
{
    struct upstream *u = container_of(op, struct upstream, out);
    if (ev->res < 0)
        upstream_failed(u, ev->res);
    else
        upstream_ready(u);
}

/* What became of it, in the next turn. */
static void tell_stream(struct upstream *u, int res)
{
    u->out.done = stream_told;
    loop_op_begin(&u->out);
    loop_post(u->us->ring->loop, &u->post, &u->out, res);
}

static void wait_on(struct upstream *u, struct upstream *c)
{
    u->next = c->waiting;
    u->prev = &c->waiting;
    if (u->next)
        u->next->prev = &u->next;
    c->waiting = u;
}

void upstream_h2_failed(struct upstream *c, int err)
{
    carrier_leave(c);
    while (c->waiting) {
        struct upstream *u = c->waiting;
        stream_leave(u);
        tell_stream(u, err);
    }
}

void upstream_h2_connected(struct upstream *c)
{
    struct h2_user user = {.gone = session_gone, .arg = c};
    c->session = is_h2(&c->wire) ? h2_client_start(c->us->ring, &c->wire, &user) : NULL;
    if (!c->session) {
        upstream_failed(c, is_h2(&c->wire) ? -ENOMEM : -EPROTO);
        return;
    }
    c->state = UPSTREAM_USED;
    while (c->waiting) {
        struct upstream *u = c->waiting;
        stream_leave(u);
        tell_stream(u, open_stream(u, c) ? 0 : -ENOBUFS);
    }
}

struct upstream *upstream_h2_idle(struct upstreams *us, struct target *t)
{
    struct upstream *c = find_room(t);
    struct upstream *u = c ? upstream_make(us, t, c->service_index, UPSTREAM_STREAM) : NULL;
    if (!u)
        return NULL;
    if (!open_stream(u, c)) {
        upstream_drop(u);
        return NULL;
    }
    u->state = UPSTREAM_USED;
    u->requests++;
    ring_count(us->ring, CTR_UPSTREAM_REUSED, 1);
    return u;
}

/* One that connects, or a new one; NULL: there are as many as there may be. */
static struct upstream *find_connecting(struct upstreams *us, struct target *t,
                                        const struct plan_service *service, uint32_t service_index)
{
    uint32_t count = 0, most = service->proxy.connections_max;
    for (struct upstream *c = t->sessions; c; c = c->next, count++)
        if (!c->session && waiting_on(c) < WAITING_MOST)
            return c;
    if (count >= (most ? most : (uint32_t)CARRIERS_MOST))
        return NULL;
    struct upstream *c = upstream_make(us, t, service_index, UPSTREAM_CARRIER);
    if (!c)
        return NULL;
    carrier_enter(c);
    upstream_connect(c, service);
    return c;
}

struct upstream *upstream_h2_take(struct upstreams *us, struct target *t, const struct plan_service *service,
                                  uint32_t service_index, upstream_got *got, void *arg)
{
    struct upstream *u = upstream_make(us, t, service_index, UPSTREAM_STREAM);
    if (!u)
        return NULL;
    u->wire = (struct wire){.loop = us->ring->loop, .fd = -1};
    u->got = got;
    u->arg = arg;
    struct upstream *c = find_room(t);
    if (c && open_stream(u, c)) {
        tell_stream(u, 0);
        return u;
    }
    c = find_connecting(us, t, service, service_index);
    if (c)
        wait_on(u, c);
    else
        tell_stream(u, -EBUSY);
    return u;
}
