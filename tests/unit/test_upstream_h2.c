/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests on their way to a stream of a backend's session: what they are told where there is none. That this
 * node's memory is used up is this node's shortage, and not that the backend is busy: a request that is told
 * so waits in line and is woken by the room that is there. Sessions, memory and the loop are played.
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
#include "dataplane/http2/http2.h"
#include "dataplane/proxy/upstream_private.h"
#include "dataplane/tls/tls.h"

enum { POOL = 4 };

struct h2_session {
    unsigned room;
    bool crowded;
};

static struct {
    struct plan plan;
    struct ring ring;
    struct ring_counters counters;
    struct upstreams us;
    struct target target;
    struct plan_service service;
    struct h2_session session;
    struct upstream pool[POOL];
    unsigned pool_used, pool_size, streams_left, connects;
    struct op *told; /* what a stream was told in this turn */
    int32_t result;
} rig;

/* ------------------------------------------------------------------ played */

unsigned h2_client_room(const struct h2_session *s)
{
    return s->room;
}

bool h2_client_crowded(const struct h2_session *s)
{
    return s->crowded;
}

bool h2_client_over(const struct h2_session *s)
{
    (void)s;
    return false;
}

unsigned h2_client_busy(const struct h2_session *s)
{
    (void)s;
    return 1;
}

/* Streams come from a pool of the ring's. */
bool h2_client_open(struct h2_session *s, struct wire *out)
{
    (void)out;
    if (!s->room || !rig.streams_left)
        return false;
    rig.streams_left--;
    s->room--;
    return true;
}

void h2_client_close(struct h2_session *s)
{
    (void)s;
    fail();
}

struct h2_session *h2_client_start(struct ring *ring, const struct wire *wire, const struct h2_user *user)
{
    (void)ring, (void)wire, (void)user;
    return &rig.session;
}

struct upstream *upstream_make(struct upstreams *us, struct target *t, uint32_t service_index,
                               enum upstream_kind kind)
{
    if (rig.pool_used == rig.pool_size)
        return NULL;
    struct upstream *u = &rig.pool[rig.pool_used++];
    *u = (struct upstream){.us = us, .target = t, .service_index = service_index, .kind = (uint8_t)kind};
    return u;
}

void upstream_drop(struct upstream *u)
{
    (void)u;
    rig.pool_used--;
}

void upstream_connect(struct upstream *u, const struct plan_service *service)
{
    (void)u, (void)service;
    rig.connects++;
}

void upstream_failed(struct upstream *u, int err)
{
    u->got(NULL, err, u->arg);
}

void upstream_ready(struct upstream *u)
{
    u->got(u, 0, u->arg);
}

bool upstream_wanted(const struct upstreams *us, const struct target *t)
{
    (void)us, (void)t;
    return true;
}

void balance_room(struct balance *b, struct target *t)
{
    (void)b;
    t->full = false;
}

void loop_op_begin(struct op *op)
{
    assert_false(op->inflight);
    op->inflight = true;
}

void loop_post(struct loop *loop, struct loop_post *post, struct op *op, int32_t res)
{
    (void)loop, (void)post;
    rig.told = op;
    rig.result = res;
}

bool tls_is(const struct wire *w)
{
    (void)w;
    return false;
}

const char *tls_protocol(const struct wire *w)
{
    (void)w;
    return "h2";
}

/* ------------------------------------------------------------------ a request */

static int got_err;
static struct upstream *got_stream;

static void got(struct upstream *u, int err, void *arg)
{
    (void)arg;
    got_stream = u;
    got_err = err;
}

static int setup(void **state)
{
    (void)state;
    memset(&rig, 0, sizeof(rig));
    rig.ring.plan = &rig.plan;
    rig.ring.counters = &rig.counters;
    rig.us.ring = &rig.ring;
    rig.plan.setting[SET_HTTP2_STREAMS_MAX] = 100;
    rig.service.proxy.connections_max = 1;
    rig.pool_size = POOL;
    rig.streams_left = 100;
    got_err = 1;
    got_stream = NULL;
    return 0;
}

/* What a request is told that asks now; 1: nothing yet. */
static int ask(void)
{
    got_err = 1;
    rig.told = NULL;
    struct upstream *u = upstream_h2_take(&rig.us, &rig.target, &rig.service, 0, got, NULL);
    assert_non_null(u);
    if (rig.told) {
        assert_ptr_equal(rig.told, &u->out);
        u->out.inflight = false;
        u->out.done(&u->out, &(struct event){.res = rig.result});
    }
    return got_err;
}

/* The first request makes the session's connection, and waits on it. */
static struct upstream *connecting(void)
{
    assert_int_equal(ask(), 1);
    assert_int_equal(rig.connects, 1);
    return rig.target.sessions;
}

static void connected(unsigned room, bool crowded)
{
    struct upstream *c = connecting();
    rig.session = (struct h2_session){room + 1, crowded};
    upstream_h2_connected(c);
    assert_int_equal(rig.result, 0);
    assert_int_equal(rig.session.room, room);
    rig.told = NULL;
}

/* ------------------------------------------------------------------ tests */

static void test_a_stream(void **state)
{
    (void)state;
    connected(5, false);
    assert_int_equal(ask(), 0);
    assert_non_null(got_stream);
    assert_int_equal(rig.session.room, 4);
}

/* The backend's: whoever is told so waits until it has room. */
static void test_busy(void **state)
{
    (void)state;
    connected(0, false);
    assert_int_equal(ask(), -EBUSY);
    assert_true(rig.target.full);
}

static void test_no_memory(void **state)
{
    (void)state;
    connected(5, false);
    rig.streams_left = 0;
    assert_int_equal(ask(), -ENOBUFS);
    assert_null(got_stream);
    assert_false(rig.target.full); /* there is room with it */
}

/* Slow readers hold much on the only session that there may be: it carries more all the same, if this node
 * can. */
static void test_crowded(void **state)
{
    (void)state;
    connected(5, true);
    assert_int_equal(ask(), 0);
    rig.streams_left = 0;
    assert_int_equal(ask(), -ENOBUFS);
    rig.session.room = 0;
    rig.streams_left = 100;
    rig.pool_used--; /* the one that was told before */
    assert_int_equal(ask(), -EBUSY);
}

/* Those who waited on the connection are told the same difference. */
static void test_waited(void **state)
{
    (void)state;
    struct upstream *c = connecting();
    rig.session = (struct h2_session){1, false};
    rig.streams_left = 0;
    upstream_h2_connected(c);
    assert_int_equal(rig.result, -ENOBUFS);

    setup(NULL);
    c = connecting();
    rig.session = (struct h2_session){0, false};
    rig.streams_left = 0;
    rig.session.room = 0;
    upstream_h2_connected(c);
    assert_int_equal(rig.result, -EBUSY);
}

/* No memory for a connection, or for the request's own place. */
static void test_pool_used_up(void **state)
{
    (void)state;
    rig.pool_size = 1;
    assert_int_equal(ask(), -ENOBUFS);
    assert_int_equal(rig.connects, 0);
    assert_null(upstream_h2_take(&rig.us, &rig.target, &rig.service, 0, got, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_a_stream, setup),  cmocka_unit_test_setup(test_busy, setup),
        cmocka_unit_test_setup(test_no_memory, setup), cmocka_unit_test_setup(test_crowded, setup),
        cmocka_unit_test_setup(test_waited, setup),    cmocka_unit_test_setup(test_pool_used_up, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
