/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies through a pump, over real sockets and a real loop: each framing in, each framing out, spliced and
 * copied, in pieces of any size, early bytes or none, into sinks that are slow, from sources that end as
 * they should not. What the sink has got is compared byte for byte, and so is what the pump says of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/eventfd.h>

#include "pump_rig.h"

enum { TURNS_MAX = 200000, SOURCES_MOST = 8 };

enum ending { END_FULL, END_FIN, END_RST, END_STALL, END_GARBAGE };

/* What a source sends: framed, with what the pump is to make of it. */
struct script {
    enum pump_framing in;
    uint64_t from, to; /* the content that it sends, */
    uint64_t length;   /* and what it announces (PUMP_LENGTH) */
    uint64_t skip;
    enum ending ending;
    size_t early;      /* of its bytes: handed over with the configuration */
    size_t chunk_most; /* of chunks */
    const char *trailers, *behind;
};

struct flow {
    struct pump pump;
    struct wire from, to;
    int source, sink, source_near, sink_near; /* near: the pump's ends */
    uint8_t *wire_bytes;                      /* of the source */
    size_t wire_len, wire_at;
    bool ended; /* the source has done what it does at its end */
    uint8_t *got;
    size_t got_len, got_cap;
    bool done, stop_reading;
    enum pump_end end;
    int err;
    char rest[64];
    size_t rest_len;
    uint64_t tapped;
    uint64_t refuse_at; /* the tap refuses from this byte on; 0: never */
    unsigned ends;      /* how often the tap was told that this was all, */
    bool judges;        /* whether it decides then what is held back, */
    int judgement;      /* and how: 0, or -errno */
    size_t piece;       /* most bytes of one write and of one read; 0: random */
};

static struct rig rig;

/* ------------------------------------------------------------------ the source's bytes */

static size_t add(uint8_t *out, size_t at, const char *text)
{
    memcpy(out + at, text, strlen(text));
    return at + strlen(text);
}

static void encode(struct flow *f, const struct script *s)
{
    size_t at = 0, content = (size_t)(s->to - s->from), most = s->chunk_most ? s->chunk_most : 1000;
    free(f->wire_bytes);
    f->wire_bytes = malloc(content * 8 + 4096);
    CHECK(f->wire_bytes);
    for (uint64_t i = s->from; i < s->to;) {
        uint64_t n = s->to - i;
        if (s->in == PUMP_CHUNKED) {
            char header[HTTP_CHUNK_HEADER_MAX];
            n = n < most ? n : 1 + rig_random(most);
            n = n < s->to - i ? n : s->to - i;
            size_t len = http_chunk_header(header, n);
            memcpy(f->wire_bytes + at, header, len);
            at += len;
        }
        for (uint64_t j = 0; j < n; j++)
            f->wire_bytes[at++] = rig_byte(i + j);
        i += n;
        if (s->in == PUMP_CHUNKED && (i < s->to || s->ending != END_FIN))
            at = add(f->wire_bytes, at, "\r\n");
    }
    if (s->in == PUMP_CHUNKED && s->ending == END_FULL) {
        at = add(f->wire_bytes, at, "0\r\n");
        at = add(f->wire_bytes, at, s->trailers ? s->trailers : "");
        at = add(f->wire_bytes, at, "\r\n");
    }
    if (s->ending == END_GARBAGE)
        at = add(f->wire_bytes, at, "no chunk\r\n");
    if (s->behind)
        at = add(f->wire_bytes, at, s->behind);
    f->wire_len = at;
    f->wire_at = 0;
    f->ended = false;
}

/* ------------------------------------------------------------------ the pump's owner */

static void flow_done(struct pump *p, enum pump_end end, int err)
{
    struct flow *f = p->c.arg;
    struct view rest = pump_rest(p);
    assert_false(f->done);
    assert_false(pump_active(p));
    assert_true(p->received == p->moved);
    f->done = true;
    f->end = end;
    f->err = err;
    assert_true(rest.len <= sizeof(f->rest));
    if (rest.len)
        memcpy(f->rest, rest.p, rest.len);
    f->rest_len = rest.len;
}

