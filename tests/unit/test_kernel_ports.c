/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/kernel_ports.h"

enum { TEXT_BYTES = 256 };

static const struct {
    const char *before;
    struct kernel_ports ports;
    bool reserved;
    const char *after;
} changes[] = {
    {"\n", {61000, 512}, true, "61000-61511"},
    {"", {80, 1}, true, "80"},
    {"8080,9148\n", {61000, 2}, true, "8080,9148,61000-61001"},
    {"61000-61511\n", {61512, 512}, true, "61000-62023"},
    {"61000-62023\n", {61000, 512}, true, "61000-62023"},
    {"61000-62023\n", {61000, 512}, false, "61512-62023"},
    {"10-20\n", {14, 3}, false, "10-13,17-20"},
    {"80\n", {80, 1}, false, ""},
    {"0-65535\n", {1, 65534}, false, "0,65535"},
    {"65535\n", {0, 0}, true, "65535"},
};

static void test_changes(void **state)
{
    char out[TEXT_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        assert_int_equal(
            kernel_ports_change(changes[i].before, &changes[i].ports, changes[i].reserved, out, sizeof(out)),
            0);
        assert_string_equal(out, changes[i].after);
    }
}

static void test_what_is_no_list(void **state)
{
    static const char *const bad[] = {"x", "1,,2", "1-", "-5", "70000", "1-70000", "5;6"};
    const struct kernel_ports none = {0, 0};
    char out[TEXT_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(kernel_ports_change(bad[i], &none, true, out, sizeof(out)), -EINVAL);
}

static void test_no_room(void **state)
{
    const struct kernel_ports ports = {61000, 512};
    char out[16];
    (void)state;
    assert_int_equal(kernel_ports_change("80,90", &ports, true, out, sizeof(out)), -ENOBUFS);
}

static const struct {
    const char *list;
    struct kernel_ports ports;
    struct kernel_ports lacking[3];
    int count;
} lacks[] = {
    {"\n", {61000, 512}, {{61000, 512}}, 1},
    {"61000-61511\n", {61000, 512}, {{0, 0}}, 0},
    {"1-65535\n", {61000, 512}, {{0, 0}}, 0},
    {"8080,61100-61109\n", {61000, 512}, {{61000, 100}, {61110, 402}}, 2},
    {"60000-61009,61020,61500-62000\n", {61000, 512}, {{61010, 10}, {61021, 479}}, 2},
    {"61001,61003\n", {61000, 6}, {{61000, 1}, {61002, 1}, {61004, 2}}, 3},
    {"61001,61003,61005\n", {61000, 8}, {{0, 0}}, -ENOBUFS},
    {"x", {61000, 8}, {{0, 0}}, -EINVAL},
};

/* What is lacking, and nothing else, is there again when it is given back. */
static void test_only_what_is_lacking(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(lacks) / sizeof(lacks[0]); i++) {
        struct kernel_ports found[3] = {{0, 0}};
        char with[TEXT_BYTES], without[TEXT_BYTES], before[TEXT_BYTES];
        const struct kernel_ports none = {0, 0};
        int count = kernel_ports_lacking(lacks[i].list, &lacks[i].ports, found, 3);
        assert_int_equal(count, lacks[i].count);
        if (count < 0)
            continue;
        assert_memory_equal(found, lacks[i].lacking, (size_t)count * sizeof(found[0]));
        assert_int_equal(kernel_ports_change(lacks[i].list, &lacks[i].ports, true, with, sizeof(with)), 0);
        for (int k = 0; k < count; k++) {
            assert_int_equal(kernel_ports_change(with, &found[k], false, without, sizeof(without)), 0);
            memcpy(with, without, sizeof(with));
        }
        assert_int_equal(kernel_ports_change(lacks[i].list, &none, false, before, sizeof(before)), 0);
        assert_string_equal(with, before);
    }
}

static void test_ranges(void **state)
{
    (void)state;
    struct kernel_ports found[2];
    assert_int_equal(kernel_ports_ranges("", found, 2), 0);
    assert_int_equal(kernel_ports_ranges("80,61000-61002", found, 2), 2);
    assert_int_equal(found[0].first, 80);
    assert_int_equal(found[0].count, 1);
    assert_int_equal(found[1].first, 61000);
    assert_int_equal(found[1].count, 3);
    assert_int_equal(kernel_ports_ranges("1,3,5", found, 2), -ENOBUFS);
    assert_int_equal(kernel_ports_ranges("a device of ours", found, 2), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes), cmocka_unit_test(test_what_is_no_list),
        cmocka_unit_test(test_no_room), cmocka_unit_test(test_only_what_is_lacking),
        cmocka_unit_test(test_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
