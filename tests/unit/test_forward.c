/* SPDX-License-Identifier: Apache-2.0 */
/* Heads on their way through a proxy: tables of what comes in and what goes out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>

#include "dataplane/http/forward.h"
#include "guarded.h"

enum { FIELDS = 32, OUT_MAX = 2048 };

static const struct http_limits limits = {
    .header_bytes_max = 4096, .headers_max = FIELDS, .target_bytes_max = 1024};
static struct guarded memory;

static int set_up(void **state)
{
    (void)state;
    memory = guarded_new(4096);
    return 0;
}

static void read_request(const char *bytes, struct http_field *fields, struct http_request *req)
{
    struct http_reject reject;
    *req = (struct http_request){.fields = fields, .fields_max = FIELDS};
    assert_int_equal(http_request_read(bytes, strlen(bytes), 0, &limits, req, &reject), strlen(bytes));
}

static void check_request(const char *in, const struct http_forward *how, const char *expected)
{
    struct http_field fields[FIELDS];
    struct http_request req;
    size_t len = strlen(expected);
    read_request(in, fields, &req);
    for (size_t cap = 0; cap < len; cap++)
        assert_int_equal(http_forward_request(guarded_tail(&memory, cap), cap, &req, how), -ENOBUFS);
    char *out = guarded_tail(&memory, len);
    char text[OUT_MAX] = "";
    ssize_t n = http_forward_request(text, sizeof(text), &req, how);
    assert_true(n > 0);
    text[n] = '\0';
    assert_string_equal(text, expected);
    assert_int_equal(http_forward_request(out, len, &req, how), len);
}

#define GET "GET /a?b=%20 HTTP/1.1\r\nHost: h:1\r\n"

static void test_hop_by_hop(void **state)
{
    (void)state;
    struct http_forward how = {.peer = VIEW_LIT("192.0.2.1"), .scheme = VIEW_LIT("http")};
    check_request(GET "\r\n", &how, GET "\r\n");
    check_request(GET "A: 1\r\nB: 2\r\nA: 3\r\n\r\n", &how, GET "A: 1\r\nB: 2\r\nA: 3\r\n\r\n");
    check_request(GET "Connection: close, x-a\r\nX-A: 1\r\nX-B: 2\r\nKeep-Alive: timeout=5\r\n"
                      "Proxy-Connection: close\r\nProxy-Authorization: x\r\nTE: gzip\r\nUpgrade: tcp\r\n\r\n",
                  &how, GET "X-B: 2\r\n\r\n");
    check_request(GET "TE: gzip, trailers\r\n\r\n", &how, GET "TE: trailers\r\nConnection: TE\r\n\r\n");
    /* What Connection names is not dropped where it frames. */
    check_request(
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: content-length, host\r\nContent-Length: 007\r\n\r\n", &how,
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n");
    check_request("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\nTrailer: X\r\n\r\n", &how,
                  "POST / HTTP/1.1\r\nHost: h\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n");
    check_request("POST / HTTP/1.1\r\nHost: h\r\n\r\n", &how,
                  "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    check_request("PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", &how,
                  "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
}

static bool round_of(const char *fields)
{
    struct http_field field[FIELDS];
    struct http_request req;
    char in[OUT_MAX];
    (void)snprintf(in, sizeof(in), "%s%s\r\n", GET, fields);
    read_request(in, field, &req);
    return http_goes_round(&req, VIEW_LIT("fl-1"));
}

static void test_marks(void **state)
{
    (void)state;
    struct http_forward how = {.mark = VIEW_LIT("fl-1")};
    check_request(GET "\r\n", &how, GET "CDN-Loop: fl-1\r\n\r\n");
    check_request(GET "Connection: cdn-loop\r\nCDN-Loop: a, b\r\nCdn-loop: c; x=1\r\n\r\n", &how,
                  GET "CDN-Loop: a, b, c; x=1, fl-1\r\n\r\n");
    assert_false(round_of(""));
    assert_false(round_of("CDN-Loop: fl-2, fl-12;x=\"fl-1\"\r\n"));
    assert_true(round_of("CDN-Loop: fl-1\r\n"));
    assert_true(round_of("CDN-Loop: a\r\nCDN-Loop: b,fl-1 ; x=1, c\r\n"));
    assert_false(round_of("CDN-Loop: 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16\r\n"));
    assert_true(round_of("CDN-Loop: 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17\r\n"));
}

static void test_target_and_host(void **state)
{
    (void)state;
    struct http_forward how = {.host_default = VIEW_LIT("10.0.0.1:5000")};
    check_request("GET http://b:81/x%2f?y HTTP/1.1\r\nHost: a\r\n\r\n", &how,
                  "GET /x%2f?y HTTP/1.1\r\nHost: b:81\r\n\r\n");
    check_request("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", &how, "GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    check_request("GET http://b?y HTTP/1.1\r\nHost: a\r\n\r\n", &how, "GET /?y HTTP/1.1\r\nHost: b\r\n\r\n");
    check_request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &how, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    check_request("GET / HTTP/1.0\r\n\r\n", &how, "GET / HTTP/1.1\r\nHost: 10.0.0.1:5000\r\n\r\n");
    how.host = VIEW_LIT("registry.example");
    check_request("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &how,
                  "GET / HTTP/1.1\r\nHost: registry.example\r\n\r\n");
}

#define CLIENTS                                                                                              \
    "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2, 3.3.3.3\r\nX-Forwarded-Proto: https\r\n"          \
    "Forwarded: for=1.1.1.1\r\nX-Request-Id: theirs\r\n"

static void test_about_the_client(void **state)
{
    (void)state;
    struct http_forward how = {.peer = VIEW_LIT("192.0.2.1"),
                               .scheme = VIEW_LIT("http"),
                               .port = VIEW_LIT("80"),
                               .request_id = VIEW_LIT("ours")};
    check_request(GET CLIENTS "\r\n", &how, GET "X-Request-Id: ours\r\n\r\n");
    how.x_forwarded = true;
    check_request(GET CLIENTS "\r\n", &how,
                  GET "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h:1\r\n"
                      "X-Forwarded-Port: 80\r\nX-Request-Id: ours\r\n\r\n");
    how.trust = true;
    check_request(GET CLIENTS "\r\n", &how,
                  GET "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.1\r\nX-Forwarded-Proto: https\r\n"
                      "X-Forwarded-Host: h:1\r\nX-Forwarded-Port: 80\r\nForwarded: for=1.1.1.1\r\n"
                      "X-Request-Id: theirs\r\n\r\n");
    how.x_forwarded = false;
    how.forwarded = true;
    how.peer = VIEW_LIT("2001:db8::1");
    check_request(GET CLIENTS "\r\n", &how,
                  GET "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3\r\nX-Forwarded-Proto: https\r\n"
                      "Forwarded: for=1.1.1.1, for=\"[2001:db8::1]\";host=\"h:1\";proto=http\r\n"
                      "X-Request-Id: theirs\r\n\r\n");
    how.trust = false;
    check_request("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &how,
                  "GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=\"[2001:db8::1]\";host=a;proto=http\r\n"
                  "X-Request-Id: ours\r\n\r\n");
}

/* What a client says of a certificate, in all the ways that a backend may read as one. */
static void test_certificates_are_ours_to_tell(void **state)
{
    static const char *const names[] = {"Client-Cert",          "client-cert-chain", "X-Client-Cert-Subject",
                                        "Client_Cert",          "X_Client_Cert",     "x-client_cert-a",
                                        "X_CLIENT-CERT",        "X-Remote-User",     "x_remote_group",
                                        "X-Remote-Extra-Scopes"};
    struct http_forward how = {0};
    char request[128];
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        (void)snprintf(request, sizeof(request), "%s%s: me\r\n\r\n", GET, names[i]);
        how.trust = false;
        check_request(request, &how, GET "\r\n");
        how.trust = true;
        check_request(request, &how, request);
    }
    how.trust = false;
    check_request(GET "Client-Certain: x\r\n\r\n", &how, GET "\r\n");
    check_request(GET "Client-Cer: x\r\nX-Client: y\r\n\r\n", &how,
                  GET "Client-Cer: x\r\nX-Client: y\r\n\r\n");
}

static void test_extra_replaces(void **state)
{
    (void)state;
    const struct http_extra extra[] = {{VIEW_LIT("X-Client-Subject"), VIEW_LIT("CN=me")}};
    struct http_forward how = {.extra = extra, .extra_count = 1};
    check_request(GET "x-client-subject: CN=root\r\n\r\n", &how, GET "X-Client-Subject: CN=me\r\n\r\n");
}

static void test_range_replaces(void **state)
{
    (void)state;
    struct http_forward how = {.range = VIEW_LIT("bytes=100-")};
    check_request(GET "Range: bytes=5-\r\nIf-Range: \"x\"\r\nIf-None-Match: \"y\"\r\nIf-Modified-Since: "
                      "Sun, 06 Nov 1994 08:49:37 GMT\r\nAccept: a\r\n\r\n",
                  &how, GET "Accept: a\r\nRange: bytes=100-\r\n\r\n");
}

#define UPGRADE(protocols)                                                                                   \
    "POST /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: " protocols              \
    "\r\nHTTP2-Settings: AAM\r\nContent-Length: 2\r\n\r\n"

static void test_upgrade(void **state)
{
    (void)state;
    struct http_forward how = {0};
    struct http_field fields[FIELDS];
    struct http_request req;
    read_request(UPGRADE("h2c"), fields, &req);
    assert_false(http_asks_upgrade(&req, false));
    assert_true(http_asks_upgrade(&req, true));
    read_request(UPGRADE("tcp"), fields, &req);
    assert_true(http_asks_upgrade(&req, false));
    check_request(UPGRADE("tcp"), &how, "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n");
    how.upgrade = true;
    check_request(UPGRADE("h2c, tcp"), &how,
                  "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: Upgrade\r\nUpgrade: "
                  "tcp\r\n\r\n");
    how.h2c = true;
    check_request(UPGRADE("h2c"), &how,
                  "POST /x HTTP/1.1\r\nHost: h\r\nHTTP2-Settings: AAM\r\nContent-Length: 2\r\n"
                  "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n");
}

/* ------------------------------------------------------------------ responses */

static void check_response(const char *in, const struct http_backward *how, const char *expected)
{
    struct http_field fields[FIELDS];
    struct http_answer a = {.fields = fields, .fields_max = FIELDS};
    struct http_reject reject;
    struct http_response res;
    char text[OUT_MAX];
    assert_int_equal(http_answer_read(in, strlen(in), 0, &limits, HTTP_GET, &a, &reject), strlen(in));
    http_forward_response(&res, text, sizeof(text), &a, how);
    assert_int_equal(res.error, 0);
    text[res.len] = '\0';
    assert_string_equal(text, expected);
    size_t len = res.len;
    for (size_t cap = 0; cap < len; cap++) {
        http_forward_response(&res, guarded_tail(&memory, cap), cap, &a, how);
        assert_int_equal(res.error, -ENOBUFS);
    }
}

static const struct http_backward outward = {.scheme = VIEW_LIT("https"),
                                             .host = VIEW_LIT("front:8443"),
                                             .backend = VIEW_LIT("10.0.0.1:5000"),
                                             .sent_host = VIEW_LIT("registry.example"),
                                             .request_id = VIEW_LIT("ours")};

static void test_response_fields(void **state)
{
    (void)state;
    check_response("HTTP/1.0 299 Fine, thanks\r\nDate: today\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\n"
                   "Keep-Alive: timeout=5\r\nContent-Length: 5\r\nX-Request-Id: theirs\r\nSet-Cookie: a\r\n"
                   "Set-Cookie: b\r\nUpgrade: h2c\r\nProxy-Authenticate: x\r\n\r\n",
                   &outward,
                   "HTTP/1.1 299 Fine, thanks\r\nDate: today\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n"
                   "X-Request-Id: ours\r\n");
    check_response("HTTP/1.1 404\r\n\r\n", &outward, "HTTP/1.1 404 Not Found\r\nX-Request-Id: ours\r\n");
    check_response("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", &outward,
                   "HTTP/1.1 101 UPGRADED\r\nX-Request-Id: ours\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n");
}

static void check_field(const char *in, const char *expected)
{
    char before[512], after[512];
    snprintf(before, sizeof(before), "HTTP/1.1 202 Accepted\r\n%s\r\n\r\n", in);
    snprintf(after, sizeof(after), "HTTP/1.1 202 Accepted\r\n%s\r\nX-Request-Id: ours\r\n", expected);
    check_response(before, &outward, after);
}

static void test_urls(void **state)
{
    (void)state;
    check_field("Location: http://10.0.0.1:5000/v2/a?x=http://10.0.0.1:5000/",
                "Location: https://front:8443/v2/a?x=http://10.0.0.1:5000/");
    check_field("Location: http://registry.example/v2/", "Location: https://front:8443/v2/");
    check_field("Location: HTTP://Registry.Example:80", "Location: https://front:8443");
    check_field("Location: https://registry.example:443/x", "Location: https://front:8443/x");
    check_field("Location: //registry.example/x", "Location: //front:8443/x");
    check_field("Location: http://registry.example:81/x", "Location: http://registry.example:81/x");
    check_field("Location: http://elsewhere/x", "Location: http://elsewhere/x");
    check_field("Location: /v2/a/blobs/uploads/1", "Location: /v2/a/blobs/uploads/1");
    check_field("Location: http://", "Location: http://");
    check_field("Content-Location: http://10.0.0.1:5000/a", "Content-Location: https://front:8443/a");
    check_field("Www-Authenticate: Bearer realm=\"http://registry.example/token\",service=\"r\"",
                "Www-Authenticate: Bearer realm=\"https://front:8443/token\",service=\"r\"");
    check_field("Www-Authenticate: Basic realm=\"Registry Realm\"",
                "Www-Authenticate: Basic realm=\"Registry Realm\"");
    check_field("Www-Authenticate: Bearer realm=\"https://auth.docker.io/token\"",
                "Www-Authenticate: Bearer realm=\"https://auth.docker.io/token\"");
    check_field("Www-Authenticate: Bearer realm=\"", "Www-Authenticate: Bearer realm=\"");
    check_field("Link: <http://10.0.0.1:5000/v2/_catalog?n=1>; rel=\"next\"",
                "Link: <https://front:8443/v2/_catalog?n=1>; rel=\"next\"");
}

/* Whoever did not say by which name it knows us is told the way from here. */
static void test_urls_without_host(void **state)
{
    (void)state;
    struct http_backward how = outward;
    how.host = (struct view){NULL, 0};
    check_response("HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1:5000/x\r\n\r\n", &how,
                   "HTTP/1.1 302 Found\r\nLocation: /x\r\nX-Request-Id: ours\r\n");
    check_response("HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1:5000\r\n\r\n", &how,
                   "HTTP/1.1 302 Found\r\nLocation: /\r\nX-Request-Id: ours\r\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hop_by_hop),
        cmocka_unit_test(test_target_and_host),
        cmocka_unit_test(test_about_the_client),
        cmocka_unit_test(test_extra_replaces),
        cmocka_unit_test(test_certificates_are_ours_to_tell),
        cmocka_unit_test(test_range_replaces),
        cmocka_unit_test(test_upgrade),
        cmocka_unit_test(test_response_fields),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_urls_without_host),
        cmocka_unit_test(test_marks),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
