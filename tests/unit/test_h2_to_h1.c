/* SPDX-License-Identifier: Apache-2.0 */
/* Header blocks of HTTP/2 as heads of HTTP/1.1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "check.h"
#include "dataplane/http/h2_to_h1.h"
#include "dataplane/http/http1.h"

enum { FIELDS_MAX = 12, MEMORY = 8192 };

static const struct http_limits limits = {
    .header_bytes_max = 4096, .headers_max = 8, .target_bytes_max = 256};

struct row {
    const char *what;
    const char *field[FIELDS_MAX]; /* name, value, name, value... */
    enum h2_kind kind;
    bool open; /* content follows */
    bool head_request;
    enum h2_fault fault;
    enum h2_framing framing;
    const char *text;
};

#define GET  ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"
#define POST ":method", "POST", ":scheme", "https", ":path", "/x?y=%20", ":authority", "a:1"
#define BAD  .fault = H2_FAULT_MALFORMED

static const struct row rows[] = {
    {"plain", {GET}, .text = "GET / HTTP/1.1\r\nhost: a\r\n\r\n"},
    {"any order",
     {":path", "/p", ":authority", "b", ":method", "PUT", ":scheme", "HTTP"},
     .text = "PUT /p HTTP/1.1\r\nhost: b\r\ncontent-length: 0\r\n\r\n"},
    {"fields",
     {GET, "accept", "*/*", "x-y", ""},
     .text = "GET / HTTP/1.1\r\nhost: a\r\naccept: */*\r\nx-y: \r\n\r\n"},
    {"length",
     {POST, "content-length", "007"},
     .open = true,
     .framing = H2_FRAMING_LENGTH,
     .text = "POST /x?y=%20 HTTP/1.1\r\nhost: a:1\r\ncontent-length: 7\r\n\r\n"},
    {"no length",
     {POST},
     .open = true,
     .framing = H2_FRAMING_CHUNKED,
     .text = "POST /x?y=%20 HTTP/1.1\r\nhost: a:1\r\ntransfer-encoding: chunked\r\n\r\n"},
    {"nothing follows", {POST, "content-length", "7"}, BAD},
    {"nothing, said so",
     {POST, "content-length", "0"},
     .text = "POST /x?y=%20 HTTP/1.1\r\nhost: a:1\r\ncontent-length: 0\r\n\r\n"},
    {"te", {GET, "te", "trailers"}, .text = "GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n"},
    {"te with more", {GET, "te", "trailers, gzip"}, BAD},
    {"crumbs",
     {GET, "cookie", "a=1", "cookie", "b=2"},
     .text = "GET / HTTP/1.1\r\nhost: a\r\ncookie: a=1; b=2\r\n\r\n"},
    {"host alone",
     {":method", "GET", ":scheme", "http", ":path", "/", "host", "h"},
     .text = "GET / HTTP/1.1\r\nhost: h\r\n\r\n"},
    {"host too", {GET, "host", "A"}, .text = "GET / HTTP/1.1\r\nhost: a\r\n\r\n"},
    {"another host", {GET, "host", "b"}, BAD},
    {"two hosts", {GET, "host", "a", "host", "a"}, BAD},
    {"no host", {":method", "GET", ":scheme", "http", ":path", "/"}, BAD},
    {"empty authority", {":method", "GET", ":scheme", "http", ":path", "/", ":authority", ""}, BAD},
    {"user", {":method", "GET", ":scheme", "http", ":path", "/", ":authority", "u@a"}, BAD},
    {"asterisk",
     {":method", "OPTIONS", ":scheme", "http", ":path", "*", ":authority", "a"},
     .text = "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n"},
    {"asterisk elsewhere", {":method", "GET", ":scheme", "http", ":path", "*", ":authority", "a"}, BAD},
    {"no slash", {":method", "GET", ":scheme", "http", ":path", "a", ":authority", "a"}, BAD},
    {"empty path", {":method", "GET", ":scheme", "http", ":path", "", ":authority", "a"}, BAD},
    {"blank in path", {":method", "GET", ":scheme", "http", ":path", "/ HTTP/1.1", ":authority", "a"}, BAD},
    {"line in path", {":method", "GET", ":scheme", "http", ":path", "/\r\nx: y", ":authority", "a"}, BAD},
    {"fragment", {":method", "GET", ":scheme", "http", ":path", "/#a", ":authority", "a"}, BAD},
    {"no path", {":method", "GET", ":scheme", "http", ":authority", "a"}, BAD},
    {"no scheme", {":method", "GET", ":path", "/", ":authority", "a"}, BAD},
    {"other scheme", {":method", "GET", ":scheme", "ftp", ":path", "/", ":authority", "a"}, BAD},
    {"no method", {":scheme", "http", ":path", "/", ":authority", "a"}, BAD},
    {"bad method", {":method", "GE T", ":scheme", "http", ":path", "/", ":authority", "a"}, BAD},
    {"two paths", {GET, ":path", "/"}, BAD},
    {"two methods", {GET, ":method", "GET"}, BAD},
    {"unknown pseudo", {GET, ":version", "2"}, BAD},
    {"status in a request", {GET, ":status", "200"}, BAD},
    {"late pseudo", {":method", "GET", ":scheme", "http", ":path", "/", "x", "y", ":authority", "a"}, BAD},
    {"connect", {":method", "CONNECT", ":authority", "a:1"}, .fault = H2_FAULT_CONNECT},
    {"upper case", {GET, "Accept", "x"}, BAD},
    {"blank in name", {GET, "a b", "x"}, BAD},
    {"colon in name", {GET, "a:b", "x"}, BAD},
    {"line in name", {GET, "a\r\nb", "x"}, BAD},
    {"empty name", {GET, "", "x"}, BAD},
    {"line in value", {GET, "a", "x\r\nb: c"}, BAD},
    {"LF in value", {GET, "a", "x\ny"}, BAD},
    {"blank before", {GET, "a", " x"}, BAD},
    {"blank behind", {GET, "a", "x\t"}, BAD},
    {"connection", {GET, "connection", "close"}, BAD},
    {"keep-alive", {GET, "keep-alive", "1"}, BAD},
    {"proxy-connection", {GET, "proxy-connection", "x"}, BAD},
    {"transfer-encoding", {GET, "transfer-encoding", "chunked"}, BAD},
    {"upgrade", {GET, "upgrade", "websocket"}, BAD},
    {"upgrade-insecure-requests",
     {GET, "upgrade-insecure-requests", "1"},
     .text = "GET / HTTP/1.1\r\nhost: a\r\nupgrade-insecure-requests: 1\r\n\r\n"},
    {"two lengths", {POST, "content-length", "7", "content-length", "7"}, .open = true, BAD},
    {"length with sign", {POST, "content-length", "+7"}, .open = true, BAD},
    {"empty length", {POST, "content-length", ""}, .open = true, BAD},
    {"a response",
     {":status", "200", "etag", "\"x\""},
     H2_RESPONSE,
     .text = "HTTP/1.1 200 OK\r\netag: \"x\"\r\ncontent-length: 0\r\n\r\n"},
    {"an open one",
     {":status", "200"},
     H2_RESPONSE,
     .open = true,
     .framing = H2_FRAMING_CHUNKED,
     .text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"},
    {"to HEAD",
     {":status", "200", "content-length", "9"},
     H2_RESPONSE,
     .head_request = true,
     .text = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"},
    {"not modified",
     {":status", "304", "content-length", "9"},
     H2_RESPONSE,
     .text = "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n"},
    {"too short", {":status", "200", "content-length", "9"}, H2_RESPONSE, BAD},
    {"no content", {":status", "204"}, H2_RESPONSE, .text = "HTTP/1.1 204 No Content\r\n\r\n"},
    {"interim",
     {":status", "103", "link", "x"},
     H2_RESPONSE,
     .open = true,
     .text = "HTTP/1.1 103 \r\nlink: x\r\n\r\n"},
    {"an interim end", {":status", "103"}, H2_RESPONSE, BAD},
    {"switching", {":status", "101"}, H2_RESPONSE, .open = true, BAD},
    {"four digits", {":status", "2000"}, H2_RESPONSE, BAD},
    {"not digits", {":status", "2x0"}, H2_RESPONSE, BAD},
    {"no status", {"a", "b"}, H2_RESPONSE, BAD},
    {"two", {":status", "200", ":status", "200"}, H2_RESPONSE, BAD},
    {"request fields", {":status", "200", ":path", "/"}, H2_RESPONSE, BAD},
    {"trailers", {"grpc-status", "0", "x", "y"}, H2_TRAILERS, .text = "grpc-status: 0\r\nx: y\r\n\r\n"},
    {"trailers that frame",
     {"content-length", "9", "host", "x", "a", "b"},
     H2_TRAILERS,
     .text = "a: b\r\n\r\n"},
    {"pseudo in trailers", {"a", "b", ":status", "200"}, H2_TRAILERS, BAD},
    {"connection in trailers", {"connection", "close"}, H2_TRAILERS, BAD},
    {"trailers in the middle", {"a", "b"}, H2_TRAILERS, .open = true, BAD},
};

static char memory[MEMORY];

static void put_all(struct h2_head *h, const char *const *field, unsigned max)
{
    for (unsigned i = 0; i + 1 < max && field[i]; i += 2)
        h2_head_field(h, view_of_str(field[i]), view_of_str(field[i + 1]));
}

static void table(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct row *row = &rows[i];
        struct h2_head h;
        h2_head_begin(&h, row->kind, row->head_request, &limits, memory, sizeof(memory));
        put_all(&h, row->field, FIELDS_MAX);
        enum h2_fault fault = h2_head_end(&h, !row->open);
        if (fault != row->fault || (!fault && h.framing != row->framing))
            fail_msg("%s: fault %d, framing %d", row->what, fault, h.framing);
        if (fault)
            continue;
        if (h.len != strlen(row->text) || memcmp(h.buf, row->text, h.len) != 0)
            fail_msg("%s: %.*s", row->what, (int)h.len, h.buf);
    }
}

/* Every head that comes out is one whole request for the reader of HTTP/1.1. */
static void readable(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct row *row = &rows[i];
        struct http_field fields[16];
        struct http_request req = {.fields = fields, .fields_max = 16};
        struct http_reject reject;
        if (row->kind != H2_REQUEST || row->fault)
            continue;
        ssize_t n = http_request_read(row->text, strlen(row->text), 0, &limits, &req, &reject);
        if (n != (ssize_t)strlen(row->text))
            fail_msg("%s: %zd", row->what, n);
    }
}

