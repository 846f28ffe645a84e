/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/registry/json_scan.h"

#include "dataplane/http/chars.h"

#define BYTES(c) (0x0101010101010101ull * (c))

bool scan_fail(struct scan *j, const char *why)
{
    if (!j->why)
        j->why = why;
    return false;
}

char scan_peek(struct scan *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\t' || *j->p == '\r'))
        j->p++;
    return j->p < j->end ? *j->p : '\0';
}

bool scan_take(struct scan *j, char c)
{
    if (scan_peek(j) != c || j->p == j->end)
        return false;
    j->p++;
    return true;
}

/* ------------------------------------------------------------------ strings */

/* The first byte that is not plain: a quote, a backslash, a control character, or not ASCII. */
static const char *plain_span(const char *p, const char *end)
{
    uint64_t x;
    while (end - p >= (ptrdiff_t)sizeof(x)) {
        memcpy(&x, p, sizeof(x));
        uint64_t quote = x ^ BYTES('"'), backslash = x ^ BYTES('\\');
        /* A borrow marks only bytes above one that is marked rightly: the lowest mark is right. */
        uint64_t stop = (quote - BYTES(1)) | (backslash - BYTES(1)) | (x - BYTES(0x20)) | x;
        if (stop & BYTES(0x80)) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            return p + (unsigned)__builtin_ctzll(stop & BYTES(0x80)) / 8;
#else
            break;
#endif
        }
        p += sizeof(x);
    }
    while (p < end && *p != '"' && *p != '\\' && (uint8_t)*p >= 0x20 && (uint8_t)*p < 0x80)
        p++;
    return p;
}

/* The length of the UTF-8 sequence at p (RFC 3629, 4), 0 if it is none. */
static size_t utf8_len(const uint8_t *p, size_t left)
{
    static const struct {
        uint8_t first, last, second_min, second_max;
        uint8_t len;
    } rows[] = {{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
                {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
                {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (p[0] < rows[i].first || p[0] > rows[i].last)
            continue;
        if (left < rows[i].len || p[1] < rows[i].second_min || p[1] > rows[i].second_max)
            return 0;
        for (size_t k = 2; k < rows[i].len; k++)
            if ((p[k] & 0xc0) != 0x80)
                return 0;
        return rows[i].len;
    }
    return 0;
}

/* The value of four hex digits, -1 if they are none. */
static int32_t hex4(const char *p, const char *end)
{
    uint32_t v = 0;
    if (end - p < 4)
        return -1;
    for (unsigned i = 0; i < 4; i++) {
        if (!http_char_is(p[i], HTTP_CHAR_HEX))
            return -1;
        v = v << 4 | http_hex_value(p[i]);
    }
    return (int32_t)v;
}

/*
 * Reads the escape at p, which is a backslash: its length in the text, 0 if it is none. *code: the character.
 */
static size_t escape_read(const char *p, const char *end, uint32_t *code)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    const char *at;
    if (end - p < 2)
        return 0;
    if (p[1] != 'u') {
        at = p[1] ? strchr(letters, p[1]) : NULL;
        *code = at ? (uint8_t)meanings[at - letters] : 0;
        return at ? 2 : 0;
    }
    int32_t high = hex4(p + 2, end);
    if (high < 0 || (high >= 0xdc00 && high <= 0xdfff))
        return 0;
    *code = (uint32_t)high;
    if (high < 0xd800 || high > 0xdbff)
        return 6;
    int32_t low = end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8, end) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return 0;
    *code = 0x10000 + (((uint32_t)high & 0x3ff) << 10) + ((uint32_t)low & 0x3ff);
    return 12;
}

bool scan_string(struct scan *j, struct scan_string *out)
{
    if (!scan_take(j, '"'))
        return scan_fail(j, "expected a string");
    const char *start = j->p;
    uint32_t code;
    size_t len;
    out->escaped = false;
    for (;;) {
        j->p = plain_span(j->p, j->end);
        if (j->p == j->end)
            return scan_fail(j, "the text ends inside a string");
        if (*j->p == '"')
            break;
        if (*j->p == '\\') {
            out->escaped = true;
            len = escape_read(j->p, j->end, &code);
        } else {
            len = utf8_len((const uint8_t *)j->p, (size_t)(j->end - j->p));
        }
        if (len == 0)
            return scan_fail(j, *j->p == '\\'           ? "a broken escape in a string"
                                : (uint8_t)*j->p < 0x20 ? "a control character in a string"
                                                        : "a string is not UTF-8");
        j->p += len;
    }
    out->raw = view_between(start, j->p);
    j->p++;
    return true;
}

static size_t utf8_put(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t len = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint8_t marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = len - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code & 0x3f));
        code >>= 6;
    }
    out[0] = (char)(marks[len] | code);
    return len;
}