static int flow_tap(void *arg, const uint8_t *bytes, size_t len)
{
    struct flow *f = arg;
    if (len == 0) {
        f->ends++;
        if (f->judges && !f->judgement)
            pump_release(&f->pump, true);
        return f->judgement;
    }
    if (f->refuse_at && f->tapped + len > f->refuse_at)
        return -EKEYREJECTED;
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != rig_byte(f->tapped + i))
            fail_msg("the tap saw a wrong byte at %llu", (unsigned long long)(f->tapped + i));
    f->tapped += len;
    return 0;
}

static void flow_init(struct flow *f, int sink_buffer)
{
    int sink[2];
    *f = (struct flow){.source = -1, .source_near = -1};
    rig_pair(sink, sink_buffer);
    f->sink_near = sink[0];
    f->sink = sink[1];
    f->to = wire_of_socket(rig.ring->loop, f->sink_near);
}

static void source_close(struct flow *f)
{
    if (f->source >= 0)
        close(f->source);
    if (f->source_near >= 0)
        close(f->source_near);
    f->source = f->source_near = -1;
}

static void flow_fini(struct flow *f)
{
    source_close(f);
    close(f->sink_near);
    close(f->sink);
    free(f->wire_bytes);
    free(f->got);
}

/* A source of its own for the script, in the configuration. */
static void source_open(struct flow *f, const struct script *s, struct pump_config *c)
{
    int pair[2];
    source_close(f);
    rig_pair(pair, 0);
    f->source = pair[0];
    f->source_near = pair[1];
    f->from = wire_of_socket(rig.ring->loop, f->source_near);
    encode(f, s);
    c->ring = rig.ring;
    c->from = &f->from;
    c->to = &f->to;
    c->in = s->in;
    c->length = s->length;
    c->skip = s->skip;
    f->wire_at = s->early < f->wire_len ? s->early : f->wire_len;
    c->early = view_of((char *)f->wire_bytes, f->wire_at);
    c->done = flow_done;
    c->arg = f;
    f->done = false;
}

/* ------------------------------------------------------------------ both other ends */

static size_t piece(const struct flow *f, size_t most)
{
    size_t n = f->piece ? f->piece : 1 + (size_t)rig_random(rig_random(2) ? 300 : 300000);
    return n < most ? n : most;
}

static void feed(struct flow *f, const struct script *s)
{
    if (f->wire_at < f->wire_len) {
        ssize_t n = send(f->source, f->wire_bytes + f->wire_at, piece(f, f->wire_len - f->wire_at),
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            f->wire_at += (size_t)n;
        return;
    }
    if (f->ended)
        return;
    f->ended = true;
    if (s->ending == END_FIN || (s->ending == END_FULL && s->in == PUMP_RAW))
        CHECK(shutdown(f->source, SHUT_WR) == 0);
    if (s->ending == END_RST) {
        rig_reset(f->source);
        f->source = -1;
    }
}

static void drain(struct flow *f)
{
    if (f->stop_reading)
        return;
    if (f->got_cap - f->got_len < 400000) {
        f->got_cap = f->got_cap * 2 + 800000;
        f->got = realloc(f->got, f->got_cap);
        CHECK(f->got);
    }
    ssize_t n = recv(f->sink, f->got + f->got_len, piece(f, 300000), MSG_DONTWAIT);
    if (n > 0)
        f->got_len += (size_t)n;
}

/* Everything that the source has sent has come to the pump's end. */
static bool arrived(const struct flow *f)
{
    int queued = 0, here = 0;
    CHECK(ioctl(f->source, SIOCOUTQ, &queued) == 0 && ioctl(f->source_near, FIONREAD, &here) == 0);
    return f->ended && queued == 0 && here == 0;
}

static void run(struct flow *f, const struct script *s)
{
    for (int i = 0; !f->done; i++) {
        if (i == TURNS_MAX)
            fail_msg("stands still: %llu moved of %llu", (unsigned long long)f->pump.moved,
                     (unsigned long long)f->pump.received);
        feed(f, s);
        rig_turn(&rig);
        drain(f);
        if (s->ending == END_STALL && f->source >= 0 && arrived(f) && pump_waits_for_source(&f->pump))
            pump_fail_source(&f->pump);
    }
}

/* What is still on its way to the other end of the sink. */
static void drain_all(struct flow *f)
{
    struct pollfd p = {.fd = f->sink, .events = POLLIN};
    size_t before;
    CHECK(shutdown(f->sink_near, SHUT_WR) == 0);
    f->stop_reading = false;
    do {
        CHECK(poll(&p, 1, 60000) == 1);
        before = f->got_len;
        drain(f);
    } while (f->got_len != before);
}

/* ------------------------------------------------------------------ what came out */

static void check_content(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != rig_byte(i))
            fail_msg("byte %zu of %zu is wrong", i, len);
}

