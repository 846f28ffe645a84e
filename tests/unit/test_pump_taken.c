/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pumps into a sink that takes buffers over and is done with them later: what it gets, in which order, that
 * the pump receives meanwhile, and that its end comes behind the sink's. rig_fini looks whether all buffers
 * are back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "pump_rig.h"

enum { HELD_MAX = 3, TURNS_MAX = 200000, CONTENT_MOST = 3 << 20 };

struct taker {
    struct wire wire;
    struct wire_over over;
    struct loop_post post;
    struct op *op;
    bool settles;
    int error;
    uint64_t fail_at; /* it fails when it has so many bytes; 0: never */
    struct {
        uint8_t *buffer;
        const uint8_t *bytes;
        size_t len;
    } held[HELD_MAX];
    unsigned count, taken; /* how many it has; had */
    uint64_t at;           /* bytes that it is done with */
};

static struct rig rig;
static struct taker taker;
static struct pump pump;
static struct wire from;
static int source, near;
static uint8_t content[CONTENT_MOST];
static char *framed;
static size_t framed_len, framed_at;
static bool done;
static enum pump_end end;
static int end_err;
static size_t rest_len;

/* ------------------------------------------------------------------ the sink */

static struct taker *taker_of(const struct wire *w)
{
    return container_of(w, struct taker, wire);
}

static void tell(struct taker *t)
{
    struct op *op = t->op;
    if (!op || (t->settles ? t->count != 0 : t->count == HELD_MAX))
        return;
    t->op = NULL;
    loop_post(t->wire.loop, &t->post, op, t->error ? t->error : t->settles ? 0 : POLLOUT);
}

static void drop_first(struct taker *t)
{
    uint8_t *buffer = t->held[0].buffer;
    t->count--;
    memmove(t->held, t->held + 1, t->count * sizeof(t->held[0]));
    buffers_give(rig.ring, buffer);
}

/* It is done with the oldest one. */
static void finish_one(struct taker *t)
{
    if (!t->count)
        return;
    for (size_t i = 0; i < t->held[0].len; i++)
        if (t->held[0].bytes[i] != content[t->at + i])
            fail_msg("byte %llu is wrong", (unsigned long long)(t->at + i));
    if (t->fail_at && t->at + t->held[0].len >= t->fail_at)
        t->error = -ENOSPC;
    else
        t->at += t->held[0].len;
    do
        drop_first(t);
    while (t->error && t->count);
    tell(t);
}

static void wait_for(struct wire *w, struct op *op, bool settles)
{
    struct taker *t = taker_of(w);
    CHECK(!t->op);
    loop_op_begin(op);
    t->op = op;
    t->settles = settles;
    tell(t);
}

static void taker_poll(struct wire *w, struct op *op, short events)
{
    assert_int_equal(events, POLLOUT);
    wait_for(w, op, false);
}

static void taker_settle(struct wire *w, struct op *op)
{
    wait_for(w, op, true);
}

static void taker_cancel(struct wire *w, struct op *op)
{
    struct taker *t = taker_of(w);
    if (t->op != op || t->settles)
        return;
    t->op = NULL;
    loop_post(w->loop, &t->post, op, -ECANCELED);
}

static bool taker_take(struct wire *w, void *buffer, const void *bytes, size_t len)
{
    struct taker *t = taker_of(w);
    CHECK(t->count < HELD_MAX && len);
    t->held[t->count].buffer = buffer;
    t->held[t->count].bytes = bytes;
    t->held[t->count++].len = len;
    t->taken++;
    while (t->error && t->count)
        drop_first(t);
    return !t->error && t->count < HELD_MAX;
}

/* As if it were a file. */
static size_t taker_room(const struct wire *w)
{
    const struct taker *t = taker_of(w);
    uint64_t has = t->at;
    for (unsigned i = 0; i < t->count; i++)
        has += t->held[i].len;
    return BODY_BUFFER_BYTES - (size_t)(has % BODY_BUFFER_BYTES);
}

static const struct wire_ops ops = {.name = "taker",
                                    .poll = taker_poll,
                                    .cancel = taker_cancel,
                                    .take = taker_take,
                                    .settle = taker_settle,
                                    .room = taker_room};

/* ------------------------------------------------------------------ the source */

static void source_close(void)
{
    if (source >= 0)
        close(source);
    if (near >= 0)
        close(near);
    source = near = -1;
}

/* Sends content from byte `first` to `last`, in chunks of random length if asked for. */
static void source_open(uint64_t first, uint64_t last, bool chunked)
{
    int pair[2];
    char header[HTTP_CHUNK_HEADER_MAX];
    source_close();
    rig_pair(pair, 0);
    source = pair[0];
    near = pair[1];
    from = wire_of_socket(rig.ring->loop, near);
    framed_len = framed_at = 0;
    while (first < last) {
        uint64_t n = chunked ? 1 + rig_random(200000) : last - first;
        n = n < last - first ? n : last - first;
        size_t len = chunked ? http_chunk_header(header, n) : 0;
        memcpy(framed + framed_len, header, len);
        memcpy(framed + framed_len + len, content + first, n);
        framed_len += len + n;
        first += n;
        if (chunked) {
            memcpy(framed + framed_len, "\r\n", 2);
            framed_len += 2;
        }
    }
}

