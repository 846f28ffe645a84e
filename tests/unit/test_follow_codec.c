/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <raft.h>
#include <string.h>

#include "control/raft/follow_codec.h"

enum { ENTRIES = 3 };

static size_t make(uint8_t *out, const uint64_t term[ENTRIES], uint16_t type, size_t len)
{
    struct follow_entry entry[ENTRIES];
    for (size_t i = 0; i < ENTRIES; i++)
        entry[i] = (struct follow_entry){term[i], type, "some bytes", len};
    return follow_entries_encode(41, 2, entry, ENTRIES, out);
}

static void test_entries_come_as_they_went(void **state)
{
    static const uint64_t term[ENTRIES] = {2, 2, 5};
    uint8_t frame[256];
    struct follow_entries in;
    struct follow_entry entry;
    (void)state;
    size_t len = make(frame, term, RAFT_COMMAND, 10);
    assert_int_equal(len, FOLLOW_ENTRIES_HEAD_BYTES + ENTRIES * (FOLLOW_ENTRY_HEAD_BYTES + 10));
    assert_int_equal(follow_entries_decode(frame, len, &in), 0);
    assert_int_equal(in.first, 41);
    assert_int_equal(in.prev_term, 2);
    for (size_t i = 0; i < ENTRIES; i++) {
        assert_true(follow_entries_next(&in, &entry));
        assert_int_equal(entry.term, term[i]);
        assert_int_equal(entry.len, 10);
        assert_memory_equal(entry.data, "some bytes", 10);
    }
    assert_false(follow_entries_next(&in, &entry));
}

static void test_entries_that_cannot_be(void **state)
{
    static const uint64_t rises[ENTRIES] = {2, 3, 4}, falls[ENTRIES] = {2, 3, 2}, before[ENTRIES] = {1, 2, 2};
    uint8_t frame[256];
    struct follow_entries in;
    (void)state;
    size_t len = make(frame, falls, RAFT_COMMAND, 10);
    assert_int_equal(follow_entries_decode(frame, len, &in), -EBADMSG);
    len = make(frame, before, RAFT_COMMAND, 10);
    assert_int_equal(follow_entries_decode(frame, len, &in), -EBADMSG);
    len = make(frame, rises, RAFT_CHANGE + 1, 10);
    assert_int_equal(follow_entries_decode(frame, len, &in), -EBADMSG);
    len = make(frame, rises, RAFT_COMMAND, 0);
    assert_int_equal(follow_entries_decode(frame, len, &in), -EBADMSG);
    len = make(frame, rises, RAFT_COMMAND, 10);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(follow_entries_decode(frame, i, &in), -EBADMSG);
    frame[len] = 0;
    assert_int_equal(follow_entries_decode(frame, len + 1, &in), -EBADMSG);
    frame[0]++;
    assert_int_equal(follow_entries_decode(frame, len, &in), -EPROTO);
}

static void test_a_grant_is_bounded(void **state)
{
    struct follow_grant grant, in;
    uint8_t frame[FOLLOW_FRAME_BYTES];
    (void)state;
    memset(&grant, 0, sizeof(grant));
    memset(&in, 0, sizeof(in));
    grant.session = 7;
    grant.stamp_ms = 5;
    grant.applied = 9;
    grant.leader = 2;
    grant.floor = 8;
    grant.valid_ms = FOLLOW_LEASE_MS_MAX;
    size_t len = follow_grant_encode(&grant, frame);
    assert_int_equal(follow_grant_decode(frame, len, &in), 0);
    assert_memory_equal(&grant, &in, sizeof(in));
    grant.valid_ms++;
    len = follow_grant_encode(&grant, frame);
    assert_int_equal(follow_grant_decode(frame, len, &in), -EBADMSG);
}

/* What it has anything of is never before what is applied. */
static void test_an_ask_comes_as_it_went(void **state)
{
    struct follow_ask ask, in;
    uint8_t frame[FOLLOW_FRAME_BYTES];
    (void)state;
    memset(&ask, 0, sizeof(ask));
    memset(&in, 0, sizeof(in));
    ask.session = 7;
    ask.applied = 4500;
    ask.term = 3;
    ask.top = 5000;
    ask.top_term = 4;
    ask.following = true;
    size_t len = follow_ask_encode(&ask, frame);
    assert_int_equal(follow_ask_decode(frame, len, &in), 0);
    assert_memory_equal(&ask, &in, sizeof(in));
    for (size_t i = 0; i < len; i++)
        assert_int_equal(follow_ask_decode(frame, i, &in), -EBADMSG);
    ask.top = ask.applied;
    len = follow_ask_encode(&ask, frame);
    assert_int_equal(follow_ask_decode(frame, len, &in), 0);
    ask.top--;
    len = follow_ask_encode(&ask, frame);
    assert_int_equal(follow_ask_decode(frame, len, &in), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries_come_as_they_went),
        cmocka_unit_test(test_entries_that_cannot_be),
        cmocka_unit_test(test_a_grant_is_bounded),
        cmocka_unit_test(test_an_ask_comes_as_it_went),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
