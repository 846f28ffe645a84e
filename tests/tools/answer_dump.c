/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads cases (u32 little-endian length, then bytes) from standard input and prints, one JSON line each, what
 * our response reader and chunked decoder make of them: what a server sent in answer to a GET until it
 * closed. The counterpart of llhttp_dump.js.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/http/chunked.h"
#include "dataplane/http/response_reader.h"

enum { FIELDS = 64, CASE_MAX = 1 << 20 };

static const struct http_limits limits = {.header_bytes_max = 16384, .headers_max = FIELDS};

/* Whether the body is complete; its bytes are at the front of buf. */
static bool read_body(const struct http_answer *a, char *buf, size_t *len, struct http_reject *reject)
{
    struct http_chunked st = {0};
    struct http_chunked_result result;
    size_t here = *len;
    switch (a->framing) {
    case HTTP_BODY_NONE:
        *len = 0;
        return true;
    case HTTP_BODY_LENGTH:
        *len = a->content_length < here ? (size_t)a->content_length : here;
        return *len == a->content_length;
    case HTTP_BODY_CHUNKED: {
        int ret = http_chunked_decode(&st, buf, here, &result, reject);
        *len = result.payload;
        return ret == 1;
    }
    default:
        return true;
    }
}

static void print_case(char *buf, size_t len)
{
    static struct http_field fields[FIELDS];
    struct http_answer a = {.fields = fields, .fields_max = FIELDS};
    struct http_reject reject = {0};
    ssize_t used = http_answer_read(buf, len, 0, &limits, HTTP_GET, &a, &reject);
    if (used < 0) {
        printf("{\"answer\":null,\"reason\":\"%s\"}\n",
               used == -EAGAIN ? "more" : http_reject_slug(reject.reason));
        return;
    }
    int status = a.status, minor = a.version_minor;
    bool keep = a.keep_alive;
    size_t body = len - (size_t)used;
    bool done = read_body(&a, buf + used, &body, &reject);
    printf("{\"answer\":{\"status\":%d,\"minor\":%d,\"keep\":%s,\"done\":%s,\"body\":\"", status, minor,
           keep ? "true" : "false", done ? "true" : "false");
    for (size_t i = 0; i < body; i++)
        printf("%02x", (unsigned char)buf[(size_t)used + i]);
    printf("\"},\"reason\":\"%s\"}\n", reject.reason ? http_reject_slug(reject.reason) : "");
}

int main(void)
{
    unsigned char prefix[4];
    while (fread(prefix, sizeof(prefix), 1, stdin) == 1) {
        size_t len = prefix[0] | prefix[1] << 8 | prefix[2] << 16 | (size_t)prefix[3] << 24;
        CHECK(len <= CASE_MAX);
        char *buf = malloc(len ? len : 1); /* exactly this size, for the sanitizers */
        CHECK(buf && fread(buf, 1, len, stdin) == len);
        print_case(buf, len);
        free(buf);
    }
    return 0;
}
