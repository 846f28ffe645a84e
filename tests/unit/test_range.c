/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges, upload ranges, entity tags, and content negotiation. Every text lies against a guard page. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "dataplane/http/accept.h"
#include "dataplane/http/range.h"
#include "guarded.h"

static struct guarded memory;

static struct view guarded_view(const char *text)
{
    size_t len = strlen(text);
    return view_of(guarded_copy(&memory, text, len), len);
}

#define MAX UINT64_MAX

static const struct {
    const char *field;
    uint64_t size;
    enum http_range_kind kind;
    uint64_t first, last;
} ranges[] = {
    {"bytes=500-1499", 2048, HTTP_RANGE_PART, 500, 1499},
    {"bytes=500-", 2048, HTTP_RANGE_PART, 500, 2047},
    {"bytes=-500", 2048, HTTP_RANGE_PART, 1548, 2047},
    {"bytes=2000-5000", 2048, HTTP_RANGE_PART, 2000, 2047},
    {"bytes=500-0", 2048, HTTP_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=5000-10000", 2048, HTTP_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=0-0", 1, HTTP_RANGE_PART, 0, 0},
    {"bytes=0-", 1, HTTP_RANGE_PART, 0, 0},
    {"bytes=1-", 1, HTTP_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=2047-2047", 2048, HTTP_RANGE_PART, 2047, 2047},
    {"bytes=2048-", 2048, HTTP_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=-5000", 2048, HTTP_RANGE_PART, 0, 2047},
    {"bytes=-0", 2048, HTTP_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=-1", 0, HTTP_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=0-", 0, HTTP_RANGE_UNSATISFIABLE, 0, 0},
    {"BYTES=0-1", 10, HTTP_RANGE_PART, 0, 1},
    {"bytes= 0-1 ", 10, HTTP_RANGE_PART, 0, 1},
    {"bytes=0005-0006", 10, HTTP_RANGE_PART, 5, 6},
    {"bytes=0-18446744073709551615", 10, HTTP_RANGE_PART, 0, 9},
    {"bytes=0-99999999999999999999999", 10, HTTP_RANGE_PART, 0, 9},
    {"bytes=18446744073709551616-", 10, HTTP_RANGE_UNSATISFIABLE, 0, 0},
    {"bytes=-99999999999999999999999", 10, HTTP_RANGE_PART, 0, 9},
    {"bytes=18446744073709551614-", MAX, HTTP_RANGE_PART, MAX - 1, MAX - 1},
    {"bytes=0-1,3-4", 10, HTTP_RANGE_FULL, 0, 0},
    {"bytes=0-1,", 10, HTTP_RANGE_FULL, 0, 0},
    {"items=0-1", 10, HTTP_RANGE_FULL, 0, 0},
    {"bytes", 10, HTTP_RANGE_FULL, 0, 0},
    {"bytes=", 10, HTTP_RANGE_FULL, 0, 0},
    {"bytes=-", 10, HTTP_RANGE_FULL, 0, 0},
    {"bytes=5", 10, HTTP_RANGE_FULL, 0, 0},
    {"bytes=a-b", 10, HTTP_RANGE_FULL, 0, 0},
    {"bytes=0x1-2", 10, HTTP_RANGE_FULL, 0, 0},
    {"bytes=1--2", 10, HTTP_RANGE_FULL, 0, 0},
    {"bytes=+1-2", 10, HTTP_RANGE_FULL, 0, 0},
    {"bytes =0-1", 10, HTTP_RANGE_FULL, 0, 0},
    {"", 10, HTTP_RANGE_FULL, 0, 0},
};

static void test_range(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        struct http_range r = http_range_evaluate(guarded_view(ranges[i].field), ranges[i].size);
        if (r.kind != ranges[i].kind || r.first != ranges[i].first || r.last != ranges[i].last)
            fail_msg("%s of %llu: kind %d", ranges[i].field, (unsigned long long)ranges[i].size, r.kind);
    }
    assert_int_equal(http_range_evaluate(view_of(NULL, 0), 10).kind, HTTP_RANGE_FULL);
}

static const struct {
    const char *field;
    int ret;
    uint64_t first, last;
} content_ranges[] = {
    {"0-0", 0, 0, 0},
    {"0-1023", 0, 0, 1023},
    {"00012-0013", 0, 12, 13},
    {"9223372036854775806-9223372036854775807", 0, INT64_MAX - 1, INT64_MAX},
    {"bytes 10-19/20", 0, 10, 19},
    {"Bytes 10-19/*", 0, 10, 19},
    {"bytes 10-20/20", -EINVAL, 0, 0},
    {"bytes 10-19", -EINVAL, 0, 0},
    {"bytes 10-19/", -EINVAL, 0, 0},
    {"bytes 10-19/x", -EINVAL, 0, 0},
    {"bytes */20", -EINVAL, 0, 0},
    {"bytes=10-19", -EINVAL, 0, 0},
    {"10-9", -EINVAL, 0, 0},
    {"0-9223372036854775808", -EINVAL, 0, 0},
    {"10-", -EINVAL, 0, 0},
    {"-10", -EINVAL, 0, 0},
    {"10", -EINVAL, 0, 0},
    {"1-2-3", -EINVAL, 0, 0},
    {" 1-2", -EINVAL, 0, 0},
    {"1 -2", -EINVAL, 0, 0},
    {"", -EINVAL, 0, 0},
};

static void test_content_range(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(content_ranges); i++) {
        uint64_t first = 0, last = 0;
        int ret = http_content_range_read(guarded_view(content_ranges[i].field), &first, &last);
        if (ret != content_ranges[i].ret ||
            (!ret && (first != content_ranges[i].first || last != content_ranges[i].last)))
            fail_msg("%s: %d", content_ranges[i].field, ret);
    }
}

