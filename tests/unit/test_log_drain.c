/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "control/log_drain.h"

static struct log_ring ring;

struct seen {
    size_t count;
    unsigned kind;
    size_t len;
    char last[LOG_RECORD_MAX];
};

static void on_record(void *arg, unsigned kind, const char *body, size_t len)
{
    struct seen *seen = arg;
    seen->count++;
    seen->kind = kind;
    seen->len = len;
    memcpy(seen->last, body, len);
}

static void write_bytes(uint64_t position, const void *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        ring.data[(position + i) % LOG_RING_BYTES] = ((const uint8_t *)data)[i];
}

static void put(uint8_t kind, const char *body, uint32_t len)
{
    uint64_t head = atomic_load(&ring.head);
    uint8_t record_head[8] = {0};
    memcpy(record_head, &len, sizeof(len));
    record_head[4] = kind;
    write_bytes(head, record_head, sizeof(record_head));
    write_bytes(head + 8, body, len);
    atomic_store(&ring.head, head + (8 + len + 7) / 8 * 8);
}

static void reset(struct log_drain *drain, uint64_t position)
{
    memset(&ring, 0, sizeof(ring));
    atomic_store(&ring.head, position);
    *drain = (struct log_drain){.tail = position};
}

/* Many times around the ring, with every length up to a few hundred. */
static void test_every_length_around(void **state)
{
    (void)state;
    static struct seen seen;
    struct log_drain drain;
    char body[512];
    reset(&drain, 0);
    for (unsigned i = 0; i < 20000; i++) {
        uint32_t len = i % sizeof(body);
        memset(body, 'a' + (int)(i % 26), len);
        put((uint8_t)(1 + i % 3), body, len);
        seen.count = 0;
        assert_int_equal(log_drain_ring(&drain, &ring, 10, on_record, &seen), 1);
        assert_int_equal(seen.kind, 1 + i % 3);
        assert_int_equal(seen.len, len);
        assert_memory_equal(seen.last, body, len);
        assert_int_equal(atomic_load(&ring.tail), atomic_load(&ring.head));
    }
    assert_true(atomic_load(&ring.head) > 2 * LOG_RING_BYTES);
    assert_int_equal(drain.breaches, 0);
}

static void test_share(void **state)
{
    (void)state;
    static struct seen seen;
    struct log_drain drain;
    reset(&drain, 0);
    for (int i = 0; i < 10; i++)
        put(1, "x", 1);
    assert_int_equal(log_drain_ring(&drain, &ring, 4, on_record, &seen), 4);
    assert_int_equal(log_drain_ring(&drain, &ring, 100, on_record, &seen), 6);
    assert_int_equal(log_drain_ring(&drain, &ring, 100, on_record, &seen), 0);
}

/* What a broken or hostile producer can write: nothing is read out of bounds and the ring goes on. */
static void test_nonsense(void **state)
{
    (void)state;
    static const struct {
        uint32_t len;
        uint64_t head;
    } rows[] = {
        {LOG_RECORD_MAX + 1, 65536},
        {UINT32_MAX, 65536},
        {100, 64},
        {1, 8},
        {0, 4},
        {0, 12},
        {1, LOG_RING_BYTES + 8},
        {1, UINT64_MAX},
        {1, UINT64_MAX - 7},
        {LOG_RECORD_MAX, 16384},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        static struct seen seen;
        struct log_drain drain;
        reset(&drain, 0);
        seen.count = 0;
        write_bytes(0, &rows[i].len, sizeof(rows[i].len));
        atomic_store(&ring.head, rows[i].head);
        assert_int_equal(log_drain_ring(&drain, &ring, 10, on_record, &seen), 0);
        assert_int_equal(drain.breaches, 1);
        reset(&drain, drain.tail);
        put(2, "good", 4);
        assert_int_equal(log_drain_ring(&drain, &ring, 10, on_record, &seen), 1);
        assert_memory_equal(seen.last, "good", 4);
    }
}

static void test_head_that_goes_back(void **state)
{
    (void)state;
    static struct seen seen;
    struct log_drain drain;
    reset(&drain, 8000);
    atomic_store(&ring.head, 4000);
    assert_int_equal(log_drain_ring(&drain, &ring, 10, on_record, &seen), 0);
    assert_int_equal(drain.breaches, 1);
    put(1, "new", 3);
    assert_int_equal(log_drain_ring(&drain, &ring, 10, on_record, &seen), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_length_around),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_head_that_goes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
