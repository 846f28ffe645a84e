/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Range requests and conditional requests (RFC 9110, 13 and 14), and the Content-Range of the OCI
 * distribution specification's chunked uploads. Pure.
 */
#ifndef FL_HTTP_RANGE_H
#define FL_HTTP_RANGE_H

#include "http1.h"

enum http_range_kind {
    HTTP_RANGE_FULL,         /* no Range, or one to be ignored: 200 with everything */
    HTTP_RANGE_PART,         /* 206 with [first, last] */
    HTTP_RANGE_UNSATISFIABLE /* 416 with Content-Range: bytes STAR/size */
};

struct http_range {
    enum http_range_kind kind;
    uint64_t first; /* both inclusive; only for HTTP_RANGE_PART */
    uint64_t last;
};

/*
 * Evaluates a Range field (absent: FULL) against a representation of size bytes. An unknown unit, several
 * ranges and malformed ones are ignored. A last position below the first is answered as unsatisfiable, as the
 * OCI conformance suite wants it, though RFC 9110, 14.1.1 would let it be ignored. Positions too large for a
 * uint64_t count as beyond the end.
 */
struct http_range http_range_evaluate(struct view field, uint64_t size);

/*
 * Reads the Content-Range of an upload: "first-last" as OCI distribution has it, or "bytes first-last/size"
 * with size a number or STAR as in RFC 9110, 14.4. 0, or -EINVAL for anything else, a last below the first or
 * not below the size, and numbers above 2^63 - 1.
 */
int http_content_range_read(struct view field, uint64_t *first, uint64_t *last);

/*
 * True if the field (If-Match, If-None-Match), in any of its lines, has the entity tag or is "*". etag is
 * strong and with its quotes. weak: compare as If-None-Match does, W/ ignored; otherwise as If-Match, where a
 * weak tag never matches. A member without quotes is taken as if it had them: Docker's clients send digests
 * that way.
 */
bool http_request_has_etag(const struct http_request *req, enum http_known known, struct view etag,
                           bool weak);

/* The same for one line. */
bool http_etag_listed(struct view list, struct view etag, bool weak);

/*
 * Whether a Range may be honoured in the face of an If-Range field (RFC 9110, 13.1.5): absent, or strongly
 * equal to the etag. A date never holds: blobs have no modification date.
 */
bool http_if_range_holds(struct view field, struct view etag);

#endif
