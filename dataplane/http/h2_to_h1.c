/* SPDX-License-Identifier: Apache-2.0 */
#include "h2_to_h1.h"

#include "chars.h"
#include "check.h"
#include "chunked.h"
#include "number.h"
#include "response.h"

enum { FIELD_OVERHEAD = 32 };

void h2_head_begin(struct h2_head *h, enum h2_kind kind, bool head_request, const struct http_limits *limits,
                   char *buf, size_t cap)
{
    *h = (struct h2_head){.buf = buf,
                          .cap = cap,
                          .kept_at = cap,
                          .limits = *limits,
                          .kind = (uint8_t)kind,
                          .head_request = head_request,
                          .line_written = kind == H2_TRAILERS};
    if (kind != H2_TRAILERS)
        return;
    if (h->limits.header_bytes_max > HTTP_TRAILER_BYTES_MAX)
        h->limits.header_bytes_max = HTTP_TRAILER_BYTES_MAX;
    if (h->limits.headers_max > HTTP_TRAILERS_MAX)
        h->limits.headers_max = HTTP_TRAILERS_MAX;
}

static void fault(struct h2_head *h, enum h2_fault f)
{
    if (!h->fault)
        h->fault = (uint8_t)f;
}

static void put(struct h2_head *h, struct view v)
{
    if (h->fault)
        return;
    if (v.len > h->kept_at - h->len || h->len + v.len > h->limits.header_bytes_max) {
        fault(h, H2_FAULT_TOO_LARGE);
        return;
    }
    if (v.len)
        memcpy(h->buf + h->len, v.p, v.len);
    h->len += v.len;
}

static void put_field(struct h2_head *h, struct view name, struct view value)
{
    put(h, name);
    put(h, VIEW_LIT(": "));
    put(h, value);
    put(h, VIEW_LIT("\r\n"));
}

/* ------------------------------------------------------------------ pseudo fields */

/* A copy at the end of the memory. */
static struct view keep(struct h2_head *h, struct view v)
{
    if (v.len > h->kept_at - h->len) {
        fault(h, H2_FAULT_TOO_LARGE);
        return (struct view){NULL, 0};
    }
    h->kept_at -= v.len;
    if (v.len)
        memcpy(h->buf + h->kept_at, v.p, v.len);
    return view_of(h->buf + h->kept_at, v.len);
}

static bool all_of(struct view v, enum http_char class)
{
    return http_chars_span(v.p, v.p + v.len, class) == v.p + v.len;
}

static void keep_once(struct h2_head *h, struct view *place, struct view value, enum http_char class)
{
    if (view_present(*place) || value.len == 0 || !all_of(value, class))
        fault(h, H2_FAULT_MALFORMED);
    else
        *place = keep(h, value);
}

static void status_field(struct h2_head *h, struct view value)
{
    uint64_t status = 0;
    bool fits = value.len == 3 && number_read(value, 599, &status) == 0 && status >= 100 && status != 101;
    if (!fits || h->status)
        fault(h, H2_FAULT_MALFORMED);
    else
        h->status = (int)status;
}

static void pseudo_field(struct h2_head *h, struct view name, struct view value)
{
    if (h->line_written)
        fault(h, H2_FAULT_MALFORMED);
    else if (h->kind == H2_RESPONSE && view_lit(name, ":status"))
        status_field(h, value);
    else if (h->kind == H2_RESPONSE)
        fault(h, H2_FAULT_MALFORMED);
    else if (view_lit(name, ":method"))
        keep_once(h, &h->method, value, HTTP_CHAR_TOKEN);
    else if (view_lit(name, ":scheme"))
        keep_once(h, &h->scheme, value, HTTP_CHAR_TARGET);
    else if (view_lit(name, ":authority"))
        keep_once(h, &h->authority, value, HTTP_CHAR_TARGET);
    else if (view_lit(name, ":path") && value.len > h->limits.target_bytes_max)
        fault(h, H2_FAULT_TARGET_TOO_LONG);
    else if (view_lit(name, ":path"))
        keep_once(h, &h->path, value, HTTP_CHAR_TARGET);
    else
        fault(h, H2_FAULT_MALFORMED);
}

