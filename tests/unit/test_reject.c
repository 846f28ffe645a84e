/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the request reader refuses, each for its own reason. The numbers are the rows of the robustness table
 * that the product promises to keep; rows about chunked bodies are in test_chunked.c.
 */
#include "reading.h"

struct refused {
    int row; /* of the robustness table; 0: beyond it */
    const char *name;
    const char *bytes;
    size_t len;
    enum http_reject_reason reason;
    int status;
};

static const struct refused refusals[] = {
#define R(row, name, bytes, reason, status)                                                                  \
    {                                                                                                        \
        row, name, BYTES(bytes), HTTP_REJECT_##reason, status                                                \
    }
    R(1, "length then chunked", POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
      LENGTH_AND_CODING, 400),
    R(1, "chunked then length", POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
      LENGTH_AND_CODING, 400),
    R(1, "length with unknown coding", POST "Transfer-Encoding: x\r\nContent-Length: 5\r\n\r\n",
      LENGTH_AND_CODING, 400),
    R(1, "length with empty coding", POST "Transfer-Encoding:\r\nContent-Length: 5\r\n\r\n",
      LENGTH_AND_CODING, 400),
    R(2, "chunked twice", POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
      CODING_REPEATED, 400),
    R(2, "chunked, chunked", POST "Transfer-Encoding: chunked, chunked\r\n\r\n", CODING_ORDER, 400),
    R(2, "chunked and identity lines",
      POST "Transfer-Encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n", CODING_REPEATED, 400),
    R(2, "chunked not last", POST "Transfer-Encoding: chunked, gzip\r\n\r\n", CODING_ORDER, 400),
    R(4, "pigeons", POST "Transfer-Encoding: pigeons\r\n\r\n", CODING_UNKNOWN, 501),
    R(4, "gzip, chunked", POST "Transfer-Encoding: gzip, chunked\r\n\r\n", CODING_UNKNOWN, 501),
    R(4, "identity", POST "Transfer-Encoding: identity\r\n\r\n", CODING_UNKNOWN, 501),
    R(4, "xchunked", POST "Transfer-Encoding: xchunked\r\n\r\n", CODING_UNKNOWN, 501),
    R(4, "chunked with a parameter", POST "Transfer-Encoding: chunked;q=1\r\n\r\n", CODING_SYNTAX, 400),
    R(4, "empty coding", POST "Transfer-Encoding: \r\n\r\n", CODING_SYNTAX, 400),
    R(4, "empty member", POST "Transfer-Encoding: ,chunked\r\n\r\n", CODING_SYNTAX, 400),
    R(4, "quoted coding", POST "Transfer-Encoding: \"chunked\"\r\n\r\n", CODING_SYNTAX, 400),
    R(4, "chunked and blank", POST "Transfer-Encoding: chun ked\r\n\r\n", CODING_SYNTAX, 400),
    R(4, "coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", CODING_OLD_VERSION,
      400),
    R(8, "two lengths", POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", LENGTH_REPEATED, 400),
    R(8, "two equal lengths", POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", LENGTH_REPEATED, 400),
    R(8, "list of lengths", POST "Content-Length: 5, 5\r\n\r\n", LENGTH_SYNTAX, 400),
    R(10, "+5", POST "Content-Length: +5\r\n\r\n", LENGTH_SYNTAX, 400),
    R(10, "-5", POST "Content-Length: -5\r\n\r\n", LENGTH_SYNTAX, 400),
    R(10, "0x5", POST "Content-Length: 0x5\r\n\r\n", LENGTH_SYNTAX, 400),
    R(10, "5_0", POST "Content-Length: 5_0\r\n\r\n", LENGTH_SYNTAX, 400),
    R(10, "1Z", POST "Content-Length: 1Z\r\n\r\n", LENGTH_SYNTAX, 400),
    R(10, "5 5", POST "Content-Length: 5 5\r\n\r\n", LENGTH_SYNTAX, 400),
    R(10, "1e3", POST "Content-Length: 1e3\r\n\r\n", LENGTH_SYNTAX, 400),
    R(10, "empty", POST "Content-Length:\r\n\r\n", LENGTH_SYNTAX, 400),
    R(10, "only blanks", POST "Content-Length: \t \r\n\r\n", LENGTH_SYNTAX, 400),
    R(10, "digits of another script", POST "Content-Length: \xd9\xa5\r\n\r\n", LENGTH_SYNTAX, 400),
    R(12, "2^63", POST "Content-Length: 9223372036854775808\r\n\r\n", LENGTH_RANGE, 400),
    R(12, "2^64 + 5", POST "Content-Length: 18446744073709551621\r\n\r\n", LENGTH_RANGE, 400),
    R(25, "no Host", "GET / HTTP/1.1\r\n\r\n", HOST_MISSING, 400),
    R(25, "no Host with absolute form", "GET http://a/ HTTP/1.1\r\n\r\n", HOST_MISSING, 400),
    R(25, "Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host with user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host with a blank", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host of port alone", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host with a bad port", "GET / HTTP/1.1\r\nHost: a:8o\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host with a large port", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host with two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host with a broken escape", "GET / HTTP/1.1\r\nHost: a%4\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host, open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host, not an IPv6 address", "GET / HTTP/1.1\r\nHost: [1:2]\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host, IPv6 and junk", "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "Host, UTF-8", "GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n", HOST_SYNTAX, 400),
    R(25, "bad Host in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a b\r\n\r\n", HOST_SYNTAX, 400),
    R(26, "two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", HOST_REPEATED, 400),
    R(26, "two equal Hosts", HEAD "hOST: a\r\n\r\n", HOST_REPEATED, 400),
    R(29, "space before colon", HEAD "X : y\r\n\r\n", FIELD_SPACE, 400),
    R(29, "tab before colon", HEAD "X\t: y\r\n\r\n", FIELD_SPACE, 400),
    R(29, "space inside a name", HEAD "X y: z\r\n\r\n", FIELD_SPACE, 400),
    R(30, "folded line", HEAD "X: y\r\n z\r\n\r\n", OBS_FOLD, 400),
    R(30, "folded with tab", HEAD "X: y\r\n\tz\r\n\r\n", OBS_FOLD, 400),
    R(30, "first line begins with space", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", OBS_FOLD, 400),
    R(30, "blank line of spaces", HEAD " \r\n\r\n", OBS_FOLD, 400),
    R(35, "NUL in a value", HEAD "X: y\0z\r\n\r\n", FIELD_VALUE, 400),
    R(35, "NUL in a name", HEAD "X\0: y\r\n\r\n", FIELD_NAME, 400),
    R(35, "NUL in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", REQUEST_LINE, 400),
    R(35, "control character in a value", HEAD "X: \x01\r\n\r\n", FIELD_VALUE, 400),
    R(35, "DEL in a value",
      HEAD "X: 12345678\x7f"
           "12345678\r\n\r\n",
      FIELD_VALUE, 400),
    R(35, "VT in a coding",
      POST "Transfer-Encoding: \x0b"
           "chunked\r\n\r\n",
      FIELD_VALUE, 400),
    R(37, "bare LF ends a header", HEAD "X: y\nZ: 1\r\n\r\n", BARE_LF, 400),
    R(37, "bare LF ends the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", BARE_LF, 400),
    R(37, "bare LF ends the head", HEAD "\n", BARE_LF, 400),
    R(37, "bare LFs everywhere", "GET / HTTP/1.1\nHost: a\n\n", BARE_LF, 400),
    R(37, "bare CR in a value", HEAD "X: y\rZ: 1\r\n\r\n", BARE_CR, 400),
    R(37, "bare CR ends the head", HEAD "\rX: y\r\n\r\n", BARE_CR, 400),
    R(37, "CR CR LF", HEAD "X: y\r\r\n\r\n", BARE_CR, 400),
    R(37, "name without colon", HEAD "X\r\n\r\n", FIELD_NAME, 400),
    R(37, "empty name", HEAD ": y\r\n\r\n", FIELD_NAME, 400),
    R(37, "quote in a name", HEAD "\"X\": y\r\n\r\n", FIELD_NAME, 400),
    R(37, "high byte in a name", HEAD "X\xff: y\r\n\r\n", FIELD_NAME, 400),
    R(41, "two spaces before target", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", REQUEST_LINE, 400),
    R(41, "two spaces after target", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(41, "tab before target", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", REQUEST_LINE, 400),
    R(41, "tab after target", "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", REQUEST_LINE, 400),
    R(41, "space in target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(41, "space at the end", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(41, "space at the start", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", REQUEST_LINE, 400),
    R(41, "HTTP/0.9", "GET /\r\n\r\n", REQUEST_LINE, 400),
    R(41, "HTTP/0.9 with LF", "GET /\n", REQUEST_LINE, 400),
    R(41, "no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", REQUEST_LINE, 400),
    R(41, "method with a colon", "G:T / HTTP/1.1\r\nHost: a\r\n\r\n", REQUEST_LINE, 400),
    R(41, "TLS hello", "\x16\x03\x01\x02", REQUEST_LINE, 400),
    R(41, "three empty lines first", "\r\n\r\n\r\n" HEAD "\r\n", REQUEST_LINE, 400),
    R(41, "bare LF first", "\n" HEAD "\r\n", BARE_LF, 400),
    R(41, "bare CR first", "\r" HEAD "\r\n", BARE_CR, 400),
    R(41, "target without slash", "GET a HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "backslash in the path", "GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "high byte in the target", "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "asterisk with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "asterisk and more", "OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "absolute form, other scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "absolute form with user", "GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "absolute form without host", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "absolute form, one slash", "GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "authority form", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_SYNTAX, 400),
    R(41, "CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", CONNECT, 501),
    R(41, "method of 33 bytes", LONG_16 LONG_16 "x / HTTP/1.1\r\nHost: a\r\n\r\n", METHOD_TOO_LONG, 501),
    R(46, "HTTP/1.32", "GET / HTTP/1.32\r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(46, "HTTP/01.1", "GET / HTTP/01.1\r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(46, "HTTP/ 1.1", "GET / HTTP/ 1.1\r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(46, "HTTP/1.", "GET / HTTP/1.\r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(46, "HTTP/4294967295.255", "GET / HTTP/4294967295.255\r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(46, "http/1.1", "GET / http/1.1\r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(46, "HTTPS/1.1", "GET / HTTPS/1.1\r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(46, "HTTP/1,1", "GET / HTTP/1,1\r\nHost: a\r\n\r\n", VERSION_SYNTAX, 400),
    R(46, "HTTP/1.1\\r without LF", "GET / HTTP/1.1\rHost: a\r\n\r\n", BARE_CR, 400),
    R(47, "HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", VERSION_UNSUPPORTED, 505),
    R(47, "HTTP/3.1", "GET / HTTP/3.1\r\nHost: a\r\n\r\n", VERSION_UNSUPPORTED, 505),
    R(47, "HTTP/0.9", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", VERSION_UNSUPPORTED, 505),
    R(52, "target of 65 bytes", "GET /" LONG_64 " HTTP/1.1\r\nHost: a\r\n\r\n", TARGET_TOO_LONG, 414),
    R(52, "endless target", "GET /" LONG_64 LONG_64 LONG_64, TARGET_TOO_LONG, 414),
    R(53, "endless header", HEAD "X: " LONG_64 LONG_64 LONG_64 LONG_64 LONG_64 LONG_64 LONG_64 LONG_64,
      HEADERS_TOO_LARGE, 431),
    R(53, "endless name", HEAD LONG_64 LONG_64 LONG_64 LONG_64 LONG_64 LONG_64 LONG_64 LONG_64,
      HEADERS_TOO_LARGE, 431),
    R(53, "17 headers",
      HEAD
      "a:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\n\r\n",
      HEADERS_TOO_MANY, 431),
    R(58, "other expectation", POST "Content-Length: 1\r\nExpect: 200-ok\r\n\r\n", EXPECTATION, 417),
    R(58, "empty expectation", POST "Content-Length: 1\r\nExpect:\r\n\r\n", EXPECTATION, 417),
    R(58, "two expectations", POST "Content-Length: 1\r\nExpect: 100-continue, x\r\n\r\n", EXPECTATION, 417),
    R(58, "other expectation without body", HEAD "Expect: x\r\n\r\n", EXPECTATION, 417),
    R(62, "PRI with a path", "PRI / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP2_PREFACE, 400),
    R(62, "HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2_PREFACE, 400),
    R(0, "Authorization twice", HEAD "Authorization: a\r\nAuthorization: b\r\n\r\n", FIELD_REPEATED, 400),
    R(0, "Range twice", HEAD "Range: bytes=0-1\r\nRange: bytes=2-3\r\n\r\n", FIELD_REPEATED, 400),
    R(0, "Content-Type twice", HEAD "Content-Type: a/b\r\ncontent-type: c/d\r\n\r\n", FIELD_REPEATED, 400),
    R(0, "Content-Range twice", HEAD "Content-Range: 0-1\r\nContent-Range: 0-2\r\n\r\n", FIELD_REPEATED, 400),
    R(0, "If-Range twice", HEAD "If-Range: \"a\"\r\nIf-Range: \"b\"\r\n\r\n", FIELD_REPEATED, 400),
    R(0, "Expect twice", HEAD "Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n", FIELD_REPEATED, 400),
#undef R
};

/* An input that ends with an empty line, or reaches a limit, is never left waiting. */
static bool must_end(const char *bytes, size_t len)
{
    return len >= HEAD_MAX || (len >= 2 && bytes[len - 2] == '\n' && bytes[len - 1] == '\n') ||
           (len >= 4 && memcmp(bytes + len - 4, "\r\n\r\n", 4) == 0);
}

/* Fed in single bytes, such an input is refused too. */
static bool single_bytes_end(const char *bytes, size_t len)
{
    struct outcome last = {.used = -EAGAIN};
    for (size_t n = 1; n <= len && last.used == -EAGAIN; n++)
        read_once(bytes, n, n - 1, &last);
    return last.used != -EAGAIN;
}

static void test_refused(void **state)
{
    (void)state;
    struct outcome o;
    for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
        const struct refused *t = &refusals[i];
        read_every_way(t->bytes, t->len, &o);
        if (o.used != -EBADMSG || o.reject.reason != t->reason || o.reject.status != t->status)
            fail_msg("row %d, %s: %zd, %d %s", t->row, t->name, o.used, o.reject.status,
                     http_reject_slug(o.reject.reason));
        if (must_end(t->bytes, t->len) && !single_bytes_end(t->bytes, t->len))
            fail_msg("row %d, %s: not refused when it comes in single bytes", t->row, t->name);
    }
}

/* Row 64: a bad second request does not touch the first, and begins where the first ended. */
static void test_pipelined(void **state)
{
    (void)state;
    static const char input[] = HEAD "X: first\r\n\r\n" POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\n";
    struct outcome first, second;
    read_every_way(BYTES(input), &first);
    assert_int_equal(first.used, sizeof(HEAD "X: first\r\n\r\n") - 1);
    read_every_way(input + first.used, sizeof(input) - 1 - (size_t)first.used, &second);
    assert_int_equal(second.used, -EBADMSG);
    assert_int_equal(second.reject.reason, HTTP_REJECT_LENGTH_REPEATED);
}

/* Rows 24, 54 and 56 are the connection's to see; the reader waits, and the table has the answers. */
static void test_what_the_connection_sees(void **state)
{
    (void)state;
    struct outcome o;
    read_every_way(BYTES(HEAD "X: y\r\n"), &o);
    assert_int_equal(o.used, -EAGAIN);
    assert_int_equal(http_reject_of(HTTP_REJECT_BODY_TRUNCATED).status, 400);
    assert_int_equal(http_reject_of(HTTP_REJECT_BODY_TOO_LARGE).status, 413);
    assert_int_equal(http_reject_of(HTTP_REJECT_HEAD_TIMEOUT).status, 408);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_pipelined),
        cmocka_unit_test(test_what_the_connection_sees),
    };
    return cmocka_run_group_tests(tests, reading_set_up, NULL);
}
