/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces on their way into an upload session: in which order, how many, and what becomes of them when one
 * cannot be written. The session, the buffers and the loop are played. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "check.h"
#include "limits.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/sink.h"
#include "dataplane/move/buffers.h"
#include "dataplane/store/store.h"

enum { BUFFERS = 16 };

struct upload {
    uint64_t size;
    const void *bytes; /* of the write under way; NULL: none */
    size_t len;
    struct waiter *waiter;
    int refusal; /* what the next append says at once */
};

static struct ring ring;
static struct upload upload;
static struct sink sink;
static uint8_t memory[BUFFERS][4];
static bool lent[BUFFERS], plenty;
static uint64_t told; /* by wrote */
static struct op op;
static int completed; /* with what; 1: not yet */

/* ------------------------------------------------------------------ played */

uint64_t loop_now_ms(const struct loop *loop)
{
    (void)loop;
    return 1000;
}

void loop_op_begin(struct op *o)
{
    assert_false(o->inflight);
    o->inflight = true;
}

/* The turn of the loop in which it is delivered comes at once. */
void loop_post(struct loop *loop, struct loop_post *post, struct op *o, int32_t res)
{
    (void)loop, (void)post;
    assert_ptr_equal(o, &op);
    assert_true(o->inflight && completed == 1);
    o->inflight = false;
    completed = res;
}

void buffers_give(struct ring *r, uint8_t *buffer)
{
    size_t number = (size_t)(buffer - memory[0]) / sizeof(memory[0]);
    assert_ptr_equal(r, &ring);
    assert_true(number < BUFFERS && lent[number]);
    lent[number] = false;
}

bool buffers_plenty(const struct ring *r, const uint8_t *buffer)
{
    (void)r;
    assert_non_null(buffer);
    return plenty;
}

uint64_t upload_offset(const struct upload *u)
{
    return u->size;
}

int upload_append(struct upload *u, const void *buf, size_t len, struct waiter *w)
{
    assert_null(u->bytes);
    if (u->refusal)
        return u->refusal;
    u->bytes = buf;
    u->len = len;
    u->waiter = w;
    return 0;
}

/* The write under way comes to its end. */
static void wrote_now(int res)
{
    assert_non_null(upload.bytes);
    upload.bytes = NULL;
    upload.size += res ? 0 : upload.len;
    upload.waiter->wake(upload.waiter, res);
}

static void wrote(struct sink *s, size_t bytes)
{
    assert_ptr_equal(s, &sink);
    told += bytes;
}

/* wire.c would bring all of the loop. */
static const struct wire_ops *ops(void)
{
    return sink.wire.over->ops;
}

static int setup(void **state)
{
    (void)state;
    upload = (struct upload){0};
    memset(lent, 0, sizeof(lent));
    plenty = true;
    told = 0;
    op = (struct op){0};
    completed = 1;
    sink_open(&sink, &ring, &upload, wrote);
    return 0;
}

static bool take(unsigned number, size_t len)
{
    assert_false(lent[number]);
    lent[number] = true;
    return ops()->take(&sink.wire, memory[number], memory[number] + 1, len);
}

static void check_written(unsigned number, size_t len)
{
    assert_ptr_equal(upload.bytes, memory[number] + 1);
    assert_int_equal(upload.len, len);
}

static void check_nothing_lent(void)
{
    for (unsigned i = 0; i < BUFFERS; i++)
        assert_false(lent[i]);
    assert_false(sink.writing);
}

static void wait_room(void)
{
    completed = 1;
    ops()->poll(&sink.wire, &op, POLLOUT);
}

static void settle(void)
{
    completed = 1;
    ops()->settle(&sink.wire, &op);
}

/* ------------------------------------------------------------------ tests */

static void test_order(void **state)
{
    (void)state;
    assert_true(take(0, 100));
    assert_true(take(1, 200));
    assert_true(take(2, 300));
    assert_false(take(3, 400)); /* as many as it holds */
    wait_room();
    assert_int_equal(completed, 1);
    check_written(0, 100);
    wrote_now(0);
    assert_int_equal(completed, POLLOUT);
    assert_int_equal(told, 100);
    assert_false(lent[0]);
    check_written(1, 200);
    settle();
    wrote_now(0);
    check_written(2, 300);
    wrote_now(0);
    check_written(3, 400);
    assert_int_equal(completed, 1);
    wrote_now(0);
    assert_int_equal(completed, 0);
    assert_int_equal(told, 1000);
    check_nothing_lent();
    assert_true(take(4, 1)); /* another source goes on */
    wrote_now(0);
    check_nothing_lent();
}

