/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads cases (u32 little-endian length, then bytes) from standard input and prints, one JSON line each, what
 * our request reader and chunked decoder make of them: the counterpart of llhttp_dump.js, with the same
 * output.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/http/chunked.h"
#include "dataplane/http/http1.h"

enum { FIELDS = 64, CASE_MAX = 1 << 20 };

static const struct http_limits limits = {
    .header_bytes_max = 16384, .headers_max = FIELDS, .target_bytes_max = 8192};

static void print_hex(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        printf("%02x", (unsigned char)p[i]);
}

/* Returns 1 when the body is complete, 0 when it is not, -EBADMSG; *at is moved behind it. */
static int print_body(const struct http_request *req, char *buf, size_t len, size_t *at,
                      struct http_reject *reject)
{
    size_t left = len - *at;
    if (req->framing == HTTP_BODY_CHUNKED) {
        struct http_chunked st = {0};
        struct http_chunked_result result;
        int ret = http_chunked_decode(&st, buf + *at, left, &result, reject);
        print_hex(buf + *at, result.payload);
        *at += result.consumed;
        return ret;
    }
    bool whole = req->content_length <= left;
    size_t n = whole ? (size_t)req->content_length : left;
    print_hex(buf + *at, n);
    *at += n;
    return whole;
}

/* Prints one request; true if another may follow it. */
static bool print_request(char *buf, size_t len, size_t *at, const char **end, struct http_reject *reject)
{
    static struct http_field fields[FIELDS];
    struct http_request req = {.fields = fields, .fields_max = FIELDS};
    ssize_t used = http_request_read(buf + *at, len - *at, 0, &limits, &req, reject);
    if (used < 0) {
        *end = used == -EAGAIN ? "more" : "refused";
        return false;
    }
    printf("%s{\"method\":\"%.*s\",\"target\":\"", *at ? "," : "", (int)req.method_name.len,
           req.method_name.p);
    print_hex(req.target.p, req.target.len);
    printf("\",\"minor\":%d,\"keep\":%s,\"upgrade\":%s,\"body\":\"", req.version_minor,
           req.keep_alive ? "true" : "false", view_present(req.upgrade) ? "true" : "false");
    *at += (size_t)used;
    bool keep_alive = req.keep_alive;
    int ret = print_body(&req, buf, len, at, reject);
    printf("\",\"done\":%s}", ret == 1 ? "true" : "false");
    *end = ret < 0 ? "refused" : keep_alive || ret == 0 ? "more" : "closed";
    return ret == 1 && keep_alive;
}

static void print_case(char *buf, size_t len)
{
    const char *end = "more";
    struct http_reject reject = {0};
    size_t at = 0;
    printf("{\"requests\":[");
    while (print_request(buf, len, &at, &end, &reject))
        continue;
    printf("],\"end\":\"%s\",\"reason\":\"%s\"}\n", end,
           reject.reason ? http_reject_slug(reject.reason) : "");
}

int main(void)
{
    unsigned char prefix[4];
    while (fread(prefix, sizeof(prefix), 1, stdin) == 1) {
        size_t len = prefix[0] | prefix[1] << 8 | prefix[2] << 16 | (size_t)prefix[3] << 24;
        CHECK(len <= CASE_MAX);
        /* Exactly this size, for the sanitizers. */
        char *buf = malloc(len ? len : 1);
        CHECK(buf && fread(buf, 1, len, stdin) == len);
        print_case(buf, len);
        free(buf);
    }
    return 0;
}
