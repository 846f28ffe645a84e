/* SPDX-License-Identifier: Apache-2.0 */
/* Response heads. Each is written into a buffer that ends at a guard page, of every size up to what it needs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "dataplane/http/response.h"
#include "guarded.h"

static struct guarded memory;

static ssize_t write_sample(char *buf, size_t cap)
{
    struct http_response res;
    struct view parts[] = {VIEW_LIT("</v2/a?n=1>"), VIEW_LIT("; rel=\""), VIEW_LIT("next"), VIEW_LIT("\"")};
    http_response_begin(&res, buf, cap, 206);
    http_response_field(&res, "X-Empty", VIEW_LIT(""));
    http_response_field_str(&res, "Docker-Content-Digest", "sha256:00");
    http_response_field_u64(&res, "Content-Length", UINT64_MAX);
    http_response_field_parts(&res, "Link", parts, ARRAY_SIZE(parts));
    http_response_content_range(&res, 0, 9, 10);
    http_response_connection(&res, true, 0);
    return http_response_end(&res);
}

static void test_head(void **state)
{
    (void)state;
    static const char expected[] = "HTTP/1.1 206 Partial Content\r\n"
                                   "X-Empty: \r\n"
                                   "Docker-Content-Digest: sha256:00\r\n"
                                   "Content-Length: 18446744073709551615\r\n"
                                   "Link: </v2/a?n=1>; rel=\"next\"\r\n"
                                   "Content-Range: bytes 0-9/10\r\n"
                                   "Connection: keep-alive\r\n"
                                   "\r\n";
    size_t len = sizeof(expected) - 1;
    char *buf = guarded_tail(&memory, len);
    assert_int_equal(write_sample(buf, len), len);
    assert_memory_equal(buf, expected, len);
    for (size_t cap = 0; cap < len; cap++)
        assert_int_equal(write_sample(guarded_tail(&memory, cap), cap), -ENOBUFS);
}

/* A later field that would fit must not follow one that did not. */
static void test_overflow_is_sticky(void **state)
{
    (void)state;
    char buf[32];
    struct http_response res;
    http_response_begin(&res, buf, sizeof(buf), 200);
    http_response_field_str(&res, "Location", "/a/long/path/that/does/not/fit");
    size_t len = res.len;
    http_response_field_str(&res, "A", "b");
    assert_int_equal(res.len, len);
    assert_int_equal(http_response_end(&res), -ENOBUFS);
}

static void test_values_cannot_split(void **state)
{
    (void)state;
    static const struct view values[] = {
        {"a\r\nSet-Cookie: b", 16}, {"a\n", 2}, {"a\r", 2}, {"\0", 1}, {"a\x7f", 2}, {"\x1b[0m", 4}};
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        char buf[256];
        struct http_response res;
        http_response_begin(&res, buf, sizeof(buf), 200);
        http_response_field(&res, "X", values[i]);
        http_response_field_str(&res, "Y", "z");
        assert_int_equal(http_response_end(&res), -EINVAL);
    }
}

static void test_connection(void **state)
{
    (void)state;
    static const struct {
        bool keep_alive;
        uint8_t minor;
        const char *text;
    } rows[] = {{true, 1, ""},
                {true, 0, "Connection: keep-alive\r\n"},
                {false, 0, "Connection: close\r\n"},
                {false, 1, "Connection: close\r\n"}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char buf[128], expected[128];
        struct http_response res;
        int len = snprintf(expected, sizeof(expected), "HTTP/1.1 200 OK\r\n%s\r\n", rows[i].text);
        http_response_begin(&res, buf, sizeof(buf), 200);
        http_response_connection(&res, rows[i].keep_alive, rows[i].minor);
        assert_int_equal(http_response_end(&res), len);
        assert_memory_equal(buf, expected, len);
    }
}

static void test_unsatisfied_range(void **state)
{
    (void)state;
    static const char expected[] = "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */0\r\n\r\n";
    char buf[128];
    struct http_response res;
    http_response_begin(&res, buf, sizeof(buf), 416);
    http_response_unsatisfied_range(&res, 0);
    assert_int_equal(http_response_end(&res), sizeof(expected) - 1);
    assert_memory_equal(buf, expected, sizeof(expected) - 1);
}

