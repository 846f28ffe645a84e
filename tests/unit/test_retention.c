/* SPDX-License-Identifier: Apache-2.0 */
/* Which tags go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "control/retention.h"

enum { NOW_S = 1000000, TAGS_MAX = 4000 };

struct tag {
    const char *name;
    uint64_t age_s;
};

/* The names of those that go, in order. */
static void check(const struct names_policy *p, const struct tag *tags, size_t count, const char *goes)
{
    char got[1024] = "";
    struct retention r;
    bool any = retention_init(&r, p, NOW_S * 1000ull);
    for (size_t i = 0; i < count; i++)
        retention_see(&r, tags[i].name, strlen(tags[i].name), (NOW_S - tags[i].age_s) * 1000);
    for (size_t i = 0; any && i < count; i++)
        if (retention_goes(&r, tags[i].name, strlen(tags[i].name), (NOW_S - tags[i].age_s) * 1000))
            snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s ", tags[i].name);
    retention_fini(&r);
    assert_string_equal(got, goes);
}

static const struct tag some[] = {{"a", 50}, {"b", 40}, {"c", 30}, {"v1", 60}, {"v2", 20}, {"v3", 10}};
enum { SOME = sizeof(some) / sizeof(some[0]) };

static void test_the_newest_stay(void **state)
{
    (void)state;
    check(&(struct names_policy){0}, some, SOME, "");
    check(&(struct names_policy){.keep_last = 2}, some, SOME, "a b c v1 ");
    check(&(struct names_policy){.keep_last = 6}, some, SOME, "");
    check(&(struct names_policy){.keep_last = 100}, some, SOME, "");
}

static void test_the_young_stay(void **state)
{
    (void)state;
    check(&(struct names_policy){.keep_for_s = 40}, some, SOME, "a b v1 ");
    /* The last one stays, however old it is. */
    check(&(struct names_policy){.keep_for_s = 5}, some, SOME, "a b c v1 v2 ");
    check(&(struct names_policy){.keep_for_s = 5}, some, 1, "");
    /* Both: a tag stays for either reason. */
    check(&(struct names_policy){.keep_last = 1, .keep_for_s = 55}, some, SOME, "v1 ");
    check(&(struct names_policy){.keep_last = 5, .keep_for_s = 15}, some, SOME, "v1 ");
}

static void test_only_those_that_it_is_about(void **state)
{
    (void)state;
    check(&(struct names_policy){.keep_last = 1, .retain_tags = "v*"}, some, SOME, "v1 v2 ");
    check(&(struct names_policy){.keep_last = 1, .immutable = "v*"}, some, SOME, "a b ");
    check(&(struct names_policy){.keep_last = 1, .immutable = "v*", .retain_immutable = 1}, some, SOME,
          "a b c v1 v2 ");
}

static void test_of_one_moment_all_stay_or_go(void **state)
{
    static const struct tag same[] = {{"a", 5}, {"b", 5}, {"c", 5}, {"d", 9}};
    (void)state;
    check(&(struct names_policy){.keep_last = 2}, same, 4, "d ");
}

static int descending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void test_many_in_any_order(void **state)
{
    static uint64_t time[TAGS_MAX], sorted[TAGS_MAX];
    (void)state;
    srand(7);
    for (size_t round = 0; round < 20; round++) {
        size_t count = 1 + (size_t)rand() % TAGS_MAX, keep = 1 + (size_t)rand() % 300, gone = 0, wanted = 0;
        struct names_policy p = {.keep_last = keep};
        struct retention r;
        assert_true(retention_init(&r, &p, UINT64_MAX));
        for (size_t i = 0; i < count; i++) {
            time[i] = sorted[i] = (uint64_t)rand() % 2000;
            retention_see(&r, "t", 1, time[i]);
        }
        qsort(sorted, count, sizeof(*sorted), descending);
        for (size_t i = 0; i < count; i++) {
            gone += retention_goes(&r, "t", 1, time[i]);
            wanted += count > keep && time[i] < sorted[keep - 1];
        }
        assert_int_equal(gone, wanted);
        retention_fini(&r);
    }
}

static void test_what_changes_the_choice(void **state)
{
    struct names_policy a = {.keep_last = 2, .keep_for_s = 3}, b = a;
    (void)state;
    b.revision = 7;
    b.bytes = 100;
    assert_true(retention_same(&a, &b));
    b.keep_last = 3;
    assert_false(retention_same(&a, &b));
    b = a;
    b.keep_for_s = 4;
    assert_false(retention_same(&a, &b));
    b = a;
    b.retain_immutable = 1;
    assert_false(retention_same(&a, &b));
    b = a;
    b.immutable[0] = 'v';
    assert_false(retention_same(&a, &b));
    b = a;
    b.retain_tags[0] = '*';
    assert_false(retention_same(&a, &b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_newest_stay),
        cmocka_unit_test(test_the_young_stay),
        cmocka_unit_test(test_only_those_that_it_is_about),
        cmocka_unit_test(test_of_one_moment_all_stay_or_go),
        cmocka_unit_test(test_many_in_any_order),
        cmocka_unit_test(test_what_changes_the_choice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
