/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/proxy/upstream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/upstream_private.h"
#include "dataplane/tls/tls.h"

int upstreams_new(struct ring *ring, struct balance *balance, struct upstreams **out)
{
    struct upstreams *us = calloc(1, sizeof(*us));
    if (!us)
        return -ENOMEM;
    us->ring = ring;
    us->balance = balance;
    /* As many in use as there are requests and tunnels, and as many idle as requests. */
    uint32_t count = 2 * (uint32_t)ring_setting(ring, SET_HTTP_STREAMS_MAX) +
                     (uint32_t)ring_setting(ring, SET_PROXY_TUNNELS_MAX);
    int err = pool_init(&us->pool, sizeof(struct upstream), count);
    if (err) {
        free(us);
        return err;
    }
    *out = us;
    return 0;
}

void upstreams_free(struct upstreams *us)
{
    pool_fini(&us->pool);
    free(us);
}

/* ------------------------------------------------------------------ the end */

static void closed(struct op *op, const struct event *ev)
{
    struct upstream *u = container_of(op, struct upstream, out);
    (void)ev;
    upstream_drop(u);
}

void upstream_drop(struct upstream *u)
{
    struct upstreams *us = u->us;
    if (u->kind != UPSTREAM_STREAM) {
        u->target->connections--;
        target_count(u->target, TARGET_CONNECTIONS, (uint64_t)-1);
        ring_count(us->ring, CTR_UPSTREAM_OPEN, (uint64_t)-1);
    }
    target_put(us->balance, u->target);
    pool_give(&us->pool, u);
}

void upstream_try_close(struct upstream *u)
{
    if (u->in.inflight || u->out.inflight || u->tls || u->closed)
        return;
    u->closed = true;
    u->out.done = closed;
    if (u->wire.fd >= 0 || u->wire.over) {
        wire_close(&u->wire, &u->out);
        return;
    }
    loop_op_begin(&u->out);
    loop_post(u->us->ring->loop, &u->post, &u->out, 0);
}

static void in_ended(struct op *op, const struct event *ev)
{
    (void)ev;
    upstream_try_close(container_of(op, struct upstream, in));
}

static void out_ended(struct op *op, const struct event *ev)
{
    (void)ev;
    upstream_try_close(container_of(op, struct upstream, out));
}

static void idle_leave(struct upstream *u)
{
    if (!u->listed)
        return;
    u->listed = false;
    *u->prev = u->next;
    if (u->next)
        u->next->prev = u->prev;
    *u->prev_idle = u->next_idle;
    if (u->next_idle)
        u->next_idle->prev_idle = u->prev_idle;
    u->target->idle_count--;
    ring_count(u->us->ring, CTR_UPSTREAM_IDLE, (uint64_t)-1);
}

void upstream_close(struct upstream *u)
{
    CHECK(u->state != UPSTREAM_CLOSING);
    u->state = UPSTREAM_CLOSING;
    idle_leave(u);
    timer_clear(&u->timer);
    u->got = NULL;
    u->in.done = in_ended;
    u->out.done = out_ended;
    if (u->in.inflight)
        wire_cancel(&u->wire, &u->in);
    if (u->out.inflight)
        wire_cancel(&u->wire, &u->out);
    if (u->tls)
        tls_handshake_cancel(u->tls);
    upstream_try_close(u);
}

/* ------------------------------------------------------------------ idle */

static void idle_event(struct op *op, const struct event *ev)
{
    (void)ev; /* it closed, or said something that nobody asked for */
    upstream_close(container_of(op, struct upstream, in));
}

static void idle_too_long(struct timer *t, uint64_t now_ms)
{
    (void)now_ms;
    upstream_close(container_of(t, struct upstream, timer));
}

bool upstream_wanted(const struct upstreams *us, const struct target *t)
{
    return t->listed && !t->where.draining && !balance_is_down(us->balance, t);
}

static void idle_enter(struct upstream *u)
{
    struct upstreams *us = u->us;
    struct target *t = u->target;
    u->state = UPSTREAM_IDLE;
    u->reused = true;
    u->user = NULL;
    u->next = t->idle;
    u->prev = &t->idle;
    if (u->next)
        u->next->prev = &u->next;
    t->idle = u;
    u->next_idle = us->idle;
    u->prev_idle = &us->idle;
    if (u->next_idle)
        u->next_idle->prev_idle = &u->next_idle;
    us->idle = u;
    u->listed = true;
    t->idle_count++;
    ring_count(us->ring, CTR_UPSTREAM_IDLE, 1);
    u->in.done = idle_event;
    if (!u->in.inflight)
        wire_poll(&u->wire, &u->in, POLLIN);
    u->timer.fire = idle_too_long;
    timer_set(&us->ring->wheel, &u->timer,
              ring_now_ms(us->ring) + ring_setting(us->ring, SET_PROXY_IDLE_TIMEOUT));
}