static void over_limits(void **state)
{
    (void)state;
    static char large[5000];
    static const char *const get[] = {GET};
    struct h2_head h;
    memset(large, 'a', sizeof(large) - 1);
    large[0] = '/';
    h2_head_begin(&h, H2_REQUEST, false, &limits, memory, sizeof(memory));
    put_all(&h, get, 8);
    h2_head_field(&h, VIEW_LIT("x"), view_of_str(large));
    assert_int_equal(h2_head_end(&h, true), H2_FAULT_TOO_LARGE);
    assert_true(h.list_bytes > 5000);

    h2_head_begin(&h, H2_REQUEST, false, &limits, memory, sizeof(memory));
    h2_head_field(&h, VIEW_LIT(":path"), view_of(large, 257));
    put_all(&h, get, 4);
    assert_int_equal(h2_head_end(&h, true), H2_FAULT_TARGET_TOO_LONG);

    h2_head_begin(&h, H2_REQUEST, false, &limits, memory, sizeof(memory));
    put_all(&h, get, 8);
    for (int i = 0; i < 9; i++)
        h2_head_field(&h, VIEW_LIT("x"), VIEW_LIT("y"));
    assert_int_equal(h2_head_end(&h, true), H2_FAULT_TOO_LARGE);

    for (size_t cap = 0; cap < 60; cap++) { /* memory that does not do */
        h2_head_begin(&h, H2_REQUEST, false, &limits, memory, cap);
        put_all(&h, get, 8);
        h2_head_field(&h, VIEW_LIT("cookie"), VIEW_LIT("a"));
        h2_head_field(&h, VIEW_LIT("x"), VIEW_LIT("a"));
        h2_head_field(&h, VIEW_LIT("cookie"), VIEW_LIT("bb"));
        enum h2_fault fault = h2_head_end(&h, true);
        assert_true(fault == H2_FAULT_TOO_LARGE || (fault == 0 && h.len <= cap));
    }
}

