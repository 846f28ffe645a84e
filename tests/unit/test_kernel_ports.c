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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_what_is_no_list),
        cmocka_unit_test(test_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