/* The content of what the sink got, in place; whole: its framing has ended. */
static size_t decode(struct flow *f, enum pump_framing out, bool *whole)
{
    struct http_chunked st = {0};
    struct http_chunked_result result = {0};
    struct http_reject reject;
    *whole = out != PUMP_CHUNKED;
    if (out != PUMP_CHUNKED)
        return f->got_len;
    int ret = f->got_len ? http_chunked_decode(&st, (char *)f->got, f->got_len, &result, &reject) : 0;
    assert_true(ret >= 0);
    assert_int_equal(result.consumed, f->got_len);
    *whole = ret == 1;
    return result.payload;
}

static enum pump_end end_of(const struct script *s)
{
    switch (s->ending) {
    case END_FIN:
        return s->in == PUMP_RAW ? PUMP_DONE : PUMP_SOURCE_ENDED;
    case END_RST:
    case END_STALL:
        return PUMP_SOURCE_ERROR;
    case END_GARBAGE:
        return PUMP_SOURCE_BAD;
    default:
        return PUMP_DONE;
    }
}

static void check(struct flow *f, enum pump_framing out, uint64_t want, enum pump_end end)
{
    bool whole;
    drain_all(f);
    size_t len = decode(f, out, &whole);
    assert_int_equal(f->end, end);
    assert_int_equal(len, want);
    assert_true(f->pump.moved == want);
    check_content(f->got, len);
    if (out == PUMP_CHUNKED)
        assert_int_equal(whole, end == PUMP_DONE);
}

/* ------------------------------------------------------------------ the matrix */

static void one(const struct script *s, enum pump_framing out, enum pump_technique technique, int sink_buffer,
                size_t pieces)
{
    struct flow f;
    struct pump_config c = {.out = out, .technique = technique};
    flow_init(&f, sink_buffer);
    source_open(&f, s, &c);
    f.piece = pieces;
    if (out == PUMP_LENGTH)
        c.total = s->in == PUMP_LENGTH ? s->length : s->to;
    pump_start(&f.pump, &c);
    run(&f, s);
    check(&f, out, s->to, end_of(s));
    if (technique == PUMP_TECHNIQUE_COPY)
        assert_true(f.pump.spliced == 0);
    if (technique == PUMP_TECHNIQUE_SPLICE && s->in != PUMP_CHUNKED && s->early == 0)
        assert_true(f.pump.spliced == f.pump.moved);
    flow_fini(&f);
}

static void all_outs(const struct script *s, int sink_buffer, size_t pieces)
{
    for (enum pump_framing out = PUMP_RAW; out <= PUMP_CHUNKED; out++)
        for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
            one(s, out, t, sink_buffer, pieces);
}

static const size_t sizes[] = {0, 1, 100, 16383, 16384, 16385, 70000, 600000};

static void test_whole(void **state)
{
    (void)state;
    for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++)
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
            struct script s = {.in = in, .to = sizes[i], .length = sizes[i]};
            s.chunk_most = i % 2 ? 400000 : 3000;
            s.early = (size_t)rig_random(3) ? (size_t)rig_random(sizes[i] + 100) : 0;
            if (s.early > 60000)
                s.early = 60000;
            all_outs(&s, 0, 0);
        }
}

static void test_slow_sink(void **state)
{
    (void)state;
    for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++) {
        struct script s = {.in = in, .to = 300000, .length = 300000, .chunk_most = 150000};
        all_outs(&s, 16384, 0);
        s.chunk_most = 2000;
        all_outs(&s, 16384, 0);
    }
}

static void test_single_bytes(void **state)
{
    (void)state;
    for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++) {
        struct script s = {.in = in, .to = 150, .length = 150, .chunk_most = 20};
        all_outs(&s, 0, 1);
    }
}

