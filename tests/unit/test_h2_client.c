/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions towards backends, which requests of many clients share: what one of them does costs no other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "h2_pair.h"

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

/* ------------------------------------------------------------------ floods */

enum { GIVEN_UP = 700 /* far more than a client's own session would stand */ };

static uint8_t taken[1 << 16];

static void backend_says(const void *bytes, size_t len)
{
    while (recv(pair.raw, taken, sizeof(taken), MSG_DONTWAIT) > 0)
        ;
    assert_true(write(pair.raw, bytes, len) == (ssize_t)len);
    pair_turn();
}

static void backend_resets(int32_t id, uint8_t code)
{
    uint8_t frame[] = {0, 0, 4, NGHTTP2_RST_STREAM, 0, 0, 0, (uint8_t)(id >> 8), (uint8_t)id, 0, 0, 0, code};
    backend_says(frame, sizeof(frame));
}

static void backend_begin(void)
{
    static const uint8_t settings[9] = {0, 0, 0, NGHTTP2_SETTINGS};
    pair_begin();
    pair_raw(true);
    backend_says(settings, sizeof(settings));
    open_exchange(&other); /* somebody else's, which stays */
    end_say(&other, "GET /stays HTTP/1.1\r\nHost: h\r\n\r\n");
    pair_until(other.sent == other.send_len);
}

