/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "control/settings.h"

static void test_table_is_consistent(void **state)
{
    (void)state;
    for (int i = 0; i < SETTINGS_COUNT; i++) {
        const struct setting_info *info = setting_info(i);
        assert_true(info->min <= info->def && info->def <= info->max);
        assert_int_equal(setting_find(info->name, strlen(info->name)), i);
        assert_true(strlen(info->text) > 10);
    }
    assert_int_equal(setting_find("http.idle_timeou", 16), -ENOENT);
    assert_int_equal(setting_find("", 0), -ENOENT);
}

static void test_format_is_read_back(void **state)
{
    (void)state;
    for (int i = 0; i < SETTINGS_COUNT; i++) {
        const struct setting_info *info = setting_info(i);
        const uint64_t values[] = {info->min, info->def, info->max, info->min + (info->max > info->min)};
        for (size_t v = 0; v < ARRAY_SIZE(values); v++) {
            char text[SETTING_TEXT_MAX], err[SETTING_ERROR_MAX];
            uint64_t back = ~values[v];
            size_t len = setting_format(i, values[v], text);
            assert_int_equal(len, strlen(text));
            assert_int_equal(setting_parse(i, text, len, &back, err, sizeof(err)), 0);
            assert_true(back == values[v]);
        }
    }
}

static void test_values(void **state)
{
    (void)state;
    static const struct {
        enum setting_id id;
        const char *text;
        int64_t value; /* -1: refused */
        const char *canonical;
    } rows[] = {
        {SET_HTTP_IDLE_TIMEOUT, "75s", 75000, "75s"},
        {SET_HTTP_IDLE_TIMEOUT, "1500ms", 1500, "1500ms"},
        {SET_HTTP_IDLE_TIMEOUT, "2m", 120000, "2m"},
        {SET_HTTP_IDLE_TIMEOUT, "1d", 86400000, "1d"},
        {SET_HTTP_IDLE_TIMEOUT, "75", -1, "as in 10s"},
        {SET_HTTP_IDLE_TIMEOUT, "75 s", -1, "as in 10s"},
        {SET_HTTP_IDLE_TIMEOUT, "-1s", -1, "as in 10s"},
        {SET_HTTP_IDLE_TIMEOUT, "s", -1, "as in 10s"},
        {SET_HTTP_IDLE_TIMEOUT, "", -1, "as in 10s"},
        {SET_HTTP_IDLE_TIMEOUT, "1.5s", -1, "as in 10s"},
        {SET_HTTP_IDLE_TIMEOUT, "2d", -1, "from 100ms to 1d"},
        {SET_HTTP_IDLE_TIMEOUT, "99ms", -1, "from 100ms to 1d"},
        {SET_HTTP_IDLE_TIMEOUT, "99999999999999999999s", -1, "out of range"},
        {SET_HTTP_IDLE_TIMEOUT, "18446744073709551615d", -1, "out of range"},
        {SET_HTTP_DRAIN_TIMEOUT, "0", 0, "0ms"},
        {SET_HTTP_HEADER_BYTES_MAX, "4096", 4096, "4KiB"},
        {SET_HTTP_HEADER_BYTES_MAX, "32KiB", 32768, "32KiB"},
        {SET_HTTP_HEADER_BYTES_MAX, "32K", -1, "as in 64KiB"},
        {SET_HTTP_HEADER_BYTES_MAX, "1MiB", -1, "from 1KiB to 64KiB"},
        {SET_REGISTRY_BLOB_BYTES_MAX, "16TiB", 17592186044416, "16TiB"},
        {SET_HTTP_BODY_RATE_MIN, "1KiB/s", 1024, "1KiB/s"},
        {SET_HTTP_BODY_RATE_MIN, "300", 300, "300B/s"},
        {SET_HTTP_BODY_RATE_MIN, "/s", -1, "as in 64KiB/s"},
        {SET_REGISTRY_DELETE, "false", 0, "false"},
        {SET_REGISTRY_DELETE, "on", 1, "true"},
        {SET_REGISTRY_DELETE, "1", -1, "true or false"},
        {SET_REGISTRY_DELETE, "TRUE", -1, "true or false"},
        {SET_LOG_RATE, "10", 10, "10"},
        {SET_LOG_RATE, "10s", -1, "a whole number"},
        {SET_LOG_RATE, "0", -1, "from 1 to 1000000"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char err[SETTING_ERROR_MAX] = "", text[SETTING_TEXT_MAX];
        uint64_t value = 0;
        int result = setting_parse(rows[i].id, rows[i].text, strlen(rows[i].text), &value, err, sizeof(err));
        if (rows[i].value < 0) {
            assert_int_equal(result, -EINVAL);
            assert_non_null(strstr(err, rows[i].canonical));
            assert_non_null(strstr(err, setting_info(rows[i].id)->name));
            continue;
        }
        assert_int_equal(result, 0);
        assert_int_equal(value, rows[i].value);
        setting_format(rows[i].id, value, text);
        assert_string_equal(text, rows[i].canonical);
    }
}

static void test_suggest(void **state)
{
    (void)state;
    assert_string_equal(setting_suggest("http.idle_timout", 16), "http.idle_timeout");
    assert_string_equal(setting_suggest("registry.deletes", 16), "registry.delete");
    assert_null(setting_suggest("zzzzzzzzzzzzzzzzz", 17));
    assert_null(setting_suggest("", 0));
    char longest[4096];
    memset(longest, 'x', sizeof(longest));
    setting_suggest(longest, sizeof(longest));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_consistent),
        cmocka_unit_test(test_format_is_read_back),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_suggest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
