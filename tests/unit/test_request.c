/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request's body on its way to a backend, where this node has no memory for what of it is here already:
 * that is said as what it is, and is no failure of the backend's, however far the answer is. The stream, the
 * pumps and the attempt are played.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "check.h"
#include "shared.h"
#include "dataplane/ring.h"
#include "dataplane/proxy/client_cert.h"
#include "dataplane/proxy/exchange.h"

static struct ring ring;
static struct ring_counters counters;
static struct stream stream;
static struct exchange ex;
static struct upstream up;
static struct wire client;
static char spare[STREAM_SPARE_BYTES];
static size_t here; /* bytes of the body that have come with the head */
static struct pump *started, *source_failed;
static enum close_reason done_reason;
static bool done, done_good, failed, ended;
static enum balance_outcome outcome;

/* ------------------------------------------------------------------ played */

struct wire *stream_wire(struct stream *s)
{
    (void)s;
    return &client;
}

char *stream_spare(struct stream *s)
{
    (void)s;
    return spare;
}

bool stream_has_body(const struct stream *s)
{
    (void)s;
    return true;
}

size_t stream_body_here(struct stream *s)
{
    (void)s;
    return here;
}

size_t stream_body_early(struct stream *s, char *out, size_t cap)
{
    (void)s;
    assert_true(here <= cap);
    memset(out, 'x', here);
    return here;
}

void stream_body_relay(struct stream *s, const struct pump *p, bool unlimited)
{
    (void)s, (void)p, (void)unlimited;
}

void pump_start(struct pump *p, const struct pump_config *config)
{
    p->c = *config;
    started = p;
}

void pump_fail_source(struct pump *p)
{
    source_failed = p;
}

void attempt_end(struct attempt *a, bool keep, enum balance_outcome how)
{
    (void)a, (void)keep;
    ended = true;
    outcome = how;
}

void exchange_failed(struct attempt *a)
{
    assert_int_equal(a->fault, FAULT_NO_MEMORY);
    failed = true;
}

void exchange_done(struct exchange *e, bool good, enum close_reason reason)
{
    (void)e;
    done = true;
    done_good = good;
    done_reason = reason;
}

/* Not on these ways. */
struct view pump_rest(const struct pump *p)
{
    (void)p;
    return (struct view){0};
}

bool attempt_body_ended(struct attempt *a)
{
    (void)a;
    return false;
}

void attempt_deadline(struct attempt *a)
{
    (void)a;
}

void attempt_adopt(struct attempt *a, struct target *t, struct upstream *u)
{
    (void)a, (void)t, (void)u;
}

bool attempt_quiet(const struct attempt *a)
{
    (void)a;
    return true;
}

void exchange_step_end(struct exchange *e)
{
    (void)e;
}

bool exchange_stops_being_http(const struct exchange *e)
{
    (void)e;
    return false;
}

void exchange_tunnel_begin(struct stream *s)
{
    (void)s;
}

void client_cert_fields(struct stream *s, struct client_cert *out)
{
    (void)s, (void)out;
}

void stream_body_broken(struct stream *s, struct http_reject why)
{
    (void)s, (void)why;
}

void stream_body_relayed(struct stream *s, bool good, struct view rest)
{
    (void)s, (void)good, (void)rest;
}

void stream_body_taken(struct stream *s)
{
    (void)s;
}

void stream_id_text(const struct stream *s, char out[STREAM_ID_TEXT])
{
    (void)s, (void)out;
}

uint16_t stream_local_port(struct stream *s)
{
    (void)s;
    return 0;
}

const char *stream_peer(struct stream *s)
{
    (void)s;
    return "?";
}

struct view stream_scheme(struct stream *s)
{
    (void)s;
    return (struct view){0};
}

void stream_watch(struct stream *s, bool on)
{
    (void)s, (void)on;
}

void stream_addresses(struct stream *s, struct proxy_header *out)
{
    (void)s, (void)out;
}

void target_authority(const struct target *t, char out[AUTHORITY_MAX])
{
    (void)t, (void)out;
}

const struct plan_service *exchange_service(const struct exchange *e)
{
    (void)e;
    return NULL;
}

struct view exchange_key(const struct exchange *e)
{
    (void)e;
    return (struct view){0};
}

void coalesce_leave(struct follower *f)
{
    (void)f;
}

bool follower_spoilt(const struct follower *f)
{
    (void)f;
    return false;
}

void resume_begin(struct resume *r, const struct http_request *req, const struct http_answer *answer)
{
    (void)r, (void)req, (void)answer;
}

bool resume_stopped(struct resume *r, enum pump_end end, int err, enum close_reason *why)
{
    (void)r, (void)end, (void)err, (void)why;
    fail_msg("another backend is asked for what failed here");
    return false;
}

void standing_enter(struct exchange *e)
{
    (void)e;
}

/* ------------------------------------------------------------------ tests */

/* One large buffer, which somebody else has; the body's beginning fits nowhere else. */
static int setup(void **state)
{
    (void)state;
    memset(&ex, 0, sizeof(ex));
    memset(&counters, 0, sizeof(counters));
    ring.counters = &counters;
    assert_int_equal(pool_init(&ring.heads, HEADER_BYTES_CEILING, 1), 0);
    assert_non_null(pool_take(&ring.heads));
    ex.s = &stream;
    ex.ring = &ring;
    ex.body = true;
    ex.attempt.ex = &ex;
    ex.attempt.up = &up;
    here = STREAM_SPARE_BYTES + 1;
    started = source_failed = NULL;
    done = done_good = failed = ended = false;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pool_fini(&ring.heads);
    return 0;
}

static void check_short(void)
{
    assert_null(started);
    assert_true(ex.body_begun);
    assert_int_equal(counters.counter[CTR_BUFFERS_EXHAUSTED], 1);
}

static void test_fits(void **state)
{
    (void)state;
    here = STREAM_SPARE_BYTES;
    exchange_body_begin(&ex);
    assert_ptr_equal(started, &ex.request);
    assert_ptr_equal(started->c.early.p, spare);
    assert_int_equal(started->c.early.len, here);
    assert_int_equal(counters.counter[CTR_BUFFERS_EXHAUSTED], 0);
}

/* Nothing was answered: 503, by the way of every shortage; the backend is not to blame. */
static void test_before_the_answer(void **state)
{
    (void)state;
    exchange_body_begin(&ex);
    check_short();
    assert_true(failed && ended && !done);
    assert_int_equal(outcome, BALANCE_CANCELLED);
}

/* The answer is there, and nothing of its body yet. */
static void test_answered(void **state)
{
    (void)state;
    ex.answered = true;
    exchange_body_begin(&ex);
    check_short();
    assert_true(done && !done_good && !failed);
    assert_int_equal(done_reason, CLOSE_NO_STREAM);
}

/* Its body is on its way: it ends, no other backend is asked for the rest, and this one is not blamed. */
static void test_relaying(void **state)
{
    (void)state;
    enum close_reason why;
    ex.answered = ex.relaying = true;
    exchange_body_begin(&ex);
    check_short();
    assert_ptr_equal(source_failed, &ex.response);
    assert_false(done || failed || ended);
    assert_int_equal(ex.halted, CLOSE_NO_STREAM);
    assert_false(exchange_goes_on(&ex, PUMP_SOURCE_ERROR, -ETIMEDOUT, &why));
    assert_false(ended);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_before_the_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_relaying, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