static void test_source_breaks(void **state)
{
    (void)state;
    for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++)
        for (enum ending e = END_FIN; e <= END_GARBAGE; e++)
            for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                struct script s = {.in = in, .to = sizes[i], .length = sizes[i] + 1 + rig_random(100000)};
                s.ending = e;
                s.chunk_most = i % 2 ? 400000 : 3000;
                if ((in == PUMP_RAW && (e == END_FIN || e == END_STALL)) ||
                    (in != PUMP_CHUNKED && e == END_GARBAGE))
                    continue;
                if (e == END_RST) /* what was not acknowledged is lost on the way */
                    continue;
                all_outs(&s, i % 3 ? 0 : 16384, 0);
            }
}

/* All that had come before a reset was with the pump, and is with the sink. */
static void test_reset(void **state)
{
    (void)state;
    for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++)
        for (enum pump_technique t = PUMP_TECHNIQUE_SPLICE; t <= PUMP_TECHNIQUE_COPY; t++) {
            struct script s = {
                .in = in, .to = 50000, .length = 90000, .ending = END_STALL, .chunk_most = 30000};
            struct flow f;
            struct pump_config c = {.out = PUMP_CHUNKED, .technique = t};
            flow_init(&f, 0);
            source_open(&f, &s, &c);
            pump_start(&f.pump, &c);
            for (int i = 0; i < TURNS_MAX && f.pump.moved < 50000; i++) {
                feed(&f, &s);
                rig_turn(&rig);
                drain(&f);
            }
            rig_reset(f.source);
            f.source = -1;
            s.ending = END_RST;
            f.ended = true;
            run(&f, &s);
            assert_int_equal(f.err, -ECONNRESET);
            check(&f, PUMP_CHUNKED, 50000, PUMP_SOURCE_ERROR);
            flow_fini(&f);
        }
}

/* A reset of which a send has been told looks like an end to a receive, and is none. */
static void test_reset_told_elsewhere(void **state)
{
    (void)state;
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
        for (int both_shut = 0; both_shut < 2; both_shut++) {
            struct script s = {.in = PUMP_RAW, .to = 20000, .ending = END_STALL};
            struct flow f;
            struct pump_config c = {.out = PUMP_CHUNKED, .technique = t};
            flow_init(&f, 0);
            source_open(&f, &s, &c);
            f.piece = 300000;
            while (f.wire_at < f.wire_len)
                feed(&f, &s);
            if (both_shut) { /* an end in good order, on a socket that is all closed by then */
                wire_shutdown(&f.from);
                close(f.source);
            } else {
                rig_reset(f.source);
                while (send(f.source_near, "x", 1, MSG_NOSIGNAL) != -1)
                    ;
            }
            f.source = -1;
            f.ended = true;
            pump_start(&f.pump, &c);
            run(&f, &s);
            check(&f, PUMP_CHUNKED, 20000, both_shut ? PUMP_DONE : PUMP_SOURCE_ERROR);
            flow_fini(&f);
        }
}

/* ------------------------------------------------------------------ other wires */

/* A wire that stands on a socket; splice gets a descriptor that it cannot read from. */
static int wrong_fd = -1;

static ssize_t wrong_splice_now(struct wire *w, int pipe, size_t len)
{
    (void)w;
    ssize_t n = splice(wrong_fd, NULL, pipe, NULL, len, SPLICE_F_NONBLOCK);
    return n < 0 ? -errno : n;
}

static void over_sendmsg(struct wire *w, struct op *op, const struct msghdr *msg, int flags)
{
    loop_sendmsg(w->loop, op, w->fd, msg, flags);
}

static void over_poll(struct wire *w, struct op *op, short events)
{
    loop_poll(w->loop, op, w->fd, events);
}

static void over_cancel(struct wire *w, struct op *op)
{
    loop_cancel(w->loop, op);
}

static ssize_t over_recv_now(struct wire *w, void *buf, size_t len)
{
    ssize_t n = recv(w->fd, buf, len < 1000 ? len : 1000, MSG_DONTWAIT); /* as a record would be */
    return n < 0 ? -errno : n;
}

