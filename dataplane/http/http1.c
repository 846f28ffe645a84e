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
#include "meaning.h"

struct reader {
    const char *at;  /* the next byte */
    const char *end; /* of the bytes that count: the input, cut at the limit of a head */
    bool full;       /* the limit is reached: more input would not be looked at */
    uint32_t fields_max;
    uint32_t target_bytes_max;
    struct http_request *req;
    struct http_reject *reject;
};

static int refuse(struct reader *r, enum http_reject_reason reason)
{
    *r->reject = http_reject_of(reason);
    return -EBADMSG;
}

/* The bytes ended before the thing being read did. */
static int out_of_bytes(struct reader *r, enum http_reject_reason reason_if_full)
{
    return r->full ? refuse(r, reason_if_full) : -EAGAIN;
}

/* Reads the end of a line, of which *at is known to be no other character that may stand there. */
static int read_line_end(struct reader *r, enum http_reject_reason reason_otherwise)
{
    if (*r->at == '\n')
        return refuse(r, HTTP_REJECT_BARE_LF);
    if (*r->at != '\r')
        return refuse(r, reason_otherwise);
    if (r->at + 1 == r->end)
        return out_of_bytes(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    if (r->at[1] != '\n')
        return refuse(r, HTTP_REJECT_BARE_CR);
    r->at += 2;
    return 0;
}

/* RFC 9112, 2.2: at least one empty line before the request line should be ignored. */
static int skip_blank_lines(struct reader *r)
{
    for (int i = 0; i < HTTP_BLANK_LINES_MAX && r->at < r->end; i++) {
        if (*r->at != '\r' && *r->at != '\n')
            return 0;
        int err = read_line_end(r, HTTP_REJECT_REQUEST_LINE);
        if (err)
            return err;
    }
    return 0;
}

static int read_method(struct reader *r)
{
    const char *start = r->at;
    const char *stop = r->end - start > HTTP_METHOD_BYTES_MAX ? start + HTTP_METHOD_BYTES_MAX + 1 : r->end;
    r->at = http_chars_span(start, stop, HTTP_CHAR_TOKEN);
    if (r->at - start > HTTP_METHOD_BYTES_MAX)
        return refuse(r, HTTP_REJECT_METHOD_TOO_LONG);
    if (r->at == r->end)
        return out_of_bytes(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    if (*r->at != ' ' || r->at == start)
        return refuse(r, HTTP_REJECT_REQUEST_LINE);
    r->req->method_name = view_between(start, r->at);
    r->req->method = http_method_of(r->req->method_name);
    r->at++;
    return 0;
}

static int read_target(struct reader *r)
{
    const char *start = r->at;
    size_t max = r->target_bytes_max;
    const char *stop = (size_t)(r->end - start) > max ? start + max + 1 : r->end;
    r->at = http_chars_span(start, stop, HTTP_CHAR_TARGET);
    if ((size_t)(r->at - start) > max)
        return refuse(r, HTTP_REJECT_TARGET_TOO_LONG);
    if (r->at == r->end)
        return out_of_bytes(r, HTTP_REJECT_TARGET_TOO_LONG);
    if (*r->at != ' ' || r->at == start)
        return refuse(r, (uint8_t)*r->at > ' ' ? HTTP_REJECT_TARGET_SYNTAX : HTTP_REJECT_REQUEST_LINE);
    r->req->target = view_between(start, r->at);
    enum http_reject_reason reason = http_target_split(r->req);
    if (reason)
        return refuse(r, reason);
    r->at++;
    return 0;
}

/* RFC 9112, 2.3: "HTTP/" DIGIT "." DIGIT, of which any major but 1 is another protocol. */
static int read_version(struct reader *r)
{
    static const char form[] = "HTTP/0.0";
    const char *start = r->at;
    for (const char *f = form; *f; f++, r->at++) {
        if (r->at == r->end)
            return out_of_bytes(r, HTTP_REJECT_HEADERS_TOO_LARGE);
        bool fits = *f == '0' ? *r->at >= '0' && *r->at <= '9' : *r->at == *f;
        if (!fits)
            return refuse(r, HTTP_REJECT_VERSION_SYNTAX);
    }
    if (r->at == r->end)
        return out_of_bytes(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    int err = read_line_end(r, HTTP_REJECT_VERSION_SYNTAX);
    if (err)
        return err;
    if (start[5] != '1')
        return refuse(r, HTTP_REJECT_VERSION_UNSUPPORTED);
    r->req->version_minor = start[7] != '0';
    return 0;
}

static int read_field_name(struct reader *r, struct view *name)
{
    const char *start = r->at;
    r->at = http_chars_span(start, r->end, HTTP_CHAR_TOKEN);
    if (r->at == r->end)
        return out_of_bytes(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    if (*r->at != ':' || r->at == start) {
        bool blank = *r->at == ' ' || *r->at == '\t';
        return refuse(r, blank ? HTTP_REJECT_FIELD_SPACE : HTTP_REJECT_FIELD_NAME);
    }
    *name = view_between(start, r->at);
    r->at++;
    return 0;
}

/* True if one of eight bytes is below SP or is DEL; HTAB counts, the caller looks again byte by byte. */
static inline bool word_has_control(uint64_t w)
{
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    uint64_t del = w ^ (ones * 0x7f);
    uint64_t below_space = (w - ones * 0x20) & ~w & high;
    return (below_space | ((del - ones) & ~del & high)) != 0;
}

/* The first byte that may not stand in a field value, or end. */
static const char *value_span(const char *p, const char *end)
{
    while (p < end) {
        uint64_t w;
        while ((size_t)(end - p) >= sizeof(w)) {
            memcpy(&w, p, sizeof(w));
            if (word_has_control(w))
                break;
            p += sizeof(w);
        }
        const char *stop = (size_t)(end - p) > sizeof(w) ? p + sizeof(w) : end;
        p = http_chars_span(p, stop, HTTP_CHAR_VALUE);
        if (p < stop)
            break;
    }
    return p;
}

static int read_field_value(struct reader *r, struct view *value)
{
    const char *start = r->at;
    r->at = value_span(start, r->end);
    if (r->at == r->end)
        return out_of_bytes(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    *value = view_trim(view_between(start, r->at));
    return read_line_end(r, HTTP_REJECT_FIELD_VALUE);
}

static int read_field(struct reader *r)
{
    struct http_request *req = r->req;
    if (*r->at == ' ' || *r->at == '\t')
        return refuse(r, HTTP_REJECT_OBS_FOLD);
    if (req->fields_count == r->fields_max)
        return refuse(r, HTTP_REJECT_HEADERS_TOO_MANY);
    struct http_field *field = &req->fields[req->fields_count];
    int err = read_field_name(r, &field->name);
    if (!err)
        err = read_field_value(r, &field->value);
    if (err)
        return err;
    req->fields_count++;
    enum http_known known = http_known_of(field->name);
    field->known = (uint8_t)known;
    if (known == HTTP_KNOWN_NOT)
        return 0;
    if (!view_present(req->known[known]))
        req->known[known] = field->value;
    else if (known < HTTP_KNOWN_SINGLE_END)
        return refuse(r, http_repeated_reason(known));
    return 0;
}

/* The header lines and the empty line after them. */
static int read_fields(struct reader *r)
{
    for (;;) {
        if (r->at == r->end)
            return out_of_bytes(r, HTTP_REJECT_HEADERS_TOO_LARGE);
        if (*r->at == '\r' || *r->at == '\n')
            return read_line_end(r, HTTP_REJECT_FIELD_NAME);
        int err = read_field(r);
        if (err)
            return err;
    }
}

static int read_head(struct reader *r)
{
    int err = skip_blank_lines(r);
    if (!err)
        err = read_method(r);
    if (!err)
        err = read_target(r);
    if (!err)
        err = read_version(r);
    if (!err)
        err = read_fields(r);
    if (err)
        return err;
    enum http_reject_reason reason = http_request_judge(r->req);
    return reason ? refuse(r, reason) : 0;
}

/* True if an empty line ends at the LF at nl; a bare LF counts, the walk over the bytes then refuses it. */
static bool ends_empty_line(const char *buf, const char *nl)
{
    if (nl > buf && nl[-1] == '\r')
        nl--;
    return nl > buf && nl[-1] == '\n';
}

/*
 * Tells whether a walk over the bytes can end in anything but "more": at the first call, when the head may
 * have ended, when it has grown past what a request line can have, and when it fills its limit. Only the new
 * bytes are searched.
 */
static bool worth_reading(const char *buf, size_t len, size_t last_len, const struct http_limits *limits)
{
    size_t line_max = 2 * HTTP_BLANK_LINES_MAX + HTTP_METHOD_BYTES_MAX + (size_t)limits->target_bytes_max +
                      sizeof("  HTTP/1.1\r\n") - 1;
    if (last_len == 0 || len >= limits->header_bytes_max || (last_len <= line_max && len > line_max))
        return true;
    const char *p = buf + last_len, *end = buf + len;
    while (p < end && (p = memchr(p, '\n', (size_t)(end - p))) != NULL) {
        if (ends_empty_line(buf, p))
            return true;
        p++;
    }
    return false;
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
    if (len == 0 || !worth_reading(buf, len, last_len, limits))
        return -EAGAIN;
    request_reset(req);
    bool full = len >= limits->header_bytes_max;
    struct reader r = {
        .at = buf,
        .end = buf + (full ? limits->header_bytes_max : len),
        .full = full,
        .fields_max = limits->headers_max < req->fields_max ? limits->headers_max : req->fields_max,
        .target_bytes_max = limits->target_bytes_max,
        .req = req,
        .reject = reject,
    };
    int err = read_head(&r);
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
    while (*at < req->fields_count) {
        const struct http_field *field = &req->fields[(*at)++];
        if (field->known == known)
            return field->value;
    }
    return (struct view){NULL, 0};
}

bool http_request_lists(const struct http_request *req, enum http_known known, struct view member)
{
    uint32_t at = 0;
    struct view list, item;
    while (view_present(list = http_request_next_field(req, known, &at)))
        while (view_next_item(&list, &item))
            if (view_ieq(item, member))
                return true;
    return false;
}
