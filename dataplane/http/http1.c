/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grammar of a request head: lines and fields, left to right. What the fields mean together (framing,
 * Host, persistence) is judged in meaning.c once the head is complete.
 *
 * Each step either advances r->at, or returns -EAGAIN or -EBADMSG, which ends the walk.
 */
#include "http1.h"

#include <errno.h>

#include "chars.h"
#include "check.h"
#include "known.h"
#include "lines.h"
#include "meaning.h"

/* RFC 9112, 2.2: at least one empty line before the request line should be ignored. */
static int skip_blank_lines(struct http_lines *r)
{
    for (int i = 0; i < HTTP_BLANK_LINES_MAX && r->at < r->end; i++) {
        if (*r->at != '\r' && *r->at != '\n')
            return 0;
        int err = http_lines_end(r, HTTP_REJECT_REQUEST_LINE);
        if (err)
            return err;
    }
    return 0;
}

static int read_method(struct http_lines *r, struct http_request *req)
{
    const char *start = r->at;
    const char *stop = r->end - start > HTTP_METHOD_BYTES_MAX ? start + HTTP_METHOD_BYTES_MAX + 1 : r->end;
    r->at = http_chars_span(start, stop, HTTP_CHAR_TOKEN);
    if (r->at - start > HTTP_METHOD_BYTES_MAX)
        return http_lines_refuse(r, HTTP_REJECT_METHOD_TOO_LONG);
    if (r->at == r->end)
        return http_lines_out(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    if (*r->at != ' ' || r->at == start)
        return http_lines_refuse(r, HTTP_REJECT_REQUEST_LINE);
    req->method_name = view_between(start, r->at);
    req->method = http_method_of(req->method_name);
    r->at++;
    return 0;
}

static int read_target(struct http_lines *r, struct http_request *req, size_t max)
{
    const char *start = r->at;
    const char *stop = (size_t)(r->end - start) > max ? start + max + 1 : r->end;
    r->at = http_chars_span(start, stop, HTTP_CHAR_TARGET);
    if ((size_t)(r->at - start) > max)
        return http_lines_refuse(r, HTTP_REJECT_TARGET_TOO_LONG);
    if (r->at == r->end)
        return http_lines_out(r, HTTP_REJECT_TARGET_TOO_LONG);
    if (*r->at != ' ' || r->at == start)
        return http_lines_refuse(r, (uint8_t)*r->at > ' ' ? HTTP_REJECT_TARGET_SYNTAX
                                                          : HTTP_REJECT_REQUEST_LINE);
    req->target = view_between(start, r->at);
    enum http_reject_reason reason = http_target_split(req);
    if (reason)
        return http_lines_refuse(r, reason);
    r->at++;
    return 0;
}

/* Any major version but 1 is another protocol. */
static int read_version(struct http_lines *r, struct http_request *req)
{
    char major, minor;
    int err = http_lines_version(r, &major, &minor);
    if (err)
        return err;
    if (r->at == r->end)
        return http_lines_out(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    err = http_lines_end(r, HTTP_REJECT_VERSION_SYNTAX);
    if (err)
        return err;
    if (major != '1')
        return http_lines_refuse(r, HTTP_REJECT_VERSION_UNSUPPORTED);
    req->version_minor = minor != '0';
    return 0;
}

static int read_head(struct http_lines *r, struct http_request *req, uint32_t target_bytes_max)
{
    int err = skip_blank_lines(r);
    if (!err)
        err = read_method(r, req);
    if (!err)
        err = read_target(r, req, target_bytes_max);
    if (!err)
        err = read_version(r, req);
    if (!err)
        err = http_lines_fields(r);
    if (err)
        return err;
    enum http_reject_reason reason = http_request_judge(req);
    return reason ? http_lines_refuse(r, reason) : 0;
}

static void request_reset(struct http_request *req)
{
    struct http_field *fields = req->fields;
    uint32_t fields_max = req->fields_max;
    *req = (struct http_request){.fields = fields, .fields_max = fields_max};
}

ssize_t http_request_read(const char *buf, size_t len, size_t last_len, const struct http_limits *limits,
                          struct http_request *req, struct http_reject *reject)
{
    CHECK(last_len <= len);
    size_t line_max = 2 * HTTP_BLANK_LINES_MAX + HTTP_METHOD_BYTES_MAX + (size_t)limits->target_bytes_max +
                      sizeof("  HTTP/1.1\r\n") - 1;
    if (len == 0 || !http_lines_worth_reading(buf, len, last_len, line_max, limits))
        return -EAGAIN;
    request_reset(req);
    bool full = len >= limits->header_bytes_max;
    struct http_lines r = {
        .at = buf,
        .end = buf + (full ? limits->header_bytes_max : len),
        .full = full,
        .fields_max = limits->headers_max < req->fields_max ? limits->headers_max : req->fields_max,
        .fields_count = &req->fields_count,
        .fields = req->fields,
        .known = req->known,
        .reject = reject,
    };
    int err = read_head(&r, req, limits->target_bytes_max);
    return err ? err : r.at - buf;
}

struct view http_request_field(const struct http_request *req, const char *name)
{
    struct view wanted = view_of_str(name);
    for (uint32_t i = 0; i < req->fields_count; i++)
        if (view_ieq(req->fields[i].name, wanted))
            return req->fields[i].value;
    return (struct view){NULL, 0};
}

struct view http_request_next_field(const struct http_request *req, enum http_known known, uint32_t *at)
{
    return http_fields_next(req->fields, req->fields_count, known, at);
}

bool http_request_lists(const struct http_request *req, enum http_known known, struct view member)
{
    return http_fields_list(req->fields, req->fields_count, known, member);
}
