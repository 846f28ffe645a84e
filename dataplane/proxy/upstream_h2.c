/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backends that speak HTTP/2: a few connections to each, which carry sessions (dataplane/http2), and on these
 * a stream for each request. A carrier is in its target's list from its beginning until its session is gone;
 * streams that came while it connects wait on it. Where the carriers that there may be have no room left, the
 * target is full: no more requests are sent there until one has.
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
    t->carriers++;
}

static void carrier_leave(struct upstream *c)
{
    c->target->carriers--;
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

/* ------------------------------------------------------------------ room */

static uint32_t waiting_most(const struct upstreams *us)
{
    uint32_t streams = (uint32_t)ring_setting(us->ring, SET_HTTP2_STREAMS_MAX);
    return streams < WAITING_MOST ? streams : (uint32_t)WAITING_MOST;
}

static bool takes_more(const struct upstream *c)
{
    return c->session ? h2_client_room(c->session) > 0 : waiting_on(c) < waiting_most(c->us);
}

/* Whether there may be one more carrier. Those that take no more requests (the backend has said GOAWAY) last
 * as long as what is on them, and are replaced at once, unless there are more of them than connections may
 * be. */
static bool may_connect(const struct target *t, const struct plan_service *service)
{
    uint32_t ending = 0, most = service->proxy.connections_max;
    if (!most)
        most = CARRIERS_MOST;
    for (const struct upstream *c = t->sessions; c; c = c->next)
        ending += c->session && h2_client_over(c->session);
    return t->carriers - ending < most && ending <= most;
}

/* After one more request, so that the next one waits in the service's queue and not here. */
static void note_full(struct target *t, const struct plan_service *service)
{
    t->full = !may_connect(t, service);
    for (const struct upstream *c = t->sessions; c && t->full; c = c->next)
        t->full = !takes_more(c);
}

static void note_room(struct upstream *c)
{
    if (c->target->full)
        balance_room(c->us->balance, c->target);
}

static void session_changed(void *arg, struct h2_session *s)
{
    if (h2_client_room(s) || h2_client_over(s)) /* one that ends may be replaced */
        note_room(arg);
}

static void session_gone(void *arg, struct h2_session *s, enum close_reason why)
{
    struct upstream *c = arg;
    (void)s;
    (void)why;
    carrier_leave(c);
    note_room(c);
    upstream_drop(c);
}

static bool is_h2(const struct wire *w)
{
    return !tls_is(w) || strcmp(tls_protocol(w), "h2") == 0;
}

/* The first one that takes one more exchange, and on which slow readers do not hold too much. */
static struct upstream *find_room(const struct target *t)
{
    for (struct upstream *c = t->sessions; c; c = c->next)
        if (c->session && h2_client_room(c->session) && !h2_client_crowded(c->session))
            return c;
    return NULL;
}

/* Where there is no other and will not be. */
static struct upstream *find_crowded(const struct target *t)
{
    for (struct upstream *c = t->sessions; c; c = c->next)
        if (c->session && h2_client_room(c->session))
            return c;
    return NULL;
}

void upstream_h2_tick(struct upstreams *us)
{
    for (struct upstream *c = us->carriers; c; c = c->next_idle) {
        if (c->session && (us->ring->draining || !upstream_wanted(us, c->target)) &&
            h2_client_busy(c->session) == 0)
            h2_client_close(c->session);
        if (c->target->full && takes_more(c)) /* a new plan allows it, or what waited has left */
            note_room(c);
    }
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
    note_room(c);
    while (c->waiting) {
        struct upstream *u = c->waiting;
        stream_leave(u);
        tell_stream(u, err);
    }
}

void upstream_h2_connected(struct upstream *c)
{
    struct h2_user user = {.changed = session_changed, .gone = session_gone, .arg = c};
    c->session = is_h2(&c->wire) ? h2_client_start(c->us->ring, &c->wire, &user) : NULL;
    if (!c->session) {
        upstream_failed(c, is_h2(&c->wire) ? -ENOMEM : -EPROTO);
        return;
    }
    c->state = UPSTREAM_USED;
    while (c->waiting) {
        struct upstream *u = c->waiting;
        stream_leave(u);
        tell_stream(u, open_stream(u, c) ? 0 : h2_client_room(c->session) ? -ENOBUFS : -EBUSY);
    }
    session_changed(c, c->session);
}

struct upstream *upstream_h2_idle(struct upstreams *us, struct target *t, const struct plan_service *service)
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
    note_full(t, service);
    return u;
}

/* Waits on a carrier that connects, or on a new one. -EBUSY: there are as many as there may be. */
static int wait_connecting(struct upstream *u, const struct plan_service *service)
{
    struct target *t = u->target;
    for (struct upstream *c = t->sessions; c; c = c->next)
        if (!c->session && takes_more(c)) {
            wait_on(u, c);
            return 0;
        }
    if (!may_connect(t, service))
        return -EBUSY;
    struct upstream *c = upstream_make(u->us, t, u->service_index, UPSTREAM_CARRIER);
    if (!c)
        return -ENOBUFS;
    carrier_enter(c);
    wait_on(u, c);
    upstream_connect(c, service);
    return 0;
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
    if (c) {
        tell_stream(u, open_stream(u, c) ? 0 : -ENOBUFS);
    } else {
        int err = wait_connecting(u, service);
        c = err == -EBUSY ? find_crowded(t) : NULL;
        if (err)
            tell_stream(u, !c ? err : open_stream(u, c) ? 0 : -ENOBUFS);
    }
    note_full(t, service);
    return u;
}