/* Clients that leave as soon as they have asked: each is a reset of ours. */
static void clients_leave(void **state)
{
    (void)state;
    backend_begin();
    for (int i = 0; i < GIVEN_UP; i++) {
        open_exchange(&ask);
        end_say(&ask, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        pair_until(ask.sent == ask.send_len);
        end_close(&ask);
        backend_says("", 0);
    }
    uint64_t fed = pair_count(CTR_BYTES_RECEIVED);
    backend_resets(3, NGHTTP2_NO_ERROR); /* long closed: something to feed */
    pair_until(pair_count(CTR_BYTES_RECEIVED) > fed);
    assert_non_null(pair.client);
    assert_false(h2_client_over(pair.client));
    assert_int_equal(other.error, 0);
    finish();
}

/* A backend that has no use for any of the requests. */
static void backend_refuses(void **state)
{
    (void)state;
    backend_begin();
    for (int i = 0; i < GIVEN_UP; i++) {
        open_exchange(&ask);
        end_say(&ask, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        pair_until(ask.sent == ask.send_len);
        pair_until(!http2_pending(pair.ring->http2));
        backend_resets(3 + 2 * i, i & 1 ? NGHTTP2_NO_ERROR : NGHTTP2_INTERNAL_ERROR);
        pair_until(ask.error);
        end_close(&ask);
    }
    assert_non_null(pair.client);
    assert_false(h2_client_over(pair.client));
    assert_int_equal(other.error, 0);
    finish();
}

/* What nobody asked for is a flood all the same. */
static void backend_floods(void **state)
{
    (void)state;
    static uint8_t pings[100 * 17]; /* many at once: the guard forgives some with time */
    for (size_t i = 0; i < sizeof(pings); i += 17) {
        pings[i + 2] = 8;
        pings[i + 3] = NGHTTP2_PING;
    }
    backend_begin();
    for (int i = 0; i < 50 && !other.error; i++)
        backend_says(pings, sizeof(pings));
    pair_until(other.error);
    assert_int_equal(other.error, -ECONNRESET);
    assert_int_equal(pair_closed(CLOSE_H2_CONTROL), 1);
    finish();
}

/* ------------------------------------------------------------------ slow readers */

enum { STANDING = 60, LARGE = 4 << 20 };

static struct end standing[STANDING];
static char *answer; /* of each request */
static size_t answer_len;

/* Every request is answered. */
static void answer_all(void)
{
    for (unsigned i = 0; i < pair.requests; i++)
        if (!pair.request[i].send)
            end_send(&pair.request[i], answer, answer_len);
}

/* Many clients that read nothing, beside one that does, over one session: it gets all of its answer. */
static void slow_readers(void **state)
{
    (void)state;
    answer = calloc(1, LARGE + 128);
    assert_non_null(answer);
    int head = sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", LARGE);
    answer_len = (size_t)head + LARGE;
    pair_begin();
    pair_both();
    for (unsigned i = 0; i < STANDING; i++) {
        struct wire w;
        assert_true(h2_client_open(pair.client, &w));
        end_open(&standing[i], &w);
        standing[i].hold = true;
        end_say(&standing[i], "GET /stands HTTP/1.1\r\nHost: h\r\n\r\n");
        pair_until(pair.requests == i + 1);
        answer_all();
    }
    pair_until(h2_client_crowded(pair.client));
    open_exchange(&other);
    end_say(&other, "GET /moves HTTP/1.1\r\nHost: h\r\n\r\n");
    pair_until(pair.requests == STANDING + 1);
    answer_all();
    pair_until(other.ended);
    assert_true(other.got_len > LARGE);
    /* And those who stand still hold little. */
    assert_true(pair.client->queued < 3 * H2_CROWDED_BYTES + (uint64_t)STANDING * H2_SMALL_WINDOW);
    for (unsigned i = 0; i < STANDING; i++) {
        end_close(&standing[i]);
        free(standing[i].got);
    }
    memset(standing, 0, sizeof(standing));
    assert_false(h2_client_crowded(pair.client));
    assert_int_equal(pair.client->blocks, 0);
    finish();
    free(answer);
}

/* Who holds much reads no more while memory is short; the others do. */
static void shares(void **state)
{
    (void)state;
    static void *taken_blocks[H2_BLOCKS];
    pair_begin();
    pair_both();
    struct pool *blocks = &pair.ring->http2->blocks;
    struct h2_session *s = pair.client;
    unsigned n = 0;
    while (blocks->count - blocks->used > H2_BLOCKS / 8)
        taken_blocks[n++] = pool_take(blocks);
    assert_true(h2_session_has_blocks(s));
    s->blocks = H2_SHARE_LEAST + 1;
    assert_false(h2_session_has_blocks(s));
    while (n)
        pool_give(blocks, taken_blocks[--n]);
    assert_true(h2_session_has_blocks(s));
    s->blocks = 0;
    finish();
}

/* Sessions that have found no memory read on when there is some, those that have ended meanwhile do not. */
static void dry_ones(void **state)
{
    (void)state;
    static const char nonsense[NGHTTP2_CLIENT_MAGIC_LEN] = "none of HTTP/2";
    static void *taken_blocks[H2_BLOCKS];
    unsigned n = 0;
    int fd[3];
    pair_begin();
    struct http2 *h = pair.ring->http2;
    while (h->blocks.used < h->blocks.count)
        taken_blocks[n++] = pool_take(&h->blocks);
    for (int i = 0; i < 3; i++) {
        pair_raw(false);
        fd[i] = pair.raw;
        pair_until(!http2_pending(h));
        assert_true(write(fd[i], nonsense, sizeof(nonsense)) == sizeof(nonsense));
        pair_until(h->dry_tail != &h->dry && *h->dry_tail == NULL && h->session_list->prev_dry);
    }
    struct h2_session *last = h->session_list, *middle = last->next;
    h2_session_close(middle, CLOSE_DRAIN, NGHTTP2_NO_ERROR);
    h2_session_close(last, CLOSE_DRAIN, NGHTTP2_NO_ERROR);
    assert_ptr_equal(h->dry, middle->next);
    assert_ptr_equal(h->dry_tail, &middle->next->next_dry);
    pair_turn();
    assert_int_equal(pair_closed(CLOSE_H2_ERROR), 0);
    while (n)
        pool_give(&h->blocks, taken_blocks[--n]);
    pair_until(pair_closed(CLOSE_H2_ERROR) == 1); /* it was read */
    assert_null(h->dry);
    assert_ptr_equal(h->dry_tail, &h->dry);
    for (int i = 0; i < 2; i++)
        close(fd[i]);
    finish();
}

/* A client that vanished under streams which say nothing is found out. */
static void kept_alive(void **state)
{
    (void)state;
    int on = 0;
    socklen_t len = sizeof(on);
    pair_begin();
    pair_raw(false);
    assert_int_equal(getsockopt(pair.ring->http2->session_list->wire.fd, SOL_SOCKET, SO_KEEPALIVE, &on, &len),
                     0);
    assert_int_equal(on, 1);
    finish();
}

/* ------------------------------------------------------------------ large heads */

enum { LARGE_REQUESTS = 100 };

/* A request whose head has that many bytes of fields, 4000 in each. */
static char *request_of(size_t fields)
{
    char *text = malloc(fields + 4096), *at = text;
    CHECK(text);
    at += sprintf(at, "GET / HTTP/1.1\r\nHost: h\r\n");
    for (size_t i = 0; i < fields / 4000; i++)
        at += sprintf(at, "X-Large-%02zu: %0*d\r\n", i, 3986, 7);
    (void)sprintf(at, "\r\n");
    return text;
}

static void settings_of(size_t header_bytes)
{
    pair_begin();
    pair.plan->setting[SET_HTTP_HEADER_BYTES_MAX] = header_bytes;
    pair_both();
    for (int i = 0; i < 20; i++)
        pair_turn();
}

/* As many requests at once as there may be, each with a head of 12 KB: the session carries all of them. */
static void large_heads(void **state)
{
    (void)state;
    static struct end asks[LARGE_REQUESTS];
    char *request = request_of(12000);
    memset(asks, 0, sizeof(asks));
    settings_of(16 << 10);
    for (int i = 0; i < LARGE_REQUESTS; i++) {
        struct wire w;
        assert_true(h2_client_open(pair.client, &w));
        end_open(&asks[i], &w);
        end_read(&asks[i]);
        end_say(&asks[i], request);
    }
    pair_until(pair.requests == LARGE_REQUESTS);
    for (int i = 0; i < LARGE_REQUESTS; i++) {
        end_read(&pair.request[i]);
        pair_until(pair.request[i].ended && pair.request[i].got_len > 12000);
        end_say(&pair.request[i], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    }
    for (int i = 0; i < LARGE_REQUESTS; i++) {
        pair_until(asks[i].ended);
        end_close(&asks[i]);
        free(asks[i].got);
    }
    assert_int_equal(pair.gone, 0);
    assert_int_equal(pair_closed(CLOSE_H2_MEMORY), 0);
    free(request);
    finish();
}

/* The largest that the setting allows goes through, also where a session has one stream alone. */
static void largest_head(void **state)
{
    (void)state;
    char *request = request_of(60000);
    pair_begin();
    pair.plan->setting[SET_HTTP_HEADER_BYTES_MAX] = HEADER_BYTES_CEILING;
    pair.plan->setting[SET_HTTP2_STREAMS_MAX] = 1;
    pair_both();
    open_exchange(&ask);
    end_say(&ask, request);
    pair_until(pair.requests == 1);
    end_read(&pair.request[0]);
    pair_until(pair.request[0].ended && pair.request[0].got_len > 60000);
    end_say(&pair.request[0], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    pair_until(ask.ended);
    assert_int_equal(pair_closed(CLOSE_H2_MEMORY), 0);
    free(request);
    finish();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clients_leave), cmocka_unit_test(backend_refuses), cmocka_unit_test(backend_floods),
        cmocka_unit_test(slow_readers),  cmocka_unit_test(shares),          cmocka_unit_test(dry_ones),
        cmocka_unit_test(kept_alive),    cmocka_unit_test(large_heads),     cmocka_unit_test(largest_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
