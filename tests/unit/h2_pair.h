/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two HTTP/2 sessions of one ring, a client's and a server's, on the two ends of a socket pair, or one of
 * them against bytes that a test writes itself. conn_start is played by the test: what a request's wire gives
 * and takes is its own. Defines that function, so only a test program includes it, once.
 */
#ifndef FL_TEST_H2_PAIR_H
#define FL_TEST_H2_PAIR_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "dataplane/http2/http2.h"
#include "dataplane/http2/session.h"
#include "dataplane/ring.h"

enum { PAIR_REQUESTS = 256, PAIR_BYTES = 16 << 20, PAIR_TURNS = 20000 };

/* One end of an exchange: everything that its wire gives is collected. */
struct end {
    struct wire wire;
    struct op in, out;
    uint8_t *got;
    size_t got_len;
    bool used, ended, reading, hold, closed; /* hold: reads nothing now */
    bool leaving;                            /* sends nothing more */
    int error;                               /* of receiving */
    const char *send;
    size_t send_len, sent;
    int send_error;
    bool shut_after;
};

static struct {
    struct ring *ring;
    struct counters_page *page;
    struct plan *plan;
    struct h2_session *client;
    unsigned gone, changed;
    enum close_reason why;
    int raw; /* the end of a session that the test speaks to itself; -1: none */
    struct end request[PAIR_REQUESTS];
    unsigned requests;
    char early[80 << 10]; /* of the last request */
    bool no_conn;         /* conn_start has no memory */
} pair;

static inline void end_in_done(struct op *op, const struct event *ev);
static inline void end_out_done(struct op *op, const struct event *ev);

static inline void end_open(struct end *e, const struct wire *wire)
{
    uint8_t *memory = e->got;
    memset(e, 0, sizeof(*e));
    e->got = memory ? memory : malloc(PAIR_BYTES);
    CHECK(e->got);
    e->used = true;
    e->wire = *wire;
    e->in.done = end_in_done;
    e->out.done = end_out_done;
}

static inline void end_read(struct end *e)
{
    if (e->hold || e->ended || e->error || e->in.inflight || e->closed)
        return;
    CHECK(e->got_len < PAIR_BYTES);
    wire_recv_into(&e->wire, &e->in, e->got + e->got_len, PAIR_BYTES - e->got_len, 0);
}

static inline void end_in_done(struct op *op, const struct event *ev)
{
    struct end *e = container_of(op, struct end, in);
    if (ev->res > 0)
        e->got_len += (size_t)ev->res;
    else if (ev->res == 0)
        e->ended = true;
    else
        e->error = ev->res;
    end_read(e);
}

static inline void end_write(struct end *e)
{
    if (e->sent < e->send_len && !e->out.inflight && !e->send_error && !e->leaving)
        wire_send(&e->wire, &e->out, e->send + e->sent, e->send_len - e->sent, 0);
}

static inline void end_out_done(struct op *op, const struct event *ev)
{
    struct end *e = container_of(op, struct end, out);
    if (e->closed)
        return;
    if (ev->res < 0)
        e->send_error = ev->res;
    else
        e->sent += (size_t)ev->res;
    if (e->sent == e->send_len && e->shut_after)
        wire_shutdown(&e->wire);
    end_write(e);
}

static inline void end_send(struct end *e, const void *text, size_t len)
{
    CHECK(e->sent == e->send_len);
    e->send = text;
    e->send_len = len;
    e->sent = 0;
    end_write(e);
}

static inline void end_say(struct end *e, const char *text)
{
    end_send(e, text, strlen(text));
}

static inline bool end_is(const struct end *e, const char *text)
{
    return e->got_len == strlen(text) && memcmp(e->got, text, e->got_len) == 0;
}

bool conn_start(struct ring *ring, const struct wire *wire, uint16_t service, const struct conn_peer *peer,
                const void *early, size_t early_len)
{
    (void)ring;
    (void)service;
    (void)peer;
    if (pair.no_conn)
        return false;
    CHECK(pair.requests < PAIR_REQUESTS && early_len < sizeof(pair.early));
    struct end *e = &pair.request[pair.requests++];
    end_open(e, wire);
    memcpy(pair.early, early, early_len);
    pair.early[early_len] = '\0';
    memcpy(e->got, early, early_len);
    e->got_len = early_len;
    return true;
}

/* ------------------------------------------------------------------ turns */

static inline void pair_turn(void)
{
    struct ring *r = pair.ring;
    int n = loop_turn(r->loop, http2_pending(r->http2) ? 0 : loop_clock_us() / 1000 + 2);
    CHECK(n >= 0);
    (void)timer_wheel_run(&r->wheel, ring_now_ms(r));
    http2_run(r->http2);
}

#define pair_until(condition)                                                                                \
    do {                                                                                                     \
        for (int turns_ = 0; turns_ < PAIR_TURNS && !(condition); turns_++)                                  \
            pair_turn();                                                                                     \
        assert_true(condition);                                                                              \
    } while (0)

