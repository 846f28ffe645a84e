/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/2 sessions, both roles against each other: HTTP/1.1 in at one end, HTTP/1.1 out at the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "h2_pair.h"
#include "h2_raw.h"

static struct end ask, other;

static void open_exchange(struct end *e)
{
    struct wire w;
    assert_true(h2_client_open(pair.client, &w));
    end_open(e, &w);
    end_read(e);
}

static void finish(void)
{
    end_close(&ask);
    end_close(&other);
    pair_end();
    free(ask.got);
    free(other.got);
    memset(&ask, 0, sizeof(ask));
    memset(&other, 0, sizeof(other));
}

static void plain(void **state)
{
    (void)state;
    pair_begin();
    pair_both();
    open_exchange(&ask);
    end_say(&ask, "GET /a?b HTTP/1.1\r\nHost: h:1\r\nAccept: x\r\n\r\n");
    pair_until(pair.requests == 1);
    assert_string_equal(pair.early, "GET /a?b HTTP/1.1\r\nhost: h:1\r\naccept: x\r\n\r\n");
    struct end *e = &pair.request[0];
    end_read(e);
    end_say(e, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\nA: b\r\n\r\nabc");
    pair_until(ask.ended && e->ended);
    assert_true(end_is(&ask, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\na: b\r\n\r\nabc"));
    assert_int_equal(h2_client_busy(pair.client), 1);
    end_close(&ask);
    pair_until(h2_client_busy(pair.client) == 0 && pair.changed > 0);
    finish();
}

/* Several at a time, answered in another order. */
static void interleaved(void **state)
{
    (void)state;
    pair_begin();
    pair_both();
    open_exchange(&ask);
    open_exchange(&other);
    end_say(&ask, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
    end_say(&other, "HEAD /2 HTTP/1.1\r\nHost: h\r\n\r\n");
    pair_until(pair.requests == 2);
    end_say(&pair.request[1], "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
    pair_until(other.ended);
    assert_true(end_is(&other, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"));
    assert_false(ask.ended);
    end_say(&pair.request[0], "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    pair_until(ask.ended);
    assert_true(end_is(&ask, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"));
    finish();
}

static void interim(void **state)
{
    (void)state;
    pair_begin();
    pair_both();
    open_exchange(&ask);
    end_say(&ask, "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    pair_until(pair.requests == 1);
    end_read(&pair.request[0]);
    end_say(&pair.request[0], "HTTP/1.1 100 Continue\r\n\r\n");
    pair_until(end_is(&ask, "HTTP/1.1 100 Continue\r\n\r\n"));
    end_say(&ask, "hi");
    pair_until(pair.request[0].ended);
    assert_true(end_is(&pair.request[0], "PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nexpect: "
                                         "100-continue\r\n\r\nhi"));
    end_say(&pair.request[0], "HTTP/1.1 103 \r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
    pair_until(ask.ended);
    assert_true(end_is(&ask, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nlink: x\r\n\r\nHTTP/1.1 204 No "
                             "Content\r\n\r\n"));
    finish();
}

/* As gRPC does: both directions open, trailers at the end. */
static void both_ways(void **state)
{
    (void)state;
    pair_begin();
    pair_both();
    open_exchange(&ask);
    end_say(&ask, "POST /s HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n");
    pair_until(pair.requests == 1);
    struct end *e = &pair.request[0];
    end_read(e);
    end_say(e, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    size_t head = strlen("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"), asked = strlen(pair.early);
    for (int i = 1; i <= 20; i++) {
        pair_until(ask.sent == ask.send_len);
        end_say(&ask, "3\r\nask\r\n");
        pair_until(e->got_len == asked + (size_t)i * 8);
        pair_until(e->sent == e->send_len);
        end_say(e, "4\r\ntold\r\n");
        pair_until(ask.got_len == head + (size_t)i * 9);
    }
    pair_until(ask.sent == ask.send_len && e->sent == e->send_len);
    end_say(&ask, "0\r\nx: y\r\n\r\n");
    pair_until(e->ended);
    assert_memory_equal(e->got + e->got_len - 11, "0\r\nx: y\r\n\r\n", 11);
    end_say(e, "0\r\ngrpc-status: 0\r\ngrpc-message: \r\n\r\n");
    pair_until(ask.ended);
    static const char last[] = "told\r\n0\r\ngrpc-status: 0\r\ngrpc-message: \r\n\r\n";
    assert_memory_equal(ask.got + ask.got_len - (sizeof(last) - 1), last, sizeof(last) - 1);
    finish();
}

static char *pattern(size_t len)
{
    char *p = malloc(len);
    CHECK(p);
    uint32_t x = 1;
    for (size_t i = 0; i < len; i++) {
        x = x * 1664525 + 1013904223;
        p[i] = (char)(x >> 24);
    }
    return p;
}

enum { LARGE = 8 << 20 };

static void large(void **state)
{
    (void)state;
    char *bytes = pattern(LARGE), head[128];
    pair_begin();
    pair_both();
    open_exchange(&ask);
    (void)snprintf(head, sizeof(head), "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", LARGE);
    end_say(&ask, head);
    pair_until(pair.requests == 1 && ask.sent == ask.send_len);
    struct end *e = &pair.request[0];
    size_t request_head = e->got_len;
    end_read(e);
    end_send(&ask, bytes, LARGE);
    pair_until(e->ended);
    assert_int_equal(e->got_len, request_head + LARGE);
    assert_memory_equal(e->got + request_head, bytes, LARGE);
    (void)snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", LARGE);
    end_say(e, head);
    pair_until(e->sent == e->send_len);
    end_send(e, bytes, LARGE);
    pair_until(ask.ended);
    assert_memory_equal(ask.got + ask.got_len - LARGE, bytes, LARGE);
    free(bytes);
    finish();
}

/* A reader that stands still holds its window's worth, and nobody else. */
static void one_stands_still(void **state)
{
    (void)state;
    char *bytes = pattern(LARGE), head[128];
    pair_begin();
    pair_both();
    (void)snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", LARGE);
    open_exchange(&ask);
    ask.hold = true;
    wire_cancel(&ask.wire, &ask.in);
    pair_until(!ask.in.inflight);
    end_say(&ask, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
    pair_until(pair.requests == 1);
    end_say(&pair.request[0], head);
    pair_until(pair.request[0].sent == pair.request[0].send_len);
    end_send(&pair.request[0], bytes, LARGE);
    open_exchange(&other);
    end_say(&other, "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
    pair_until(pair.requests == 2);
    end_say(&pair.request[1], head);
    pair_until(pair.request[1].sent == pair.request[1].send_len);
    end_send(&pair.request[1], bytes, LARGE);
    pair_until(other.ended);
    assert_memory_equal(other.got + other.got_len - LARGE, bytes, LARGE);
    assert_true(pair.request[0].sent <= H2_STREAM_WINDOW);
    assert_true(pair.ring->http2->blocks.used <= H2_STREAM_WINDOW / H2_BLOCK_ROOM + 2);
    ask.hold = false;
    ask.error = 0;
    end_read(&ask);
    pair_until(ask.ended);
    assert_memory_equal(ask.got + ask.got_len - LARGE, bytes, LARGE);
    free(bytes);
    finish();
}

/* Bytes in hand are never looked at as something else: each way of sending and of being cut. */
static void in_pieces(void **state)
{
    (void)state;
    static const char text[] =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nt: "
        "u\r\n\r\n";
    for (size_t step = 1; step < sizeof(text); step += 3) {
        pair_begin();
        pair_both();
        open_exchange(&ask);
        end_say(&ask, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        pair_until(pair.requests == 1);
        struct end *e = &pair.request[0];
        for (size_t at = 0; at < sizeof(text) - 1; at += step) {
            size_t n = sizeof(text) - 1 - at < step ? sizeof(text) - 1 - at : step;
            end_send(e, text + at, n);
            pair_until(e->sent == e->send_len || e->send_error);
            assert_int_equal(e->send_error, 0);
        }
        pair_until(ask.ended);
        static const char tail[] = "0\r\nt: u\r\n\r\n";
        assert_memory_equal(ask.got + ask.got_len - (sizeof(tail) - 1), tail, sizeof(tail) - 1);
        finish();
    }
}

/* ------------------------------------------------------------------ what goes wrong */

static void client_closes(void **state)
{
    (void)state;
    pair_begin();
    pair_both();
    open_exchange(&ask);
    end_say(&ask, "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc");
    pair_until(pair.requests == 1 && ask.sent == ask.send_len);
    end_read(&pair.request[0]);
    end_close(&ask);
    pair_until(pair.request[0].error);
    assert_int_equal(pair.request[0].error, -ECONNRESET);
    end_say(&pair.request[0], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    pair_until(pair.request[0].send_error);
    finish();
}

/* An answer that is cut is never a clean end. */
static void answer_is_cut(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nConte",
        "",
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        pair_begin();
        pair_both();
        open_exchange(&ask);
        end_say(&ask, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        pair_until(pair.requests == 1);
        end_say(&pair.request[0], texts[i]);
        pair_until(pair.request[0].sent == pair.request[0].send_len);
        if (i & 1)
            wire_shutdown(&pair.request[0].wire);
        else
            end_close(&pair.request[0]);
        pair_until(ask.error);
        assert_int_equal(ask.error, -ECONNRESET);
        assert_false(ask.ended);
        finish();
    }
}

/* What has no length ends with the connection, and cleanly so. */
static void until_close(void **state)
{
    (void)state;
    pair_begin();
    pair_both();
    open_exchange(&ask);
    end_say(&ask, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    pair_until(pair.requests == 1);
    pair.request[0].shut_after = true;
    end_say(&pair.request[0], "HTTP/1.0 200 OK\r\n\r\nabc");
    pair_until(ask.ended);
    assert_true(end_is(&ask, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
    finish();
}

static void broken_answer(void **state)
{
    (void)state;
    pair_begin();
    pair_both();
    open_exchange(&ask);
    end_say(&ask, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    pair_until(pair.requests == 1);
    end_say(&pair.request[0], "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd");
    pair_until(ask.error && pair.request[0].sent == pair.request[0].send_len);
    assert_false(ask.ended);
    end_say(&pair.request[0], "more");
    assert_true(pair.request[0].out.inflight);
    pair_until(pair.request[0].send_error);
    finish();
}

/* The answer is complete, and nobody wants the rest of the request. */
static void early_answer(void **state)
{
    (void)state;
    char *bytes = pattern(LARGE), head[128];
    pair_begin();
    pair_both();
    open_exchange(&ask);
    (void)snprintf(head, sizeof(head), "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", LARGE);
    end_say(&ask, head);
    pair_until(pair.requests == 1 && ask.sent == ask.send_len);
    end_send(&ask, bytes, LARGE);
    end_say(&pair.request[0], "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
    pair_until(pair.request[0].sent == pair.request[0].send_len);
    wire_shutdown(&pair.request[0].wire);
    end_read(&pair.request[0]);
    pair_until(pair.request[0].ended);
    end_close(&pair.request[0]);
    pair_until(ask.ended && ask.send_error);
    assert_true(end_is(&ask, "HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n"));
    free(bytes);
    finish();
}

static void refused(void **state)
{
    (void)state;
    pair_begin();
    pair_both();
    pair.no_conn = true;
    open_exchange(&ask);
    end_say(&ask, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n");
    pair_until(ask.error);
    assert_int_equal(ask.error, H2_UNPROCESSED);
    assert_int_equal(pair_count(CTR_H2_REFUSED), 1);
    finish();
}

/* The session dies: what was on its way is lost, what was not sent can go elsewhere. */
static void session_dies(void **state)
{
    (void)state;
    int fd[2];
    pair_begin();
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
    pair_start_client(fd[0]);
    open_exchange(&ask);
    end_say(&ask, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    pair_until(ask.sent == ask.send_len);
    pair_turn();
    open_exchange(&other);
    close(fd[1]);
    pair_until(ask.error && other.error && pair.gone);
    assert_int_equal(ask.error, -ECONNRESET);
    assert_int_equal(other.error, H2_UNPROCESSED);
    assert_int_equal(pair.why, CLOSE_CLIENT_ABORT);
    finish();
}

/* GOAWAY: streams above the last one were not processed; no new ones. */
static void goaway(void **state)
{
    (void)state;
    static const uint8_t frames[] = {0, 0, 0, 4, 0, 0, 0, 0, 0, /* SETTINGS */
                                     0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0};
    pair_begin();
    pair_raw(true);
    open_exchange(&ask);
    end_say(&ask, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
    pair_until(ask.sent == ask.send_len);
    open_exchange(&other);
    end_say(&other, "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc");
    for (int i = 0; i < 5; i++)
        pair_turn();
    assert_true(write(pair.raw, frames, sizeof(frames)) == sizeof(frames));
    pair_until(other.error);
    assert_int_equal(other.error, H2_UNPROCESSED);
    assert_int_equal(ask.error, 0);
    assert_true(h2_client_over(pair.client));
    assert_int_equal(h2_client_room(pair.client), 0);
    end_close(&ask);
    end_close(&other);
    pair_until(pair.gone);
    assert_int_equal(pair.why, CLOSE_H2_GOAWAY);
    finish();
}

static void drained(void **state)
{
    (void)state;
    pair_begin();
    pair_both();
    open_exchange(&ask);
    end_say(&ask, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    pair_until(pair.requests == 1);
    http2_drain(pair.ring->http2);
    pair_until(h2_client_over(pair.client));
    end_say(&pair.request[0], "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
    pair_until(ask.ended);
    end_close(&pair.request[0]);
    end_close(&ask);
    pair_until(pair.gone && http2_idle(pair.ring->http2));
    assert_int_equal(pair_closed(CLOSE_DRAIN), 1);
    finish();
}

/* ------------------------------------------------------------------ bytes of a client's */

static void raw_begin(void)
{
    raw_begin_with("", 0);
    assert_string_equal(pair.early, "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
}

/* The first frame of that type that came, or NULL. */
static const uint8_t *raw_find(uint8_t type)
{
    static uint8_t bytes[1 << 16];
    ssize_t len = recv(pair.raw, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_PEEK);
    for (ssize_t at = 0; at + 9 <= len; at += 9 + (bytes[at] << 16 | bytes[at + 1] << 8 | bytes[at + 2]))
        if (bytes[at + 3] == type)
            return bytes + at;
    return NULL;
}

/* A client that does not keep to its windows loses the stream; what was taken until then is bounded. */
static void beyond_the_window(void **state)
{
    (void)state;
    static const uint8_t bytes[16384];
    pair_begin();
    raw_begin();
    const struct pool *blocks = &pair.ring->http2->blocks;
    for (int i = 0; i < H2_STREAM_WINDOW / 16384; i++) {
        raw_frame(NGHTTP2_DATA, 0, 1, bytes, sizeof(bytes));
        assert_true(blocks->used <= H2_STREAM_WINDOW / H2_BLOCK_ROOM + 2);
    }
    assert_null(raw_find(NGHTTP2_RST_STREAM));
    raw_frame(NGHTTP2_DATA, 0, 1, bytes, sizeof(bytes));
    pair_until(raw_find(NGHTTP2_RST_STREAM) || raw_find(NGHTTP2_GOAWAY));
    const uint8_t *frame = raw_find(NGHTTP2_RST_STREAM);
    if (!frame)
        frame = raw_find(NGHTTP2_GOAWAY) + 4;
    assert_int_equal(frame[12], NGHTTP2_FLOW_CONTROL_ERROR);
    finish();
}

/* What nghttp2 may allocate for one session has an end. */
static void allowance(void **state)
{
    (void)state;
    pair_begin();
    raw_begin();
    struct h2_session *s = pair.ring->http2->session_list;
    s->allowance.most = s->allowance.used + 1500;
    for (uint8_t id = 3; id < 101 && s->state == H2_OPEN; id += 2)
        raw_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id, "\x83\x86\x84\x41\x01h", 6);
    pair_until(raw_find(NGHTTP2_GOAWAY));
    assert_int_equal(raw_find(NGHTTP2_GOAWAY)[16], NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(pair_closed(CLOSE_H2_MEMORY), 1);
    finish();
}

/* Frames of one byte: what is kept of them is not many times as much. */
static void small_frames(void **state)
{
    (void)state;
    pair_begin();
    raw_begin();
    for (int i = 0; i < 2000; i++)
        raw_frame(NGHTTP2_DATA, 0, 1, "x", 1);
    assert_int_equal(pair.ring->http2->blocks.used, 1);
    struct end *e = &pair.request[0];
    end_read(e);
    raw_frame(NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, "", 0);
    pair_until(e->ended);
    assert_memory_equal(e->got + e->got_len - 5, "0\r\n\r\n", 5);
    assert_int_equal(pair.ring->http2->blocks.used, 0);
    finish();
}

/* A hundred at a time, and no more than the other side takes. */
static void many(void **state)
{
    (void)state;
    static struct end asks[100];
    pair_begin();
    pair_both();
    memset(asks, 0, sizeof(asks));
    for (int i = 0; i < 20; i++)
        pair_turn(); /* settings are known */
    assert_int_equal(h2_client_room(pair.client), 100);
    for (int i = 0; i < 100; i++) {
        open_exchange(&asks[i]);
        end_say(&asks[i], "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    assert_int_equal(h2_client_room(pair.client), 0);
    pair_until(pair.requests == 100);
    for (int i = 99; i >= 0; i--)
        end_say(&pair.request[i], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    for (int i = 0; i < 100; i++) {
        pair_until(asks[i].ended);
        end_close(&asks[i]);
        free(asks[i].got);
    }
    pair_until(h2_client_room(pair.client) > 0);
    finish();
}

/* ------------------------------------------------------------------ the wire's other calls */

static struct event seen;
static unsigned seen_count;

static void see(struct op *op, const struct event *ev)
{
    (void)op;
    seen = *ev;
    seen_count++;
}

static void other_calls(void **state)
{
    (void)state;
    struct op op = {.done = see};
    char buf[8];
    pair_begin();
    pair_both();
    open_exchange(&ask);
    end_say(&ask, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc");
    pair_until(pair.requests == 1 && ask.sent == ask.send_len);
    struct wire *w = &pair.request[0].wire;
    seen_count = 0;
    wire_poll(w, &op, POLLIN);
    pair_until(seen_count == 1);
    assert_int_equal(seen.res, POLLIN);
    assert_int_equal(wire_recv_now(w, buf, 2), 2);
    assert_memory_equal(buf, "ab", 2);
    wire_recv(w, &op);
    pair_until(seen_count == 2);
    assert_int_equal(seen.res, 1);
    assert_memory_equal(seen.data, "c", 1);
    loop_buffer_put(pair.ring->loop, seen.buffer);
    assert_int_equal(wire_recv_now(w, buf, 2), -EAGAIN);
    wire_recv_into(w, &op, buf, 2, MSG_DONTWAIT);
    pair_until(seen_count == 3);
    assert_int_equal(seen.res, -EAGAIN);
    wire_recv(w, &op);
    wire_cancel(w, &op);
    pair_until(seen_count == 4);
    assert_int_equal(seen.res, -ECANCELED);
    struct iovec iov[3] = {
        {(void *)"HTTP/1.1 200 OK\r\nContent-", 25}, {(void *)"", 0}, {(void *)"Length: 2\r\n\r\nhi", 15}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 3};
    wire_poll(w, &op, POLLOUT);
    pair_until(seen_count == 5);
    assert_int_equal(seen.res, POLLOUT);
    assert_int_equal(wire_sendmsg_now(w, &msg, 0), 40);
    assert_int_equal(wire_sendmsg_now(w, &msg, 0), -EPIPE);
    assert_int_equal(wire_fd_to(w), -1);
    pair_until(wire_unsent(w) == 0);
    end_say(&ask, "def");
    pair_until(ask.ended);
    assert_int_equal(wire_recv_now(w, buf, 8), 3);
    assert_int_equal(wire_recv_now(w, buf, 8), 0);
    finish();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain),
        cmocka_unit_test(interleaved),
        cmocka_unit_test(interim),
        cmocka_unit_test(both_ways),
        cmocka_unit_test(large),
        cmocka_unit_test(one_stands_still),
        cmocka_unit_test(in_pieces),
        cmocka_unit_test(client_closes),
        cmocka_unit_test(answer_is_cut),
        cmocka_unit_test(until_close),
        cmocka_unit_test(broken_answer),
        cmocka_unit_test(early_answer),
        cmocka_unit_test(refused),
        cmocka_unit_test(session_dies),
        cmocka_unit_test(goaway),
        cmocka_unit_test(drained),
        cmocka_unit_test(many),
        cmocka_unit_test(other_calls),
        cmocka_unit_test(beyond_the_window),
        cmocka_unit_test(small_frames),
        cmocka_unit_test(allowance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
