/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A view is a borrowed run of bytes inside somebody else's buffer: no NUL at its end, no ownership. A view
 * with p == NULL means "absent", which is different from present and empty. It is valid as long as
 * the buffer neither moves nor is written over.
 */
#ifndef FL_HTTP_VIEW_H
#define FL_HTTP_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct view {
    const char *p;
    size_t len;
};

/* A view of a string literal, for initialisers and arguments. */
#define VIEW_LIT(s) ((struct view){"" s, sizeof(s) - 1})

static inline struct view view_of(const char *p, size_t len)
{
    return (struct view){p, len};
}

/* The bytes from p up to, not including, end. */
static inline struct view view_between(const char *p, const char *end)
{
    return (struct view){p, (size_t)(end - p)};
}

static inline struct view view_of_str(const char *s)
{
    return (struct view){s, strlen(s)};
}

static inline bool view_present(struct view v)
{
    return v.p != NULL;
}

static inline bool view_empty(struct view v)
{
    return v.len == 0;
}

static inline bool view_eq(struct view a, struct view b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

static inline char view_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* Equal without regard to the case of ASCII letters, whatever the locale. */
static inline bool view_ieq(struct view a, struct view b)
{
    if (a.len != b.len)
        return false;
    for (size_t i = 0; i < a.len; i++)
        if (view_lower(a.p[i]) != view_lower(b.p[i]))
            return false;
    return true;
}

/* The comparisons with a string literal. */
#define view_lit(v, s)  view_eq((v), VIEW_LIT(s))
#define view_ilit(v, s) view_ieq((v), VIEW_LIT(s))

static inline bool view_starts(struct view v, struct view prefix)
{
    return v.len >= prefix.len && (prefix.len == 0 || memcmp(v.p, prefix.p, prefix.len) == 0);
}

/* v without its first n bytes; n is at most v.len. */
static inline struct view view_skip(struct view v, size_t n)
{
    return (struct view){v.p + n, v.len - n};
}

/* v without the optional white space (RFC 9110, 5.6.3: SP and HTAB) at both ends. */
static inline struct view view_trim(struct view v)
{
    while (v.len && (v.p[0] == ' ' || v.p[0] == '\t'))
        v = view_skip(v, 1);
    while (v.len && (v.p[v.len - 1] == ' ' || v.p[v.len - 1] == '\t'))
        v.len--;
    return v;
}

/* The part of v before the first c; *rest gets what follows c, absent when there is no c. */
static inline struct view view_split(struct view v, char c, struct view *rest)
{
    const char *at = v.len ? (const char *)memchr(v.p, c, v.len) : NULL;
    if (!at) {
        *rest = (struct view){NULL, 0};
        return v;
    }
    *rest = view_between(at + 1, v.p + v.len);
    return view_between(v.p, at);
}

/*
 * Takes the next member of a comma separated list without quoted strings (RFC 9110, 5.6.1): trimmed, empty
 * members skipped. False at the end. *list is what remains.
 */
static inline bool view_next_item(struct view *list, struct view *item)
{
    while (view_present(*list)) {
        *item = view_trim(view_split(*list, ',', list));
        if (item->len)
            return true;
    }
    return false;
}

#endif
