/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The request reader: the cuts between reads never show in the outcome, views stay inside the bytes used, and
 * a request written out again from its parts reads the same.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/http/http1.h"

enum { FIELDS = 16, SINGLE_BYTES_MAX = 600, WRITTEN_MAX = 8192 };

struct reading {
    ssize_t used;
    struct http_reject reject;
    struct http_request req;
    struct http_field fields[FIELDS];
};

static const struct http_limits small = {
    .header_bytes_max = 1024, .headers_max = FIELDS, .target_bytes_max = 128};
static const struct http_limits large = {
    .header_bytes_max = WRITTEN_MAX, .headers_max = FIELDS, .target_bytes_max = 128};

static void read_bytes(struct reading *r, const struct http_limits *limits, const char *buf, size_t len,
                       size_t last_len)
{
    *r = (struct reading){.req = {.fields = r->fields, .fields_max = FIELDS}};
    r->used = http_request_read(buf, len, last_len, limits, &r->req, &r->reject);
    CHECK(r->used > 0 || r->used == -EAGAIN || r->used == -EBADMSG);
    CHECK(r->used <= (ssize_t)len);
    CHECK((r->used == -EBADMSG) == (r->reject.reason != HTTP_REJECT_NONE));
    CHECK(len < limits->header_bytes_max || r->used != -EAGAIN);
}

static void check_inside(struct view v, const char *buf, size_t used)
{
    if (view_present(v))
        CHECK(v.p >= buf && v.len <= used && v.p + v.len <= buf + used);
}

static void check_views(const struct reading *r, const char *buf)
{
    const struct http_request *req = &r->req;
    const struct view views[] = {req->method_name, req->target, req->path,
                                 req->query,       req->host,   req->upgrade};
    for (size_t i = 0; i < ARRAY_SIZE(views); i++)
        check_inside(views[i], buf, (size_t)r->used);
    for (size_t i = 0; i < HTTP_KNOWN_COUNT; i++)
        check_inside(req->known[i], buf, (size_t)r->used);
    for (uint32_t i = 0; i < req->fields_count; i++) {
        check_inside(req->fields[i].name, buf, (size_t)r->used);
        check_inside(req->fields[i].value, buf, (size_t)r->used);
        CHECK(req->fields[i].name.len > 0);
    }
    CHECK(req->path.len > 0 && (req->path.p[0] == '/' || view_lit(req->path, "*")));
    CHECK(req->version_minor == 0 || view_present(req->host)); /* it may be empty */
    CHECK(req->framing == HTTP_BODY_LENGTH || req->content_length == 0);
    CHECK(req->content_length <= INT64_MAX);
}

static void check_view(struct view a, struct view b)
{
    CHECK(view_present(a) == view_present(b) && view_eq(a, b));
}

/* The same request, though the bytes stand elsewhere. */
static void check_equal(const struct http_request *a, const struct http_request *b)
{
    CHECK(a->method == b->method && a->target_form == b->target_form && a->framing == b->framing);
    CHECK(a->version_minor == b->version_minor && a->keep_alive == b->keep_alive);
    CHECK(a->expect_continue == b->expect_continue && a->content_length == b->content_length);
    check_view(a->method_name, b->method_name);
    check_view(a->target, b->target);
    check_view(a->path, b->path);
    check_view(a->query, b->query);
    check_view(a->host, b->host);
    check_view(a->upgrade, b->upgrade);
    CHECK(a->fields_count == b->fields_count);
    for (uint32_t i = 0; i < a->fields_count; i++) {
        check_view(a->fields[i].name, b->fields[i].name);
        check_view(a->fields[i].value, b->fields[i].value);
        CHECK(a->fields[i].known == b->fields[i].known);
    }
}

static void check_same(const struct reading *a, const struct reading *whole)
{
    CHECK(a->used == whole->used && a->reject.reason == whole->reject.reason);
    if (a->used > 0)
        check_equal(&a->req, &whole->req);
}

/* The bytes come in two reads: the first may already decide, and then as the whole did. */
static void check_cut(const struct reading *whole, const char *buf, size_t len, size_t cut)
{
    static struct reading part;
    read_bytes(&part, &small, buf, cut, 0);
    if (part.used == -EAGAIN && cut < len)
        read_bytes(&part, &small, buf, len, cut);
    if (part.used != -EAGAIN || whole->used != -EBADMSG)
        check_same(&part, whole);
}

static void check_single_bytes(const struct reading *whole, const char *buf, size_t len)
{
    static struct reading part;
    part.used = -EAGAIN;
    for (size_t n = 1; n <= len && part.used == -EAGAIN; n++)
        read_bytes(&part, &small, buf, n, n - 1);
    if (part.used != -EAGAIN || whole->used != -EBADMSG)
        check_same(&part, whole);
}

static void check_written_again(const struct http_request *req)
{
    static struct reading again;
    static char out[WRITTEN_MAX];
    int n = snprintf(out, sizeof(out), "%.*s %.*s HTTP/1.%d\r\n", (int)req->method_name.len,
                     req->method_name.p, (int)req->target.len, req->target.p, req->version_minor);
    for (uint32_t i = 0; i < req->fields_count; i++) {
        const struct http_field *f = &req->fields[i];
        n += snprintf(out + n, sizeof(out) - (size_t)n, "%.*s: %.*s\r\n", (int)f->name.len, f->name.p,
                      (int)f->value.len, f->value.p);
    }
    n += snprintf(out + n, sizeof(out) - (size_t)n, "\r\n");
    read_bytes(&again, &large, out, (size_t)n, 0);
    CHECK(again.used == n);
    check_equal(&again.req, req);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct reading whole;
    /* A copy of exactly this size lets the address sanitizer see the last byte; last_len needs one buffer. */
    char *buf = malloc(size ? size : 1);
    CHECK(buf);
    if (size)
        memcpy(buf, data, size);
    read_bytes(&whole, &small, buf, size, 0);
    if (whole.used > 0)
        check_views(&whole, buf);
    if (size) {
        check_cut(&whole, buf, size, size / 2);
        check_cut(&whole, buf, size, data[size / 2] % size);
        check_cut(&whole, buf, size, size - 1);
    }
    if (size <= SINGLE_BYTES_MAX)
        check_single_bytes(&whole, buf, size);
    if (whole.used > 0)
        check_written_again(&whole.req);
    free(buf);
    return 0;
}
