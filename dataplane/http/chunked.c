/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grammar outside of the data, one state per place in it:
 *
 *   SIZE  -> digits, then CR or ";"
 *   EXT_* -> ";" name [ "=" ( token | quoted-string ) ], any number of them, then CR
 *   SIZE_LF -> DATA (size above 0), or TRAILER_START (the last chunk)
 *   DATA  -> DATA_CR -> DATA_LF -> SIZE
 *   TRAILER_START -> END_LF -> DONE, or TRAILER_NAME -> TRAILER_VALUE -> TRAILER_LF -> TRAILER_START
 */
#include "chunked.h"

#include <errno.h>

#include "chars.h"
#include "check.h"

enum state {
    SIZE,
    SIZE_LF,
    EXT_NAME_START,
    EXT_NAME,
    EXT_VALUE_START,
    EXT_TOKEN,
    EXT_QUOTED,
    EXT_ESCAPED,
    EXT_QUOTED_END,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER_START,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    END_LF,
    DONE,
};

enum { SIZE_DIGITS_MAX = 16 };

static enum http_reject_reason move(struct http_chunked *st, enum state to)
{
    st->state = (uint8_t)to;
    return HTTP_REJECT_NONE;
}

static enum http_reject_reason step_size(struct http_chunked *st, char c)
{
    if (http_char_is(c, HTTP_CHAR_HEX)) {
        if (st->digits == SIZE_DIGITS_MAX || st->data_left > INT64_MAX >> 4)
            return HTTP_REJECT_CHUNK_RANGE;
        st->digits++;
        st->data_left = st->data_left << 4 | http_hex_value(c);
        return HTTP_REJECT_NONE;
    }
    if (st->digits == 0)
        return HTTP_REJECT_CHUNK_SIZE;
    if (c == '\r')
        return move(st, SIZE_LF);
    if (c == ';')
        return move(st, EXT_NAME_START);
    return c == '\n' ? HTTP_REJECT_CHUNK_LINE : HTTP_REJECT_CHUNK_SIZE;
}

/* After a whole extension: another one, or the end of the line. */
static enum http_reject_reason step_extension_end(struct http_chunked *st, char c)
{
    if (c == ';')
        return move(st, EXT_NAME_START);
    if (c == '\r')
        return move(st, SIZE_LF);
    return c == '\n' ? HTTP_REJECT_CHUNK_LINE : HTTP_REJECT_CHUNK_EXTENSION;
}

static enum http_reject_reason step_extension_text(struct http_chunked *st, char c)
{
    bool token = http_char_is(c, HTTP_CHAR_TOKEN);
    switch (st->state) {
    case EXT_NAME_START:
        return token ? move(st, EXT_NAME) : HTTP_REJECT_CHUNK_EXTENSION;
    case EXT_NAME:
        if (c == '=')
            return move(st, EXT_VALUE_START);
        return token ? HTTP_REJECT_NONE : step_extension_end(st, c);
    case EXT_VALUE_START:
        if (c == '"')
            return move(st, EXT_QUOTED);
        return token ? move(st, EXT_TOKEN) : HTTP_REJECT_CHUNK_EXTENSION;
    case EXT_TOKEN:
        return token ? HTTP_REJECT_NONE : step_extension_end(st, c);
    case EXT_QUOTED:
        if (c == '"')
            return move(st, EXT_QUOTED_END);
        if (c == '\\')
            return move(st, EXT_ESCAPED);
        return http_char_is(c, HTTP_CHAR_VALUE) ? HTTP_REJECT_NONE : HTTP_REJECT_CHUNK_EXTENSION;
    case EXT_ESCAPED:
        return http_char_is(c, HTTP_CHAR_VALUE) ? move(st, EXT_QUOTED) : HTTP_REJECT_CHUNK_EXTENSION;
    default:
        return step_extension_end(st, c);
    }
}

