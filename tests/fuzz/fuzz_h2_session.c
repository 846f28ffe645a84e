/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session of HTTP/2 fed with arbitrary bytes, in either role, on a wire of memory; the users of its streams
 * read, write and give up as the first bytes of the input say. Nothing is touched that is not there, and in
 * the end everything is given back.
 *
 * The loop is played: completions are delivered in order, time stands still but for a step at the end.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/http2/http2.h"
#include "dataplane/http2/session.h"
#include "dataplane/ring.h"

enum { USERS_MAX = 64, BUFFERS = 8, ROUNDS = 200 };

/* ------------------------------------------------------------------ the loop */

struct loop {
    uint64_t now_ms;
    struct loop_post *posts, **tail;
    uint8_t buffer[BUFFERS][RECV_BUFFER_BYTES];
    bool taken[BUFFERS];
};

static struct loop loop;

uint64_t loop_now_ms(const struct loop *l)
{
    return l->now_ms;
}

void loop_op_begin(struct op *op)
{
    CHECK(!op->inflight);
    op->inflight = true;
}

static void post(struct loop *l, struct loop_post *p, struct op *op)
{
    CHECK(op->inflight && !p->queued);
    p->queued = true;
    p->op = op;
    p->next = NULL;
    *l->tail = p;
    l->tail = &p->next;
}

void loop_post(struct loop *l, struct loop_post *p, struct op *op, int32_t res)
{
    p->event = (struct event){.res = res};
    post(l, p, op);
}

void loop_post_data(struct loop *l, struct loop_post *p, struct op *op, int32_t res, uint16_t buffer)
{
    p->event = (struct event){.res = res, .buffer = buffer, .data = l->buffer[buffer]};
    post(l, p, op);
}

int loop_buffer_take(struct loop *l)
{
    for (int i = 0; i < BUFFERS; i++)
        if (!l->taken[i]) {
            l->taken[i] = true;
            return i;
        }
    return -ENOBUFS;
}

uint8_t *loop_buffer(const struct loop *l, uint16_t buffer)
{
    return (uint8_t *)(uintptr_t)l->buffer[buffer];
}

void loop_buffer_put(struct loop *l, uint16_t buffer)
{
    CHECK(l->taken[buffer]);
    l->taken[buffer] = false;
}

/* No wire here is a socket. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wunused-parameter"
#define NO_SOCKET(name, ...)                                                                                 \
    void name(struct loop *l, struct op *op, __VA_ARGS__)                                                    \
    {                                                                                                        \
        IMPOSSIBLE(#name);                                                                                   \
    }
NO_SOCKET(loop_recv, int a)
NO_SOCKET(loop_recv_into, int a, void *b, size_t c, int d)
NO_SOCKET(loop_send, int a, const void *b, size_t c, int d)
NO_SOCKET(loop_sendmsg, int a, const struct msghdr *b, int c)
NO_SOCKET(loop_poll, int a, short b)
NO_SOCKET(loop_close, int a)

void loop_cancel(struct loop *l, struct op *op)
{
    IMPOSSIBLE("loop_cancel");
}
#pragma clang diagnostic pop

static bool deliver(void)
{
    struct loop_post *p = loop.posts;
    if (!p)
        return false;
    loop.posts = p->next;
    if (!loop.posts)
        loop.tail = &loop.posts;
    struct event ev = p->event;
    struct op *op = p->op;
    p->queued = false;
    op->inflight = false;
    op->done(op, &ev);
    return true;
}

/* ------------------------------------------------------------------ the wire below */

static struct {
    struct wire_over over;
    const uint8_t *data;
    size_t len, at, step;
    struct op *in, *out;
    struct loop_post in_post, out_post;
    uint32_t choice;
    bool slow;
} below;

static uint32_t choose(void)
{
    below.choice = below.choice * 1664525 + 1013904223;
    return below.choice >> 16;
}

static void below_poll(struct wire *w, struct op *op, short events)
{
    (void)w;
    CHECK(events == POLLIN);
    loop_op_begin(op);
    below.in = op;
    loop_post(&loop, &below.in_post, op, POLLIN);
}

static void below_send(struct wire *w, struct op *op, const void *buf, size_t len, int flags)
{
    (void)w;
    (void)buf;
    (void)flags;
    CHECK(len > 0 && len < INT32_MAX);
    loop_op_begin(op);
    loop_post(&loop, &below.out_post, op, (int32_t)(1 + choose() % len));
}

