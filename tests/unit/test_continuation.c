/* SPDX-License-Identifier: Apache-2.0 */
/* Which bodies can go on, where from, and with which answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "check.h"
#include "dataplane/proxy/continuation.h"

#define HEX      "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
#define HEX2     "3cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
#define BLOB     "/v2/demo/app/blobs/sha256:" HEX
#define OTHER    "/file"
#define TAG      "ETag: \"one\"\r\n"
#define LENGTH   "Content-Length: 1000\r\n"
#define CHUNKED  "Transfer-Encoding: chunked\r\n"
#define RANGE(r) "Content-Range: bytes " r "\r\n"

enum { FIELDS = 16, HEAD_MAX = 1024 };

static const struct http_limits limits = {
    .header_bytes_max = HEAD_MAX, .headers_max = FIELDS, .target_bytes_max = 512};

static void answer_is(struct http_answer *a, struct http_field *fields, char *head, const char *status,
                      const char *lines)
{
    struct http_reject reject;
    int len = snprintf(head, HEAD_MAX, "HTTP/1.1 %s X\r\n%s\r\n", status, lines);
    *a = (struct http_answer){.fields = fields, .fields_max = FIELDS};
    assert_int_equal(http_answer_read(head, (size_t)len, 0, &limits, HTTP_GET, a, &reject), len);
}

static bool learn(struct continuation *c, const char *method, const char *path, const char *status,
                  const char *lines)
{
    struct http_field fields[FIELDS], asked[FIELDS];
    char head[HEAD_MAX], request[HEAD_MAX];
    struct http_answer a;
    struct http_reject reject;
    struct http_request req = {.fields = asked, .fields_max = FIELDS};
    int len = snprintf(request, sizeof(request), "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", method, path);
    assert_int_equal(http_request_read(request, (size_t)len, 0, &limits, &req, &reject), len);
    answer_is(&a, fields, head, status, lines);
    return continuation_learn(c, PROXY_REGISTRY, &req, &a);
}

static void test_what_can_go_on(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path, *status, *lines;
        bool can;
        uint64_t first, length, total;
    } rows[] = {
        {"GET", BLOB, "200", LENGTH, true, 0, 1000, 1000},
        {"GET", BLOB, "200", CHUNKED, true, 0, UINT64_MAX, UINT64_MAX},
        {"GET", BLOB, "200", "", false, 0, 0, 0}, /* until the end of the connection */
        {"GET", BLOB, "206", "Content-Length: 100\r\n" RANGE("100-199/1000"), true, 100, 100, 1000},
        {"GET", BLOB, "206", "Content-Length: 100\r\n" RANGE("100-199/*"), true, 100, 100, UINT64_MAX},
        {"GET", BLOB, "206", "Content-Length: 101\r\n" RANGE("100-199/1000"), false, 0, 0, 0},
        {"GET", BLOB, "206", "Content-Length: 100\r\n", false, 0, 0, 0},
        {"GET", BLOB, "206", "Content-Length: 100\r\n" RANGE("199-100/1000"), false, 0, 0, 0},
        {"GET", BLOB, "404", LENGTH, false, 0, 0, 0},
        {"GET", BLOB, "200", LENGTH "Content-Encoding: gzip\r\n", false, 0, 0, 0},
        {"GET", BLOB, "200", LENGTH "Content-Encoding: identity\r\n", true, 0, 1000, 1000},
        {"HEAD", BLOB, "200", LENGTH, false, 0, 0, 0},
        {"POST", BLOB, "200", LENGTH TAG, false, 0, 0, 0},
        {"GET", "/v2/demo/manifests/sha256:" HEX, "200", LENGTH, true, 0, 1000, 1000},
        {"GET", "/v2/demo/manifests/latest", "200", LENGTH, false, 0, 0, 0},
        {"GET", "/v2/demo/manifests/latest", "200", LENGTH TAG, true, 0, 1000, 1000},
        {"GET", "/v2/demo/tags/sha256:" HEX, "200", LENGTH, false, 0, 0, 0},
        {"GET", "/v2/demo/blobs/sha256:12", "200", LENGTH, false, 0, 0, 0},
        {"GET", OTHER, "200", LENGTH TAG, true, 0, 1000, 1000},
        {"GET", OTHER, "200", LENGTH "ETag: W/\"one\"\r\n", false, 0, 0, 0},
        {"GET", OTHER, "200", LENGTH "ETag: one\r\n", false, 0, 0, 0},
        /* Not what it says it is: its tag may still be good. */
        {"GET", BLOB, "200", LENGTH "Docker-Content-Digest: sha256:" HEX2 "\r\n", false, 0, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct continuation c;
        bool can = learn(&c, rows[i].method, rows[i].path, rows[i].status, rows[i].lines);
        if (can != rows[i].can)
            fail_msg("row %zu: %d", i, can);
        if (can && (c.first != rows[i].first || c.length != rows[i].length || c.total != rows[i].total))
            fail_msg("row %zu: %llu %llu %llu", i, (unsigned long long)c.first, (unsigned long long)c.length,
                     (unsigned long long)c.total);
    }
}

