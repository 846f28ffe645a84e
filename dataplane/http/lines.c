/* SPDX-License-Identifier: Apache-2.0 */
#include "lines.h"

#include <errno.h>

#include "chars.h"
#include "known.h"
#include "meaning.h"

int http_lines_refuse(struct http_lines *r, enum http_reject_reason reason)
{
    *r->reject = http_reject_of(reason);
    if (r->response)
        r->reject->status = 502;
    return -EBADMSG;
}

int http_lines_out(struct http_lines *r, enum http_reject_reason reason_if_full)
{
    return r->full ? http_lines_refuse(r, reason_if_full) : -EAGAIN;
}

int http_lines_end(struct http_lines *r, enum http_reject_reason reason_otherwise)
{
    if (*r->at == '\n')
        return http_lines_refuse(r, HTTP_REJECT_BARE_LF);
    if (*r->at != '\r')
        return http_lines_refuse(r, reason_otherwise);
    if (r->at + 1 == r->end)
        return http_lines_out(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    if (r->at[1] != '\n')
        return http_lines_refuse(r, HTTP_REJECT_BARE_CR);
    r->at += 2;
    return 0;
}

int http_lines_version(struct http_lines *r, char *major, char *minor)
{
    static const char form[] = "HTTP/0.0";
    const char *start = r->at;
    for (const char *f = form; *f; f++, r->at++) {
        if (r->at == r->end)
            return http_lines_out(r, HTTP_REJECT_HEADERS_TOO_LARGE);
        bool fits = *f == '0' ? *r->at >= '0' && *r->at <= '9' : *r->at == *f;
        if (!fits)
            return http_lines_refuse(r, HTTP_REJECT_VERSION_SYNTAX);
    }
    *major = start[5];
    *minor = start[7];
    return 0;
}

static int read_field_name(struct http_lines *r, struct view *name)
{
    const char *start = r->at;
    r->at = http_chars_span(start, r->end, HTTP_CHAR_TOKEN);
    if (r->at == r->end)
        return http_lines_out(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    if (*r->at != ':' || r->at == start) {
        bool blank = *r->at == ' ' || *r->at == '\t';
        return http_lines_refuse(r, blank ? HTTP_REJECT_FIELD_SPACE : HTTP_REJECT_FIELD_NAME);
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

const char *http_value_span(const char *p, const char *end)
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

static int read_field_value(struct http_lines *r, struct view *value)
{
    const char *start = r->at;
    r->at = http_value_span(start, r->end);
    if (r->at == r->end)
        return http_lines_out(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    *value = view_trim(view_between(start, r->at));
    return http_lines_end(r, HTTP_REJECT_FIELD_VALUE);
}

/* A second line of a field that frames a message is never taken; a response's other fields may do as they
 * like. */
static bool stands_alone(const struct http_lines *r, enum http_known known)
{
    if (r->response)
        return known == HTTP_KNOWN_CONTENT_LENGTH || known == HTTP_KNOWN_TRANSFER_ENCODING;
    return known < HTTP_KNOWN_SINGLE_END;
}

static int read_field(struct http_lines *r)
{
    if (*r->at == ' ' || *r->at == '\t')
        return http_lines_refuse(r, HTTP_REJECT_OBS_FOLD);
    if (*r->fields_count == r->fields_max)
        return http_lines_refuse(r, HTTP_REJECT_HEADERS_TOO_MANY);
    struct http_field *field = &r->fields[*r->fields_count];
    int err = read_field_name(r, &field->name);
    if (!err)
        err = read_field_value(r, &field->value);
    if (err)
        return err;
    ++*r->fields_count;
    enum http_known known = http_known_of(field->name);
    field->known = (uint8_t)known;
    if (known == HTTP_KNOWN_NOT)
        return 0;
    if (!view_present(r->known[known]))
        r->known[known] = field->value;
    else if (stands_alone(r, known))
        return http_lines_refuse(r, http_repeated_reason(known));
    return 0;
}

int http_lines_fields(struct http_lines *r)
{
    for (;;) {
        if (r->at == r->end)
            return http_lines_out(r, HTTP_REJECT_HEADERS_TOO_LARGE);
        if (*r->at == '\r' || *r->at == '\n')
            return http_lines_end(r, HTTP_REJECT_FIELD_NAME);
        int err = read_field(r);
        if (err)
            return err;
    }
}

/* True if an empty line ends at the LF at nl; a bare LF counts, the walk over the bytes then refuses it. */
static bool ends_empty_line(const char *buf, const char *nl)
{
    if (nl > buf && nl[-1] == '\r')
        nl--;
    return nl > buf && nl[-1] == '\n';
}

bool http_lines_worth_reading(const char *buf, size_t len, size_t last_len, size_t line_max,
                              const struct http_limits *limits)
{
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

struct view http_fields_next(const struct http_field *fields, uint32_t count, enum http_known known,
                             uint32_t *at)
{
    while (*at < count) {
        const struct http_field *field = &fields[(*at)++];
        if (field->known == known)
            return field->value;
    }
    return (struct view){NULL, 0};
}

bool http_fields_list(const struct http_field *fields, uint32_t count, enum http_known known,
                      struct view member)
{
    uint32_t at = 0;
    struct view list, item;
    while (view_present(list = http_fields_next(fields, count, known, &at)))
        while (view_next_item(&list, &item))
            if (view_ieq(item, member))
                return true;
    return false;
}
