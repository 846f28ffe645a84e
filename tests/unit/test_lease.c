/* SPDX-License-Identifier: Apache-2.0 */
/* Read leases: since when a majority listens, how long a lease may last, frames. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control/raft/lease.h"

static void test_quorum(void **state)
{
    uint64_t two[] = {500, 700}, four[] = {100, 900, 300, 700}, one[] = {600}, none[] = {0, 0};
    (void)state;
    assert_int_equal(lease_quorum_ms(two, 0, true, 1000), 1000); /* alone */
    assert_int_equal(lease_quorum_ms(one, 1, true, 1000), 600);
    assert_int_equal(lease_quorum_ms(two, 2, true, 1000), 700);
    assert_int_equal(lease_quorum_ms(four, 4, true, 1000), 700);
    assert_int_equal(lease_quorum_ms(none, 2, true, 1000), 0);
    /* It leads, and does not vote any more: two of two, of three. */
    assert_int_equal(lease_quorum_ms(two, 2, false, 1000), 500);
    assert_int_equal(lease_quorum_ms(two, 0, false, 1000), 0);
}

static void test_valid(void **state)
{
    (void)state;
    assert_int_equal(lease_valid_ms(0, 800, 1000), 0);
    /* Ends before the promises of the majority do. */
    assert_true(lease_valid_ms(1000, 800, 1000) > 0);
    assert_true(1000 + lease_valid_ms(1000, 800, 1000) < 1800);
    assert_int_equal(1200 + lease_valid_ms(1000, 800, 1200), 1000 + lease_valid_ms(1000, 800, 1000));
    assert_int_equal(lease_valid_ms(1000, 800, 1790), 0);
    assert_int_equal(lease_valid_ms(1000, 800, 5000), 0);
}

static void test_frames(void **state)
{
    uint8_t frame[LEASE_FRAME_BYTES];
    struct lease_renew renew = {1, 2, 3, 4}, renew_out;
    struct lease_grant grant = {1, 2, 3, 4, 500, 600}, grant_out;
    (void)state;
    size_t len = lease_renew_encode(&renew, frame);
    assert_int_equal(lease_renew_decode(frame, len, &renew_out), 0);
    assert_memory_equal(&renew, &renew_out, sizeof(renew));
    for (size_t i = 0; i < len; i++)
        assert_int_equal(lease_renew_decode(frame, i, &renew_out), -EBADMSG);
    frame[0]++;
    assert_int_equal(lease_renew_decode(frame, len, &renew_out), -EPROTO);
    len = lease_grant_encode(&grant, frame);
    assert_int_equal(lease_grant_decode(frame, len, &grant_out), 0);
    assert_int_equal(grant_out.valid_ms, 500);
    assert_int_equal(grant_out.promise_ms, 600);
    assert_int_equal(grant_out.floor, 4);
    assert_int_equal(lease_grant_decode(frame, len - 1, &grant_out), -EBADMSG);
    /* A lease for longer than the promise, a promise for ever. */
    grant.valid_ms = 601;
    assert_int_equal(lease_grant_decode(frame, lease_grant_encode(&grant, frame), &grant_out), -EBADMSG);
    grant.valid_ms = 0;
    grant.promise_ms = LEASE_PROMISE_MS_MAX + 1;
    assert_int_equal(lease_grant_decode(frame, lease_grant_encode(&grant, frame), &grant_out), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_quorum), cmocka_unit_test(test_valid),
                                       cmocka_unit_test(test_frames)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