static enum http_reject_reason step_extension(struct http_chunked *st, char c)
{
    if (st->extension_bytes == HTTP_CHUNK_EXTENSION_BYTES_MAX)
        return HTTP_REJECT_CHUNK_EXTENSIONS_TOO_LARGE;
    st->extension_bytes++;
    return step_extension_text(st, c);
}

bool http_trailer_allowed(struct view name)
{
    static const struct view forbidden[] = {
        VIEW_LIT("transfer-encoding"),
        VIEW_LIT("content-length"),
        VIEW_LIT("connection"),
        VIEW_LIT("keep-alive"),
        VIEW_LIT("proxy-connection"),
        VIEW_LIT("upgrade"),
        VIEW_LIT("te"),
        VIEW_LIT("trailer"),
        VIEW_LIT("host"),
        VIEW_LIT("cache-control"),
        VIEW_LIT("expect"),
        VIEW_LIT("max-forwards"),
        VIEW_LIT("pragma"),
        VIEW_LIT("range"),
        VIEW_LIT("if-match"),
        VIEW_LIT("if-none-match"),
        VIEW_LIT("if-modified-since"),
        VIEW_LIT("if-unmodified-since"),
        VIEW_LIT("if-range"),
        VIEW_LIT("authorization"),
        VIEW_LIT("proxy-authorization"),
        VIEW_LIT("proxy-authenticate"),
        VIEW_LIT("www-authenticate"),
        VIEW_LIT("proxy-authentication-info"),
        VIEW_LIT("cookie"),
        VIEW_LIT("set-cookie"),
        VIEW_LIT("age"),
        VIEW_LIT("expires"),
        VIEW_LIT("date"),
        VIEW_LIT("location"),
        VIEW_LIT("retry-after"),
        VIEW_LIT("vary"),
        VIEW_LIT("content-encoding"),
        VIEW_LIT("content-type"),
        VIEW_LIT("content-range"),
        VIEW_LIT("forwarded"),
        VIEW_LIT("x-forwarded-for"),
        VIEW_LIT("x-forwarded-proto"),
        VIEW_LIT("x-forwarded-host"),
    };
    for (size_t i = 0; i < ARRAY_SIZE(forbidden); i++)
        if (view_ieq(name, forbidden[i]))
            return false;
    return true;
}

/* A byte of a trailer's line; the whole section is bounded, so that it fits. */
static void keep_byte(struct http_chunked *st, char c)
{
    if (!st->kept)
        return;
    if (st->state == TRAILER_START)
        st->kept_line = st->kept_len;
    st->kept[st->kept_len++] = c;
}

/* The line is complete: it stays, or goes. */
static void keep_line(struct http_chunked *st)
{
    struct view line = {st->kept ? st->kept + st->kept_line : NULL, 0}, rest;
    if (!st->kept)
        return;
    line.len = (size_t)(st->kept_len - st->kept_line);
    if (!http_trailer_allowed(view_split(line, ':', &rest)))
        st->kept_len = st->kept_line;
}

static enum http_reject_reason step_trailer_text(struct http_chunked *st, char c)
{
    switch (st->state) {
    case TRAILER_START:
        if (c == '\r')
            return move(st, END_LF);
        if (!http_char_is(c, HTTP_CHAR_TOKEN))
            return HTTP_REJECT_TRAILER_SYNTAX;
        if (st->trailers == HTTP_TRAILERS_MAX)
            return HTTP_REJECT_TRAILERS_TOO_LARGE;
        st->trailers++;
        return move(st, TRAILER_NAME);
    case TRAILER_NAME:
        if (c == ':')
            return move(st, TRAILER_VALUE);
        return http_char_is(c, HTTP_CHAR_TOKEN) ? HTTP_REJECT_NONE : HTTP_REJECT_TRAILER_SYNTAX;
    case TRAILER_VALUE:
        if (c == '\r')
            return move(st, TRAILER_LF);
        return http_char_is(c, HTTP_CHAR_VALUE) ? HTTP_REJECT_NONE : HTTP_REJECT_TRAILER_SYNTAX;
    case TRAILER_LF:
        return c == '\n' ? move(st, TRAILER_START) : HTTP_REJECT_TRAILER_SYNTAX;
    default:
        return c == '\n' ? move(st, DONE) : HTTP_REJECT_TRAILER_SYNTAX;
    }
}