static void below_cancel(struct wire *w, struct op *op)
{
    (void)w;
    (void)op; /* its completion is on its way already */
}

static ssize_t below_recv_now(struct wire *w, void *buf, size_t len)
{
    (void)w;
    size_t n = below.len - below.at;
    if (below.slow && choose() % 2)
        return -EAGAIN;
    n = n < len ? n : len;
    n = n < below.step ? n : below.step;
    memcpy(buf, below.data + below.at, n);
    below.at += n;
    return (ssize_t)n; /* 0: the end */
}

static ssize_t below_sendmsg_now(struct wire *w, const struct msghdr *msg, int flags)
{
    (void)w;
    (void)flags;
    if (below.slow && choose() % 4 == 0)
        return -EAGAIN;
    return (ssize_t)(below.slow ? 1 + choose() % msg->msg_iov->iov_len : msg->msg_iov->iov_len);
}

static void below_shutdown(struct wire *w)
{
    (void)w;
}

static void below_close(struct wire *w, struct op *op)
{
    (void)w;
    loop_op_begin(op);
    loop_post(&loop, &below.out_post, op, 0);
}

static size_t below_unsent(struct wire *w)
{
    (void)w;
    return 0;
}

static const struct wire_ops below_ops = {
    .name = "fuzz",
    .poll = below_poll,
    .send = below_send,
    .cancel = below_cancel,
    .recv_now = below_recv_now,
    .sendmsg_now = below_sendmsg_now,
    .shutdown = below_shutdown,
    .close = below_close,
    .unsent = below_unsent,
};

/* ------------------------------------------------------------------ the users of streams */

struct user {
    struct wire wire;
    struct op in, out;
    bool open, closing;
    uint8_t buffer[512];
};

static struct user users[USERS_MAX];

static const char *const texts[] = {
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: u\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Le",
    "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabc",
    "ength: 4\r\n\r\nabcd",
    "x",
};

static void user_in(struct op *op, const struct event *ev)
{
    (void)op;
    if (ev->data)
        loop_buffer_put(&loop, ev->buffer);
}

static void user_out(struct op *op, const struct event *ev)
{
    struct user *u = container_of(op, struct user, out);
    (void)ev;
    if (u->closing)
        u->open = false;
}

static struct user *user_new(const struct wire *wire)
{
    for (int i = 0; i < USERS_MAX; i++)
        if (!users[i].open) {
            users[i] = (struct user){.wire = *wire, .in.done = user_in, .out.done = user_out, .open = true};
            return &users[i];
        }
    return NULL;
}

bool conn_start(struct ring *ring, const struct wire *wire, uint16_t service, const struct conn_peer *peer,
                const void *early, size_t early_len)
{
    (void)ring;
    (void)service;
    (void)peer;
    CHECK(early_len > 4 && memcmp((const char *)early + early_len - 4, "\r\n\r\n", 4) == 0);
    return user_new(wire) != NULL;
}

static void user_receive(struct user *u, uint32_t how)
{
    if (u->in.inflight) {
        if (how % 4 == 0)
            wire_cancel(&u->wire, &u->in);
        return;
    }
    switch (how % 5) {
    case 0:
        wire_recv(&u->wire, &u->in);
        return;
    case 1:
        wire_recv_into(&u->wire, &u->in, u->buffer, sizeof(u->buffer), how & 8 ? MSG_DONTWAIT : 0);
        return;
    case 2:
        wire_poll(&u->wire, &u->in, how & 8 ? POLLIN : POLLHUP);
        return;
    default:
        (void)wire_recv_now(&u->wire, u->buffer, 1 + how % sizeof(u->buffer));
    }
}

static void user_send(struct user *u, uint32_t how)
{
    const char *text = texts[how / 8 % ARRAY_SIZE(texts)];
    struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (u->out.inflight) {
        if (how % 4 == 0)
            wire_cancel(&u->wire, &u->out);
        return;
    }
    switch (how % 4) {
    case 0:
        wire_send(&u->wire, &u->out, text, strlen(text), 0);
        return;
    case 1:
        (void)wire_sendmsg_now(&u->wire, &msg, 0);
        return;
    case 2:
        wire_poll(&u->wire, &u->out, POLLOUT);
        return;
    default:
        wire_shutdown(&u->wire);
    }
}

static void user_close(struct user *u)
{
    wire_cancel(&u->wire, &u->in);
    wire_cancel(&u->wire, &u->out);
    if (u->in.inflight || u->out.inflight || u->closing)
        return; /* another time */
    u->closing = true;
    wire_close(&u->wire, &u->out);
}