#define FULL   "200", LENGTH
#define PART   "206", "Content-Length: 100\r\n" RANGE("100-199/1000")
#define UNTOLD "200", CHUNKED

static void test_answers(void **state)
{
    (void)state;
    static const struct {
        const char *path, *first_status, *first_lines;
        uint64_t moved;
        const char *range, *status, *lines;
        enum continuation_join join;
        uint64_t skip, left;
    } rows[] = {
        /* The exact rest. */
        {BLOB, FULL, 300, "bytes=300-", "206", "Content-Length: 700\r\n" RANGE("300-999/1000"),
         CONTINUATION_PART, 0, 700},
        {BLOB, FULL, 300, "bytes=300-", "206", CHUNKED RANGE("300-999/1000"), CONTINUATION_PART, 0, 700},
        {BLOB, FULL, 300, "bytes=300-", "206", CHUNKED RANGE("300-999/*"), CONTINUATION_PART, 0, 700},
        {BLOB, FULL, 999, "bytes=999-", "206", "Content-Length: 1\r\n" RANGE("999-999/1000"),
         CONTINUATION_PART, 0, 1},
        /* Or something else. */
        {BLOB, FULL, 300, "bytes=300-", "206", "Content-Length: 701\r\n" RANGE("299-999/1000"),
         CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "206", "Content-Length: 699\r\n" RANGE("300-999/1000"),
         CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "206", "Content-Length: 100\r\n" RANGE("300-399/1000"),
         CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "206", "Content-Length: 701\r\n" RANGE("300-1000/1001"),
         CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "206", "Content-Length: 700\r\n", CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "500", LENGTH, CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "404", LENGTH, CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "416", "Content-Length: 0\r\n" RANGE("*/300"), CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "206",
         "Content-Length: 700\r\nDocker-Content-Digest: sha256:" HEX2 "\r\n" RANGE("300-999/1000"),
         CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "206",
         "Content-Length: 700\r\nDocker-Content-Digest: sha256:" HEX "\r\n" TAG RANGE("300-999/1000"),
         CONTINUATION_PART, 0, 700},
        /* All of it: the prefix is dropped. */
        {BLOB, FULL, 300, "bytes=300-", "200", LENGTH, CONTINUATION_WHOLE, 300, 700},
        {BLOB, FULL, 300, "bytes=300-", "200", CHUNKED, CONTINUATION_WHOLE, 300, 700},
        {BLOB, FULL, 300, "bytes=300-", "200", "Content-Length: 1001\r\n", CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "200", "", CONTINUATION_NO, 0, 0},
        {BLOB, FULL, 300, "bytes=300-", "200", LENGTH "Content-Encoding: gzip\r\n", CONTINUATION_NO, 0, 0},
        /* Tags. */
        {OTHER, "200", LENGTH TAG, 300, "bytes=300-", "206",
         "Content-Length: 700\r\n" TAG RANGE("300-999/1000"), CONTINUATION_PART, 0, 700},
        {OTHER, "200", LENGTH TAG, 300, "bytes=300-", "206", "Content-Length: 700\r\n" RANGE("300-999/1000"),
         CONTINUATION_NO, 0, 0},
        {OTHER, "200", LENGTH TAG, 300, "bytes=300-", "206",
         "Content-Length: 700\r\nETag: \"two\"\r\n" RANGE("300-999/1000"), CONTINUATION_NO, 0, 0},
        {OTHER, "200", LENGTH TAG, 300, "bytes=300-", "206",
         "Content-Length: 700\r\nETag: W/\"one\"\r\n" RANGE("300-999/1000"), CONTINUATION_NO, 0, 0},
        {OTHER, "200", LENGTH TAG, 300, "bytes=300-", "200", LENGTH, CONTINUATION_NO, 0, 0},
        {OTHER, "200", LENGTH TAG, 300, "bytes=300-", "200", LENGTH TAG, CONTINUATION_WHOLE, 300, 700},
        /* The client's own Range. */
        {BLOB, PART, 30, "bytes=130-199", "206", "Content-Length: 70\r\n" RANGE("130-199/1000"),
         CONTINUATION_PART, 0, 70},
        {BLOB, PART, 30, "bytes=130-199", "206", "Content-Length: 870\r\n" RANGE("130-999/1000"),
         CONTINUATION_NO, 0, 0},
        {BLOB, PART, 30, "bytes=130-199", "200", LENGTH, CONTINUATION_WHOLE, 130, 70},
        {BLOB, PART, 30, "bytes=130-199", "200", CHUNKED, CONTINUATION_NO, 0, 0},
        {BLOB, PART, 30, "bytes=130-199", "200", "Content-Length: 150\r\n", CONTINUATION_NO, 0, 0},
        {BLOB, PART, 100, "bytes=200-199", "416", RANGE("*/1000") LENGTH, CONTINUATION_NO, 0, 0},
        /* Nobody said how long it is. */
        {BLOB, UNTOLD, 300, "bytes=300-", "206", "Content-Length: 700\r\n" RANGE("300-999/1000"),
         CONTINUATION_PART, 0, 700},
        {BLOB, UNTOLD, 300, "bytes=300-", "206", "Content-Length: 700\r\n" RANGE("300-999/*"),
         CONTINUATION_NO, 0, 0},
        {BLOB, UNTOLD, 300, "bytes=300-", "206", "Content-Length: 1\r\n" RANGE("300-300/1000"),
         CONTINUATION_NO, 0, 0},
        {BLOB, UNTOLD, 300, "bytes=300-", "200", LENGTH, CONTINUATION_WHOLE, 300, 700},
        {BLOB, UNTOLD, 300, "bytes=300-", "200", "Content-Length: 299\r\n", CONTINUATION_NO, 0, 0},
        {BLOB, UNTOLD, 300, "bytes=300-", "200", "Content-Length: 300\r\n", CONTINUATION_WHOLE, 300, 0},
        {BLOB, UNTOLD, 300, "bytes=300-", "200", CHUNKED, CONTINUATION_WHOLE, 300, UINT64_MAX},
        {BLOB, UNTOLD, 300, "bytes=300-", "416", "Content-Length: 0\r\n" RANGE("*/300"), CONTINUATION_END, 0,
         0},
        {BLOB, UNTOLD, 300, "bytes=300-", "416", "Content-Length: 0\r\n" RANGE("*/301"), CONTINUATION_NO, 0,
         0},
        {BLOB, UNTOLD, 300, "bytes=300-", "416", "Content-Length: 0\r\n", CONTINUATION_NO, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct continuation c;
        struct http_field fields[FIELDS];
        struct http_answer a;
        char head[HEAD_MAX], range[CONTINUATION_RANGE_MAX];
        uint64_t skip, left;
        assert_true(learn(&c, "GET", rows[i].path, rows[i].first_status, rows[i].first_lines));
        struct continuation before = c;
        size_t len = continuation_range(&c, rows[i].moved, false, range);
        assert_int_equal(len, strlen(range));
        assert_string_equal(range, rows[i].range);
        answer_is(&a, fields, head, rows[i].status, rows[i].lines);
        enum continuation_join join = continuation_accept(&c, &a, rows[i].moved, false, &skip, &left);
        if (join != rows[i].join ||
            (join != CONTINUATION_NO && (skip != rows[i].skip || left != rows[i].left)))
            fail_msg("row %zu: join %d, skip %llu, left %llu", i, join, (unsigned long long)skip,
                     (unsigned long long)left);
        if (join == CONTINUATION_NO)
            assert_memory_equal(&c, &before, sizeof(c));
    }
}

/* What one answer told counts for the next. */
static void test_it_learns(void **state)
{
    (void)state;
    struct continuation c;
    struct http_field fields[FIELDS];
    struct http_answer a;
    char head[HEAD_MAX];
    uint64_t skip, left;
    assert_true(learn(&c, "GET", BLOB, UNTOLD));
    answer_is(&a, fields, head, "200", LENGTH);
    assert_int_equal(continuation_accept(&c, &a, 10, false, &skip, &left), CONTINUATION_WHOLE);
    answer_is(&a, fields, head, "200", "Content-Length: 1001\r\n");
    assert_int_equal(continuation_accept(&c, &a, 20, false, &skip, &left), CONTINUATION_NO);
    answer_is(&a, fields, head, "206", "Content-Length: 980\r\n" RANGE("20-999/1000"));
    assert_int_equal(continuation_accept(&c, &a, 20, false, &skip, &left), CONTINUATION_PART);
}

/* From the beginning, so that all of it can be checked. */
static void test_again(void **state)
{
    (void)state;
    static const struct {
        const char *status, *lines;
        enum continuation_join join;
    } rows[] = {
        {"206", "Content-Length: 1000\r\n" RANGE("0-999/1000"), CONTINUATION_PART},
        {"206", CHUNKED RANGE("0-999/1000"), CONTINUATION_PART},
        {"206", "Content-Length: 700\r\n" RANGE("300-999/1000"), CONTINUATION_NO},
        {"206", "Content-Length: 999\r\n" RANGE("0-998/1000"), CONTINUATION_NO},
        {"206", "Content-Length: 1001\r\n" RANGE("0-1000/1001"), CONTINUATION_NO},
        {FULL, CONTINUATION_WHOLE},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct continuation c;
        struct http_field fields[FIELDS];
        struct http_answer a;
        char head[HEAD_MAX], range[CONTINUATION_RANGE_MAX];
        uint64_t skip, left;
        assert_true(learn(&c, "GET", BLOB, FULL));
        (void)continuation_range(&c, 300, true, range);
        assert_string_equal(range, "bytes=0-");
        answer_is(&a, fields, head, rows[i].status, rows[i].lines);
        enum continuation_join join = continuation_accept(&c, &a, 300, true, &skip, &left);
        if (join != rows[i].join || (join != CONTINUATION_NO && (skip != 300 || left != 700)))
            fail_msg("row %zu: join %d, skip %llu, left %llu", i, join, (unsigned long long)skip,
                     (unsigned long long)left);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_can_go_on),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_it_learns),
        cmocka_unit_test(test_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