static ssize_t over_sendmsg_now(struct wire *w, const struct msghdr *msg, int flags)
{
    ssize_t n = sendmsg(w->fd, msg, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

static void test_other_wires(void **state)
{
    (void)state;
    static const struct wire_ops ops = {.name = "test",
                                        .sendmsg = over_sendmsg,
                                        .poll = over_poll,
                                        .cancel = over_cancel,
                                        .recv_now = over_recv_now,
                                        .sendmsg_now = over_sendmsg_now,
                                        .splice_now = wrong_splice_now};
    struct wire_over over = {.ops = &ops};
    for (int wrong = 0; wrong < 2; wrong++)
        for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++)
            for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++) {
                struct script s = {.in = in, .to = 300000, .length = 300000, .chunk_most = 200000};
                struct flow f;
                struct pump_config c = {.out = PUMP_CHUNKED, .technique = t};
                wrong_fd = wrong ? eventfd(0, EFD_CLOEXEC) : -1;
                flow_init(&f, 0);
                source_open(&f, &s, &c);
                f.from.over = &over;
                if (!wrong)
                    f.to.over = &over;
                pump_start(&f.pump, &c);
                run(&f, &s);
                check(&f, PUMP_CHUNKED, 300000, PUMP_DONE);
                assert_string_equal(pump_technique_name(&f.pump), "copy");
                flow_fini(&f);
                close(wrong_fd);
            }
}

/* ------------------------------------------------------------------ resume */

/* The next source gives the range that is missing, or everything again. */
static struct script next_script(uint64_t moved, uint64_t total, bool last)
{
    struct script s = {.in = rig_random(2) ? PUMP_LENGTH : PUMP_CHUNKED};
    bool whole = rig_random(3) == 0;
    s.from = whole ? 0 : moved;
    s.skip = whole ? moved : 0;
    s.length = total - s.from;
    s.to = last ? total : moved + rig_random(total - moved);
    if (s.to < s.from)
        s.to = s.from;
    s.ending = last ? END_FULL : rig_random(2) ? END_FIN : END_STALL;
    s.chunk_most = rig_random(2) ? 300000 : 5000;
    s.early = rig_random(2) ? (size_t)rig_random(5000) : 0;
    return s;
}

static void resume_one(enum pump_framing out, enum pump_technique technique, bool within_done)
{
    struct flow f;
    uint64_t total = 1 + rig_random(500000), before = 0;
    struct pump_config c = {.out = out, .technique = technique, .total = total};
    flow_init(&f, rig_random(2) ? 0 : 8192);
    for (int i = 0; i < SOURCES_MOST; i++) {
        struct script s = next_script(f.pump.moved, total, i == SOURCES_MOST - 1);
        source_open(&f, &s, &c);
        f.tapped = s.from;
        if (i == 0)
            pump_start(&f.pump, &c);
        else
            pump_resume(&f.pump, &c);
        run(&f, &s);
        if (f.end == PUMP_DONE)
            break;
        assert_int_equal(f.end, s.ending == END_FIN ? PUMP_SOURCE_ENDED : PUMP_SOURCE_ERROR);
        assert_true(f.pump.moved == (s.to > before ? s.to : before));
        before = f.pump.moved;
        c.tap = within_done && rig_random(2) ? flow_tap : NULL;
    }
    check(&f, out, total, PUMP_DONE);
    flow_fini(&f);
}

static void test_resume(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++)
        for (enum pump_framing out = PUMP_RAW; out <= PUMP_CHUNKED; out++)
            for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
                resume_one(out, t, i % 2);
}

/* A second source that sends more, or less, than the sink was promised. */
static void test_promise(void **state)
{
    (void)state;
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
        for (int more = 0; more < 2; more++)
            for (enum pump_framing in = PUMP_LENGTH; in <= PUMP_CHUNKED; in++) {
                struct flow f;
                struct script s = {.in = in, .to = more ? 60000 : 40000, .chunk_most = 60000};
                struct pump_config c = {.out = PUMP_LENGTH, .technique = t, .total = 50000};
                s.length = s.to;
                flow_init(&f, 0);
                source_open(&f, &s, &c);
                pump_start(&f.pump, &c);
                run(&f, &s);
                check(&f, PUMP_LENGTH, more ? 50000 : 40000, more ? PUMP_SOURCE_BAD : PUMP_SOURCE_ENDED);
                flow_fini(&f);
            }
}

/* ------------------------------------------------------------------ tap, hold back, head, rest, trailers */

