/* SPDX-License-Identifier: Apache-2.0 */
/* A body that stops: who is asked, what is joined, when it is given up; pump and asks are stood in for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "check.h"
#include "dataplane/proxy/balance_private.h"
#include "dataplane/proxy/coalesce.h"
#include "dataplane/proxy/resume.h"
#include "dataplane/ring.h"

enum { SERVICES = 3, AT = 2, BACKENDS = 3, FIELDS = 16, SIZE = 1000, PATIENCE_MS = 1000, MOVED = 300 };

static struct {
    struct ring ring;
    struct counters_page page;
    struct balance *balance;
    struct plan *plan;
    uint64_t now_ms, verdicts[64];
    struct pump pump;
    struct pump_config joined_config;
    struct resume resume;
    struct target *target; /* of the exchange */
    struct ask ask;
    struct ask_config asked;
    bool ask_used, ask_started, shares;
    unsigned asks, pump_resumes, failed_sources, released, joins, losses;
    enum close_reason lost_why;
    bool kept;
    char range[80], etag[80];
    uint8_t bytes[SIZE];
    char path[256];
} w;

/* ------------------------------------------------------------------ what stands in */

uint64_t loop_now_ms(const struct loop *loop)
{
    (void)loop;
    return w.now_ms;
}

uint64_t loop_clock_us(void)
{
    return w.now_ms * 1000;
}

struct ask *ask_take(struct asks *asks)
{
    (void)asks;
    if (w.ask_used)
        return NULL;
    memset(&w.ask, 0, sizeof(w.ask));
    w.ask_used = true;
    return &w.ask;
}

void ask_start(struct ask *a, const struct ask_config *config)
{
    w.asked = *config;
    a->target = config->target;
    a->arg = config->arg;
    w.ask_started = true;
    w.asks++;
}

void ask_release(struct ask *a)
{
    a->target = NULL;
    a->upstream = NULL;
}

void ask_refuse(struct ask *a, enum balance_outcome outcome)
{
    balance_finish(w.balance, a->target, outcome, 0, w.now_ms);
    a->target = NULL;
}

void ask_drop(struct ask *a)
{
    if (a->target)
        balance_finish(w.balance, a->target, BALANCE_CANCELLED, 0, w.now_ms);
    w.ask_used = w.ask_started = false;
}

void pump_resume(struct pump *p, const struct pump_config *config)
{
    w.joined_config = *config;
    p->c = *config;
    p->active = true;
    w.pump_resumes++;
}

void pump_release(struct pump *p, bool good)
{
    (void)p;
    w.released += good;
}

void pump_fail_source(struct pump *p)
{
    (void)p;
    w.failed_sources++;
}

/* A flight that shares the body: what it was given. */
static struct {
    uint64_t head;
    int end; /* -1: not yet */
} flight;

void flight_add(struct flight *f, uint64_t at, const uint8_t *bytes, size_t len)
{
    assert_ptr_equal(f, &flight);
    assert_true(at <= flight.head);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(bytes[i], w.bytes[at + i]);
    flight.head = at + len > flight.head ? at + len : flight.head;
}

void flight_rewind(struct flight *f, uint64_t at)
{
    assert_ptr_equal(f, &flight);
    flight.head = at;
}

void flight_end(struct flight *f, enum flight_end how)
{
    assert_ptr_equal(f, &flight);
    flight.end = (int)how;
}

/* ------------------------------------------------------------------ the exchange */

static ssize_t request(struct resume *r, const struct target *t, struct view range, struct view if_range,
                       char *buf, size_t cap)
{
    (void)r;
    (void)t;
    snprintf(w.range, sizeof(w.range), "%.*s", (int)range.len, range.p ? range.p : "");
    snprintf(w.etag, sizeof(w.etag), "%.*s", (int)if_range.len, if_range.p ? if_range.p : "");
    assert_true(view_present(range));
    return snprintf(buf, cap, "GET / HTTP/1.1\r\n\r\n");
}

static bool client(struct resume *r, struct proxy_header *out)
{
    (void)r;
    (void)out;
    return false;
}

