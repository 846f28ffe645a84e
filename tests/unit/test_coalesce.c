/* SPDX-License-Identifier: Apache-2.0 */
/* Flights and who follows them: what they see, when, and that nothing is held at the end. The loop's posts
 * are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dataplane/proxy/coalesce.h"
#include "dataplane/ring.h"

enum { POSTS = 64, WINDOW = 1 << 20, SEED = 20240611, CLIENTS = 20 };

static struct loop_post *posts[POSTS];
static unsigned post_count;
static struct ring ring;
static struct plan plan;
static struct coalesce *coalesce;
static const struct flight_key key = {{1}}, other_key = {{2}};
static uint64_t seed;

void loop_op_begin(struct op *op)
{
    assert_false(op->inflight);
    op->inflight = true;
}

void loop_post(struct loop *loop, struct loop_post *p, struct op *op, int32_t res)
{
    (void)loop;
    assert_true(op->inflight && !p->queued && post_count < POSTS);
    p->queued = true;
    p->op = op;
    p->event = (struct event){.res = res};
    posts[post_count++] = p;
}

static void deliver(void)
{
    unsigned n = post_count;
    struct loop_post *now[POSTS];
    memcpy(now, posts, sizeof(now));
    post_count = 0;
    for (unsigned i = 0; i < n; i++) {
        struct event ev = now[i]->event;
        struct op *op = now[i]->op;
        now[i]->queued = false;
        op->inflight = false;
        op->done(op, &ev);
    }
}

static uint64_t any(void)
{
    seed = seed * 6364136223846793005 + 1442695040888963407;
    return seed >> 16;
}

static uint8_t byte_at(uint64_t i)
{
    return (uint8_t)(i * 31 + i / 251);
}

static void add(struct flight *f, uint64_t at, size_t len)
{
    uint8_t *bytes = malloc(len);
    for (size_t i = 0; i < len; i++)
        bytes[i] = byte_at(at + i);
    flight_add(f, at, bytes, len);
    free(bytes);
}

/* ------------------------------------------------------------------ a client that follows */

struct client {
    struct follower *f;
    struct op op;
    uint64_t got, end;
    int news; /* -1: none yet */
    bool closed, polling;
};

static void news(struct follower *f, enum flight_news what)
{
    struct client *c = f->arg;
    assert_int_equal(c->news, -1);
    c->news = what;
}

static void readable(struct op *op, const struct event *ev)
{
    (void)ev;
    container_of(op, struct client, op)->polling = false;
}

static bool follow(struct client *c)
{
    *c = (struct client){.news = -1, .op.done = readable};
    c->f = coalesce_follow(coalesce, &key, news, c);
    return c->f != NULL;
}

static void read_some(struct client *c, size_t most)
{
    uint8_t buf[5000];
    if (c->closed || c->polling || c->news != FLIGHT_OPEN)
        return;
    ssize_t n = c->f->over.ops->recv_now(&c->f->wire, buf, most < sizeof(buf) ? most : sizeof(buf));
    if (n == -EAGAIN) {
        c->polling = true;
        c->f->over.ops->poll(&c->f->wire, &c->op, POLLIN);
        return;
    }
    c->closed = n == 0;
    for (ssize_t i = 0; i < n; i++)
        assert_int_equal(buf[i], byte_at(c->got + (uint64_t)i));
    c->got += n > 0 ? (uint64_t)n : 0;
}

static void read_all(struct client *c)
{
    while (!c->closed && !c->polling)
        read_some(c, 5000);
}

static void leave(struct client *c)
{
    if (c->polling)
        c->f->over.ops->cancel(&c->f->wire, &c->op);
    deliver();
    assert_false(c->polling);
    coalesce_leave(c->f);
    c->f = NULL;
    c->closed = true;
}

static int setup(void **state)
{
    (void)state;
    seed = SEED;
    post_count = 0;
    ring.plan = &plan;
    plan.setting[SET_PROXY_COALESCE_BYTES] = (uint64_t)WINDOW * FLIGHTS_MAX;
    return coalesce_new(&ring, &coalesce);
}

static int teardown(void **state)
{
    struct flight *f[FLIGHTS_MAX + 1];
    unsigned n = 0;
    (void)state;
    deliver();
    for (; n <= FLIGHTS_MAX; n++) { /* all of them can be had again */
        struct flight_key k = {{9, (uint8_t)n}};
        f[n] = coalesce_lead(coalesce, &k);
        if (!f[n])
            break;
    }
    assert_int_equal(n, FLIGHTS_MAX);
    while (n)
        flight_end(f[--n], FLIGHT_BROKEN);
    coalesce_free(coalesce);
    return 0;
}