static void test_tap(void **state)
{
    (void)state;
    for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++)
        for (int refused = 0; refused < 2; refused++) {
            struct flow f;
            struct script s = {.in = in, .to = 300000, .length = 300000, .chunk_most = 50000, .early = 700};
            struct pump_config c = {.out = PUMP_CHUNKED, .tap = flow_tap};
            flow_init(&f, 0);
            source_open(&f, &s, &c);
            f.refuse_at = refused ? 200000 : 0;
            pump_start(&f.pump, &c);
            run(&f, &s);
            assert_true(f.pump.spliced == 0);
            check(&f, PUMP_CHUNKED, f.tapped, refused ? PUMP_SOURCE_BAD : PUMP_DONE);
            assert_int_equal(f.err, refused ? -EKEYREJECTED : 0);
            assert_true(refused ? f.tapped < 200000 : f.tapped == 300000);
            assert_int_equal(f.ends, refused ? 0 : 1);
            flow_fini(&f);
        }
}

static void hold_back_one(enum pump_framing in, enum pump_framing out, uint64_t total, bool good)
{
    struct flow f;
    uint64_t hold = total < 5000 ? total : 5000;
    struct script s = {.in = in, .to = total, .length = total, .chunk_most = 9000};
    struct pump_config c = {.out = out, .tap = flow_tap, .hold_back = hold};
    flow_init(&f, 0);
    source_open(&f, &s, &c);
    pump_start(&f.pump, &c);
    for (int i = 0; i < TURNS_MAX && (f.tapped < total || f.pump.moved < total - hold); i++) {
        feed(&f, &s);
        rig_turn(&rig);
        drain(&f);
    }
    for (int i = 0; i < 20; i++) {
        feed(&f, &s);
        rig_turn(&rig);
        drain(&f);
    }
    assert_true(f.pump.moved == total - hold && f.pump.received == total && !f.done);
    pump_release(&f.pump, good);
    assert_false(f.done);
    run(&f, &s);
    check(&f, out, good ? total : total - hold, good ? PUMP_DONE : PUMP_STOPPED);
    flow_fini(&f);
}

static void test_hold_back(void **state)
{
    (void)state;
    static const uint64_t totals[] = {1, 5000, 5001, 40000, 600000};
    for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++)
        for (enum pump_framing out = PUMP_RAW; out <= PUMP_CHUNKED; out++)
            for (size_t i = 0; i < ARRAY_SIZE(totals); i++)
                for (int good = 0; good < 2; good++)
                    hold_back_one(in, out, totals[i], good);
}

/* The tap is told when it has seen all, and decides then. */
static void judged_one(enum pump_framing in, enum pump_framing out, uint64_t total, bool good)
{
    struct flow f;
    uint64_t hold = total < 5000 ? total : 5000;
    struct script s = {.in = in, .to = total, .length = total, .chunk_most = 9000, .early = 100};
    struct pump_config c = {.out = out, .tap = flow_tap, .hold_back = hold};
    flow_init(&f, 0);
    f.judges = true;
    f.judgement = good ? 0 : -EBADMSG;
    source_open(&f, &s, &c);
    pump_start(&f.pump, &c);
    run(&f, &s);
    check(&f, out, good ? total : total - hold, good ? PUMP_DONE : PUMP_SOURCE_BAD);
    assert_int_equal(f.err, f.judgement);
    assert_int_equal(f.ends, 1);
    flow_fini(&f);
}

static void test_judged(void **state)
{
    (void)state;
    static const uint64_t totals[] = {1, 5000, 5001, 40000, 600000};
    for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++)
        for (enum pump_framing out = PUMP_RAW; out <= PUMP_CHUNKED; out++)
            for (size_t i = 0; i < ARRAY_SIZE(totals); i++)
                for (int good = 0; good < 2; good++)
                    judged_one(in, out, totals[i], good);
}

/* The head comes first, whole, and is not counted; also when no content follows for a long time. */
static void test_head(void **state)
{
    (void)state;
    static const char head[] = "HTTP/1.1 200 OK\r\nX: y\r\n\r\n";
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
        for (size_t early = 0; early < 30000; early += 29000)
            for (int stalls = 0; stalls < 2; stalls++) {
                struct flow f;
                struct script s = {.in = PUMP_LENGTH, .to = 30000, .length = 30000, .early = early};
                struct pump_config c = {.out = PUMP_CHUNKED, .technique = t};
                flow_init(&f, 0);
                source_open(&f, &s, &c);
                c.head = view_of(head, sizeof(head) - 1);
                pump_start(&f.pump, &c);
                for (int i = 0; stalls && i < TURNS_MAX && f.got_len < sizeof(head) - 1; i++) {
                    rig_turn(&rig);
                    drain(&f);
                }
                run(&f, &s);
                drain_all(&f);
                assert_memory_equal(f.got, head, sizeof(head) - 1);
                f.got_len -= sizeof(head) - 1;
                memmove(f.got, f.got + sizeof(head) - 1, f.got_len);
                check(&f, PUMP_CHUNKED, 30000, PUMP_DONE);
                flow_fini(&f);
            }
}