static bool is_asterisk(const struct h2_head *h)
{
    return view_lit(h->path, "*") && view_lit(h->method, "OPTIONS");
}

/* RFC 9113, 8.3.1; nothing but http and https has the paths and authorities that are meant here. */
static void judge_request(struct h2_head *h)
{
    bool scheme = view_ilit(h->scheme, "http") || view_ilit(h->scheme, "https");
    if (view_lit(h->method, "CONNECT"))
        fault(h, H2_FAULT_CONNECT);
    else if (!view_present(h->method) || !scheme || !view_present(h->path))
        fault(h, H2_FAULT_MALFORMED);
    else if (h->path.p[0] != '/' && !is_asterisk(h))
        fault(h, H2_FAULT_MALFORMED);
    else if (view_present(h->authority) && memchr(h->authority.p, '@', h->authority.len))
        fault(h, H2_FAULT_MALFORMED); /* user information */
}

static void request_line(struct h2_head *h)
{
    judge_request(h);
    put(h, h->method);
    put(h, VIEW_LIT(" "));
    put(h, h->path);
    put(h, VIEW_LIT(" HTTP/1.1\r\n"));
    h->head_request = view_lit(h->method, "HEAD");
    h->wants_length =
        view_lit(h->method, "POST") || view_lit(h->method, "PUT") || view_lit(h->method, "PATCH");
    if (view_present(h->authority))
        put_field(h, VIEW_LIT("host"), h->authority);
}

static void status_line(struct h2_head *h)
{
    char digits[NUMBER_DIGITS_MAX];
    if (!h->status)
        fault(h, H2_FAULT_MALFORMED);
    put(h, VIEW_LIT("HTTP/1.1 "));
    put(h, number_write((uint64_t)h->status, digits));
    put(h, VIEW_LIT(" "));
    put(h, view_of_str(http_status_text(h->status)));
    put(h, VIEW_LIT("\r\n"));
}

static void first_line(struct h2_head *h)
{
    if (h->line_written)
        return;
    h->line_written = true;
    if (h->kind == H2_REQUEST)
        request_line(h);
    else
        status_line(h);
}

/* ------------------------------------------------------------------ fields */

/* RFC 9113, 8.2.2: they speak of a connection that there is not. */
static bool is_connection_specific(struct view name, struct view value)
{
    return view_lit(name, "connection") || view_lit(name, "proxy-connection") ||
           view_lit(name, "keep-alive") || view_lit(name, "transfer-encoding") || view_lit(name, "upgrade") ||
           (view_lit(name, "te") && !view_ilit(value, "trailers"));
}

static bool name_fits(struct view name)
{
    if (name.len == 0 || !all_of(name, HTTP_CHAR_TOKEN))
        return false;
    for (size_t i = 0; i < name.len; i++)
        if (name.p[i] >= 'A' && name.p[i] <= 'Z')
            return false;
    return true;
}

static bool value_fits(struct view value)
{
    return all_of(value, HTTP_CHAR_VALUE) && view_trim(value).len == value.len;
}

static void host_field(struct h2_head *h, struct view value)
{
    if (h->has_host || (view_present(h->authority) && !view_ieq(h->authority, value)))
        fault(h, H2_FAULT_MALFORMED);
    else if (!view_present(h->authority))
        put_field(h, VIEW_LIT("host"), value);
    h->has_host = true;
}

static void length_field(struct h2_head *h, struct view value)
{
    char digits[NUMBER_DIGITS_MAX];
    if (h->has_length || number_read(value, INT64_MAX, &h->content_length)) {
        fault(h, H2_FAULT_MALFORMED);
        return;
    }
    h->has_length = true;
    if (h->kind == H2_REQUEST || !(h->status < 200 || h->status == 204)) /* there it may not stand */
        put_field(h, VIEW_LIT("content-length"), number_write(h->content_length, digits));
}

