/* SPDX-License-Identifier: Apache-2.0 */
/* Frames of content against a peer that opens its windows bit by bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "h2_pair.h"
#include "h2_raw.h"

enum { FRAMES_MAX = 4096, FIRST_WINDOW = 65535 };

static void rule(void **state)
{
    (void)state;
    /* Nothing. */
    assert_false(h2_room_does(0, 65535, 0));
    assert_false(h2_room_does(0, 0, 1));
    /* A good piece, or all that there is. */
    assert_true(h2_room_does(H2_PIECE_LEAST, 1 << 20, 1 << 20));
    assert_false(h2_room_does(H2_PIECE_LEAST - 1, 1 << 20, 1 << 20));
    assert_true(h2_room_does(7, 65535, 7));
    assert_false(h2_room_does(6, 65535, 7));
    /* Half of what there ever was. */
    assert_true(h2_room_does(1, 1, 1000));
    assert_true(h2_room_does(1, 2, 1000));
    assert_false(h2_room_does(1, 3, 1000));
    assert_true(h2_room_does(2, 3, 1000));
    assert_true(h2_room_does(1000, 2000, 100000));
    assert_false(h2_room_does(999, 2000, 100000));
}

/* ------------------------------------------------------------------ the client */

static uint32_t frames[FRAMES_MAX]; /* lengths of content */
static unsigned frame_count;
static uint64_t content_bytes;
static uint8_t rest[1 << 20];
static size_t rest_len;

/* Takes what is there. */
static void collect(void)
{
    ssize_t n;
    while ((n = recv(pair.raw, rest + rest_len, sizeof(rest) - rest_len, MSG_DONTWAIT)) > 0)
        rest_len += (size_t)n;
    size_t at = 0;
    while (rest_len - at >= 9) {
        size_t len = (size_t)rest[at] << 16 | (size_t)rest[at + 1] << 8 | rest[at + 2];
        if (rest_len - at < 9 + len)
            break;
        if (rest[at + 3] == NGHTTP2_DATA && len) {
            CHECK(frame_count < FRAMES_MAX);
            frames[frame_count++] = (uint32_t)len;
            content_bytes += len;
        }
        at += 9 + len;
    }
    memmove(rest, rest + at, rest_len - at);
    rest_len -= at;
}

static void turns(int count)
{
    for (int i = 0; i < count; i++) {
        pair_turn();
        collect();
    }
}

#define content_until(condition)                                                                             \
    do {                                                                                                     \
        for (int n_ = 0; n_ < PAIR_TURNS && !(condition); n_++)                                              \
            turns(1);                                                                                        \
        assert_true(condition);                                                                              \
    } while (0)

