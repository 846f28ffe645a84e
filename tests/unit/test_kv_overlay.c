/* SPDX-License-Identifier: Apache-2.0 */
/* What is read through the overlay is what would be there had the base been written; and the base is as it
 * was until it is flushed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "control/state/kv_overlay.h"
#include "kv_memory.h"

enum { KEYS = 12, STEPS = 3000, DBS = 2 };

static uint64_t random_state = 88172645463325252;

static unsigned pick(unsigned n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 33) % n;
}

static struct kv_bytes bytes_of(const char *text)
{
    return (struct kv_bytes){text, strlen(text)};
}

/* Every row of a database, forwards, as a text. */
static void dump(struct kv *kv, unsigned db, char out[1024])
{
    char at[64] = "\001";
    struct kv_bytes key, value;
    size_t used = 0;
    out[0] = '\0';
    while (kv_seek(kv, db, bytes_of(at), true, &key, &value) == 0) {
        snprintf(at, sizeof(at), "%.*s", (int)key.len, (const char *)key.data);
        used += (size_t)snprintf(out + used, 1024 - used, "%s=%.*s ", at, (int)value.len,
                                 (const char *)value.data);
    }
}

static void compare(struct kv *a, struct kv *b)
{
    char left[1024], right[1024];
    for (unsigned db = 0; db < DBS; db++) {
        dump(a, db, left);
        dump(b, db, right);
        assert_string_equal(left, right);
    }
}

/* The same order to both. */
static void step(struct kv *a, struct kv *b)
{
    char key[16], value[16];
    unsigned db = pick(DBS);
    struct kv_bytes got, other, at, at_other;
    snprintf(key, sizeof(key), "%.*s%u", (int)pick(3), "kk", pick(KEYS));
    snprintf(value, sizeof(value), "v%u", pick(1000));
    switch (pick(4)) {
    case 0:
        assert_int_equal(kv_put(a, db, bytes_of(key), bytes_of(value)), 0);
        assert_int_equal(kv_put(b, db, bytes_of(key), bytes_of(value)), 0);
        break;
    case 1:
        assert_int_equal(kv_del(a, db, bytes_of(key)), kv_del(b, db, bytes_of(key)));
        break;
    case 2: {
        int rc = kv_get(a, db, bytes_of(key), &got);
        assert_int_equal(rc, kv_get(b, db, bytes_of(key), &other));
        if (rc == 0) {
            assert_int_equal(got.len, other.len);
            assert_memory_equal(got.data, other.data, got.len);
        }
        break;
    }
    default: {
        bool after = pick(2);
        int rc = kv_seek(a, db, bytes_of(key), after, &at, &got);
        assert_int_equal(rc, kv_seek(b, db, bytes_of(key), after, &at_other, &other));
        if (rc == 0) {
            assert_int_equal(at.len, at_other.len);
            assert_memory_equal(at.data, at_other.data, at.len);
        }
        break;
    }
    }
}

static void test_it_is_as_if_it_were_written(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 40; round++) {
        struct kv_memory base, model;
        struct kv_overlay overlay;
        kv_memory_init(&base);
        kv_memory_init(&model);
        for (unsigned i = 0; i < 30; i++)
            step(&base.kv, &model.kv);
        kv_overlay_init(&overlay, &base.kv);
        uint64_t writes = base.writes;
        for (unsigned i = 0; i < STEPS / 40; i++)
            step(&overlay.kv, &model.kv);
        compare(&overlay.kv, &model.kv);
        assert_int_equal(base.writes, writes);
        assert_int_equal(kv_overlay_flush(&overlay), 0);
        kv_overlay_fini(&overlay);
        compare(&base.kv, &model.kv);
        kv_memory_fini(&base);
        kv_memory_fini(&model);
    }
}

static void test_a_value_may_come_from_the_row_itself(void **state)
{
    struct kv_memory base;
    struct kv_overlay overlay;
    struct kv_bytes value;
    (void)state;
    kv_memory_init(&base);
    kv_overlay_init(&overlay, &base.kv);
    assert_int_equal(kv_put(&overlay.kv, 0, bytes_of("k"), bytes_of("abc")), 0);
    assert_int_equal(kv_get(&overlay.kv, 0, bytes_of("k"), &value), 0);
    assert_int_equal(kv_put(&overlay.kv, 0, bytes_of("k"), value), 0);
    assert_int_equal(kv_get(&overlay.kv, 0, bytes_of("k"), &value), 0);
    assert_memory_equal(value.data, "abc", 3);
    kv_overlay_fini(&overlay);
    kv_memory_fini(&base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_is_as_if_it_were_written),
        cmocka_unit_test(test_a_value_may_come_from_the_row_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