/* Bytes behind the body are handed over if they came with it, and left in the socket if not. */
static void test_rest(void **state)
{
    (void)state;
    static const char next[] = "GET / HTTP/1.1\r\n\r\n";
    for (enum pump_framing in = PUMP_LENGTH; in <= PUMP_CHUNKED; in++)
        for (size_t early = 0; early < 30000; early += 9)
            for (int whole = 0; whole < 2 && (early < 50 || early % 1000 < 9); whole++) {
                struct flow f;
                char left[sizeof(next)];
                struct script s = {.in = in, .to = 20000, .length = 20000, .early = early, .behind = next};
                struct pump_config c = {.out = PUMP_RAW};
                s.chunk_most = whole ? 20000 : 100;
                flow_init(&f, 0);
                source_open(&f, &s, &c);
                f.piece = 300000;
                pump_start(&f.pump, &c);
                run(&f, &s);
                while (f.wire_at < f.wire_len)
                    feed(&f, &s);
                check(&f, PUMP_RAW, 20000, PUMP_DONE);
                size_t unread = sizeof(next) - 1 - f.rest_len;
                assert_memory_equal(f.rest, next, f.rest_len);
                ssize_t n = recv(f.source_near, left, sizeof(left), MSG_DONTWAIT);
                assert_int_equal(n < 0 ? 0 : n, unread);
                assert_memory_equal(left, next + f.rest_len, unread);
                flow_fini(&f);
            }
}

static void test_trailers(void **state)
{
    (void)state;
    static const char end[] = "0\r\ngrpc-status: 0\r\nX-Sum: 1\r\n\r\n";
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
        for (int kept = 0; kept < 2; kept++)
            for (size_t pieces = 1; pieces < 50; pieces += 12) {
                struct flow f;
                struct script s = {.in = PUMP_CHUNKED, .to = 500, .chunk_most = 300};
                struct pump_config c = {.out = PUMP_CHUNKED, .technique = t, .trailers = kept};
                s.trailers = "grpc-status: 0\r\nContent-Length: 9\r\nX-Sum: 1\r\n";
                flow_init(&f, 0);
                source_open(&f, &s, &c);
                f.piece = pieces;
                pump_start(&f.pump, &c);
                run(&f, &s);
                drain_all(&f);
                const char *want = kept ? end : "0\r\n\r\n";
                assert_memory_equal(f.got + f.got_len - strlen(want), want, strlen(want));
                check(&f, PUMP_CHUNKED, 500, PUMP_DONE);
                flow_fini(&f);
            }
}

/* ------------------------------------------------------------------ ends by the owner and by the sink */

static void test_stop(void **state)
{
    (void)state;
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
        for (int stuck = 0; stuck < 2; stuck++) {
            struct flow f;
            struct script s = {.in = PUMP_LENGTH, .to = 3000000, .length = 5000000, .ending = END_FULL};
            struct pump_config c = {.out = PUMP_CHUNKED, .technique = t};
            flow_init(&f, 16384);
            source_open(&f, &s, &c);
            f.stop_reading = stuck; /* the sink takes no more: stopped in the middle of sending */
            pump_start(&f.pump, &c);
            for (int i = 0; i < 300; i++) {
                feed(&f, &s);
                rig_turn(&rig);
                drain(&f);
            }
            assert_false(f.done);
            pump_stop(&f.pump);
            pump_stop(&f.pump);
            assert_false(f.done);
            run(&f, &s);
            assert_int_equal(f.end, PUMP_STOPPED);
            pump_stop(&f.pump);
            pump_fail_source(&f.pump);
            pump_release(&f.pump, true);
            rig_turn(&rig);
            flow_fini(&f);
        }
}