static void window(uint8_t stream, uint32_t n)
{
    uint8_t more[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    raw_frame(NGHTTP2_WINDOW_UPDATE, 0, stream, more, sizeof(more));
}

static char *answer;
static size_t answer_len;

/* The answer to the request, with so much content, is begun. */
static void answer_begin(size_t content)
{
    answer = calloc(1, content + 128);
    CHECK(answer);
    int head = sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", content);
    answer_len = (size_t)head + content;
    frame_count = 0;
    content_bytes = 0;
    rest_len = 0;
    end_send(&pair.request[0], answer, answer_len);
}

static void finish(void)
{
    pair_end();
    free(answer);
    answer = NULL;
}

/* ------------------------------------------------------------------ */

/* The session's window grows by a few bytes at a time: they are collected. */
static void dribbles(void **state)
{
    (void)state;
    pair_begin();
    raw_begin_with("", 0);
    window(1, 1 << 20);
    answer_begin(3 * FIRST_WINDOW);
    content_until(content_bytes == FIRST_WINDOW);
    struct h2_session *s = pair.ring->http2->session_list;
    unsigned before = frame_count;
    while (content_bytes == FIRST_WINDOW) {
        s->room_since_ms = s->room_since_ms ? ring_now_ms(pair.ring) : 0; /* no time passes */
        window(0, 100);
        turns(3);
    }
    assert_int_equal(frame_count, before + 1);
    assert_in_range(frames[before], H2_PIECE_LEAST, H2_PIECE_LEAST + 100);
    finish();
}

/* The same, and then nothing more comes: what there is room for is sent after a while. */
static void wait_ends(void **state)
{
    (void)state;
    pair_begin();
    raw_begin_with("", 0);
    window(1, 1 << 20);
    answer_begin(3 * FIRST_WINDOW);
    content_until(content_bytes == FIRST_WINDOW);
    struct h2_session *s = pair.ring->http2->session_list;
    for (uint64_t i = 1; i <= 3; i++) {
        window(0, 10);
        content_until(s->room_since_ms);
        assert_int_equal(content_bytes, FIRST_WINDOW + 10 * (i - 1));
        content_until(content_bytes == FIRST_WINDOW + 10 * i);
        assert_int_equal(frames[frame_count - 1], 10);
    }
    finish();
}

/* What is left of the answer needs no more room than it has bytes. */
static void last_bytes(void **state)
{
    (void)state;
    pair_begin();
    raw_begin_with("", 0);
    window(1, 1 << 20);
    answer_begin(FIRST_WINDOW + 5);
    content_until(content_bytes == FIRST_WINDOW);
    struct h2_session *s = pair.ring->http2->session_list;
    s->room_most = 1 << 20;
    window(0, 5);
    content_until(content_bytes == FIRST_WINDOW + 5);
    assert_int_equal(s->room_since_ms, 0);
    finish();
}

/* What waits loses the little room that it has, and the wait ends meanwhile: it goes on when there is room
 * again. */
static void room_is_taken_back(void **state)
{
    (void)state;
    static const uint8_t less[] = {0, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0, 0, 0xff, 0};
    pair_begin();
    raw_begin_with("", 0);
    window(0, 1 << 20);
    answer_begin(3 * FIRST_WINDOW);
    content_until(content_bytes == FIRST_WINDOW);
    struct h2_session *s = pair.ring->http2->session_list;
    window(1, 100);
    content_until(s->room_since_ms);
    raw_frame(NGHTTP2_SETTINGS, 0, 0, less, sizeof(less));
    content_until(nghttp2_session_get_stream_remote_window_size(s->ng, 1) == 0);
    uint64_t began = s->room_since_ms;
    content_until(s->room_since_ms != began);
    assert_int_equal(content_bytes, FIRST_WINDOW);
    window(1, 1 << 20);
    content_until(content_bytes == 3 * FIRST_WINDOW);
    finish();
}

/* Windows that are tiny from the beginning get all, at once. */
static void tiny(void **state)
{
    (void)state;
    static const uint8_t one[] = {0, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0, 0, 0, 1};
    pair_begin();
    raw_begin_with(one, sizeof(one));
    answer_begin(300);
    struct h2_session *s = pair.ring->http2->session_list;
    for (uint64_t i = 1; i <= 300; i++) {
        content_until(content_bytes == i);
        assert_int_equal(s->room_since_ms, 0);
        window(1, 1);
    }
    assert_int_equal(frame_count, 300);
    finish();
}

static struct op polled;
static unsigned polls;

static void poll_done(struct op *op, const struct event *ev)
{
    (void)op;
    polls += ev->res == POLLOUT;
}

/* Who asks when it may send is told when it is worth it, and not again and again. */
static void asked(void **state)
{
    (void)state;
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    static char content[1 << 17];
    struct iovec iov = {(void *)(uintptr_t)head, sizeof(head) - 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    pair_begin();
    raw_begin_with("", 0);
    window(1, 1 << 20);
    frame_count = 0;
    content_bytes = 0;
    rest_len = 0;
    struct wire *w = &pair.request[0].wire;
    struct h2_session *s = pair.ring->http2->session_list;
    assert_int_equal(wire_sendmsg_now(w, &msg, 0), sizeof(head) - 1);
    polled.done = poll_done;
    polls = 0;
    uint64_t before = 0;
    for (unsigned quiet = 0, given = 0; quiet < 100 || content_bytes == before; quiet++) {
        if (!polled.inflight) {
            iov = (struct iovec){content, sizeof(content)};
            while (wire_sendmsg_now(w, &msg, 0) > 0)
                turns(1);
            wire_poll(w, &polled, POLLOUT);
        }
        s->room_since_ms = s->room_since_ms ? ring_now_ms(pair.ring) : 0; /* no time passes */
        turns(1);
        if (quiet < 50)
            continue;
        if (given == 0) { /* the first window is as good as used up */
            before = content_bytes;
            polls = 0;
        }
        assert_in_range(given, 0, 2 * H2_PIECE_LEAST);
        window(0, 100);
        given += 100;
    }
    assert_in_range(before, FIRST_WINDOW - H2_PIECE_LEAST, FIRST_WINDOW);
    assert_in_range(frames[frame_count - 1], H2_PIECE_LEAST, H2_PIECE_LEAST + 200);
    assert_in_range(polls, 1, 2);
    wire_cancel(w, &polled);
    pair_until(!polled.inflight);
    finish();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rule),
        cmocka_unit_test(dribbles),
        cmocka_unit_test(wait_ends),
        cmocka_unit_test(last_bytes),
        cmocka_unit_test(tiny),
        cmocka_unit_test(asked),
        cmocka_unit_test(room_is_taken_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
