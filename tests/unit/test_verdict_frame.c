/* SPDX-License-Identifier: Apache-2.0 */
/* What managers tell workers of backends: frames, and what is kept of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "check.h"
#include "control/verdict_frame.h"

enum { IDS_MAX = 100000 };

static uint8_t body[VERDICT_FRAME_MAX];

static struct verdict_frame frame_of(uint8_t flags, const struct verdict_row *row, size_t count)
{
    struct verdict_frame f;
    size_t len = verdict_frame_put(flags, row, count, body);
    assert_int_equal(verdict_frame_get(body, len, &f), 0);
    assert_int_equal(f.flags, flags);
    assert_int_equal(f.count, count);
    return f;
}

static bool take(struct verdict_table *t, uint8_t flags, const struct verdict_row *row, size_t count)
{
    struct verdict_frame f = frame_of(flags, row, count);
    return verdict_table_take(t, &f, IDS_MAX);
}

static void test_a_frame_comes_back(void **state)
{
    static struct verdict_row rows[VERDICT_ROWS_MAX];
    static const uint8_t states[] = {ABI_UP, ABI_DOWN, ABI_UNKNOWN};
    (void)state;
    for (size_t i = 0; i < VERDICT_ROWS_MAX; i++)
        rows[i] = (struct verdict_row){(uint32_t)(i * 77), (uint16_t)(i * 31), states[i % 3]};
    struct verdict_frame f = frame_of(VERDICT_BEGINS | VERDICT_ENDS, rows, VERDICT_ROWS_MAX);
    for (size_t i = 0; i < VERDICT_ROWS_MAX; i++) {
        struct verdict_row row;
        verdict_frame_row(&f, i, &row);
        assert_memory_equal(&row.id, &rows[i].id, sizeof(row.id));
        assert_int_equal(row.generation, rows[i].generation);
        assert_int_equal(row.state, rows[i].state);
    }
}

/* Whatever is not whole, or says what there is not, is no frame. */
static void test_other_bytes_are_none(void **state)
{
    const struct verdict_row rows[] = {{1, 2, ABI_UP}, {3, 4, ABI_DOWN}};
    struct verdict_frame f;
    (void)state;
    size_t len = verdict_frame_put(VERDICT_ENDS, rows, 2, body);
    for (size_t short_len = 0; short_len < len; short_len++) {
        uint8_t *part = malloc(short_len + 1); /* sanitizers see a read behind it */
        memcpy(part, body, short_len);
        assert_int_equal(verdict_frame_get(part, short_len, &f), -EPROTO);
        free(part);
    }
    assert_int_equal(verdict_frame_get(body, len + 1, &f), -EPROTO);
    static const struct {
        size_t at;
        uint8_t value;
    } wrong[] = {
        {0, 2}, {2, 4}, {3, 3}, {5, 1}, {VERDICT_HEAD_BYTES + 6, ABI_SUSPECT}, {VERDICT_HEAD_BYTES + 13, 9}};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        uint8_t before = body[wrong[i].at];
        body[wrong[i].at] = wrong[i].value;
        assert_int_equal(verdict_frame_get(body, len, &f), -EPROTO);
        body[wrong[i].at] = before;
    }
    assert_int_equal(verdict_frame_get(body, len, &f), 0);
    srand(1);
    for (int i = 0; i < 100000; i++) { /* it reads no byte that is not there, whatever they are */
        for (size_t k = 0; k < len; k++)
            body[k] = (uint8_t)(k < 2 || rand() % 4 ? body[k] : rand());
        (void)verdict_frame_get(body, (size_t)rand() % (len + 1), &f);
    }
}

static void test_a_list_and_changes(void **state)
{
    const struct verdict_row first[] = {{1, 7, ABI_UP}, {5, 7, ABI_DOWN}}, more[] = {{2000, 1, ABI_UP}},
                             change[] = {{1, 7, ABI_DOWN}, {IDS_MAX, 1, ABI_UP}}, again[] = {{5, 8, ABI_UP}};
    struct verdict_table t = {0};
    (void)state;
    assert_false(take(&t, VERDICT_ENDS, change, 2)); /* of what nobody has told */
    assert_int_equal(t.count, 0);
    assert_false(take(&t, VERDICT_BEGINS, first, 2)); /* more comes */
    assert_true(take(&t, VERDICT_ENDS, more, 1));
    assert_int_equal(t.count, 2001);
    assert_int_equal(t.row[0].state, ABI_UNKNOWN);
    assert_int_equal(t.row[1].state, ABI_UP);
    assert_int_equal(t.row[5].state, ABI_DOWN);
    assert_int_equal(t.row[2000].state, ABI_UP);
    t.row[1].fresh = t.row[5].fresh = t.row[2000].fresh = false;
    assert_true(take(&t, VERDICT_ENDS, NULL, 0)); /* nothing has changed */
    assert_false(t.row[1].fresh);
    assert_true(take(&t, VERDICT_ENDS, change, 2));
    assert_true(t.row[1].fresh);
    assert_int_equal(t.row[1].state, ABI_DOWN);
    assert_int_equal(t.count, 2001); /* no room is made for what the kernel has none for */
    t.row[1].fresh = false;
    assert_true(take(&t, VERDICT_BEGINS | VERDICT_ENDS, again, 1)); /* another manager */
    assert_int_equal(t.row[1].state, ABI_UNKNOWN);
    assert_true(t.row[1].fresh && t.row[2000].fresh); /* the kernel is told that nobody says it any more */
    assert_false(t.row[0].fresh);
    assert_int_equal(t.row[5].generation, 8);
    verdict_table_fini(&t);
    assert_false(take(&t, VERDICT_ENDS, change, 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_frame_comes_back),
        cmocka_unit_test(test_other_bytes_are_none),
        cmocka_unit_test(test_a_list_and_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