static const struct {
    const char *list;
    bool weak, strong; /* whether "a,b" is listed, by each comparison */
} etags[] = {
    {"\"a,b\"", true, true},
    {"W/\"a,b\"", true, false},
    {"\"x\", \"a,b\"", true, true},
    {"\"x\" ,, W/\"a,b\",\"y\"", true, false},
    {"*", true, true},
    {" * ", true, true},
    {"\"*\"", false, false},
    {"\"x\", *", false, false},
    {"\"a,b", false, false},
    {"\"a", false, false},
    {"a,b", false, false},
    {"w/\"a,b\"", false, false},
    {"\"x\\\", \"a,b\"", true, true},
    {"\"x\" \"a,b\"", false, false},
    {"\"A,B\"", false, false},
    {"W/", false, false},
    {"", false, false},
};

static void test_etags(void **state)
{
    (void)state;
    struct view etag = VIEW_LIT("\"a,b\""), digest = VIEW_LIT("\"sha256:00\"");
    for (size_t i = 0; i < ARRAY_SIZE(etags); i++) {
        struct view list = guarded_view(etags[i].list);
        if (http_etag_listed(list, etag, true) != etags[i].weak ||
            http_etag_listed(list, etag, false) != etags[i].strong)
            fail_msg("%s", etags[i].list);
    }
    assert_true(http_etag_listed(guarded_view("\"x\", sha256:00"), digest, true));
    assert_true(http_etag_listed(guarded_view("sha256:00"), digest, false));
    assert_false(http_etag_listed(guarded_view("sha256:0"), digest, true));
}

static void test_if_range(void **state)
{
    (void)state;
    struct view etag = VIEW_LIT("\"a\"");
    assert_true(http_if_range_holds(view_of(NULL, 0), etag));
    assert_true(http_if_range_holds(guarded_view("\"a\""), etag));
    assert_false(http_if_range_holds(guarded_view("\"b\""), etag));
    assert_false(http_if_range_holds(guarded_view("W/\"a\""), etag));
    assert_false(http_if_range_holds(guarded_view("Sun, 06 Nov 1994 08:49:37 GMT"), etag));
    assert_false(http_if_range_holds(guarded_view(""), etag));
}

/* Reads a request with these header lines. */
static void read_lines(const char *lines, struct http_request *req)
{
    static const struct http_limits limits = {4096, 16, 256};
    char head[1024] = "GET / HTTP/1.1\r\nHost: a\r\n";
    struct http_reject reject;
    CHECK(strlen(lines) < 900);
    strcat(strcat(head, lines), "\r\n");
    struct view v = guarded_view(head);
    assert_int_equal(http_request_read(v.p, v.len, 0, &limits, req, &reject), v.len);
}

static const struct {
    const char *lines;
    bool taken; /* application/vnd.oci.image.index.v1+json */
} accepts[] = {
    {"", true},
    {"Accept:\r\n", true},
    {"Accept: */*\r\n", true},
    {"Accept: application/*\r\n", true},
    {"Accept: APPLICATION/vnd.oci.image.INDEX.v1+json\r\n", true},
    {"Accept: text/plain\r\n", false},
    {"Accept: text/plain, */*;q=0.1\r\n", true},
    {"Accept: text/plain\r\nAccept: application/vnd.oci.image.index.v1+json\r\n", true},
    {"Accept: */*;q=0\r\n", false},
    {"Accept: */*;q=0.000, application/*\r\n", true},
    {"Accept: */*, application/vnd.oci.image.index.v1+json ; Q=0.0\r\n", false},
    {"Accept: application/vnd.oci.image.index.v1+json;q=0.001\r\n", true},
    {"Accept: application/vnd.oci.image.index.v1+json;a=\"x;q=0,y\";q=1\r\n", true},
    {"Accept: text/plain;a=\"\\\",application/vnd.oci.image.index.v1+json,\"\r\n", false},
    {"Accept: application/vnd.oci.image.index.v1+jsonx\r\n", false},
    {"Accept: application\r\n", false},
    {"Accept: */json\r\n", false},
    {"Accept: application/*;q=0, application/*\r\n", false},
    {"Accept: application/*, application/*;q=0\r\n", true},
    {"Accept: , ,\r\n", true},
};

static void test_accept(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(accepts); i++) {
        struct http_field fields[16];
        struct http_request req = {.fields = fields, .fields_max = ARRAY_SIZE(fields)};
        read_lines(accepts[i].lines, &req);
        if (http_request_accepts(&req, VIEW_LIT("application/vnd.oci.image.index.v1+json")) !=
            accepts[i].taken)
            fail_msg("%s", accepts[i].lines);
    }
}

static void test_etags_in_several_lines(void **state)
{
    (void)state;
    struct http_field fields[16];
    struct http_request req = {.fields = fields, .fields_max = ARRAY_SIZE(fields)};
    read_lines("If-None-Match: \"x\"\r\nIf-None-Match: \"y\", \"z\"\r\n", &req);
    assert_true(http_request_has_etag(&req, HTTP_KNOWN_IF_NONE_MATCH, VIEW_LIT("\"z\""), true));
    assert_false(http_request_has_etag(&req, HTTP_KNOWN_IF_NONE_MATCH, VIEW_LIT("\"w\""), true));
    assert_false(http_request_has_etag(&req, HTTP_KNOWN_IF_MATCH, VIEW_LIT("\"z\""), false));
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
        cmocka_unit_test(test_range),  cmocka_unit_test(test_content_range),
        cmocka_unit_test(test_etags),  cmocka_unit_test(test_if_range),
        cmocka_unit_test(test_accept), cmocka_unit_test(test_etags_in_several_lines),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
