/* SPDX-License-Identifier: Apache-2.0 */
#include "response_reader.h"

#include <errno.h>

#include "check.h"
#include "lines.h"
#include "meaning.h"
#include "response.h"

enum { STATUS_MIN = 100, STATUS_MAX = 599 };

static int read_version(struct http_lines *r, struct http_answer *a)
{
    char major, minor;
    int err = http_lines_version(r, &major, &minor);
    if (err)
        return err;
    if (major != '1')
        return http_lines_refuse(r, HTTP_REJECT_VERSION_UNSUPPORTED);
    a->version_minor = minor != '0';
    return 0;
}

/* SP, three digits, and what follows them is not a fourth one. */
static int read_status(struct http_lines *r, struct http_answer *a)
{
    if (r->at == r->end)
        return http_lines_out(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    if (*r->at != ' ')
        return http_lines_refuse(r, HTTP_REJECT_STATUS_LINE);
    r->at++;
    for (int i = 0; i < 3; i++, r->at++) {
        if (r->at == r->end)
            return http_lines_out(r, HTTP_REJECT_HEADERS_TOO_LARGE);
        if (*r->at < '0' || *r->at > '9')
            return http_lines_refuse(r, HTTP_REJECT_STATUS_LINE);
        a->status = a->status * 10 + (*r->at - '0');
    }
    if (a->status < STATUS_MIN || a->status > STATUS_MAX)
        return http_lines_refuse(r, HTTP_REJECT_STATUS_LINE);
    return 0;
}

/* RFC 9112, 4: the phrase may be anything that a field's value may be; the SP before it is often left out
 * together with it. */
static int read_reason(struct http_lines *r, struct http_answer *a)
{
    const char *start = r->at;
    if (r->at < r->end && *r->at != ' ' && *r->at != '\r' && *r->at != '\n')
        return http_lines_refuse(r, HTTP_REJECT_STATUS_LINE);
    r->at = http_value_span(start, r->end);
    if (r->at == r->end)
        return http_lines_out(r, HTTP_REJECT_HEADERS_TOO_LARGE);
    a->reason = view_trim(view_between(start, r->at));
    return http_lines_end(r, HTTP_REJECT_STATUS_LINE);
}

/* RFC 9112, 6.3. The fields are judged also where no body comes: who sends them broken is not to be trusted
 * with the connection. */
static enum http_reject_reason judge(struct http_answer *a, enum http_method method)
{
    enum http_framing framing = HTTP_BODY_CLOSE;
    enum http_reject_reason reason =
        http_framing_judge(a->known, a->version_minor, &framing, &a->content_length);
    if (reason)
        return reason;
    a->length_told = framing == HTTP_BODY_LENGTH;
    a->framing = method == HTTP_HEAD || http_status_bodyless(a->status) ? HTTP_BODY_NONE : framing;
    bool keeps = a->version_minor || http_answer_lists(a, HTTP_KNOWN_CONNECTION, VIEW_LIT("keep-alive"));
    a->keep_alive = keeps && a->framing != HTTP_BODY_CLOSE &&
                    !http_answer_lists(a, HTTP_KNOWN_CONNECTION, VIEW_LIT("close"));
    return HTTP_REJECT_NONE;
}

static int read_head(struct http_lines *r, struct http_answer *a, enum http_method method)
{
    int err = read_version(r, a);
    if (!err)
        err = read_status(r, a);
    if (!err)
        err = read_reason(r, a);
    if (!err)
        err = http_lines_fields(r);
    if (err)
        return err;
    enum http_reject_reason reason = judge(a, method);
    return reason ? http_lines_refuse(r, reason) : 0;
}

ssize_t http_answer_read(const char *buf, size_t len, size_t last_len, const struct http_limits *limits,
                         enum http_method method, struct http_answer *answer, struct http_reject *reject)
{
    CHECK(last_len <= len);
    /* The whole head bounds the status line. */
    if (len == 0 || !http_lines_worth_reading(buf, len, last_len, limits->header_bytes_max, limits))
        return -EAGAIN;
    *answer = (struct http_answer){.fields = answer->fields, .fields_max = answer->fields_max};
    bool full = len >= limits->header_bytes_max;
    struct http_lines r = {
        .at = buf,
        .end = buf + (full ? limits->header_bytes_max : len),
        .full = full,
        .response = true,
        .fields_max = limits->headers_max < answer->fields_max ? limits->headers_max : answer->fields_max,
        .fields_count = &answer->fields_count,
        .fields = answer->fields,
        .known = answer->known,
        .reject = reject,
    };
    int err = read_head(&r, answer, method);
    return err ? err : r.at - buf;
}

struct view http_answer_field(const struct http_answer *answer, const char *name)
{
    struct view wanted = view_of_str(name);
    for (uint32_t i = 0; i < answer->fields_count; i++)
        if (view_ieq(answer->fields[i].name, wanted))
            return answer->fields[i].value;
    return (struct view){NULL, 0};
}

bool http_answer_lists(const struct http_answer *answer, enum http_known known, struct view member)
{
    return http_fields_list(answer->fields, answer->fields_count, known, member);
}
