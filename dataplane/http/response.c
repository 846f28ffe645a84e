/* SPDX-License-Identifier: Apache-2.0 */
#include "response.h"

#include <errno.h>

#include "chars.h"
#include "check.h"
#include "number.h"
#include "put.h"

enum { REFUSAL_BODY_MAX = 160 };

void http_put(struct http_response *res, struct view v)
{
    if (res->error)
        return;
    if (v.len > res->cap - res->len) {
        res->error = -ENOBUFS;
        return;
    }
    if (v.len)
        memcpy(res->buf + res->len, v.p, v.len);
    res->len += v.len;
}

/* A value that could end its line, or be read differently by two recipients, is a response split in two. */
void http_put_value(struct http_response *res, struct view v)
{
    if (http_chars_span(v.p, v.p + v.len, HTTP_CHAR_VALUE) != v.p + v.len) {
        if (!res->error)
            res->error = -EINVAL;
        return;
    }
    http_put(res, v);
}

void http_put_field(struct http_response *res, struct view name, struct view value)
{
    http_put(res, name);
    http_put(res, VIEW_LIT(": "));
    http_put_value(res, value);
    http_put(res, VIEW_LIT("\r\n"));
}

static void put_name(struct http_response *res, const char *name)
{
    struct view v = view_of_str(name);
    CHECK(v.len && http_chars_span(v.p, v.p + v.len, HTTP_CHAR_TOKEN) == v.p + v.len);
    http_put(res, v);
    http_put(res, VIEW_LIT(": "));
}

const char *http_status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } rows[] = {
        {100, "Continue"},
        {101, "Switching Protocols"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {424, "Failed Dependency"},
        {425, "Too Early"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {508, "Loop Detected"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (rows[i].status == status)
            return rows[i].text;
    return "";
}

bool http_status_bodyless(int status)
{
    return status < 200 || status == 204 || status == 304;
}

void http_response_begin(struct http_response *res, char *buf, size_t cap, int status)
{
    CHECK(status >= 100 && status <= 599);
    char code[NUMBER_DIGITS_MAX];
    *res = (struct http_response){.buf = buf, .cap = cap};
    http_put(res, VIEW_LIT("HTTP/1.1 "));
    http_put(res, number_write((uint64_t)status, code));
    http_put(res, VIEW_LIT(" "));
    http_put(res, view_of_str(http_status_text(status)));
    http_put(res, VIEW_LIT("\r\n"));
}

void http_response_field_parts(struct http_response *res, const char *name, const struct view *parts,
                               size_t parts_count)
{
    put_name(res, name);
    for (size_t i = 0; i < parts_count; i++)
        http_put_value(res, parts[i]);
    http_put(res, VIEW_LIT("\r\n"));
}

void http_response_field(struct http_response *res, const char *name, struct view value)
{
    http_response_field_parts(res, name, &value, 1);
}

void http_response_field_str(struct http_response *res, const char *name, const char *value)
{
    http_response_field(res, name, view_of_str(value));
}

void http_response_field_u64(struct http_response *res, const char *name, uint64_t value)
{
    char digits[NUMBER_DIGITS_MAX];
    http_response_field(res, name, number_write(value, digits));
}

void http_response_content_range(struct http_response *res, uint64_t first, uint64_t last, uint64_t size)
{
    char text[3][NUMBER_DIGITS_MAX];
    struct view parts[] = {VIEW_LIT("bytes "), number_write(first, text[0]),
                           VIEW_LIT("-"),      number_write(last, text[1]),
                           VIEW_LIT("/"),      number_write(size, text[2])};
    http_response_field_parts(res, "Content-Range", parts, ARRAY_SIZE(parts));
}

void http_response_unsatisfied_range(struct http_response *res, uint64_t size)
{
    char text[NUMBER_DIGITS_MAX];
    struct view parts[] = {VIEW_LIT("bytes */"), number_write(size, text)};
    http_response_field_parts(res, "Content-Range", parts, ARRAY_SIZE(parts));
}

void http_response_connection(struct http_response *res, bool keep_alive, uint8_t request_version_minor)
{
    if (!keep_alive)
        http_response_field(res, "Connection", VIEW_LIT("close"));
    else if (request_version_minor == 0)
        http_response_field(res, "Connection", VIEW_LIT("keep-alive"));
}

ssize_t http_response_end(struct http_response *res)
{
    http_put(res, VIEW_LIT("\r\n"));
    return res->error ? res->error : (ssize_t)res->len;
}

static void put_two_digits(char *out, unsigned value)
{
    out[0] = (char)('0' + value / 10);
    out[1] = (char)('0' + value % 10);
}

/* Day count since 1970-01-01 to the civil date, in years that begin in March so that the leap day comes last.
 */
static void civil_of_days(uint64_t days, unsigned *year, unsigned *month, unsigned *day)
{
    uint64_t shifted = days + 719468; /* since 0000-03-01 */
    uint64_t era = shifted / 146097;
    unsigned day_of_era = (unsigned)(shifted % 146097);
    unsigned year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned march_month = (5 * day_of_year + 2) / 153;
    *day = day_of_year - (153 * march_month + 2) / 5 + 1;
    *month = march_month < 10 ? march_month + 3 : march_month - 9;
    *year = (unsigned)(era * 400) + year_of_era + (*month <= 2);
}

void http_date_format(uint64_t unix_seconds, char out[HTTP_DATE_LEN])
{
    static const char week_days[] = "ThuFriSatSunMonTueWed"; /* 1970-01-01 was a Thursday */
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static const char form[] = "Www, dd Mmm yyyy hh:mm:ss GMT";
    uint64_t days = unix_seconds / 86400;
    unsigned second = (unsigned)(unix_seconds % 86400), year, month, day;
    CHECK(unix_seconds < 253402300800u);
    civil_of_days(days, &year, &month, &day);
    memcpy(out, form, HTTP_DATE_LEN);
    memcpy(out, week_days + 3 * (days % 7), 3);
    put_two_digits(out + 5, day);
    memcpy(out + 8, months + (size_t)3 * (month - 1), 3);
    put_two_digits(out + 12, year / 100);
    put_two_digits(out + 14, year % 100);
    put_two_digits(out + 17, second / 3600);
    put_two_digits(out + 20, second / 60 % 60);
    put_two_digits(out + 23, second % 60);
}

static struct view refusal_body(struct http_reject reject, char out[REFUSAL_BODY_MAX])
{
    char code[NUMBER_DIGITS_MAX];
    struct http_response body = {.buf = out, .cap = REFUSAL_BODY_MAX};
    http_put(&body, number_write((uint64_t)reject.status, code));
    http_put(&body, VIEW_LIT(" "));
    http_put(&body, view_of_str(http_reject_slug(reject.reason)));
    http_put(&body, VIEW_LIT(": "));
    http_put(&body, view_of_str(http_reject_text(reject.reason)));
    http_put(&body, VIEW_LIT("\n"));
    CHECK(body.error == 0);
    return view_of(out, body.len);
}

ssize_t http_refusal_write(char *buf, size_t cap, struct http_reject reject, struct view date,
                           bool without_body)
{
    char text[REFUSAL_BODY_MAX];
    struct http_response res;
    struct view body = refusal_body(reject, text);
    http_response_begin(&res, buf, cap, reject.status);
    http_response_field(&res, "Date", date);
    http_response_field(&res, "Content-Type", VIEW_LIT("text/plain"));
    http_response_field_u64(&res, "Content-Length", body.len);
    http_response_connection(&res, false, 1);
    http_response_end(&res);
    if (!without_body)
        http_put(&res, body);
    return res.error ? res.error : (ssize_t)res.len;
}