static void test_one_follows(void **state)
{
    (void)state;
    struct client c;
    assert_false(follow(&c));
    struct flight *f = coalesce_lead(coalesce, &key);
    assert_non_null(f);
    assert_null(coalesce_lead(coalesce, &key));
    assert_true(follow(&c));
    deliver();
    assert_int_equal(c.news, -1);
    flight_open(f, VIEW_LIT("HTTP/1.1 200 OK\r\n\r\n"), "1.2.3.4:80", "b0", 10000);
    assert_int_equal(c.news, -1); /* never from within */
    deliver();
    assert_int_equal(c.news, FLIGHT_OPEN);
    assert_int_equal(follower_head(c.f).len, 19);
    assert_string_equal(follower_authority(c.f), "1.2.3.4:80");
    assert_string_equal(follower_backend(c.f), "b0");
    read_some(&c, 100);
    assert_true(c.polling);
    add(f, 0, 3000);
    deliver();
    read_all(&c);
    assert_int_equal(c.got, 3000);
    add(f, 2000, 8000); /* some of it is known */
    deliver();
    read_all(&c);
    assert_int_equal(c.got, 10000 - FLIGHT_HOLD_BACK);
    assert_true(c.polling);
    flight_end(f, FLIGHT_COMPLETE);
    deliver();
    read_all(&c);
    assert_int_equal(c.got, 10000);
    leave(&c);
}

static void test_the_end_comes_early(void **state)
{
    (void)state;
    static const enum flight_end ends[] = {FLIGHT_BROKEN, FLIGHT_SPOILT, FLIGHT_COMPLETE};
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        struct client c, late;
        struct flight *f = coalesce_lead(coalesce, &key);
        follow(&c);
        flight_open(f, VIEW_LIT("x"), "a", "b", 100000);
        deliver();
        add(f, 0, 3000);
        flight_end(f, ends[i]); /* complete, it says, but is not */
        assert_false(follow(&late));
        read_all(&c);
        assert_int_equal(c.got, ends[i] == FLIGHT_SPOILT ? 0 : 3000);
        assert_true(c.closed);
        assert_int_equal(follower_spoilt(c.f), ends[i] == FLIGHT_SPOILT);
        leave(&c);
    }
}

static void test_no_answer_to_share(void **state)
{
    (void)state;
    struct client c, gone;
    struct flight *f = coalesce_lead(coalesce, &key);
    follow(&c);
    follow(&gone);
    flight_end(f, FLIGHT_BROKEN);
    coalesce_leave(gone.f); /* before it was told */
    deliver();
    assert_int_equal(c.news, FLIGHT_GONE);
    assert_int_equal(gone.news, -1);
    leave(&c);
}

static void test_who_falls_behind(void **state)
{
    (void)state;
    struct client quick, slow, late;
    struct flight *f = coalesce_lead(coalesce, &key);
    follow(&quick);
    follow(&slow);
    flight_open(f, VIEW_LIT("x"), "a", "b", 3 * WINDOW);
    deliver();
    for (uint64_t at = 0; at < 2 * WINDOW; at += 4096) {
        add(f, at, 4096);
        deliver();
        read_all(&quick);
        if (at < 100000)
            read_all(&slow);
    }
    assert_int_equal(quick.got, 2 * WINDOW);
    assert_false(slow.closed);
    deliver();
    read_all(&slow);
    assert_true(slow.closed);    /* as if its backend had stopped */
    assert_false(follow(&late)); /* the beginning has gone */
    flight_end(f, FLIGHT_BROKEN);
    deliver();
    leave(&quick);
    leave(&slow);
}

static void test_many(void **state)
{
    (void)state;
    struct flight *f[FLIGHTS_MAX];
    for (unsigned i = 0; i < FLIGHTS_MAX; i++) {
        struct flight_key k = {{3, (uint8_t)i}};
        f[i] = coalesce_lead(coalesce, &k);
        assert_non_null(f[i]);
    }
    assert_null(coalesce_lead(coalesce, &other_key)); /* an ordinary answer */
    for (unsigned i = 0; i < FLIGHTS_MAX; i++)
        flight_end(f[i], FLIGHT_BROKEN);
}

static struct client clients[CLIENTS], *present[CLIENTS];
static unsigned present_count;

static void come(void)
{
    struct client *c = &clients[any() % CLIENTS];
    if (!c->f && follow(c))
        present[present_count++] = c;
}

static void go(unsigned i)
{
    leave(present[i]);
    present[i] = present[--present_count];
}

/* Clients come, read and go at random. */
static void random_flight(uint64_t length)
{
    struct flight *f = coalesce_lead(coalesce, &key);
    uint64_t at = 0;
    bool open = false;
    for (unsigned step = 0; step < 4000 && at < length; step++) {
        uint64_t what = any() % 8;
        if (what < 2) {
            come();
        } else if (what == 2 && !open) {
            flight_open(f, VIEW_LIT("x"), "a", "b", length);
            open = true;
        } else if (what < 4 && open) {
            uint64_t len = 1 + any() % 20000;
            len = len < length - at ? len : length - at;
            add(f, at, (size_t)len);
            at += len;
        } else if (what == 4 && present_count && any() % 20 == 0) {
            go((unsigned)(any() % present_count));
        } else if (present_count) {
            read_some(present[any() % present_count], 1 + any() % 5000);
        }
        deliver();
    }
    flight_end(f, FLIGHT_COMPLETE);
    deliver();
    while (present_count) {
        struct client *c = present[0];
        if (c->news == FLIGHT_OPEN)
            read_all(c);
        assert_true(c->news == FLIGHT_GONE || c->closed);
        go(0);
    }
}

static void test_random(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 60; round++)
        random_flight(1 + any() % (2 * WINDOW));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_one_follows),
        CASE(test_the_end_comes_early),
        CASE(test_no_answer_to_share),
        CASE(test_who_falls_behind),
        CASE(test_many),
        CASE(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
