/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of response heads: what it makes of them, what it refuses, and that cuts between reads never
 * show.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "dataplane/http/response_reader.h"
#include "guarded.h"

enum { FIELDS = 8, HEAD_MAX = 512 };

static const struct http_limits limits = {.header_bytes_max = HEAD_MAX, .headers_max = FIELDS};
static struct guarded memory;

static int set_up(void **state)
{
    (void)state;
    memory = guarded_new(4096);
    return 0;
}

struct outcome {
    ssize_t used;
    struct http_reject reject;
    char text[256];
};

static void read_once(const char *bytes, size_t len, size_t last_len, enum http_method method,
                      struct outcome *o)
{
    struct http_field fields[FIELDS];
    struct http_answer a = {.fields = fields, .fields_max = FIELDS};
    *o = (struct outcome){0};
    o->used =
        http_answer_read(guarded_copy(&memory, bytes, len), len, last_len, &limits, method, &a, &o->reject);
    if (o->used > 0)
        snprintf(o->text, sizeof(o->text), "%d 1.%d [%.*s] framing=%d length=%s%llu keep=%d fields=%u",
                 a.status, a.version_minor, (int)a.reason.len, a.reason.p, a.framing,
                 a.length_told ? "" : "untold ", (unsigned long long)a.content_length, a.keep_alive,
                 a.fields_count);
}

/* Whole, after every cut, and byte by byte. */
static void read_every_way(const char *bytes, size_t len, enum http_method method, struct outcome *whole)
{
    struct outcome part = {.used = -EAGAIN};
    read_once(bytes, len, 0, method, whole);
    for (size_t cut = 0; cut < len; cut++) {
        read_once(bytes, cut, 0, method, &part);
        if (part.used == -EAGAIN)
            read_once(bytes, len, cut, method, &part);
        if (part.used == -EAGAIN && whole->used == -EBADMSG)
            continue; /* a refusal may wait for the end of the head */
        assert_int_equal(part.used, whole->used);
        assert_int_equal(part.reject.reason, whole->reject.reason);
        assert_string_equal(part.text, whole->text);
    }
}

struct taken {
    const char *bytes;
    enum http_method method;
    const char *text;
};

static void test_taken(void **state)
{
    (void)state;
    static const struct taken rows[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", HTTP_GET,
         "200 1.1 [OK] framing=1 length=5 keep=1 fields=1"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 005\r\n\r\n", HTTP_GET,
         "200 1.1 [OK] framing=1 length=5 keep=1 fields=1"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", HTTP_GET,
         "200 1.1 [OK] framing=2 length=untold 0 keep=1 fields=1"},
        {"HTTP/1.1 200 OK\r\n\r\n", HTTP_GET, "200 1.1 [OK] framing=3 length=untold 0 keep=0 fields=0"},
        {"HTTP/1.1 200\r\n\r\n", HTTP_GET, "200 1.1 [] framing=3 length=untold 0 keep=0 fields=0"},
        {"HTTP/1.1 200 \r\n\r\n", HTTP_GET, "200 1.1 [] framing=3 length=untold 0 keep=0 fields=0"},
        {"HTTP/1.1 404 Nicht  gefunden \xe4\r\nContent-Length: 0\r\n\r\n", HTTP_GET,
         "404 1.1 [Nicht  gefunden \xe4] framing=1 length=0 keep=1 fields=1"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", HTTP_HEAD,
         "200 1.1 [OK] framing=0 length=5 keep=1 fields=1"},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_HEAD,
         "200 1.1 [OK] framing=0 length=untold 0 keep=1 fields=1"},
        {"HTTP/1.1 200 OK\r\n\r\n", HTTP_HEAD, "200 1.1 [OK] framing=0 length=untold 0 keep=1 fields=0"},
        {"HTTP/1.1 204 No Content\r\n\r\n", HTTP_GET,
         "204 1.1 [No Content] framing=0 length=untold 0 keep=1 fields=0"},
        {"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", HTTP_GET,
         "304 1.1 [Not Modified] framing=0 length=7 keep=1 fields=1"},
        {"HTTP/1.1 100 Continue\r\n\r\n", HTTP_PUT,
         "100 1.1 [Continue] framing=0 length=untold 0 keep=1 fields=0"},
        {"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", HTTP_POST,
         "101 1.1 [UPGRADED] framing=0 length=untold 0 keep=1 fields=2"},
        {"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", HTTP_GET,
         "200 1.0 [OK] framing=1 length=5 keep=0 fields=1"},
        {"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", HTTP_GET,
         "200 1.0 [OK] framing=1 length=5 keep=1 fields=2"},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, close\r\n\r\n", HTTP_GET,
         "200 1.1 [OK] framing=1 length=5 keep=0 fields=2"},
        {"HTTP/1.7 599 x\r\nContent-Length: 5\r\nETag: a\r\nETag: b\r\n\r\n", HTTP_GET,
         "599 1.1 [x] framing=1 length=5 keep=1 fields=3"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct outcome o;
        read_every_way(rows[i].bytes, strlen(rows[i].bytes), rows[i].method, &o);
        assert_int_equal(o.used, strlen(rows[i].bytes));
        assert_string_equal(o.text, rows[i].text);
    }
}

