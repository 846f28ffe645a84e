/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writer of HTTP/1.1 response heads (RFC 9112, 4 and 5) into a caller's buffer. Pure: the date is an
 * argument.
 *
 * Appending never fails in the middle of the work: the first thing that does not fit, or may not stand in a
 * head, is remembered, nothing is written after it, and http_response_end() reports it. So a caller checks
 * once, and a partial head is never sent.
 */
#ifndef FL_HTTP_RESPONSE_H
#define FL_HTTP_RESPONSE_H

#include <sys/types.h>

#include "reject.h"
#include "view.h"

enum { HTTP_DATE_LEN = 29 /* "Sun, 06 Nov 1994 08:49:37 GMT" */ };

struct http_response {
    char *buf; /* borrowed from begin to end */
    size_t cap;
    size_t len;
    int error; /* 0, -ENOBUFS or -EINVAL: the first that happened */
};

/*
 * Starts a head with the status line. Always HTTP/1.1, whatever the request's minor version (RFC 9110, 6.2).
 * status: 100 to 599.
 */
void http_response_begin(struct http_response *res, char *buf, size_t cap, int status);

/* Appends a field. name must be a token; value must not hold a control character but HTAB. */
void http_response_field(struct http_response *res, const char *name, struct view value);

/* The same for a value that is a NUL-ended string, and for a decimal number. */
void http_response_field_str(struct http_response *res, const char *name, const char *value);
void http_response_field_u64(struct http_response *res, const char *name, uint64_t value);

/* Appends a field whose value is several views put together. */
void http_response_field_parts(struct http_response *res, const char *name, const struct view *parts,
                               size_t parts_count);

/* Content-Range: bytes first-last/size (206), and bytes STAR/size (416). RFC 9110, 14.4. */
void http_response_content_range(struct http_response *res, uint64_t first, uint64_t last, uint64_t size);
void http_response_unsatisfied_range(struct http_response *res, uint64_t size);

/*
 * Appends Connection where it says something: "close" if this is the last response, "keep-alive" if it is not
 * and the request was HTTP/1.0.
 */
void http_response_connection(struct http_response *res, bool keep_alive, uint8_t request_version_minor);

/* Ends the head with the empty line. Returns its length, or -ENOBUFS or -EINVAL: then nothing may be sent. */
ssize_t http_response_end(struct http_response *res);

/* The reason phrase of a status, "" for one that is not in the table. */
const char *http_status_text(int status);

/* True for a status whose response never has a body (RFC 9112, 6.3: 1xx, 204, 304). */
bool http_status_bodyless(int status);

/* IMF-fixdate (RFC 9110, 5.6.7) of a time from 1970 to the end of 9999; out is not ended by NUL. */
void http_date_format(uint64_t unix_seconds, char out[HTTP_DATE_LEN]);

/*
 * Writes the whole answer to a refused request: head, Connection: close, and a body of one line of plain text
 * such as "400 length-syntax: malformed Content-Length". without_body: for HEAD; Content-Length stays. date
 * as from http_date_format(). Returns the length, or -ENOBUFS.
 */
ssize_t http_refusal_write(char *buf, size_t cap, struct http_reject reject, struct view date,
                           bool without_body);

#endif