static void source_end(void)
{
    memcpy(framed + framed_len, "0\r\n\r\n", 5);
    framed_len += 5;
}

static void feed(void)
{
    size_t n = 1 + rig_random(rig_random(2) ? 3000 : 400000);
    n = n < framed_len - framed_at ? n : framed_len - framed_at;
    ssize_t sent = n ? send(source, framed + framed_at, n, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
    framed_at += sent > 0 ? (size_t)sent : 0;
}

static void pumped(struct pump *p, enum pump_end how, int err)
{
    assert_false(done);
    assert_int_equal(taker.count, 0); /* all that was taken has come to its end */
    done = true;
    end = how;
    end_err = err;
    rest_len = pump_rest(p).len;
}

/* ------------------------------------------------------------------ both */

static void open_all(void)
{
    taker = (struct taker){.over.ops = &ops};
    taker.wire = (struct wire){.loop = rig.ring->loop, .over = &taker.over, .fd = -1};
    done = false;
}

static struct pump_config config_of(uint64_t length, uint64_t total, bool chunked)
{
    done = false;
    return (struct pump_config){.ring = rig.ring,
                                .from = &from,
                                .to = &taker.wire,
                                .in = chunked ? PUMP_CHUNKED : PUMP_LENGTH,
                                .out = PUMP_LENGTH,
                                .length = length,
                                .total = total,
                                .done = pumped};
}

/* slow: the sink is done with something once in so many turns. */
static void run(unsigned slow)
{
    for (int i = 0; !done; i++) {
        CHECK(i < TURNS_MAX);
        feed();
        rig_turn(&rig);
        if (rig_random(slow) == 0)
            finish_one(&taker);
    }
}

static void test_whole(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        uint64_t length = 1 + rig_random(i % 2 ? CONTENT_MOST : 70000);
        bool chunked = i % 4 > 1;
        open_all();
        source_open(0, length, chunked);
        if (chunked)
            source_end();
        struct pump_config c = config_of(chunked ? 0 : length, length, chunked);
        pump_start(&pump, &c);
        run(1 + (unsigned)rig_random(8));
        assert_int_equal(end, PUMP_DONE);
        assert_true(taker.at == length && pump.moved == length);
        assert_string_equal(pump_technique_name(&pump), "copy");
        source_close();
    }
}

/* While nothing comes back from the sink the pump receives, until the sink wants no more; then it holds
 * nothing itself. */
static void test_receives_meanwhile(void **state)
{
    (void)state;
    open_all();
    source_open(0, CONTENT_MOST, false);
    struct pump_config c = config_of(CONTENT_MOST, CONTENT_MOST, false);
    pump_start(&pump, &c);
    for (int i = 0; i < TURNS_MAX && taker.count < HELD_MAX; i++) {
        feed();
        rig_turn(&rig);
    }
    assert_int_equal(taker.count, HELD_MAX);
    for (int i = 0; i < 20; i++) {
        feed();
        rig_turn(&rig);
    }
    assert_true(pump_waits_for_sink(&pump));
    assert_int_equal(rig.ring->bodies.used + rig.ring->buffers.smalls.used, HELD_MAX);
    run(2);
    assert_int_equal(end, PUMP_DONE);
    assert_true(taker.at == CONTENT_MOST);
    source_close();
}

static void test_source_ends(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        uint64_t length = 1 + rig_random(CONTENT_MOST), first = rig_random(length);
        bool chunked = i % 2;
        open_all();
        source_open(0, first, chunked);
        struct pump_config c = config_of(chunked ? 0 : length, length, chunked);
        pump_start(&pump, &c);
        for (int turn = 0; turn < TURNS_MAX && framed_at < framed_len; turn++) {
            feed();
            rig_turn(&rig);
            if (rig_random(4) == 0)
                finish_one(&taker);
        }
        CHECK(shutdown(source, SHUT_WR) == 0);
        run(4);
        assert_int_equal(end, PUMP_SOURCE_ENDED);
        assert_true(taker.at == first && pump.moved == first);
        source_open(first, length, false); /* another one goes on */
        c = config_of(length - first, 0, false);
        pump_resume(&pump, &c);
        run(4);
        assert_int_equal(end, PUMP_DONE);
        assert_true(taker.at == length && pump.moved == length);
        source_close();
    }
}

/* The same bytes come again, and those that are known are dropped. */
static void test_skip(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        uint64_t length = 2 + rig_random(CONTENT_MOST - 2), first = rig_random(length);
        open_all();
        taker.at = first;
        source_open(0, length, false);
        struct pump_config c = config_of(length, length - first, false);
        c.skip = first;
        pump_start(&pump, &c);
        run(3);
        assert_int_equal(end, PUMP_DONE);
        assert_true(taker.at == length);
        source_close();
    }
}