static void nul_in_value(void **state)
{
    (void)state;
    static const char *const get[] = {GET};
    struct h2_head h;
    h2_head_begin(&h, H2_REQUEST, false, &limits, memory, sizeof(memory));
    put_all(&h, get, 8);
    h2_head_field(&h, VIEW_LIT("x"), view_of("a\0b", 3));
    assert_int_equal(h2_head_end(&h, true), H2_FAULT_MALFORMED);
}

static void many_crumbs(void **state)
{
    (void)state;
    static const char *const get[] = {GET};
    struct h2_head h;
    h2_head_begin(&h, H2_REQUEST, false, &limits, memory, sizeof(memory));
    put_all(&h, get, 8);
    h2_head_field(&h, VIEW_LIT("cookie"), VIEW_LIT("a=1"));
    h2_head_field(&h, VIEW_LIT("x"), VIEW_LIT("y"));
    h2_head_field(&h, VIEW_LIT("cookie"), VIEW_LIT(""));
    h2_head_field(&h, VIEW_LIT("cookie"), VIEW_LIT("b"));
    assert_int_equal(h2_head_end(&h, true), H2_FAULT_NONE);
    static const char text[] = "GET / HTTP/1.1\r\nhost: a\r\ncookie: a=1; ; b\r\nx: y\r\n\r\n";
    assert_int_equal(h.len, sizeof(text) - 1);
    assert_memory_equal(h.buf, text, h.len);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),        cmocka_unit_test(readable),    cmocka_unit_test(over_limits),
        cmocka_unit_test(nul_in_value), cmocka_unit_test(many_crumbs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
