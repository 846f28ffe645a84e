/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Percent-encoding and queries (RFC 3986). Pure. "+" is itself everywhere and not a blank: media types
 * ("application/vnd.example+json") stand in queries, blanks do not.
 */
#ifndef FL_HTTP_URI_H
#define FL_HTTP_URI_H

#include <sys/types.h>

#include "view.h"

/*
 * Decodes percent escapes into out, which may be in.p itself. Returns the length, not ended by NUL; -EINVAL
 * for a broken escape and for an escaped or plain NUL; -ENOBUFS if more than cap bytes would be written.
 */
ssize_t http_percent_decode(struct view in, char *out, size_t cap);

/*
 * Escapes everything but unreserved characters (letters, digits, "-", ".", "_", "~") and those in keep.
 * Returns the length, not ended by NUL, or -ENOBUFS.
 */
ssize_t http_percent_encode(struct view in, const char *keep, char *out, size_t cap);

/*
 * Takes the next "name=value" of a query, both still encoded. *query is what remains. A part without "=" has
 * an empty value; empty parts are skipped. False at the end, and for an absent query.
 */
bool http_query_next(struct view *query, struct view *name, struct view *value);

/*
 * Finds the next parameter of that name, encoded in whatever way, and decodes its value into out. Returns the
 * length; -ENOENT when there is none (any more); -EINVAL and -ENOBUFS as http_percent_decode(). *query is
 * what remains, so that repeated parameters are had by repeated calls.
 */
ssize_t http_query_take(struct view *query, const char *name, char *out, size_t cap);

/* The same for the first one. */
ssize_t http_query_get(struct view query, const char *name, char *out, size_t cap);

/* The same for a decimal number. 0, -ENOENT, -EINVAL, or -ERANGE for a number above max with *out = max. */
int http_query_get_u64(struct view query, const char *name, uint64_t max, uint64_t *out);

#endif