static void test_sink_fails(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        open_all();
        taker.fail_at = 1 + rig_random(CONTENT_MOST);
        source_open(0, CONTENT_MOST, false);
        struct pump_config c = config_of(CONTENT_MOST, CONTENT_MOST, false);
        pump_start(&pump, &c);
        run(1 + (unsigned)rig_random(5));
        assert_int_equal(end, PUMP_SINK_ERROR);
        assert_int_equal(end_err, -ENOSPC);
        assert_true(taker.at < taker.fail_at);
        source_close();
    }
}

/* Stopped while the sink has something: that comes to its end first. */
static void test_stopped(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        open_all();
        source_open(0, CONTENT_MOST, false);
        struct pump_config c = config_of(CONTENT_MOST, CONTENT_MOST, false);
        pump_start(&pump, &c);
        unsigned held = 1 + (unsigned)rig_random(HELD_MAX);
        for (int turn = 0; turn < TURNS_MAX && taker.count < held; turn++) {
            feed();
            rig_turn(&rig);
        }
        pump_stop(&pump);
        for (int turn = 0; turn < 10; turn++)
            rig_turn(&rig);
        assert_false(done);
        run(2);
        assert_int_equal(end, PUMP_STOPPED);
        source_close();
    }
}

static int least_of(int fd)
{
    int value = 0;
    socklen_t len = sizeof(value);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &value, &len) == 0);
    return value;
}

static void send_all(size_t n)
{
    ssize_t sent = send(source, framed + framed_at, n, MSG_NOSIGNAL);
    CHECK(sent == (ssize_t)n);
    framed_at += n;
}

/* A source that gives much, but less than a buffer at a time: the sink gets full buffers all the same. */
static void test_full_buffers(void **state)
{
    (void)state;
    enum { PIECE = 40 << 10 };
    open_all();
    source_open(0, CONTENT_MOST, false);
    struct pump_config c = config_of(CONTENT_MOST, CONTENT_MOST, false);
    pump_start(&pump, &c);
    for (int i = 0; framed_at + PIECE <= framed_len; i++) {
        CHECK(i < TURNS_MAX);
        int here;
        CHECK(ioctl(near, FIONREAD, &here) == 0);
        if (here < 2 * BODY_BUFFER_BYTES)
            send_all(PIECE);
        rig_turn(&rig);
        finish_one(&taker);
    }
    run(1);
    assert_int_equal(end, PUMP_DONE);
    assert_true(taker.at == CONTENT_MOST);
    assert_true(taker.taken < CONTENT_MOST / BODY_BUFFER_BYTES * 2);
    assert_int_equal(least_of(near), 1); /* the connection is as it was */
    source_close();
}

/* One that gave much and then little: what has come goes on when somebody looks. */
static void test_becomes_slow(void **state)
{
    (void)state;
    open_all();
    source_open(0, CONTENT_MOST, false);
    struct pump_config c = config_of(CONTENT_MOST, CONTENT_MOST, false);
    pump_start(&pump, &c);
    for (int i = 0; least_of(near) == 1; i++) {
        CHECK(i < TURNS_MAX && framed_at < CONTENT_MOST / 2);
        send_all(60 << 10);
        rig_turn(&rig);
        finish_one(&taker);
    }
    uint64_t sent = framed_at + 1000;
    send_all(1000);
    for (int i = 0; taker.at < sent; i++) {
        CHECK(i < TURNS_MAX);
        rig_turn(&rig);
        pump_look(&pump);
        finish_one(&taker);
    }
    assert_int_equal(least_of(near), 1);
    sent += 10;
    send_all(10); /* and is waited for no more */
    for (int i = 0; taker.at < sent; i++) {
        CHECK(i < TURNS_MAX);
        rig_turn(&rig);
        finish_one(&taker);
    }
    pump_stop(&pump);
    run(1);
    source_close();
}

/* What came behind a chunked body in the same buffer is counted, and makes the connection useless. */
static void test_rest(void **state)
{
    (void)state;
    open_all();
    source_open(0, 1000, true);
    source_end();
    memcpy(framed + framed_len, "HTTP", 4);
    framed_len += 4;
    while (framed_at < framed_len)
        feed();
    struct pump_config c = config_of(0, 1000, true);
    pump_start(&pump, &c);
    run(2);
    assert_int_equal(end, PUMP_DONE);
    assert_int_equal(rest_len, 4);
    source_close();
}

static int setup(void **state)
{
    (void)state;
    rig_init(&rig, RIG_SMALLS, 8);
    for (size_t i = 0; i < sizeof(content); i++)
        content[i] = rig_byte(i);
    framed = malloc(2 * CONTENT_MOST);
    CHECK(framed);
    source = near = -1;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(framed);
    rig_fini(&rig);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),        cmocka_unit_test(test_receives_meanwhile),
        cmocka_unit_test(test_source_ends),  cmocka_unit_test(test_skip),
        cmocka_unit_test(test_sink_fails),   cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_full_buffers), cmocka_unit_test(test_becomes_slow),
        cmocka_unit_test(test_rest),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
