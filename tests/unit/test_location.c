/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "check.h"
#include "dataplane/http/location.h"

static void test_places(void **state)
{
    static const struct {
        const char *text, *host;
        uint16_t port;
        bool elsewhere, tls;
        const char *target;
    } rows[] = {
        {"https://cdn.example.com/a/b?x=1&y=%2F", "cdn.example.com", 443, true, true, "/a/b?x=1&y=%2F"},
        {"HTTP://10.0.0.1:8080/", "10.0.0.1", 8080, true, false, "/"},
        {"http://a_b", "a_b", 80, true, false, ""},
        {"https://[2001:db8::1]:5000/v2/", "2001:db8::1", 5000, true, true, "/v2/"},
        {"https://[::1]", "::1", 443, true, true, ""},
        {"https://h/a#part", "h", 443, true, true, "/a"},
        {"https://h//a", "h", 443, true, true, "//a"},
        {"/v2/x?y#z", "", 80, false, false, "/v2/x?y"},
        {"/", "", 80, false, false, "/"},
        {"https://h:65535/?q=http://other/", "h", 65535, true, true, "/?q=http://other/"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct http_location l;
        assert_int_equal(http_location_read(view_of_str(rows[i].text), &l), 0);
        assert_true(view_eq(l.host, view_of_str(rows[i].host)));
        assert_true(view_eq(l.target, view_of_str(rows[i].target)));
        assert_int_equal(l.port, rows[i].port);
        assert_int_equal(l.elsewhere, rows[i].elsewhere);
        assert_int_equal(l.tls, rows[i].tls);
    }
}

static void test_what_is_none(void **state)
{
    static char longest[400] = "https://";
    static const char *const rows[] = {
        "",
        "x",
        "x/y",
        "//host/path",
        "https://",
        "https:///x",
        "https://?x",
        "ftp://h/",
        "https:/h/",
        "https://u@h",
        "https://u:p@h/x",
        "https://h:0/",
        "https://h:/",
        "https://h:65536/",
        "https://h:8o/",
        "https://h:000001/",
        "https://[::1/",
        "https://[]/",
        "https://[::1]x/",
        "https://[g]/",
        "https://h\\x/",
        "https://h/a b",
        "https://h/\x7f",
        "https://h/\t",
        "https://.h/",
        "https://h?x",
        "https://h%41/",
        "?x",
        "#x",
        "https://a,b/",
        longest,
    };
    (void)state;
    memset(longest + 8, 'x', HTTP_HOST_MAX + 1);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct http_location l;
        if (http_location_read(view_of_str(rows[i]), &l) == 0)
            fail_msg("taken: %s", rows[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_places), cmocka_unit_test(test_what_is_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
