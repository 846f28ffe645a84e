/* SPDX-License-Identifier: Apache-2.0 */
/* The root object of a ring's thread, and its loop: completions, turns, timers, a new plan; again. */
#include "dataplane/ring.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "dataplane/conn.h"
#include "dataplane/door.h"
#include "dataplane/fetch/fetch.h"
#include "dataplane/membership.h"
#include "dataplane/registry/copies.h"
#include "dataplane/registry/heirs.h"
#include "dataplane/http2/http2.h"
#include "dataplane/jobs.h"
#include "dataplane/proxy/proxy.h"
#include "dataplane/proxy/tcp.h"
#include "dataplane/link.h"
#include "dataplane/store/names.h"
#include "dataplane/store/store.h"
#include "dataplane/stream_private.h"
#include "dataplane/tls/tables.h"

enum {
    TICK_MS = 100,
    ACCEPT_RETRY_MS = 100,
    SCRATCH_KEPT_BYTES = 256 << 10,
    TRIM_MOST = 256,
    FEED_MOST = 64, /* connections that wait for a receive buffer, in one tick */
};

/* ------------------------------------------------------------------ making */

static int pools_init(struct ring *r, unsigned rings)
{
    uint32_t conns = (uint32_t)ring_setting(r, SET_HTTP_CONNECTIONS_MAX);
    const struct {
        struct pool *pool;
        size_t size;
        uint32_t count;
    } pools[] = {
        {&r->conns, sizeof(struct conn), conns},
        {&r->streams, sizeof(struct stream_full), (uint32_t)ring_setting(r, SET_HTTP_STREAMS_MAX)},
        {&r->partials, PARTIAL_HEAD_BYTES, conns},
        {&r->rests, PARTIAL_REST_BYTES, conns},
        {&r->heads, HEADER_BYTES_CEILING, RING_LARGE_HEADS},
        {&r->bodies, BODY_BUFFER_BYTES, RING_BODY_BUFFERS},
        {&r->manifests, MANIFEST_BYTES_CEILING, (uint32_t)ring_setting(r, SET_REGISTRY_MANIFESTS_INFLIGHT)},
    };
    for (size_t i = 0; i < ARRAY_SIZE(pools); i++) {
        int err = pool_init(pools[i].pool, pools[i].size, pools[i].count);
        if (err)
            return err;
    }
    uint32_t pumps =
        2 * (uint32_t)(ring_setting(r, SET_HTTP_STREAMS_MAX) + ring_setting(r, SET_PROXY_TUNNELS_MAX));
    int err = buffers_init(&r->buffers, &r->bodies, pumps, rings);
    if (err)
        return err;
    r->scratch = mmap(NULL, COMMAND_BYTES_MAX, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return r->scratch == MAP_FAILED ? -ENOMEM : 0;
}

int ring_new(const struct ring_config *config, struct ring **out, const char **why)
{
    struct ring *r = calloc(1, sizeof(*r));
    *why = "no memory for a ring";
    if (!r)
        return -ENOMEM;
    r->index = config->index;
    r->plan = config->plan;
    r->names = config->names;
    r->store_shared = config->store;
    r->page = config->page;
    r->counters = &config->page->ring[config->index];
    r->log_page = config->log_page;
    r->log = &config->log_page->ring[config->index];
    r->ready_tail = &r->ready;
    r->starved_tail = &r->starved;
    r->unfed_tail = &r->unfed;
    r->next_id = (uint64_t)time(NULL) << 24; /* ids do not come again after a restart */
    int err = pools_init(r, config->rings);
    if (err)
        return err; /* the process ends: nothing to undo */
    struct loop_config lc = {.entries = RING_ENTRIES, .recv_buffers = RING_RECV_BUFFERS};
    err = loop_new(&lc, &r->loop, why);
    if (err)
        return err;
    *why = "no memory for a ring's part of the store";
    err = store_ring_new(config->store, r->loop, r->counters, ring_setting(r, SET_STORE_CACHE_BYTES),
                         &r->store);
    if (!err)
        err = channel_new(r->loop, config->channel_fd, &r->channel);
    if (!err)
        err = door_ring_new(r, config->helpers, config->table, &r->door);
    if (!err)
        err = http2_new(r, &r->http2);
    if (!err)
        err = proxy_new(r, &r->proxy);
    if (!err)
        err = tcp_ring_new(r, &r->tcp);
    if (!err)
        err = fetches_new(r, &r->fetches);
    if (!err)
        err = passes_new(r, &r->passes);
    if (!err)
        err = detours_new(r, &r->detours);
    if (!err)
        err = jobs_new(r, &r->jobs);
    if (!err)
        err = copying_new(r, &r->copying);
    if (!err)
        err = heirs_new(r, &r->heirs);
    timer_wheel_init(&r->wheel, loop_now_ms(r->loop));
    *out = r;
    return err;
}

void ring_free(struct ring *r)
{
    refused_close(r);
    store_ring_free(r->store);
    channel_free(r->channel);
    door_ring_free(r->door);
    jobs_free(r->jobs);
    heirs_free(r->heirs);
    copying_free(r->copying);
    fetches_free(r->fetches);
    passes_free(r->passes);
    detours_free(r->detours);
    tcp_ring_free(r->tcp);
    proxy_free(r->proxy);
    names_free(r->names);
    http2_free(r->http2);
    loop_free(r->loop);
    struct pool *pools[] = {&r->conns, &r->streams, &r->partials, &r->rests,
                            &r->heads, &r->bodies,  &r->manifests};
    for (size_t i = 0; i < ARRAY_SIZE(pools); i++)
        pool_fini(pools[i]);
    buffers_fini(&r->buffers);
    munmap(r->scratch, COMMAND_BYTES_MAX);
    free(r);
}

/* ------------------------------------------------------------------ a new plan */

/* Whoever came to a service that is no more must not be answered by the one that has its place now. A node
 * that is none any more gets nothing else, not even what is under way. */
static void expire_conns(struct ring *r, const struct plan *old, const struct plan *plan)
{
    for (struct conn *c = r->conn_list, *next; c; c = next) {
        next = c->next;
        if (!plan_same_service(old, plan, c->service))
            conn_expire(c);
        else if (!conn_is_stream(c) && member_is_gone(plan, c->service, &c->wire))
            conn_close(c, CLOSE_NODE_REMOVED);
    }
    http2_expire(r->http2, old, plan);
}

/* A socket that the plan does not name is about to be closed: it goes on as long as its service does. */
static void mark_unnamed(struct ring *r, const struct plan *old, const struct plan *plan)
{
    for (unsigned i = 0; i < r->acceptor_count; i++) {
        r->acceptors[i].listener = PLAN_LISTENERS_MAX;
        if (!plan_same_service(old, plan, r->acceptors[i].service))
            r->acceptors[i].stale = true;
    }
}

static void rename_acceptors(struct ring *r, const struct plan *plan)
{
    for (unsigned i = 0; i < r->acceptor_count; i++) {
        struct acceptor *a = &r->acceptors[i];
        for (unsigned j = 0; j < plan->listener_count && !a->stopped; j++) {
            const struct plan_listener *l = plan_listener(plan, j);
            if (a->slot < l->first || a->slot >= l->first + l->count)
                continue;
            a->service = l->service;
            a->listener = (uint16_t)j;
            a->stale = false;
        }
    }
}

static void take_table(struct ring *r, const struct plan *old)
{
    const struct tls_table *table = atomic_exchange(&r->offered_table, NULL);
    door_plan(r, old, table);
    if (table)
        atomic_store_explicit(&r->table_generation, table->generation, memory_order_release);
}

static void take_plan(struct ring *r)
{
    const struct plan *offered = atomic_exchange(&r->offered, NULL), *old = r->plan;
    if (!offered)
        return;
    r->plan = offered;
    proxy_plan(r->proxy, offered, ring_now_ms(r));
    expire_conns(r, old, offered);
    mark_unnamed(r, old, offered);
    rename_acceptors(r, offered);
    take_table(r, old);
    /* After this main may unmap the plan before it. */
    atomic_store_explicit(&r->generation, offered->generation, memory_order_release);
}

static void take_words(struct ring *r)
{
    const struct kernel_words *offered = atomic_load_explicit(&r->offered_words, memory_order_acquire);
    if (offered == atomic_load_explicit(&r->words, memory_order_relaxed))
        return;
    proxy_words(r->proxy, offered);
    atomic_store_explicit(&r->words, offered, memory_order_release);
}

/* ------------------------------------------------------------------ accepting */

static void accept_retry(struct timer *t, uint64_t now_ms)
{
    struct acceptor *a = container_of(t, struct acceptor, retry);
    (void)now_ms;
    if (!a->stopped)
        loop_accept(a->ring->loop, &a->op, a->fd);
}

/* No descriptor or memory for one more: the connection stays in the listener's queue, for a moment. */
static void accept_later(struct acceptor *a)
{
    ring_count(a->ring, CTR_BUFFERS_EXHAUSTED, 1);
    timer_set(&a->ring->wheel, &a->retry, ring_now_ms(a->ring) + ACCEPT_RETRY_MS);
}

/* It got in while its service went. */
static void turn_away(struct acceptor *a, int fd)
{
    ring_count(a->ring, CTR_CONNECTIONS_ACCEPTED, 1);
    counter_add(&a->ring->counters->closed[CLOSE_SERVICE_GONE], 1);
    close(fd);
}

static void accepted(struct op *op, const struct event *ev)
{
    struct acceptor *a = container_of(op, struct acceptor, op);
    if (ev->res >= 0 && a->stale)
        turn_away(a, ev->res);
    else if (ev->res >= 0) /* also while draining: it is answered, and closed then */
        door_accepted(a->ring, ev->res, a->service, a->listener, a->port);
    if (ev->more)
        return;
    if (a->stopped) {
        close(a->fd); /* a queue must not collect what nobody will answer; control may have a copy */
        a->fd = -1;
        return;
    }
    if (ev->res >= 0 || ev->res == -ECONNABORTED || ev->res == -EINTR)
        loop_accept(a->ring->loop, &a->op, a->fd);
    else
        accept_later(a);
}

/* The one with that descriptor that is not being stopped, or NULL; fd -1: a free place. */
static struct acceptor *find_acceptor(struct ring *r, int fd)
{
    for (unsigned i = 0; i < r->acceptor_count; i++)
        if (r->acceptors[i].fd == fd && (fd < 0 || !r->acceptors[i].stopped))
            return &r->acceptors[i];
    return NULL;
}

/* What every connection that comes from it inherits, and what all of them have in common. */
static void prepare_listener(struct acceptor *a)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    int on = 1;
    (void)setsockopt(a->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (getsockname(a->fd, (struct sockaddr *)&ss, &len) == 0 && ss.ss_family == AF_INET)
        a->port = ntohs(((const struct sockaddr_in *)(const void *)&ss)->sin_port);
    else if (ss.ss_family == AF_INET6)
        a->port = ntohs(((const struct sockaddr_in6 *)(const void *)&ss)->sin6_port);
}

static struct acceptor *take_acceptor(struct ring *r, const struct acceptor_order *o)
{
    struct acceptor *a = find_acceptor(r, -1);
    if (!a && r->acceptor_count < RING_ACCEPTORS_MAX)
        a = &r->acceptors[r->acceptor_count++];
    if (!a)
        return NULL;
    *a = (struct acceptor){.ring = r, .fd = o->fd, .slot = o->slot, .service = o->service};
    a->listener = (uint16_t)plan_listener_of_slot(r->plan, o->slot);
    a->op.done = accepted;
    a->retry.fire = accept_retry;
    prepare_listener(a);
    return a;
}

int ring_listen(struct ring *r, const struct acceptor_order *order)
{
    return take_acceptor(r, order) ? 0 : -ENOSPC;
}

/* The descriptor is closed when the loop has let go of it. */
static void stop_acceptor(struct acceptor *a)
{
    if (a->stopped || a->fd < 0)
        return;
    a->stopped = true;
    if (a->op.inflight) {
        loop_cancel(a->ring->loop, &a->op);
        return;
    }
    timer_clear(&a->retry);
    close(a->fd);
    a->fd = -1;
}

static void obey(struct ring *r, const struct acceptor_order *o)
{
    struct acceptor *a = o->stop ? find_acceptor(r, o->fd) : NULL;
    if (a)
        stop_acceptor(a);
    if (o->stop || r->draining)
        return;
    a = take_acceptor(r, o);
    if (a)
        loop_accept(r->loop, &a->op, a->fd);
}

/* In the order in which main gave them: a listener may have come and gone since the last batch. */
static void take_orders(struct ring *r)
{
    struct acceptor_order *o = atomic_exchange(&r->orders, NULL), *oldest = NULL;
    take_plan(r); /* the one that the newest of them is of */
    while (o) {
        struct acceptor_order *next = o->next;
        o->next = oldest;
        oldest = o;
        o = next;
    }
    while (oldest) {
        o = oldest;
        oldest = o->next;
        obey(r, o);
        free(o);
    }
}

/* ------------------------------------------------------------------ turns and buffers */

void ring_ready(struct ring *r, struct stream *s)
{
    struct stream_full *f = stream_full(s);
    if (f->in_ready)
        return;
    f->in_ready = true;
    f->next_ready = NULL;
    *r->ready_tail = s;
    r->ready_tail = &f->next_ready;
}

/* Each that stands in line now has one turn; who comes back into the line waits for the next batch. */
static void take_turns(struct ring *r)
{
    struct stream *s = r->ready;
    r->ready = NULL;
    r->ready_tail = &r->ready;
    while (s) {
        struct stream_full *f = stream_full(s);
        struct stream *next = f->next_ready;
        f->in_ready = false;
        stream_turn(s);
        s = next;
    }
}

void ring_body_line(struct ring *r, struct stream *s)
{
    struct stream_full *f = stream_full(s);
    if (f->in_starved)
        return;
    ring_count(r, CTR_BUFFERS_EXHAUSTED, 1);
    f->in_starved = true;
    f->next_starved = NULL;
    *r->starved_tail = s;
    r->starved_tail = &f->next_starved;
}

void *ring_body_take(struct ring *r, struct stream *s)
{
    void *buffer = pool_take(&r->bodies);
    if (!buffer)
        ring_body_line(r, s);
    return buffer;
}

static void starved_feed(struct ring *r)
{
    struct stream *s = r->starved;
    if (!s)
        return;
    struct stream_full *f = stream_full(s);
    r->starved = f->next_starved;
    if (!r->starved)
        r->starved_tail = &r->starved;
    f->in_starved = false;
    stream_fed(s);
}

void ring_body_give(struct ring *r, void *buffer)
{
    pool_give(&r->bodies, buffer);
    starved_feed(r);
}

/* One that was told of a buffer may have had no use for it any more: the others are told here. */
static void feed_all(struct ring *r)
{
    for (uint32_t n = r->bodies.count - r->bodies.used; n && r->starved; n--)
        starved_feed(r);
    for (unsigned n = 0; n < FEED_MOST && r->unfed; n++)
        conn_feed(r);
}

void ring_body_leave(struct ring *r, struct stream *s)
{
    struct stream **at = &r->starved;
    while (*at && *at != s)
        at = &stream_full(*at)->next_starved;
    if (!*at)
        return;
    *at = stream_full(s)->next_starved;
    if (!*at)
        r->starved_tail = at;
    stream_full(s)->in_starved = false;
}

const char *ring_date(struct ring *r)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME_COARSE, &ts);
    if ((uint64_t)ts.tv_sec != r->date_s) {
        r->date_s = (uint64_t)ts.tv_sec;
        http_date_format(r->date_s, r->date);
    }
    return r->date;
}