static inline void end_close(struct end *e)
{
    if (!e->used || e->closed)
        return;
    e->hold = e->leaving = true;
    wire_cancel(&e->wire, &e->in);
    wire_cancel(&e->wire, &e->out);
    for (int i = 0; i < PAIR_TURNS && (e->in.inflight || e->out.inflight); i++)
        pair_turn();
    e->closed = true;
    wire_close(&e->wire, &e->out);
    for (int i = 0; i < PAIR_TURNS && e->out.inflight; i++)
        pair_turn();
    CHECK(!e->out.inflight);
}

/* ------------------------------------------------------------------ beginning and end */

static inline void pair_changed(void *arg, struct h2_session *s)
{
    (void)arg;
    (void)s;
    pair.changed++;
}

static inline void pair_gone(void *arg, struct h2_session *s, enum close_reason why)
{
    (void)arg;
    (void)s;
    pair.client = NULL;
    pair.gone++;
    pair.why = why;
}

static const struct setting_default {
    enum setting_id id;
    uint64_t value;
} pair_settings[] = {
    {SET_HTTP_CONNECTIONS_MAX, 16}, {SET_HTTP_STREAMS_MAX, 256},       {SET_HTTP_HEADER_BYTES_MAX, 4096},
    {SET_HTTP_HEADERS_MAX, 64},     {SET_HTTP_TARGET_BYTES_MAX, 1024}, {SET_HTTP_HEADER_TIMEOUT, 60000},
    {SET_HTTP_IDLE_TIMEOUT, 60000}, {SET_HTTP_SEND_TIMEOUT, 60000},    {SET_HTTP_REQUESTS_MAX, 1000000},
    {SET_HTTP_LINGER_TIMEOUT, 200}, {SET_HTTP2_STREAMS_MAX, 100},      {SET_PROXY_IDLE_TIMEOUT, 60000},
};

static inline void pair_begin(void)
{
    const char *why;
    struct loop_config lc = {.entries = 256, .recv_buffers = 128};
    memset(&pair, 0, sizeof(pair));
    struct ring *r = pair.ring = calloc(1, sizeof(*r));
    pair.plan = calloc(1, sizeof(*pair.plan));
    pair.page = calloc(1, sizeof(*pair.page));
    pair.raw = -1;
    CHECK(r && pair.plan && pair.page);
    for (size_t i = 0; i < ARRAY_SIZE(pair_settings); i++)
        pair.plan->setting[pair_settings[i].id] = pair_settings[i].value;
    r->plan = pair.plan;
    r->counters = &pair.page->ring[0];
    CHECK(loop_new(&lc, &r->loop, &why) == 0 && loop_enable(r->loop) == 0);
    timer_wheel_init(&r->wheel, loop_now_ms(r->loop));
    CHECK(pool_init(&r->streams, 64, 256) == 0);
    CHECK(http2_new(r, &r->http2) == 0);
}

static inline struct wire pair_wire(int fd)
{
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    return wire_of_socket(pair.ring->loop, fd);
}

static inline void pair_start_client(int fd)
{
    struct h2_user user = {.changed = pair_changed, .gone = pair_gone};
    struct wire w = pair_wire(fd);
    pair.client = h2_client_start(pair.ring, &w, &user);
    CHECK(pair.client);
}

static inline void pair_start_server(int fd)
{
    struct wire w = pair_wire(fd);
    CHECK(h2_accepted(pair.ring, &w, 0, NULL, NULL, 0));
}

static inline void pair_both(void)
{
    int fd[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
    pair_start_server(fd[0]);
    pair_start_client(fd[1]);
}

/* A session alone; the test has the other end. */
static inline void pair_raw(bool client)
{
    int fd[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
    if (client)
        pair_start_client(fd[0]);
    else
        pair_start_server(fd[0]);
    pair.raw = fd[1];
}

static inline uint64_t pair_closed(enum close_reason why)
{
    return pair.page->ring[0].closed[why];
}

static inline uint64_t pair_count(enum counter_id id)
{
    return pair.page->ring[0].counter[id];
}

/* Everything is given back. */
static inline void pair_end(void)
{
    struct http2 *h = pair.ring->http2;
    for (unsigned i = 0; i < pair.requests; i++) {
        end_close(&pair.request[i]);
        free(pair.request[i].got);
    }
    http2_end(h);
    if (pair.raw >= 0)
        close(pair.raw);
    for (int i = 0; i < PAIR_TURNS && (h->session_list || h->dead); i++)
        pair_turn();
    CHECK(!h->session_list && !h->dead);
    struct pool *pools[] = {&h->sessions, &h->streams, &h->blocks, &h->outs, &h->heads, &h->holds};
    for (size_t i = 0; i < ARRAY_SIZE(pools); i++)
        CHECK(pools[i]->used == 0);
    for (int i = 0; i < H2_SIZES; i++)
        CHECK(h->memory.pool[i].used == 0);
    CHECK(pair_count(CTR_H2_STREAMS_OPEN) == 0 && pair_count(CTR_H2_SESSIONS_OPEN) == 0 &&
          pair_count(CTR_CONNECTIONS_OPEN) == 0);
    http2_free(h);
    loop_free(pair.ring->loop);
    pool_fini(&pair.ring->streams);
    free(pair.plan);
    free(pair.page);
    free(pair.ring);
}

#endif