static void test_nothing_to_wait_for(void **state)
{
    (void)state;
    settle();
    assert_int_equal(completed, 0);
    wait_room();
    assert_int_equal(completed, POLLOUT);
}

/* Pieces end where the file's buffers do, whatever is under way. */
static void test_room(void **state)
{
    (void)state;
    assert_int_equal(ops()->room(&sink.wire), BODY_BUFFER_BYTES);
    assert_true(take(0, 1000));
    assert_int_equal(ops()->room(&sink.wire), BODY_BUFFER_BYTES - 1000);
    upload.size += 1000; /* written, and being hashed still */
    assert_int_equal(ops()->room(&sink.wire), BODY_BUFFER_BYTES - 1000);
    upload.size -= 1000;
    wrote_now(0);
    assert_int_equal(ops()->room(&sink.wire), BODY_BUFFER_BYTES - 1000);
    assert_true(take(1, BODY_BUFFER_BYTES - 1000));
    assert_int_equal(ops()->room(&sink.wire), BODY_BUFFER_BYTES);
    wrote_now(0);
    check_nothing_lent();
}

/* Where buffers are rare it holds one, as a pump does. */
static void test_rare_buffers(void **state)
{
    (void)state;
    plenty = false;
    assert_false(take(0, 10));
    wait_room();
    assert_int_equal(completed, 1);
    wrote_now(0);
    assert_int_equal(completed, POLLOUT);
    plenty = true;
    assert_true(take(1, 10));
    plenty = false;
    assert_false(take(2, 10));
    wait_room();
    wrote_now(0);
    assert_int_equal(completed, 1); /* there is still one */
    wrote_now(0);
    assert_int_equal(completed, POLLOUT);
    check_nothing_lent();
}

static void test_failure(void **state)
{
    (void)state;
    assert_true(take(0, 10));
    assert_true(take(1, 20));
    assert_true(take(2, 30));
    wrote_now(0);
    wrote_now(-ENOSPC);
    check_nothing_lent();
    assert_null(upload.bytes); /* what came behind it is not tried */
    assert_int_equal(told, 10);
    assert_false(take(3, 40));
    check_nothing_lent();
    wait_room();
    assert_int_equal(completed, -ENOSPC);
    settle();
    assert_int_equal(completed, -ENOSPC);
}

static void test_failure_awaited(void **state)
{
    (void)state;
    assert_true(take(0, 10));
    assert_true(take(1, 20));
    settle();
    wrote_now(-EIO);
    assert_int_equal(completed, -EIO);
    check_nothing_lent();
}

/* The session says no before it writes: of the first piece, and of one in line. */
static void test_refused(void **state)
{
    (void)state;
    upload.refusal = -EFBIG;
    assert_false(take(0, 10));
    check_nothing_lent();
    wait_room();
    assert_int_equal(completed, -EFBIG);

    setup(NULL);
    assert_true(take(0, 10));
    assert_true(take(1, 10));
    upload.refusal = -ENOSPC;
    settle();
    wrote_now(0);
    assert_int_equal(completed, -ENOSPC);
    assert_int_equal(told, 10);
    check_nothing_lent();
}

static void test_cancel(void **state)
{
    (void)state;
    plenty = false;
    assert_false(take(0, 10));
    wait_room();
    ops()->cancel(&sink.wire, &op);
    assert_int_equal(completed, -ECANCELED);
    ops()->cancel(&sink.wire, &op); /* not under way */
    settle();
    ops()->cancel(&sink.wire, &op); /* the disk has it: it takes its time */
    assert_int_equal(completed, 1);
    wrote_now(0);
    assert_int_equal(completed, 0);
    check_nothing_lent();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_order, setup),   cmocka_unit_test_setup(test_nothing_to_wait_for, setup),
        cmocka_unit_test_setup(test_room, setup),    cmocka_unit_test_setup(test_rare_buffers, setup),
        cmocka_unit_test_setup(test_failure, setup), cmocka_unit_test_setup(test_failure_awaited, setup),
        cmocka_unit_test_setup(test_refused, setup), cmocka_unit_test_setup(test_cancel, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