static void joined(struct resume *r, struct target *t, struct upstream *u, bool keep)
{
    (void)r;
    (void)u;
    w.joins++;
    w.kept = keep;
    w.target = t;
}

static void lost(struct resume *r, enum close_reason why)
{
    (void)r;
    w.losses++;
    w.lost_why = why;
}

static const struct resume_owner owner = {request, client, joined, lost};

static void pass(uint64_t ms)
{
    for (uint64_t until = w.now_ms + ms; w.now_ms < until;) {
        w.now_ms += TIMER_TICK_MS;
        timer_wheel_run(&w.ring.wheel, w.now_ms);
    }
}

static struct plan_proxy *proxy(void)
{
    return &((struct plan_service *)plan_service(w.plan, AT))->proxy;
}

static struct plan *make_plan(void)
{
    size_t services = (sizeof(struct plan) + 7) & ~7ul,
           at = services + SERVICES * sizeof(struct plan_service);
    size_t bytes = at + BACKENDS * sizeof(struct plan_backend);
    struct plan *p = calloc(1, bytes);
    *p = (struct plan){.magic = PLAN_MAGIC,
                       .version = PLAN_VERSION,
                       .bytes = bytes,
                       .service_count = SERVICES,
                       .backend_count = BACKENDS,
                       .service_at = services,
                       .listener_at = at,
                       .backend_at = at,
                       .row_at = at,
                       .name_at = at,
                       .source_at = at,
                       .member_at = at};
    struct plan_service *s = (struct plan_service *)plan_service(p, AT);
    s->kind = SERVICE_PROXY;
    s->incarnation = 7;
    s->backend_count = BACKENDS;
    s->proxy = (struct plan_proxy){.kind = PROXY_REGISTRY,
                                   .policy = PROXY_LEAST,
                                   .backend_http = 1,
                                   .queue_timeout_ms = PATIENCE_MS,
                                   .stall_rate = 1000,
                                   .stall_ms = 1000,
                                   .resumes_max = 3};
    for (uint32_t i = 0; i < BACKENDS; i++)
        *(struct plan_backend *)plan_backend(p, i) =
            (struct plan_backend){.id = 10 + i, .generation = 1, .weight = 1, .checked = 1};
    return p;
}

static int setup(void **state)
{
    (void)state;
    memset(&w, 0, sizeof(w));
    w.now_ms = 1000000;
    w.plan = make_plan();
    w.ring.plan = w.plan;
    w.ring.counters = &w.page.ring[0];
    timer_wheel_init(&w.ring.wheel, w.now_ms);
    assert_int_equal(balance_new(w.ring.counters, &w.balance), 0);
    balance_verdicts(w.balance, w.verdicts, 64);
    balance_plan(w.balance, w.plan, w.now_ms);
    for (size_t i = 0; i < SIZE; i++)
        w.bytes[i] = (uint8_t)(i * 7 + i / 256);
    struct hash h;
    struct digest d;
    hash_begin(&h, DIGEST_SHA256);
    hash_add(&h, w.bytes, SIZE);
    hash_end(&h, &d);
    char text[DIGEST_TEXT_MAX + 1];
    digest_format(&d, text);
    snprintf(w.path, sizeof(w.path), "/v2/a/blobs/%s", text);
    return 0;
}

/* Whatever happened: nobody is counted or held any more. */
static int teardown(void **state)
{
    (void)state;
    resume_end(&w.resume);
    if (w.target)
        balance_finish(w.balance, w.target, BALANCE_GOOD, 0, w.now_ms);
    assert_false(w.ask_used);
    for (uint32_t i = 0; i < BACKENDS; i++) {
        assert_int_equal(w.balance->listed[i]->requests, 0);
        assert_int_equal(w.balance->listed[i]->references, 1);
    }
    balance_free(w.balance);
    free(w.plan);
    return 0;
}