void upstream_give(struct upstream *u, bool keep)
{
    CHECK(u->state == UPSTREAM_USED && !u->out.inflight);
    if (keep && u->kind == UPSTREAM_PLAIN && !u->alone && upstream_wanted(u->us, u->target) &&
        !u->us->ring->draining &&
        u->target->idle_count < ring_setting(u->us->ring, SET_PROXY_IDLE_CONNECTIONS))
        idle_enter(u);
    else
        upstream_close(u);
}

struct upstream *upstream_idle(struct upstreams *us, struct target *t, const struct plan_service *service,
                               bool http1)
{
    struct upstream *u = t->idle;
    if (!http1 && upstream_speaks_h2(service))
        return upstream_h2_idle(us, t, service);
    if (!u || service->proxy.proxy_protocol)
        return NULL;
    idle_leave(u);
    timer_clear(&u->timer);
    u->state = UPSTREAM_USED;
    u->requests++;
    ring_count(us->ring, CTR_UPSTREAM_REUSED, 1);
    return u;
}

bool upstream_stale(struct upstream *u)
{
    char byte;
    if (u->wire.over)
        return false;
    return recv(u->wire.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

void upstreams_tick(struct upstreams *us)
{
    for (struct upstream *u = us->idle, *next; u; u = next) {
        next = u->next_idle;
        if (!upstream_wanted(us, u->target))
            upstream_close(u);
    }
    upstream_h2_tick(us);
}

/* ------------------------------------------------------------------ connecting */

enum balance_outcome upstream_blame(int err)
{
    switch (-err) {
    case EBUSY:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
    case EADDRNOTAVAIL: /* all local ports towards it are in use */
    case ENOKEY:
    case ECANCELED:
        return BALANCE_CANCELLED;
    case EKEYREJECTED:
    case EPROTO:
        return BALANCE_FAILED; /* it is there */
    default:
        return BALANCE_UNREACHABLE;
    }
}

void upstream_failed(struct upstream *u, int err)
{
    upstream_got *got = u->got;
    void *arg = u->arg;
    if (u->kind != UPSTREAM_STREAM) {
        ring_count(u->us->ring, CTR_UPSTREAM_CONNECT_ERRORS, 1);
        ring_count(u->us->ring, CTR_UPSTREAM_SHORTAGES, upstream_blame(err) == BALANCE_CANCELLED);
    }
    if (u->kind == UPSTREAM_CARRIER)
        upstream_h2_failed(u, err);
    upstream_close(u);
    if (got)
        got(NULL, err, arg);
}

void upstream_ready(struct upstream *u)
{
    upstream_got *got = u->got;
    timer_clear(&u->timer);
    if (u->kind == UPSTREAM_CARRIER) {
        upstream_h2_connected(u);
        return;
    }
    u->got = NULL;
    u->state = UPSTREAM_USED;
    if (!got) { /* nobody waits any more, but somebody else will */
        upstream_give(u, true);
        return;
    }
    u->requests++;
    got(u, 0, u->arg);
}

static void way_open(struct upstream *u)
{
    if (upstream_wants_tls(u))
        upstream_tls_begin(u);
    else
        upstream_ready(u);
}

static void preface_sent(struct op *op, const struct event *ev)
{
    struct upstream *u = container_of(op, struct upstream, out);
    if (ev->res <= 0) {
        upstream_failed(u, u->error ? u->error : ev->res ? ev->res : -EPIPE);
        return;
    }
    u->preface_at = (uint8_t)(u->preface_at + ev->res);
    if (u->preface_at < u->preface_len)
        wire_send(&u->wire, &u->out, u->to.preface + u->preface_at, (size_t)(u->preface_len - u->preface_at),
                  0);
    else
        way_open(u);
}

static void connected(struct op *op, const struct event *ev)
{
    struct upstream *u = container_of(op, struct upstream, out);
    if (ev->res < 0) {
        upstream_failed(u, u->error ? u->error : ev->res);
        return;
    }
    if (!u->proxy_protocol) {
        way_open(u);
        return;
    }
    u->state = UPSTREAM_PREFACE;
    u->preface_len = (uint8_t)proxy_header_write(&u->client, u->proxy_protocol, u->to.preface);
    u->out.done = preface_sent;
    wire_send(&u->wire, &u->out, u->to.preface, u->preface_len, 0);
}

/* No socket was to be had. */
static void unmade(struct op *op, const struct event *ev)
{
    upstream_failed(container_of(op, struct upstream, out), ev->res);
}

static void too_slow(struct timer *t, uint64_t now_ms)
{
    struct upstream *u = container_of(t, struct upstream, timer);
    (void)now_ms;
    u->error = -ETIMEDOUT;
    if (u->tls)
        tls_handshake_cancel(u->tls);
    else
        wire_cancel(&u->wire, &u->out);
}

static bool is_mapped_v4(const uint8_t ip[16])
{
    static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return memcmp(ip, prefix, sizeof(prefix)) == 0;
}

/* The address in u->to; its length, *family. */
static socklen_t address_of(struct upstream *u, int *family)
{
    const struct plan_backend *where = &u->target->where;
    memset(&u->to, 0, sizeof(u->to));
    if (where->unix_path[0]) {
        *family = AF_UNIX;
        u->to.un.sun_family = AF_UNIX;
        memcpy(u->to.un.sun_path, where->unix_path, sizeof(u->to.un.sun_path) - 1);
        return sizeof(u->to.un);
    }
    if (is_mapped_v4(where->ip)) {
        *family = AF_INET;
        u->to.in4.sin_family = AF_INET;
        u->to.in4.sin_port = htons(where->port);
        memcpy(&u->to.in4.sin_addr, where->ip + 12, 4);
        return sizeof(u->to.in4);
    }
    *family = AF_INET6;
    u->to.in6.sin6_family = AF_INET6;
    u->to.in6.sin6_port = htons(where->port);
    memcpy(&u->to.in6.sin6_addr, where->ip, 16);
    return sizeof(u->to.in6);
}

static void connect_begin(struct upstream *u, const struct plan_proxy *p)
{
    struct ring *ring = u->us->ring;
    int family;
    socklen_t len = address_of(u, &family);
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    u->wire = wire_of_socket(ring->loop, fd);
    if (fd < 0) {
        u->out.done = unmade;
        loop_op_begin(&u->out);
        loop_post(ring->loop, &u->post, &u->out, -errno);
        return;
    }
    wire_nodelay(&u->wire, true);
    if (family != AF_UNIX)
        wire_keepalive(&u->wire);
    /* A replica that is slow acknowledges what it gets, one that is gone does not. */
    if (u->target->where.node)
        wire_user_timeout(&u->wire, p->response_timeout_ms);
    u->out.done = connected;
    loop_connect(ring->loop, &u->out, fd, (const struct sockaddr *)&u->to, len);
    u->timer.fire = too_slow;
    timer_set(&ring->wheel, &u->timer, ring_now_ms(ring) + p->connect_timeout_ms);
}

struct upstream *upstream_make(struct upstreams *us, struct target *t, uint32_t service_index,
                               enum upstream_kind kind)
{
    struct upstream *u = pool_take(&us->pool);
    if (!u) {
        ring_count(us->ring, CTR_BUFFERS_EXHAUSTED, 1);
        return NULL;
    }
    memset(u, 0, sizeof(*u));
    u->us = us;
    u->kind = (uint8_t)kind;
    u->target = target_get(t);
    u->service_index = service_index;
    u->state = UPSTREAM_CONNECT;
    return u;
}

struct upstream *upstream_take(struct upstreams *us, struct target *t, const struct plan_service *service,
                               uint32_t service_index, const struct proxy_header *client, bool http1,
                               upstream_got *got, void *arg)
{
    if (!http1 && upstream_speaks_h2(service))
        return upstream_h2_take(us, t, service, service_index, got, arg);
    struct upstream *u = upstream_make(us, t, service_index, UPSTREAM_PLAIN);
    if (!u)
        return NULL;
    u->got = got;
    u->arg = arg;
    u->http1 = http1;
    u->proxy_protocol = service->proxy.proxy_protocol;
    u->alone = u->proxy_protocol != 0;
    if (client)
        u->client = *client;
    upstream_connect(u, service);
    return u;
}

void upstream_connect(struct upstream *u, const struct plan_service *service)
{
    struct upstreams *us = u->us;
    u->target->connections++;
    target_count(u->target, TARGET_CONNECTIONS, 1);
    ring_count(us->ring, CTR_UPSTREAM_OPEN, 1);
    ring_count(us->ring, CTR_UPSTREAM_CONNECTS, 1);
    connect_begin(u, &service->proxy);
}

void upstream_forget(struct upstream *u)
{
    u->got = NULL;
}
