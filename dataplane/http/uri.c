/* SPDX-License-Identifier: Apache-2.0 */
#include "uri.h"

#include <errno.h>

#include "chars.h"
#include "number.h"

/* The next character of *in, its escape undone. -EINVAL for NUL and broken escapes. *in is not empty. */
static int decode_one(struct view *in)
{
    char c = in->p[0];
    size_t used = 1;
    if (c == '%') {
        if (in->len < 3 || !http_char_is(in->p[1], HTTP_CHAR_HEX) || !http_char_is(in->p[2], HTTP_CHAR_HEX))
            return -EINVAL;
        c = (char)(http_hex_value(in->p[1]) << 4 | http_hex_value(in->p[2]));
        used = 3;
    }
    if (c == '\0')
        return -EINVAL;
    *in = view_skip(*in, used);
    return (uint8_t)c;
}

ssize_t http_percent_decode(struct view in, char *out, size_t cap)
{
    size_t len = 0;
    while (in.len) {
        int c = decode_one(&in);
        if (c < 0)
            return c;
        if (len == cap)
            return -ENOBUFS;
        out[len++] = (char)c;
    }
    return (ssize_t)len;
}

ssize_t http_percent_encode(struct view in, const char *keep, char *out, size_t cap)
{
    static const char digits[] = "0123456789ABCDEF";
    size_t len = 0;
    for (size_t i = 0; i < in.len; i++) {
        char c = in.p[i];
        bool plain = http_char_is(c, HTTP_CHAR_UNQUOTED) || (c && strchr(keep, c));
        if (cap - len < (plain ? 1 : 3))
            return -ENOBUFS;
        if (!plain) {
            out[len++] = '%';
            out[len++] = digits[(uint8_t)c >> 4];
            c = digits[(uint8_t)c & 15];
        }
        out[len++] = c;
    }
    return (ssize_t)len;
}

bool http_query_next(struct view *query, struct view *name, struct view *value)
{
    while (view_present(*query)) {
        struct view part = view_split(*query, '&', query);
        if (view_empty(part))
            continue;
        *name = view_split(part, '=', value);
        if (!view_present(*value))
            *value = view_of(part.p + part.len, 0);
        return true;
    }
    return false;
}

static bool name_is(struct view encoded, const char *name)
{
    while (encoded.len && *name) {
        int c = decode_one(&encoded);
        if (c != (uint8_t)*name++)
            return false;
    }
    return encoded.len == 0 && *name == '\0';
}

static bool find(struct view *query, const char *wanted, struct view *value)
{
    struct view name;
    while (http_query_next(query, &name, value))
        if (name_is(name, wanted))
            return true;
    return false;
}

ssize_t http_query_take(struct view *query, const char *name, char *out, size_t cap)
{
    struct view value;
    return find(query, name, &value) ? http_percent_decode(value, out, cap) : -ENOENT;
}

ssize_t http_query_get(struct view query, const char *name, char *out, size_t cap)
{
    return http_query_take(&query, name, out, cap);
}

int http_query_get_u64(struct view query, const char *name, uint64_t max, uint64_t *out)
{
    struct view value;
    return find(&query, name, &value) ? number_read(value, max, out) : -ENOENT;
}