static void read_answer(struct http_answer *a, struct http_field *fields, char *head, size_t cap,
                        const char *status, const char *lines)
{
    const struct http_limits limits = {.header_bytes_max = 2048, .headers_max = FIELDS};
    struct http_reject reject;
    int len = snprintf(head, cap, "HTTP/1.1 %s X\r\n%s\r\n", status, lines);
    *a = (struct http_answer){.fields = fields, .fields_max = FIELDS};
    assert_int_equal(http_answer_read(head, (size_t)len, 0, &limits, HTTP_GET, a, &reject), len);
}

/* A body has begun, of which MOVED bytes are with the client. */
static void begin(enum proxy_verify verify, const char *status, const char *lines)
{
    const struct http_limits limits = {
        .header_bytes_max = 2048, .headers_max = FIELDS, .target_bytes_max = 512};
    struct http_field fields[FIELDS], asked[FIELDS];
    struct http_answer answer;
    struct http_reject reject;
    char head[2048], text[512];
    enum balance_why why;
    struct http_request req = {.fields = asked, .fields_max = FIELDS};
    int len = snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", w.path);
    assert_int_equal(http_request_read(text, (size_t)len, 0, &limits, &req, &reject), len);
    read_answer(&answer, fields, head, sizeof(head), status, lines);
    proxy()->verify = (uint8_t)verify;
    struct balance_ask ask = {
        .service = plan_service(w.plan, AT), .service_index = AT, .now_ms = w.now_ms, .random = 1};
    w.target = balance_choose(w.balance, &ask, &why);
    w.resume = (struct resume){.owner = &owner,
                               .ring = &w.ring,
                               .balance = w.balance,
                               .pump = &w.pump,
                               .target = w.target,
                               .service_index = AT,
                               .incarnation = 7};
    struct pump_config config = {.in = PUMP_LENGTH, .out = PUMP_LENGTH, .length = SIZE};
    resume_begin(&w.resume, &req, &answer);
    flight.head = 0;
    flight.end = -1;
    if (w.shares)
        w.resume.flight = (struct flight *)(void *)&flight;
    assert_int_equal(resume_checks(&w.resume), w.shares || verify == PROXY_VERIFY_ALWAYS);
    resume_pump(&w.resume, &config);
    w.pump = (struct pump){
        .c = config, .moved = MOVED, .received = MOVED, .active = true, .progress_ms = w.now_ms};
    if (config.tap)
        assert_int_equal(config.tap(config.arg, w.bytes, MOVED), 0);
}

static bool stop(enum close_reason *why)
{
    struct target *t = w.target;
    w.pump.active = false;
    w.target = NULL;
    balance_finish(w.balance, t, BALANCE_FAILED, 0, w.now_ms);
    return resume_stopped(&w.resume, PUMP_SOURCE_ENDED, 0, why);
}

/* The backend that was asked answers. */
static void answer(const char *status, const char *lines)
{
    struct http_field fields[FIELDS];
    static struct upstream upstream;
    char head[2048];
    assert_true(w.ask_started);
    read_answer(&w.ask.answer, fields, head, sizeof(head), status, lines);
    w.ask.upstream = &upstream;
    w.ask_started = false;
    w.asked.done(&w.ask, 0);
}

static void no_answer(void)
{
    assert_true(w.ask_started);
    balance_finish(w.balance, w.ask.target, BALANCE_UNREACHABLE, 0, w.now_ms);
    w.ask.target = NULL;
    w.ask_started = false;
    w.asked.done(&w.ask, -ECONNREFUSED);
}

#define FULL "200", "Content-Length: 1000\r\n"
#define REST "206", "Content-Length: 700\r\nContent-Range: bytes 300-999/1000\r\n"

/* ------------------------------------------------------------------ cases */