static void users_act(uint32_t chance)
{
    for (int i = 0; i < USERS_MAX; i++) {
        struct user *u = &users[i];
        uint32_t how = choose();
        if (!u->open || u->closing)
            continue;
        if (how % 16 < chance)
            user_close(u);
        else if (how % 2)
            user_receive(u, how >> 1);
        else
            user_send(u, how >> 1);
    }
}

/* ------------------------------------------------------------------ one input */

static struct counters_page page;
static struct plan plan;
static struct ring ring;
static struct h2_session *client;

static void client_gone(void *arg, struct h2_session *s, enum close_reason why)
{
    (void)arg;
    (void)s;
    (void)why;
    client = NULL;
}

static void begin(void)
{
    static const struct {
        enum setting_id id;
        uint64_t value;
    } settings[] = {
        {SET_HTTP_CONNECTIONS_MAX, 16}, {SET_HTTP_STREAMS_MAX, 64},        {SET_HTTP_HEADER_BYTES_MAX, 4096},
        {SET_HTTP_HEADERS_MAX, 64},     {SET_HTTP_TARGET_BYTES_MAX, 1024}, {SET_HTTP_HEADER_TIMEOUT, 1000},
        {SET_HTTP_IDLE_TIMEOUT, 1000},  {SET_HTTP_SEND_TIMEOUT, 1000},     {SET_HTTP_REQUESTS_MAX, 50},
        {SET_HTTP_LINGER_TIMEOUT, 100}, {SET_HTTP2_STREAMS_MAX, 32},       {SET_PROXY_IDLE_TIMEOUT, 1000},
    };
    if (ring.http2)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
        plan.setting[settings[i].id] = settings[i].value;
    loop.tail = &loop.posts;
    loop.now_ms = 1000;
    ring.loop = &loop;
    ring.plan = &plan;
    ring.counters = &page.ring[0];
    timer_wheel_init(&ring.wheel, loop.now_ms);
    CHECK(pool_init(&ring.streams, 64, 64) == 0 && http2_new(&ring, &ring.http2) == 0);
}

static void turn(void)
{
    while (choose() % 8 && deliver())
        ;
    http2_run(ring.http2);
}

static bool all_gone(void)
{
    for (int i = 0; i < USERS_MAX; i++)
        if (users[i].open)
            return false;
    return !ring.http2->session_list && !ring.http2->dead && !loop.posts;
}

static void end(void)
{
    for (int i = 0; i < 100000 && !all_gone(); i++) {
        for (int j = 0; j < USERS_MAX; j++)
            if (users[j].open && !users[j].closing)
                user_close(&users[j]);
        http2_end(ring.http2);
        turn();
        loop.now_ms += 50;
        (void)timer_wheel_run(&ring.wheel, loop.now_ms);
    }
    CHECK(all_gone());
    struct http2 *h = ring.http2;
    CHECK(h->sessions.used == 0 && h->streams.used == 0 && h->blocks.used == 0 && h->outs.used == 0 &&
          h->heads.used == 0 && h->holds.used == 0 && h->dry == 0 && h->accepted == 0);
    for (int i = 0; i < H2_SIZES; i++)
        CHECK(h->memory.pool[i].used == 0);
    for (int i = 0; i < BUFFERS; i++)
        CHECK(!loop.taken[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire w = {.loop = &loop, .over = &below.over, .fd = -1};
    begin();
    if (size < 4)
        return 0;
    below.over.ops = &below_ops;
    below.data = data + 4;
    below.len = size - 4;
    below.at = 0;
    below.step = data[1] & 64 ? 1 + data[1] % 64u : 65536;
    below.slow = data[1] & 128;
    below.choice = (uint32_t)(data[2] << 8 | data[3]);
    if (data[0] & 1) {
        struct h2_user user = {.gone = client_gone};
        client = h2_client_start(&ring, &w, &user);
        CHECK(client);
    } else {
        CHECK(h2_accepted(&ring, &w, 0, NULL, NULL, 0));
    }
    for (int i = 0; i < ROUNDS && ring.http2->session_list && below.at < below.len; i++) {
        struct wire stream;
        if (client && choose() % 4 == 0 && h2_client_open(client, &stream) && !user_new(&stream))
            break;
        users_act(data[0] >> 4 & 3);
        turn();
        if (data[0] & 2)
            loop.now_ms += choose() % 64;
        (void)timer_wheel_run(&ring.wheel, loop.now_ms);
    }
    end();
    return 0;
}