static void test_status(void **state)
{
    (void)state;
    assert_string_equal(http_status_text(507), "Insufficient Storage");
    assert_string_equal(http_status_text(299), "");
    assert_true(http_status_bodyless(100) && http_status_bodyless(204) && http_status_bodyless(304));
    assert_false(http_status_bodyless(200) || http_status_bodyless(206) || http_status_bodyless(416));
    char buf[64];
    struct http_response res;
    http_response_begin(&res, buf, sizeof(buf), 299);
    assert_int_equal(http_response_end(&res), 17);
    assert_memory_equal(buf, "HTTP/1.1 299 \r\n\r\n", 17);
}

/* Against the C library, over leap years, centuries and both ends. */
static void test_date(void **state)
{
    (void)state;
    static const uint64_t edges[] = {0,          784111777,   951782399,   951782400,   951868800,
                                     951868799,  1709164800,  1709251199,  4102444799,  4107542400,
                                     4107542399, 13574563200, 13574649600, 253402300799};
    size_t steps = 20000;
    for (size_t i = 0; i < ARRAY_SIZE(edges) + steps; i++) {
        uint64_t t = i < ARRAY_SIZE(edges) ? edges[i] : (i - ARRAY_SIZE(edges)) * 12670113 + 86399;
        char expected[64], *out = guarded_tail(&memory, HTTP_DATE_LEN);
        struct tm tm;
        time_t seconds = (time_t)t;
        assert_non_null(gmtime_r(&seconds, &tm));
        assert_int_equal(strftime(expected, sizeof(expected), "%a, %d %b %Y %H:%M:%S GMT", &tm),
                         HTTP_DATE_LEN);
        http_date_format(t, out);
        assert_memory_equal(out, expected, HTTP_DATE_LEN);
    }
}

static void test_refusal(void **state)
{
    (void)state;
    static const char head[] = "HTTP/1.1 400 Bad Request\r\n"
                               "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
                               "Content-Type: text/plain\r\n"
                               "Content-Length: 69\r\n"
                               "Connection: close\r\n"
                               "\r\n";
    static const char body[] = "400 length-and-coding: Content-Length and Transfer-Encoding together\n";
    char whole[512], expected[512];
    struct view date = VIEW_LIT("Sun, 06 Nov 1994 08:49:37 GMT");
    struct http_reject reject = http_reject_of(HTTP_REJECT_LENGTH_AND_CODING);
    int len = snprintf(expected, sizeof(expected), "%s%s", head, body);
    assert_int_equal(http_refusal_write(whole, sizeof(whole), reject, date, false), len);
    assert_memory_equal(whole, expected, len);
    assert_int_equal(http_refusal_write(whole, sizeof(whole), reject, date, true), sizeof(head) - 1);
    assert_memory_equal(whole, expected, sizeof(head) - 1);
    for (size_t cap = 0; cap < (size_t)len; cap++)
        assert_int_equal(http_refusal_write(guarded_tail(&memory, cap), cap, reject, date, false), -ENOBUFS);
}

/* Every reason has a known status, a slug of its own, and an answer that fits its buffers. */
static void test_every_reason(void **state)
{
    (void)state;
    for (int r = HTTP_REJECT_NONE + 1; r < HTTP_REJECT_COUNT; r++) {
        char out[512];
        struct http_reject reject = http_reject_of((enum http_reject_reason)r);
        assert_int_not_equal(http_status_text(reject.status)[0], '\0');
        assert_true(http_refusal_write(out, sizeof(out), reject, VIEW_LIT("now"), false) > 0);
        for (int other = HTTP_REJECT_NONE; other < r; other++)
            assert_string_not_equal(http_reject_slug(reject.reason),
                                    http_reject_slug((enum http_reject_reason)other));
    }
}

static int set_up(void **state)
{
    (void)state;
    memory = guarded_new(4096);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_overflow_is_sticky),
        cmocka_unit_test(test_values_cannot_split),
        cmocka_unit_test(test_connection),
        cmocka_unit_test(test_unsatisfied_range),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_date),
        cmocka_unit_test(test_refusal),
        cmocka_unit_test(test_every_reason),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
