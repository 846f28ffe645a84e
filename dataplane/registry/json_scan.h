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

enum { JSON_DEPTH_MAX = 64 };

/* p is where the scanner stands; after a false, why says what is wrong there, without a full stop. */
struct json_scan {
    const char *begin, *p, *end;
    const char *why;
};

/* A string as it stands in the text, without its quotes. */
struct json_string {
    struct view raw;
    bool escaped; /* there are backslashes in it */
};

static inline struct json_scan json_scan_of(const char *bytes, size_t len)
{
    return (struct json_scan){bytes, bytes, bytes + len, NULL};
}

/* Fails the scan; always false. The first reason stays. */
bool json_fail(struct json_scan *j, const char *why);

/* Skips white space; the next byte, 0 at the end. */
char json_peek(struct json_scan *j);

/* Takes that byte if it is next. */
bool json_take(struct json_scan *j, char c);

/* Each takes one value; false if it is not there or not well-formed. */
bool json_string(struct json_scan *j, struct json_string *out);
bool json_u63(struct json_scan *j, uint64_t *out); /* an integer from 0 to 2^63 - 1 in plain digits */
bool json_skip(struct json_scan *j);               /* any value */
bool json_null(struct json_scan *j); /* only if it is there: else false, and the scan has not failed */

/*
 * Walks over an object or an array: `while (json_next_key(...)) take a value` and `while
 * (json_next_item(...)) ...`, with *first true before. False at the end and on failure: then why is set.
 */
bool json_next_key(struct json_scan *j, bool *first, struct json_string *key);
bool json_next_item(struct json_scan *j, bool *first);

/* Only white space follows. */
bool json_at_end(struct json_scan *j);

/* Decodes a string that was scanned into out, as UTF-8. Returns the length, or -1 if it needs more than cap
 * bytes. */
long json_decode(const struct json_string *s, char *out, size_t cap);

#endif