#define OK "HTTP/1.1 200 OK\r\n"

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        enum http_reject_reason reason;
    } rows[] = {
        {"HTP/1.1 200 OK\r\n\r\n", HTTP_REJECT_VERSION_SYNTAX},
        {"\r\n" OK "\r\n", HTTP_REJECT_VERSION_SYNTAX},
        {"HTTP/2.0 200 OK\r\n\r\n", HTTP_REJECT_VERSION_UNSUPPORTED},
        {"HTTP/1.1  200 OK\r\n\r\n", HTTP_REJECT_STATUS_LINE},
        {"HTTP/1.1 20 OK\r\n\r\n", HTTP_REJECT_STATUS_LINE},
        {"HTTP/1.1 2000 OK\r\n\r\n", HTTP_REJECT_STATUS_LINE},
        {"HTTP/1.1 099 OK\r\n\r\n", HTTP_REJECT_STATUS_LINE},
        {"HTTP/1.1 600 OK\r\n\r\n", HTTP_REJECT_STATUS_LINE},
        {"HTTP/1.1 200\tOK\r\n\r\n", HTTP_REJECT_STATUS_LINE},
        {"HTTP/1.1 200 O\x01K\r\n\r\n", HTTP_REJECT_STATUS_LINE},
        {"HTTP/1.1 200 OK\n\r\n", HTTP_REJECT_BARE_LF},
        {"HTTP/1.1 200 O\rK\r\n\r\n", HTTP_REJECT_BARE_CR},
        {OK "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", HTTP_REJECT_LENGTH_REPEATED},
        {OK "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", HTTP_REJECT_LENGTH_REPEATED},
        {OK "Content-Length: 5, 5\r\n\r\n", HTTP_REJECT_LENGTH_SYNTAX},
        {OK "Content-Length: -5\r\n\r\n", HTTP_REJECT_LENGTH_SYNTAX},
        {OK "Content-Length: 9223372036854775808\r\n\r\n", HTTP_REJECT_LENGTH_RANGE},
        {OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_REJECT_LENGTH_AND_CODING},
        {OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_REJECT_CODING_REPEATED},
        {OK "Transfer-Encoding: gzip\r\n\r\n", HTTP_REJECT_CODING_UNKNOWN},
        {OK "Transfer-Encoding: chunked, gzip\r\n\r\n", HTTP_REJECT_CODING_ORDER},
        {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_REJECT_CODING_OLD_VERSION},
        {OK "X: y\r\n z\r\n\r\n", HTTP_REJECT_OBS_FOLD},
        {OK "X: y\rz\r\n\r\n", HTTP_REJECT_BARE_CR},
        {OK "X : y\r\n\r\n", HTTP_REJECT_FIELD_SPACE},
        {OK ": y\r\n\r\n", HTTP_REJECT_FIELD_NAME},
        {OK "A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\nF: 1\r\nG: 1\r\nH: 1\r\nI: 1\r\n\r\n",
         HTTP_REJECT_HEADERS_TOO_MANY},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct outcome o;
        read_every_way(rows[i].bytes, strlen(rows[i].bytes), HTTP_GET, &o);
        assert_int_equal(o.used, -EBADMSG);
        assert_int_equal(o.reject.reason, rows[i].reason);
        assert_int_equal(o.reject.status, 502);
    }
}

static void test_nul_is_refused(void **state)
{
    (void)state;
    static const char bytes[] = OK "X: a\0b\r\n\r\n";
    struct outcome o;
    read_every_way(bytes, sizeof(bytes) - 1, HTTP_GET, &o);
    assert_int_equal(o.reject.reason, HTTP_REJECT_FIELD_VALUE);
}

static void test_too_large(void **state)
{
    (void)state;
    static char bytes[HEAD_MAX + 100];
    struct outcome o;
    memset(bytes, 'a', sizeof(bytes));
    memcpy(bytes, OK "X: ", sizeof(OK "X: ") - 1);
    read_once(bytes, HEAD_MAX - 1, 0, HTTP_GET, &o);
    assert_int_equal(o.used, -EAGAIN);
    read_once(bytes, HEAD_MAX, HEAD_MAX - 1, HTTP_GET, &o);
    assert_int_equal(o.reject.reason, HTTP_REJECT_HEADERS_TOO_LARGE);
    memset(bytes, 'a', sizeof(bytes));
    memcpy(bytes, "HTTP/1.1 200 ", 13);
    read_once(bytes, sizeof(bytes), 0, HTTP_GET, &o);
    assert_int_equal(o.reject.reason, HTTP_REJECT_HEADERS_TOO_LARGE);
    assert_int_equal(o.reject.status, 502);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_nul_is_refused),
        cmocka_unit_test(test_too_large),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