static void test_by_range(void **state)
{
    (void)state;
    enum close_reason why;
    begin(PROXY_VERIFY_NEVER, FULL);
    assert_null(w.pump.c.tap);
    uint32_t first = w.target->id;
    assert_true(stop(&why));
    assert_true(w.asked.target->id != first);
    assert_string_equal(w.range, "bytes=300-");
    assert_string_equal(w.etag, "");
    answer(REST);
    assert_int_equal(w.joins, 1);
    assert_true(w.kept);
    assert_int_equal(w.joined_config.in, PUMP_LENGTH);
    assert_int_equal(w.joined_config.length, 700);
    assert_int_equal(w.joined_config.skip, 0);
    assert_null(w.joined_config.tap);
    w.pump.moved = SIZE;
    resume_end(&w.resume);
    assert_int_equal(w.ring.counters->counter[CTR_PROXY_RESUMES], 1);
    assert_int_equal(w.ring.counters->counter[CTR_PROXY_RESUMED_BYTES], 700);
}

static void test_verified(void **state)
{
    (void)state;
    enum close_reason why;
    begin(PROXY_VERIFY_RESUMED, FULL);
    assert_null(w.pump.c.tap);
    assert_true(stop(&why));
    assert_string_equal(w.range, "bytes=0-"); /* all of it */
    answer("206", "Content-Length: 1000\r\nContent-Range: bytes 0-999/1000\r\n");
    assert_int_equal(w.joined_config.skip, MOVED);
    assert_int_equal(w.joined_config.length, SIZE);
    assert_true(w.joined_config.hold_back > 0);
    assert_int_equal(w.joined_config.tap(w.joined_config.arg, w.bytes, 500), 0);
    assert_int_equal(w.joined_config.tap(w.joined_config.arg, w.bytes + 500, 500), 0);
    assert_int_equal(w.released, 0);
    assert_int_equal(w.joined_config.tap(w.joined_config.arg, NULL, 0), 0);
    assert_int_equal(w.released, 1);
}

static void test_wrong_bytes(void **state)
{
    (void)state;
    enum close_reason why;
    for (int always = 0; always < 2; always++) {
        begin(always ? PROXY_VERIFY_ALWAYS : PROXY_VERIFY_RESUMED, FULL);
        struct pump_config *c = &w.pump.c;
        uint64_t from = always ? MOVED : 0;
        if (!always) {
            assert_true(stop(&why));
            answer(FULL);
            c = &w.joined_config;
        }
        w.bytes[700] ^= 1;
        assert_int_equal(c->tap(c->arg, w.bytes + from, SIZE - from), 0);
        assert_int_equal(c->tap(c->arg, NULL, 0), -EBADMSG);
        w.bytes[700] ^= 1;
        assert_false(stop(&why));
        assert_int_equal(why, CLOSE_DIGEST_MISMATCH);
    }
    assert_int_equal(w.released, 0);
    assert_int_equal(w.ring.counters->counter[CTR_PROXY_DIGEST_MISMATCHES], 2);
}

static void test_always(void **state)
{
    (void)state;
    begin(PROXY_VERIFY_ALWAYS, FULL);
    assert_int_equal(w.pump.c.tap(w.pump.c.arg, w.bytes + MOVED, SIZE - MOVED), 0);
    assert_int_equal(w.pump.c.tap(w.pump.c.arg, NULL, 0), 0);
    assert_int_equal(w.released, 1);
}

/* What is hashed from its beginning is hashed on: the wrong part may be the first one. */
static void test_always_over_two(void **state)
{
    (void)state;
    enum close_reason why;
    for (unsigned i = 0; i < 8; i++) {
        bool good = i & 1, whole = i & 2, held = i & 4; /* held: the last bytes came, and were not sent */
        begin(PROXY_VERIFY_ALWAYS, FULL);
        if (held) {
            assert_int_equal(w.pump.c.tap(w.pump.c.arg, w.bytes + MOVED, SIZE - MOVED - 1), 0);
            w.pump.moved = w.pump.received = SIZE - RESUME_HOLD_BACK;
        }
        uint64_t moved = w.pump.moved;
        assert_true(stop(&why));
        char expected[40], lines[200];
        snprintf(expected, sizeof(expected), "bytes=%llu-", (unsigned long long)moved);
        assert_string_equal(w.range, expected);
        snprintf(lines, sizeof(lines), "Content-Length: %llu\r\nContent-Range: bytes %llu-999/1000\r\n",
                 (unsigned long long)(SIZE - moved), (unsigned long long)moved);
        if (whole)
            answer(FULL);
        else
            answer("206", lines);
        uint64_t from = whole ? 0 : moved;
        assert_int_equal(w.joined_config.skip, moved - from);
        w.bytes[SIZE - 5] ^= good ? 0 : 1;
        assert_int_equal(w.joined_config.tap(w.joined_config.arg, w.bytes + from, 10), 0);
        assert_int_equal(w.joined_config.tap(w.joined_config.arg, w.bytes + from + 10, SIZE - from - 10), 0);
        w.bytes[SIZE - 5] ^= good ? 0 : 1;
        assert_int_equal(w.joined_config.tap(w.joined_config.arg, NULL, 0), good ? 0 : -EBADMSG);
        resume_end(&w.resume);
        balance_finish(w.balance, w.target, BALANCE_GOOD, 0, w.now_ms);
        w.target = NULL;
    }
}

