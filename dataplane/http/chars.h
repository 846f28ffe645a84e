/* SPDX-License-Identifier: Apache-2.0 */
/* The character classes of RFC 9110, 9112 and 3986, one table look-up each. */
#ifndef FL_HTTP_CHARS_H
#define FL_HTTP_CHARS_H

#include <stdbool.h>
#include <stdint.h>

enum http_char {
    HTTP_CHAR_TOKEN = 1,    /* tchar, RFC 9110, 5.6.2 */
    HTTP_CHAR_VALUE = 2,    /* field-vchar, SP, HTAB, RFC 9110, 5.5 */
    HTTP_CHAR_TARGET = 4,   /* visible ASCII but "#": all that may stand in a request target here */
    HTTP_CHAR_PATH = 8,     /* pchar and "/", RFC 3986, 3.3; "%" is not checked for its digits */
    HTTP_CHAR_HOST = 16,    /* unreserved, sub-delims and "%", RFC 3986, 3.2.2 */
    HTTP_CHAR_HEX = 32,     /* HEXDIG in either case */
    HTTP_CHAR_UNQUOTED = 64 /* unreserved, RFC 3986, 2.3: never needs a percent escape */
};

extern const uint8_t http_chars[256];

static inline bool http_char_is(char c, enum http_char class)
{
    return (http_chars[(uint8_t)c] & class) != 0;
}

/* The value of a hexadecimal digit of either case; only for HTTP_CHAR_HEX. */
static inline unsigned http_hex_value(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a' + 10);
}

/* The first byte in [p, end) that is not of the class, or end. */
static inline const char *http_chars_span(const char *p, const char *end, enum http_char class)
{
    while (p < end && http_char_is(*p, class))
        p++;
    return p;
}

#endif
