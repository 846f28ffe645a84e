/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A scanner of JSON text (RFC 8259) for documents that are checked and picked from, not loaded: it walks over
 * the bytes once, allocates nothing, and is bounded in depth. Strict: UTF-8 without surrogates, no lone \u
 * surrogates, no control characters, no byte order mark, nothing after the value. Pure.
 */
#ifndef FL_REGISTRY_JSON_SCAN_H
#define FL_REGISTRY_JSON_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "dataplane/http/view.h"

enum { SCAN_DEPTH_MAX = 64 };

/* p is where the scanner stands; after a false, why says what is wrong there, without a full stop. */
struct scan {
    const char *begin, *p, *end;
    const char *why;
};

/* A string as it stands in the text, without its quotes. */
struct scan_string {
    struct view raw;
    bool escaped; /* there are backslashes in it */
};

static inline struct scan scan_of(const char *bytes, size_t len)
{
    return (struct scan){bytes, bytes, bytes + len, NULL};
}

/* Fails the scan; always false. The first reason stays. */
bool scan_fail(struct scan *j, const char *why);

/* Skips white space; the next byte, 0 at the end. */
char scan_peek(struct scan *j);

/* Takes that byte if it is next. */
bool scan_take(struct scan *j, char c);

/* Each takes one value; false if it is not there or not well-formed. */
bool scan_string(struct scan *j, struct scan_string *out);
bool scan_u63(struct scan *j, uint64_t *out); /* an integer from 0 to 2^63 - 1 in plain digits */
bool scan_skip(struct scan *j);               /* any value */
bool scan_null(struct scan *j); /* only if it is there: else false, and the scan has not failed */

/*
 * Walks over an object or an array: `while (scan_next_key(...)) take a value` and `while
 * (scan_next_item(...)) ...`, with *first true before. False at the end and on failure: then why is set.
 */
bool scan_next_key(struct scan *j, bool *first, struct scan_string *key);
bool scan_next_item(struct scan *j, bool *first);

/* Only white space follows. */
bool scan_at_end(struct scan *j);

/* Decodes a string that was scanned into out, as UTF-8. Returns the length, or -1 if it needs more than cap
 * bytes. */
long scan_decode(const struct scan_string *s, char *out, size_t cap);

#endif