static enum http_reject_reason step_trailer(struct http_chunked *st, char c)
{
    enum state before = st->state;
    if (before != END_LF && !(before == TRAILER_START && c == '\r'))
        keep_byte(st, c);
    enum http_reject_reason reason = step_trailer_text(st, c);
    if (before == TRAILER_LF && !reason)
        keep_line(st);
    return reason;
}

/* The LF of a size line: now it is known whether data or trailers follow. */
static enum http_reject_reason step_size_line_end(struct http_chunked *st, char c)
{
    if (c != '\n')
        return HTTP_REJECT_CHUNK_LINE;
    st->digits = 0;
    return move(st, st->data_left ? DATA : TRAILER_START);
}

/* One byte that is not data. */
static enum http_reject_reason step(struct http_chunked *st, char c)
{
    switch (st->state) {
    case SIZE:
        return step_size(st, c);
    case SIZE_LF:
        return step_size_line_end(st, c);
    case DATA_CR:
        return c == '\r' ? move(st, DATA_LF) : HTTP_REJECT_CHUNK_LINE;
    case DATA_LF:
        return c == '\n' ? move(st, SIZE) : HTTP_REJECT_CHUNK_LINE;
    case TRAILER_START:
    case TRAILER_NAME:
    case TRAILER_VALUE:
    case TRAILER_LF:
    case END_LF:
        if (st->trailer_bytes == HTTP_TRAILER_BYTES_MAX)
            return HTTP_REJECT_TRAILERS_TOO_LARGE;
        st->trailer_bytes++;
        return step_trailer(st, c);
    default:
        return step_extension(st, c);
    }
}

uint64_t http_chunked_data(const struct http_chunked *st)
{
    return st->state == DATA ? st->data_left : 0;
}

void http_chunked_skip(struct http_chunked *st, uint64_t n)
{
    CHECK(n <= st->data_left && (st->state == DATA || n == 0));
    st->data_left -= n;
    if (st->state == DATA && st->data_left == 0)
        st->state = DATA_CR;
}

/* Moves the data at consumed to the end of the payload so far. */
static void take_data(struct http_chunked *st, char *buf, size_t len, struct http_chunked_result *result)
{
    size_t n = len - result->consumed;
    if (n > st->data_left)
        n = (size_t)st->data_left;
    memmove(buf + result->payload, buf + result->consumed, n);
    result->payload += n;
    result->consumed += n;
    http_chunked_skip(st, n);
}

int http_chunked_decode(struct http_chunked *st, char *buf, size_t len, struct http_chunked_result *result,
                        struct http_reject *reject)
{
    CHECK(st->state != DONE);
    *result = (struct http_chunked_result){0, 0};
    while (result->consumed < len) {
        if (st->state == DATA) {
            take_data(st, buf, len, result);
            continue;
        }
        if (st->pause && st->state == TRAILER_START && buf[result->consumed] != '\r') {
            st->pause = false;
            return HTTP_CHUNKED_TRAILERS;
        }
        enum http_reject_reason reason = step(st, buf[result->consumed]);
        if (reason) {
            *reject = http_reject_of(reason);
            return -EBADMSG;
        }
        result->consumed++;
        if (st->state == DONE)
            return 1;
    }
    return 0;
}

bool http_chunked_done(const struct http_chunked *st)
{
    return st->state == DONE;
}

size_t http_chunk_header(char out[HTTP_CHUNK_HEADER_MAX], uint64_t size)
{
    static const char digits[] = "0123456789abcdef";
    CHECK(size > 0);
    size_t count = (size_t)(67 - __builtin_clzll(size)) / 4;
    for (size_t i = 0; i < count; i++)
        out[i] = digits[size >> 4 * (count - 1 - i) & 15];
    out[count] = '\r';
    out[count + 1] = '\n';
    return count + 2;
}