/* ------------------------------------------------------------------ draining */

static void begin_drain(struct ring *r)
{
    r->draining = true;
    for (unsigned i = 0; i < r->acceptor_count; i++)
        stop_acceptor(&r->acceptors[i]);
    door_drain(r);
    for (struct conn *c = r->conn_list, *next; c; c = next) {
        next = c->next;
        conn_drain(c);
    }
    http2_drain(r->http2);
}

static void end_drain(struct ring *r)
{
    for (struct conn *c = r->conn_list, *next; c; c = next) {
        next = c->next;
        conn_close(c, CLOSE_DRAIN_TIMEOUT);
    }
    tcp_drain_end(r);
    http2_end(r->http2);
}

static void step_drain(struct ring *r, uint64_t now_ms)
{
    uint64_t by = atomic_load_explicit(&r->drain_by_ms, memory_order_acquire);
    if (by == 0)
        return;
    if (!r->draining)
        begin_drain(r);
    if (now_ms >= by)
        end_drain(r);
    if (r->conn_list == NULL) {
        jobs_stop(r->jobs);
        copying_stop(r->copying);
        heirs_stop(r->heirs);
        fetches_stop(r->fetches);
        store_ring_stop(r->store);
    }
    r->stopped = r->conn_list == NULL && door_idle(r) && tcp_idle(r) && http2_idle(r->http2) &&
                 fetches_idle(r->fetches) && jobs_idle(r->jobs) && store_ring_idle(r->store);
}