static void test_sink_breaks(void **state)
{
    (void)state;
    for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++)
        for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++) {
            struct flow f;
            struct script s = {.in = in, .to = 3000000, .length = 3000000, .chunk_most = 500000};
            struct pump_config c = {.out = PUMP_CHUNKED, .technique = t};
            flow_init(&f, 16384);
            source_open(&f, &s, &c);
            f.stop_reading = true;
            pump_start(&f.pump, &c);
            for (int i = 0; i < 300; i++) {
                feed(&f, &s);
                rig_turn(&rig);
            }
            rig_reset(f.sink);
            f.sink = dup(f.sink_near);
            run(&f, &s);
            assert_int_equal(f.end, PUMP_SINK_ERROR);
            assert_true(f.err == -EPIPE || f.err == -ECONNRESET);
            flow_fini(&f);
        }
}

/* Many slow sinks hold what they hold: pipes and buffers run out, pumps wait in line, and all get through. */
static void test_exhausted(void **state)
{
    (void)state;
    enum { FLOWS = 60 };
    static struct flow f[FLOWS];
    static struct script s[FLOWS];
    struct rig all = rig;
    rig_init(&rig, 4, 4);
    uint32_t left = FLOWS;
    for (int i = 0; i < FLOWS; i++) {
        struct pump_config c = {.out = PUMP_RAW};
        s[i] = (struct script){.in = PUMP_LENGTH, .to = 300000, .length = 300000};
        flow_init(&f[i], 16384);
        source_open(&f[i], &s[i], &c);
        f[i].stop_reading = true;
        pump_start(&f[i].pump, &c);
    }
    for (int turn = 0; left; turn++) {
        assert_true(turn < TURNS_MAX);
        left = 0;
        for (int i = 0; i < FLOWS; i++) {
            feed(&f[i], &s[i]);
            f[i].stop_reading = turn < 100;
            f[i].piece = 300000;
            drain(&f[i]);
            left += !f[i].done;
        }
        rig_turn(&rig);
    }
    assert_true(rig_counter(&rig, CTR_PIPES_EXHAUSTED) > 0 && rig_counter(&rig, CTR_BUFFERS_EXHAUSTED) > 0);
    for (int i = 0; i < FLOWS; i++) {
        run(&f[i], &s[i]);
        check(&f[i], PUMP_RAW, 300000, PUMP_DONE);
        flow_fini(&f[i]);
    }
    rig_fini(&rig);
    rig = all;
}

/* A pump that waits holds nothing. */
static void test_idle_holds_nothing(void **state)
{
    (void)state;
    for (enum pump_framing in = PUMP_RAW; in <= PUMP_CHUNKED; in++)
        for (enum pump_technique t = PUMP_TECHNIQUE_AUTO; t <= PUMP_TECHNIQUE_COPY; t++) {
            struct flow f;
            struct script s = {.in = in, .to = 400000, .length = 400001, .ending = END_STALL};
            struct pump_config c = {.out = PUMP_CHUNKED, .technique = t};
            s.chunk_most = 200000;
            flow_init(&f, 0);
            source_open(&f, &s, &c);
            pump_start(&f.pump, &c);
            for (int i = 0; i < TURNS_MAX && f.pump.moved < 400000; i++) {
                feed(&f, &s);
                rig_turn(&rig);
                drain(&f);
            }
            for (int i = 0; i < TURNS_MAX && !pump_waits_for_source(&f.pump); i++) {
                rig_turn(&rig);
                drain(&f);
            }
            assert_null(f.pump.pipe);
            assert_null(f.pump.buffer);
            for (int i = 0; i < TURNS_MAX && f.got_len < 400000; i++)
                drain(&f);
            f.piece = 300000;
            drain(&f);
            size_t len = f.got_len; /* and the chunk that is complete is complete for the sink, too */
            assert_memory_equal(f.got + len - 2, "\r\n", 2);
            run(&f, &s);
            flow_fini(&f);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_slow_sink),
        cmocka_unit_test(test_single_bytes),
        cmocka_unit_test(test_source_breaks),
        cmocka_unit_test(test_reset_told_elsewhere),
        cmocka_unit_test(test_other_wires),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_promise),
        cmocka_unit_test(test_tap),
        cmocka_unit_test(test_judged),
        cmocka_unit_test(test_hold_back),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_rest),
        cmocka_unit_test(test_trailers),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_sink_breaks),
        cmocka_unit_test(test_exhausted),
        cmocka_unit_test(test_idle_holds_nothing),
    };
    rig_init(&rig, RIG_SMALLS, 8);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_fini(&rig);
    return failed;
}
