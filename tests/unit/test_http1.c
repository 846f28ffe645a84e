/* SPDX-License-Identifier: Apache-2.0 */
/* The request reader: what it accepts, its limits, and the look-up of fields. Refusals are in test_reject.c.
 */
#include "reading.h"

struct accepted {
    const char *name;
    const char *bytes;
    size_t len;
    const char *text; /* of the outcome, up to the fields */
};

static const struct accepted acceptances[] = {
#define A(name, bytes, text)                                                                                 \
    {                                                                                                        \
        name, BYTES(bytes), text                                                                             \
    }
    A("plain", HEAD "\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("path and query", "HEAD /v2/a/b?n=5&last=x?y HTTP/1.1\r\nHost: a:5000\r\n\r\n",
      "[HEAD] HEAD form=0 path=[/v2/a/b] query=[n=5&last=x?y] HTTP/1.1 host=[a:5000] framing=0 length=0 "
      "keep=1 expect=0 upgrade=none"),
    A("empty query", "DELETE /? HTTP/1.1\r\nHost: a\r\n\r\n",
      "[DELETE] DELETE form=0 path=[/] query=[] HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("query as curl -g sends it", "GET /images/json?filters={\"a\":[\"b|c\"]}^ HTTP/1.1\r\nHost: a\r\n\r\n",
      "[GET] GET form=0 path=[/images/json] query=[filters={\"a\":[\"b|c\"]}^] HTTP/1.1 host=[a] framing=0 "
      "length=0 keep=1 expect=0 upgrade=none"),
    A("two empty lines first", "\r\n\r\n" HEAD "\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("leading zeros are decimal", POST "Content-Length: 010\r\n\r\n",
      "[POST] POST form=0 path=[/] query=none HTTP/1.1 host=[a] framing=1 length=10 keep=1 expect=0 "
      "upgrade=none"),
    A("largest length", POST "Content-Length: 9223372036854775807\r\n\r\n",
      "[POST] POST form=0 path=[/] query=none HTTP/1.1 host=[a] framing=1 length=9223372036854775807 keep=1 "
      "expect=0 upgrade=none"),
    A("length of zero with a tab", POST "Content-Length:\t0 \t\r\n\r\n",
      "[POST] POST form=0 path=[/] query=none HTTP/1.1 host=[a] framing=1 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("chunked in capitals", "PATCH / HTTP/1.1\r\nHost:a\r\ntransfer-encoding:CHUNKED\r\n\r\n",
      "[PATCH] PATCH form=0 path=[/] query=none HTTP/1.1 host=[a] framing=2 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("expect 100-continue", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n",
      "[PUT] PUT form=0 path=[/] query=none HTTP/1.1 host=[a] framing=1 length=5 keep=1 expect=1 "
      "upgrade=none"),
    A("expect 100-continue without body", HEAD "Expect: 100-continue\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("expect 100-continue from HTTP/1.0",
      "PUT / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
      "[PUT] PUT form=0 path=[/] query=none HTTP/1.0 host=none framing=1 length=5 keep=0 expect=0 "
      "upgrade=none"),
    A("HTTP/1.0", "GET / HTTP/1.0\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.0 host=none framing=0 length=0 keep=0 expect=0 "
      "upgrade=none"),
    A("HTTP/1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.0 host=none framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("HTTP/1.9 is read as 1.1", "GET / HTTP/1.9\r\nHost: a\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("close", HEAD "Connection: close\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=0 expect=0 "
      "upgrade=none"),
    A("close wins, in a second line", HEAD "Connection: keep-alive\r\nConnection: ,, CLOSE\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=0 expect=0 "
      "upgrade=none"),
    A("absolute form wins over Host", "GET http://b:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
      "[GET] GET form=1 path=[/x] query=[y] HTTP/1.1 host=[b:81] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("absolute form without path", "GET HTTPS://[::1]:5?q=/ HTTP/1.1\r\nHost: a\r\n\r\n",
      "[GET] GET form=1 path=[/] query=[q=/] HTTP/1.1 host=[[::1]:5] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
      "[OPTIONS] OPTIONS form=2 path=[*] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("unknown method", "BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
      "[BREW] OTHER form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("methods are case-sensitive", "get / HTTP/1.1\r\nHost: a\r\n\r\n",
      "[get] OTHER form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("method of 32 bytes", LONG_16 LONG_16 " / HTTP/1.1\r\nHost: a\r\n\r\n",
      "[" LONG_16 LONG_16
      "] OTHER form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 upgrade=none"),
    A("upgrade of docker exec, with a body",
      "POST /exec/1/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: "
      "27\r\n\r\n",
      "[POST] POST form=0 path=[/exec/1/start] query=none HTTP/1.1 host=[docker] framing=1 length=27 keep=1 "
      "expect=0 upgrade=[tcp]"),
    A("row 60: h2c is not an upgrade",
      HEAD "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("row 60: what stands beside h2c is kept",
      HEAD "Connection: Upgrade\r\nUpgrade: H2C, HTTP/2.0\r\nUpgrade: , websocket\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=[websocket]"),
    A("Upgrade without Connection", HEAD "Upgrade: tcp\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("Upgrade from HTTP/1.0", "GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.0 host=none framing=0 length=0 keep=0 expect=0 "
      "upgrade=none"),
    A("odd but valid hosts", "GET / HTTP/1.1\r\nHost: a_b.%41-c:\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a_b.%41-c:] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("IPv6 host", "GET / HTTP/1.1\r\nHost: [fe80::1:2.3.4.5]:65535\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[[fe80::1:2.3.4.5]:65535] framing=0 length=0 "
      "keep=1 expect=0 upgrade=none"),
    A("values with tabs and high bytes", HEAD "X: \t a\tb \xff\xc3\xa4 0123456789 \t\r\nY:\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
    A("target of 64 bytes", "GET /" LONG_16 LONG_16 LONG_16 "0123456789abcde HTTP/1.1\r\nHost: a\r\n\r\n",
      "[GET] GET form=0 path=[/" LONG_16 LONG_16 LONG_16
      "0123456789abcde] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 upgrade=none"),
    A("16 headers",
      HEAD "a:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\na:\r\n\r\n",
      "[GET] GET form=0 path=[/] query=none HTTP/1.1 host=[a] framing=0 length=0 keep=1 expect=0 "
      "upgrade=none"),
#undef A
};

static void test_accepted(void **state)
{
    (void)state;
    struct outcome o;
    for (size_t i = 0; i < ARRAY_SIZE(acceptances); i++) {
        const struct accepted *t = &acceptances[i];
        read_every_way(t->bytes, t->len, &o);
        if (o.used != (ssize_t)t->len)
            fail_msg("%s: %zd of %zu, %s", t->name, o.used, t->len, http_reject_slug(o.reject.reason));
        char after = o.text[strnlen(t->text, sizeof(o.text) - 1)];
        if (strncmp(o.text, t->text, strlen(t->text)) != 0 || (after != ' ' && after != '\0'))
            fail_msg("%s:\n %s\n %s", t->name, o.text, t->text);
    }
}

/* A head may fill its limit to the last byte; one more is too much, and is said as soon as the limit is full.
 */
static void test_head_limit(void **state)
{
    (void)state;
    char input[HEAD_MAX + 2];
    struct outcome o;
    size_t start = sizeof(HEAD "X: ") - 1;
    memset(input, 'x', sizeof(input));
    memcpy(input, HEAD "X: ", start);
    memcpy(input + HEAD_MAX - 4, "\r\n\r\n", 4);
    read_every_way(input, HEAD_MAX, &o);
    assert_int_equal(o.used, HEAD_MAX);
    read_every_way(input, HEAD_MAX + 2, &o);
    assert_int_equal(o.used, HEAD_MAX);
    memcpy(input + HEAD_MAX - 4, "x\r\n\r\n", 5);
    read_every_way(input, HEAD_MAX + 1, &o);
    assert_int_equal(o.reject.reason, HTTP_REJECT_HEADERS_TOO_LARGE);
    read_every_way(input, HEAD_MAX, &o);
    assert_int_equal(o.reject.reason, HTTP_REJECT_HEADERS_TOO_LARGE);
    read_every_way(input, HEAD_MAX - 1, &o);
    assert_int_equal(o.used, -EAGAIN);
}

/* A long target is refused before its line ends, however slowly it comes. */
static void test_target_limit_is_early(void **state)
{
    (void)state;
    char input[300] = "GET /";
    struct outcome o = {.used = -EAGAIN};
    memset(input + 5, 'x', sizeof(input) - 5);
    size_t n = 0;
    while (o.used == -EAGAIN && n < sizeof(input)) {
        n++;
        read_once(input, n, n - 1, &o);
    }
    assert_int_equal(o.reject.reason, HTTP_REJECT_TARGET_TOO_LONG);
    assert_true(n < TARGET_MAX + 64);
}

static void test_lookup(void **state)
{
    (void)state;
    static const char input[] =
        HEAD "Accept: a/b\r\nX-Y: 1\r\naccept: c/d\r\nx-y: 2\r\nIf-None-Match: \"e\"\r\n"
             "User-Agent: \r\nX-Request-ID: r\r\n\r\n";
    struct http_field fields[FIELDS];
    struct http_request req = {.fields = fields, .fields_max = FIELDS};
    struct http_reject reject;
    uint32_t at = 0;
    ssize_t used =
        http_request_read(guarded_copy(&memory, BYTES(input)), sizeof(input) - 1, 0, &limits, &req, &reject);
    assert_int_equal(used, sizeof(input) - 1);
    assert_true(view_lit(http_request_field(&req, "x-Y"), "1"));
    assert_false(view_present(http_request_field(&req, "x-")));
    assert_true(view_present(req.known[HTTP_KNOWN_USER_AGENT]));
    assert_true(view_empty(req.known[HTTP_KNOWN_USER_AGENT]));
    assert_false(view_present(req.known[HTTP_KNOWN_RANGE]));
    assert_true(view_lit(req.known[HTTP_KNOWN_IF_NONE_MATCH], "\"e\""));
    assert_true(view_lit(req.known[HTTP_KNOWN_X_REQUEST_ID], "r"));
    assert_true(view_lit(http_request_next_field(&req, HTTP_KNOWN_ACCEPT, &at), "a/b"));
    assert_true(view_lit(http_request_next_field(&req, HTTP_KNOWN_ACCEPT, &at), "c/d"));
    assert_false(view_present(http_request_next_field(&req, HTTP_KNOWN_ACCEPT, &at)));
}

/* Every known name is found, in any case, and a neighbour of the same length is not. */
static void test_known_names(void **state)
{
    (void)state;
    static const char *const names[HTTP_KNOWN_COUNT] = {
        [HTTP_KNOWN_HOST] = "HOST",
        [HTTP_KNOWN_CONTENT_LENGTH] = "Content-Length",
        [HTTP_KNOWN_TRANSFER_ENCODING] = "Transfer-Encoding",
        [HTTP_KNOWN_AUTHORIZATION] = "Authorization",
        [HTTP_KNOWN_CONTENT_TYPE] = "Content-Type",
        [HTTP_KNOWN_CONTENT_RANGE] = "Content-Range",
        [HTTP_KNOWN_RANGE] = "Range",
        [HTTP_KNOWN_IF_RANGE] = "If-Range",
        [HTTP_KNOWN_EXPECT] = "Expect",
        [HTTP_KNOWN_CONNECTION] = "Connection",
        [HTTP_KNOWN_UPGRADE] = "Upgrade",
        [HTTP_KNOWN_ACCEPT] = "Accept",
        [HTTP_KNOWN_IF_MATCH] = "If-Match",
        [HTTP_KNOWN_IF_NONE_MATCH] = "If-None-Match",
        [HTTP_KNOWN_USER_AGENT] = "User-Agent",
        [HTTP_KNOWN_X_REQUEST_ID] = "X-Request-Id",
        [HTTP_KNOWN_KEEP_ALIVE] = "Keep-Alive",
        [HTTP_KNOWN_TE] = "TE",
        [HTTP_KNOWN_HTTP2_SETTINGS] = "HTTP2-Settings",
        [HTTP_KNOWN_X_FORWARDED_FOR] = "X-Forwarded-For",
        [HTTP_KNOWN_X_FORWARDED_PROTO] = "X-Forwarded-Proto",
        [HTTP_KNOWN_X_FORWARDED_HOST] = "X-Forwarded-Host",
        [HTTP_KNOWN_X_FORWARDED_PORT] = "X-Forwarded-Port",
        [HTTP_KNOWN_FORWARDED] = "Forwarded",
        [HTTP_KNOWN_CDN_LOOP] = "CDN-Loop",
        [HTTP_KNOWN_DATE] = "Date",
        [HTTP_KNOWN_ETAG] = "ETag",
        [HTTP_KNOWN_LOCATION] = "Location",
        [HTTP_KNOWN_CONTENT_LOCATION] = "Content-Location",
        [HTTP_KNOWN_WWW_AUTHENTICATE] = "WWW-Authenticate",
        [HTTP_KNOWN_CONTENT_ENCODING] = "Content-Encoding",
        [HTTP_KNOWN_DOCKER_CONTENT_DIGEST] = "Docker-Content-Digest",
        [HTTP_KNOWN_DOCKER_UPLOAD_UUID] = "Docker-Upload-UUID",
    };
    for (int k = 0; k < HTTP_KNOWN_COUNT; k++) {
        struct http_field fields[FIELDS];
        struct http_request req = {.fields = fields, .fields_max = FIELDS};
        struct http_reject reject;
        char input[128], almost[32];
        snprintf(almost, sizeof(almost), "%s", names[k]);
        almost[strlen(almost) - 1] = '_';
        const char *value = k == HTTP_KNOWN_EXPECT              ? "100-continue"
                            : k == HTTP_KNOWN_TRANSFER_ENCODING ? "chunked"
                                                                : "1";
        snprintf(input, sizeof(input), "GET / HTTP/1.1\r\n%s%s: 2\r\n%s: %s\r\n\r\n",
                 k == HTTP_KNOWN_HOST ? "" : "Host: h\r\n", almost, names[k], value);
        assert_true(http_request_read(input, strlen(input), 0, &limits, &req, &reject) > 0);
        assert_true(view_eq(req.known[k], view_of_str(value)));
        assert_int_equal(req.fields[req.fields_count - 2].known, HTTP_KNOWN_NOT);
    }
}

/* The smaller of the two bounds on the number of fields counts, and no field is written behind it. */
static void test_field_capacity(void **state)
{
    (void)state;
    static const char input[] = HEAD "a:\r\nb:\r\n\r\n";
    struct guarded room = guarded_new(FIELDS * sizeof(struct http_field));
    struct http_request req = {.fields = (void *)guarded_tail(&room, 2 * sizeof(struct http_field)),
                               .fields_max = 2};
    struct http_reject reject;
    assert_int_equal(http_request_read(BYTES(input), 0, &limits, &req, &reject), -EBADMSG);
    assert_int_equal(reject.reason, HTTP_REJECT_HEADERS_TOO_MANY);
}

/* Input in single bytes costs linear time: a large head of short lines would take minutes otherwise. */
static void test_single_bytes_are_cheap(void **state)
{
    (void)state;
    enum { BIG = 60000 };
    static const struct http_limits big = {
        .header_bytes_max = BIG + 64, .headers_max = 16000, .target_bytes_max = 4096};
    static struct http_field fields[16000];
    char *input = malloc(BIG + 64);
    size_t len = sizeof(HEAD) - 1;
    assert_non_null(input);
    memcpy(input, HEAD, len);
    for (; len < BIG; len += 4)
        memcpy(input + len, "a:\r\n", 4);
    memcpy(input + len, "\r\n", 2);
    len += 2;
    struct http_request req = {.fields = fields, .fields_max = ARRAY_SIZE(fields)};
    struct http_reject reject;
    ssize_t used = -EAGAIN;
    for (size_t n = 1; n <= len && used == -EAGAIN; n++)
        used = http_request_read(input, n, n - 1, &big, &req, &reject);
    assert_int_equal(used, len);
    free(input);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),

        cmocka_unit_test(test_head_limit),     cmocka_unit_test(test_target_limit_is_early),
        cmocka_unit_test(test_lookup),         cmocka_unit_test(test_known_names),
        cmocka_unit_test(test_field_capacity), cmocka_unit_test(test_single_bytes_are_cheap),
    };
    return cmocka_run_group_tests(tests, reading_set_up, NULL);
}