/* ------------------------------------------------------------------ running */

static void tick(struct ring *r, uint64_t now_ms)
{
    channel_tick(r->channel, now_ms);
    store_ring_tick(r->store, now_ms);
    pool_trim(&r->streams, TRIM_MOST); /* what a burst has touched is not kept for ever */
    pool_trim(&r->bodies, TRIM_MOST);
    pool_trim(&r->rests, TRIM_MOST);
    pool_trim(&r->buffers.smalls, TRIM_MOST);
    loop_trim(r->loop);
    door_tick(r);
    refused_tick(r);
    http2_trim(r->http2, TRIM_MOST);
    proxy_tick(r->proxy);
    relay_tick(r);
    tcp_tick(r);
    fetches_tick(r->fetches);
    feed_all(r);
    if (r->scratch_used) /* a large command's memory is not kept */
        (void)madvise(r->scratch + SCRATCH_KEPT_BYTES, COMMAND_BYTES_MAX - SCRATCH_KEPT_BYTES, MADV_DONTNEED);
    r->scratch_used = false;
    if (r->index == 0)
        atomic_store_explicit(&r->counters->counter[CTR_UPLOADS_OPEN], store_uploads_open(r->store_shared),
                              memory_order_relaxed);
}

void ring_run(struct ring *r)
{
    CHECK(loop_enable(r->loop) == 0);
    for (unsigned i = 0; i < r->acceptor_count; i++)
        loop_accept(r->loop, &r->acceptors[i].op, r->acceptors[i].fd);
    channel_start(r->channel);
    uint64_t next_tick = 0;
    while (!r->stopped) {
        uint64_t wake_at = r->ready || http2_pending(r->http2) ? 0 : next_tick;
        int n = loop_turn(r->loop, wake_at);
        CHECK(n >= 0);
        uint64_t now = ring_now_ms(r);
        ring_count(r, CTR_LOOP_BATCHES, 1);
        ring_count(r, CTR_LOOP_EVENTS, (uint64_t)n);
        atomic_store_explicit(&r->counters->counter[CTR_LIVENESS], now, memory_order_relaxed);
        door_turn(r);
        proxy_run(r->proxy, now);
        store_ring_turn(r->store);
        take_turns(r);
        take_plan(r);
        take_words(r);
        if (atomic_load_explicit(&r->orders, memory_order_relaxed))
            take_orders(r);
        (void)timer_wheel_run(&r->wheel, now);
        step_drain(r, now);
        if (now >= next_tick) {
            tick(r, now);
            next_tick = now + TICK_MS;
        }
        fetches_run(r->fetches);
        http2_run(r->http2);
    }
}