static void test_the_first_part_is_wrong(void **state)
{
    (void)state;
    enum close_reason why;
    w.bytes[0] ^= 1;
    begin(PROXY_VERIFY_ALWAYS, FULL);
    w.bytes[0] ^= 1;
    assert_true(stop(&why));
    answer(REST);
    assert_int_equal(w.joined_config.tap(w.joined_config.arg, w.bytes + MOVED, SIZE - MOVED), 0);
    assert_int_equal(w.joined_config.tap(w.joined_config.arg, NULL, 0), -EBADMSG);
    assert_false(stop(&why));
    assert_int_equal(why, CLOSE_DIGEST_MISMATCH);
}

/* The second one is looked at, stops too, and its part counts; or it stops before it was worth anything. */
static void test_verified_over_three(void **state)
{
    (void)state;
    enum close_reason why;
    for (int early = 0; early < 2; early++) {
        begin(PROXY_VERIFY_RESUMED, FULL);
        assert_true(stop(&why));
        answer(FULL);
        uint64_t seen = early ? 100 : 500;
        assert_int_equal(w.joined_config.tap(w.joined_config.arg, w.bytes, seen), 0);
        w.pump.moved = early ? MOVED : seen;
        assert_true(stop(&why));
        assert_string_equal(w.range, early ? "bytes=0-" : "bytes=500-");
        if (early)
            answer(FULL);
        else
            answer("206", "Content-Length: 500\r\nContent-Range: bytes 500-999/1000\r\n");
        uint64_t from = early ? 0 : 500;
        assert_int_equal(w.joined_config.tap(w.joined_config.arg, w.bytes + from, SIZE - from), 0);
        assert_int_equal(w.joined_config.tap(w.joined_config.arg, NULL, 0), 0);
        resume_end(&w.resume);
        balance_finish(w.balance, w.target, BALANCE_GOOD, 0, w.now_ms);
        w.target = NULL;
    }
}

static void test_others_are_asked(void **state)
{
    (void)state;
    enum close_reason why;
    begin(PROXY_VERIFY_NEVER, FULL);
    uint32_t first = w.target->id;
    assert_true(stop(&why));
    uint32_t second = w.asked.target->id;
    answer("500", "Content-Length: 0\r\n");
    uint32_t third = w.asked.target->id;
    assert_int_equal(first ^ second ^ third, 10 ^ 11 ^ 12);
    answer("206", "Content-Length: 700\r\nContent-Range: bytes 300-999/2000\r\n");
    assert_false(w.ask_started); /* nobody is left */
    pass(200);
    assert_true(w.ask_started); /* but they may be back */
    no_answer();
    answer(REST);
    assert_int_equal(w.joins, 1);
    assert_int_equal(w.losses, 0);
}

static void test_nobody_is_there(void **state)
{
    (void)state;
    enum close_reason why;
    begin(PROXY_VERIFY_NEVER, FULL);
    for (unsigned i = 0; i < BACKENDS; i++)
        w.verdicts[10 + i] = ABI_VERDICT(ABI_DOWN, ABI_PROBE_TIMEOUT, 1, 1);
    assert_true(stop(&why));
    assert_int_equal(w.losses, 0); /* never from within */
    pass(PATIENCE_MS / 2);
    assert_int_equal(w.losses, 0);
    pass(PATIENCE_MS);
    assert_int_equal(w.losses, 1);
    assert_int_equal(w.lost_why, CLOSE_BACKEND_CUT);
    assert_int_equal(w.ring.counters->counter[CTR_PROXY_RESUMES_FAILED], 1);
    assert_int_equal(w.asks, 0);
}