/* RFC 9113, 8.2.3: crumbs become one line again, in their order. */
static void cookie_field(struct h2_head *h, struct view value)
{
    if (!h->cookie_end) {
        put_field(h, VIEW_LIT("cookie"), value);
        h->cookie_end = (uint32_t)h->len - 2;
        return;
    }
    size_t tail = h->len - h->cookie_end, more = value.len + 2, room = h->len;
    put(h, VIEW_LIT("; "));
    put(h, value);
    if (h->fault)
        return;
    char *at = h->buf + h->cookie_end;
    memmove(at + more, at, tail);
    memcpy(at, "; ", 2);
    if (value.len)
        memcpy(at + 2, value.p, value.len);
    h->cookie_end += (uint32_t)more;
    CHECK(h->len == room + more);
}

/* Fields of trailers that would change how the message is framed or meant (RFC 9110, 6.5.1) are left out. */
static bool trailer_is_left_out(struct view name)
{
    return view_lit(name, "content-length") || view_lit(name, "host") || view_lit(name, "trailer") ||
           view_lit(name, "te") || view_lit(name, "cookie") || view_lit(name, "authorization");
}

void h2_head_field(struct h2_head *h, struct view name, struct view value)
{
    h->list_bytes += name.len + value.len + FIELD_OVERHEAD;
    if (h->fault)
        return;
    if (name.len && name.p[0] == ':') {
        pseudo_field(h, name, value);
        return;
    }
    first_line(h);
    if (!name_fits(name) || !value_fits(value) || is_connection_specific(name, value)) {
        fault(h, H2_FAULT_MALFORMED);
        return;
    }
    if (++h->fields > h->limits.headers_max)
        fault(h, H2_FAULT_TOO_LARGE);
    else if (h->kind == H2_TRAILERS && trailer_is_left_out(name))
        return;
    else if (h->kind == H2_REQUEST && view_lit(name, "host"))
        host_field(h, value);
    else if (view_lit(name, "content-length"))
        length_field(h, value);
    else if (h->kind == H2_REQUEST && view_lit(name, "cookie"))
        cookie_field(h, value);
    else
        put_field(h, name, value);
}

/* ------------------------------------------------------------------ the end */

static bool no_content(const struct h2_head *h)
{
    return h->kind == H2_RESPONSE && (h->head_request || http_status_bodyless(h->status));
}

static void frame_content(struct h2_head *h, bool end_stream)
{
    bool interim = h->kind == H2_RESPONSE && h->status < 200;
    h->framing = H2_FRAMING_NONE;
    if (interim && end_stream)
        fault(h, H2_FAULT_MALFORMED);
    if (interim || no_content(h))
        return;
    if (end_stream && h->has_length && h->content_length)
        fault(h, H2_FAULT_MALFORMED);
    else if (end_stream && !h->has_length && (h->kind == H2_RESPONSE || h->wants_length))
        put_field(h, VIEW_LIT("content-length"), VIEW_LIT("0"));
    else if (!end_stream && h->has_length)
        h->framing = H2_FRAMING_LENGTH;
    else if (!end_stream) {
        put_field(h, VIEW_LIT("transfer-encoding"), VIEW_LIT("chunked"));
        h->framing = H2_FRAMING_CHUNKED;
    }
}

enum h2_fault h2_head_end(struct h2_head *h, bool end_stream)
{
    if (!h->fault)
        first_line(h);
    if (h->kind == H2_REQUEST && !h->has_host && !view_present(h->authority))
        fault(h, H2_FAULT_MALFORMED);
    if (h->kind != H2_TRAILERS)
        frame_content(h, end_stream);
    else if (!end_stream)
        fault(h, H2_FAULT_MALFORMED); /* RFC 9113, 8.1: trailers end the message */
    put(h, VIEW_LIT("\r\n"));
    return (enum h2_fault)h->fault;
}