long scan_decode(const struct scan_string *s, char *out, size_t cap)
{
    const char *p = s->raw.p, *end = p + s->raw.len;
    size_t len = 0;
    if (!s->escaped && s->raw.len <= cap) {
        memcpy(out, p, s->raw.len);
        return (long)s->raw.len;
    }
    while (p < end) {
        char piece[4];
        uint32_t code = 0;
        size_t used = *p == '\\' ? escape_read(p, end, &code) : 1;
        size_t n = *p == '\\' ? utf8_put(code, piece) : 1;
        if (n > cap - len)
            return -1;
        memcpy(out + len, *p == '\\' ? piece : p, n);
        len += n;
        p += used;
    }
    return (long)len;
}

/* ------------------------------------------------------------------ numbers and literals */

static bool digits(struct scan *j)
{
    const char *start = j->p;
    while (j->p < j->end && *j->p >= '0' && *j->p <= '9')
        j->p++;
    return j->p > start;
}

static bool at(const struct scan *j, char a, char b)
{
    return j->p < j->end && (*j->p == a || *j->p == b);
}

static bool number_skip(struct scan *j)
{
    if (at(j, '-', '-'))
        j->p++;
    if (at(j, '0', '0'))
        j->p++;
    else if (!digits(j))
        return scan_fail(j, "expected a value");
    if (at(j, '.', '.')) {
        j->p++;
        if (!digits(j))
            return scan_fail(j, "a broken number");
    }
    if (at(j, 'e', 'E')) {
        j->p++;
        if (at(j, '+', '-'))
            j->p++;
        if (!digits(j))
            return scan_fail(j, "a broken number");
    }
    return true;
}

bool scan_u63(struct scan *j, uint64_t *out)
{
    scan_peek(j);
    const char *start = j->p;
    uint64_t v = 0;
    for (; j->p < j->end && *j->p >= '0' && *j->p <= '9'; j->p++) {
        uint64_t digit = (uint64_t)(*j->p - '0');
        if (v > ((uint64_t)INT64_MAX - digit) / 10)
            return scan_fail(j, "a number is too large");
        v = v * 10 + digit;
    }
    if (j->p == start || (*start == '0' && j->p > start + 1) || at(j, '.', '.') || at(j, 'e', 'E'))
        return scan_fail(j, "expected a whole number that is not negative");
    *out = v;
    return true;
}

static bool literal(struct scan *j, struct view word)
{
    if (!view_starts(view_between(j->p, j->end), word))
        return false;
    j->p += word.len;
    return true;
}

bool scan_null(struct scan *j)
{
    scan_peek(j);
    return literal(j, VIEW_LIT("null"));
}

/* ------------------------------------------------------------------ objects and arrays */

static bool key_and_colon(struct scan *j, struct scan_string *key)
{
    return scan_string(j, key) && (scan_take(j, ':') || scan_fail(j, "expected a colon after a key"));
}

bool scan_next_key(struct scan *j, bool *first, struct scan_string *key)
{
    bool opening = *first;
    *first = false;
    if (j->why || (opening && !scan_take(j, '{')))
        return scan_fail(j, "expected an object");
    if (scan_take(j, '}'))
        return false;
    if (!opening && !scan_take(j, ','))
        return scan_fail(j, "expected a comma or the end of the object");
    return key_and_colon(j, key);
}

bool scan_next_item(struct scan *j, bool *first)
{
    bool opening = *first;
    *first = false;
    if (j->why || (opening && !scan_take(j, '[')))
        return scan_fail(j, "expected an array");
    if (scan_take(j, ']'))
        return false;
    if (!opening && !scan_take(j, ','))
        return scan_fail(j, "expected a comma or the end of the array");
    return true;
}

bool scan_at_end(struct scan *j)
{
    scan_peek(j);
    return j->p == j->end || scan_fail(j, "something follows the end of the document");
}

static bool scalar_skip(struct scan *j)
{
    struct scan_string s;
    switch (scan_peek(j)) {
    case '"':
        return scan_string(j, &s);
    case 't':
        return literal(j, VIEW_LIT("true")) || scan_fail(j, "expected a value");
    case 'f':
        return literal(j, VIEW_LIT("false")) || scan_fail(j, "expected a value");
    case 'n':
        return literal(j, VIEW_LIT("null")) || scan_fail(j, "expected a value");
    default:
        return number_skip(j);
    }
}

/* Open containers are bits: 1 for an object. No recursion: the depth is the input's choice. */
bool scan_skip(struct scan *j)
{
    struct scan_string key;
    uint64_t objects = 0;
    unsigned depth = 0;
    do {
        char c = scan_peek(j);
        bool first = c == '{' || c == '[';
        if (first) {
            if (depth == SCAN_DEPTH_MAX)
                return scan_fail(j, "nested too deeply");
            objects = objects << 1 | (c == '{');
            depth++;
        } else if (!scalar_skip(j)) {
            return false;
        }
        /* To the next value, up out of the containers that end here. */
        while (depth && !(objects & 1 ? scan_next_key(j, &first, &key) : scan_next_item(j, &first))) {
            if (j->why)
                return false;
            objects >>= 1;
            depth--;
        }
    } while (depth);
    return true;
}