static void test_several_times_but_not_for_ever(void **state)
{
    (void)state;
    enum close_reason why;
    begin(PROXY_VERIFY_NEVER, FULL);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(stop(&why));
        answer(REST);
    }
    assert_false(stop(&why));
    assert_int_equal(why, CLOSE_BACKEND_CUT);
}

static void test_only_what_can_go_on(void **state)
{
    (void)state;
    enum close_reason why;
    begin(PROXY_VERIFY_NEVER, "404", "Content-Length: 1000\r\n");
    assert_false(stop(&why));
    snprintf(w.path, sizeof(w.path), "/other");
    begin(PROXY_VERIFY_RESUMED, "200", "Content-Length: 1000\r\nETag: \"x\"\r\n");
    assert_true(stop(&why));
    assert_string_equal(w.etag, "\"x\"");
    answer("206", "Content-Length: 700\r\nETag: \"x\"\r\nContent-Range: bytes 300-999/1000\r\n");
    assert_null(w.joined_config.tap); /* there is nothing to check */
}

static void test_a_part(void **state)
{
    (void)state;
    enum close_reason why;
    begin(PROXY_VERIFY_RESUMED, "206", "Content-Length: 500\r\nContent-Range: bytes 100-599/1000\r\n");
    assert_true(stop(&why));
    assert_string_equal(w.range, "bytes=400-599");
    answer(FULL); /* without Range: what stands before and behind is not ours */
    assert_int_equal(w.joined_config.skip, 400);
    assert_int_equal(w.joined_config.length, 600);
    assert_false(w.kept);
    assert_null(w.joined_config.tap);
}

static void trickle(uint64_t ms)
{
    for (uint64_t i = 0; i < ms / 100; i++) {
        w.pump.progress_ms = w.now_ms;
        w.pump.received++;
        pass(100);
    }
}

/* What is shared is the body's bytes in their places, whoever they came from. */
static void test_shared(void **state)
{
    (void)state;
    enum close_reason why;
    w.shares = true;
    for (enum proxy_verify v = PROXY_VERIFY_NEVER; v <= PROXY_VERIFY_ALWAYS; v++) {
        begin(v, FULL);
        assert_int_equal(flight.head, MOVED);
        assert_true(stop(&why));
        if (v != PROXY_VERIFY_RESUMED) {
            answer(REST);
            assert_int_equal(w.joined_config.hold_back > 0, v == PROXY_VERIFY_ALWAYS);
            assert_int_equal(w.joined_config.tap(w.joined_config.arg, w.bytes + MOVED, SIZE - MOVED), 0);
        } else {
            answer(FULL);
            assert_int_equal(w.joined_config.tap(w.joined_config.arg, w.bytes, SIZE), 0);
        }
        assert_int_equal(flight.head, SIZE);
        assert_int_equal(flight.end, -1);
        assert_int_equal(w.joined_config.tap(w.joined_config.arg, NULL, 0), 0);
        assert_int_equal(flight.end, FLIGHT_COMPLETE);
        resume_end(&w.resume);
        balance_finish(w.balance, w.target, BALANCE_GOOD, 0, w.now_ms);
        w.target = NULL;
    }
}

static void test_stall(void **state)
{
    (void)state;
    begin(PROXY_VERIFY_NEVER, FULL);
    for (int i = 0; i < 30; i++) { /* fast enough */
        pass(100);
        w.pump.progress_ms = w.now_ms;
        w.pump.received += 200;
    }
    assert_int_equal(w.failed_sources, 0);
    w.pump.out.inflight = true; /* it is the client who is slow */
    pass(3000);
    assert_int_equal(w.failed_sources, 0);
    w.pump.out.inflight = false;
    for (unsigned i = 0; i < BACKENDS; i++)
        if (10 + i != w.target->id)
            w.verdicts[10 + i] = ABI_VERDICT(ABI_DOWN, ABI_PROBE_TIMEOUT, 1, 1);
    trickle(3000); /* better than nobody */
    assert_int_equal(w.failed_sources, 0);
    memset(w.verdicts, 0, sizeof(w.verdicts));
    trickle(1500);
    assert_true(w.failed_sources > 0);
}

/* Nothing at all: whoever is there, it is no worse to ask again. */
static void test_silence(void **state)
{
    (void)state;
    begin(PROXY_VERIFY_NEVER, FULL);
    for (unsigned i = 0; i < BACKENDS; i++)
        if (10 + i != w.target->id)
            w.verdicts[10 + i] = ABI_VERDICT(ABI_DOWN, ABI_PROBE_TIMEOUT, 1, 1);
    pass(1900);
    assert_int_equal(w.failed_sources, 0);
    pass(1500);
    assert_true(w.failed_sources > 0);
}

/* All of them slow: an error is better than for ever. */
static void test_slow_for_the_last_time(void **state)
{
    (void)state;
    enum close_reason why;
    begin(PROXY_VERIFY_NEVER, FULL);
    proxy()->resumes_max = 1;
    assert_true(stop(&why));
    answer(REST);
    w.pump.progress_ms = w.now_ms;
    trickle(3000);
    assert_true(w.failed_sources > 0);
    assert_false(stop(&why));
}

static void test_down(void **state)
{
    (void)state;
    begin(PROXY_VERIFY_NEVER, FULL);
    proxy()->stall_ms = 0;
    w.verdicts[w.target->id] = ABI_VERDICT(ABI_DOWN, ABI_PROBE_TIMEOUT, 1, 1);
    for (int i = 0; i < 10; i++) { /* whatever they say: its bytes come */
        w.pump.progress_ms = w.now_ms;
        pass(100);
    }
    assert_int_equal(w.failed_sources, 0);
    pass(600);
    assert_true(w.failed_sources > 0);
}

static void test_the_end_at_any_time(void **state)
{
    (void)state;
    enum close_reason why;
    begin(PROXY_VERIFY_NEVER, FULL);
    assert_true(stop(&why));
    resume_end(&w.resume); /* asking */
    assert_false(w.ask_used);
    begin(PROXY_VERIFY_NEVER, FULL);
    assert_true(stop(&why));
    no_answer();
    no_answer();
    resume_end(&w.resume); /* waiting */
    begin(PROXY_VERIFY_NEVER, FULL);
    assert_true(stop(&why));
    resume_abandon(&w.resume);
    assert_false(w.ask_used);
    pass(100);
    assert_int_equal(w.losses, 1);
    w.losses = 0;
    pass(5000);
    begin(PROXY_VERIFY_NEVER, FULL);
    resume_end(&w.resume); /* flowing */
    resume_end(&w.resume);
    pass(5000);
    assert_int_equal(w.losses, 0);
}

static void test_the_service_goes(void **state)
{
    (void)state;
    enum close_reason why;
    begin(PROXY_VERIFY_NEVER, FULL);
    ((struct plan_service *)plan_service(w.plan, AT))->incarnation = 8;
    pass(2000);
    assert_false(stop(&why));
    assert_int_equal(w.asks, 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_by_range),
        CASE(test_verified),
        CASE(test_wrong_bytes),
        CASE(test_always),
        CASE(test_always_over_two),
        CASE(test_the_first_part_is_wrong),
        CASE(test_verified_over_three),
        CASE(test_others_are_asked),
        CASE(test_nobody_is_there),
        CASE(test_several_times_but_not_for_ever),
        CASE(test_only_what_can_go_on),
        CASE(test_a_part),
        CASE(test_shared),
        CASE(test_stall),
        CASE(test_silence),
        CASE(test_slow_for_the_last_time),
        CASE(test_down),
        CASE(test_the_end_at_any_time),
        CASE(test_the_service_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
