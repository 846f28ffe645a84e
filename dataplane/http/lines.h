/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lines of an HTTP/1 head, requests and responses alike: line ends, the version, header fields. One place
 * for their syntax. Private to the HTTP layer.
 *
 * Each step either advances r->at, or returns -EAGAIN or -EBADMSG, which ends the walk.
 */
#ifndef FL_HTTP_LINES_H
#define FL_HTTP_LINES_H

#include "http1.h"

struct http_lines {
    const char *at;  /* the next byte */
    const char *end; /* of the bytes that count: the input, cut at the limit of a head */
    bool full;       /* the limit is reached: more input would not be looked at */
    bool response;   /* what is wrong with a response is 502, whatever it is; fewer fields must stand alone */
    uint32_t fields_max, *fields_count;
    struct http_field *fields;
    struct view *known; /* HTTP_KNOWN_COUNT */
    struct http_reject *reject;
};

int http_lines_refuse(struct http_lines *r, enum http_reject_reason reason);

/* The bytes ended before the thing being read did. */
int http_lines_out(struct http_lines *r, enum http_reject_reason reason_if_full);

/* Reads the end of a line, of which *at is known to be no other character that may stand there. */
int http_lines_end(struct http_lines *r, enum http_reject_reason reason_otherwise);

/* RFC 9112, 2.3: "HTTP/" DIGIT "." DIGIT; both as characters. */
int http_lines_version(struct http_lines *r, char *major, char *minor);

/* The header lines and the empty line after them. */
int http_lines_fields(struct http_lines *r);

/* The first byte that may not stand in a field value, or end. */
const char *http_value_span(const char *p, const char *end);

/*
 * Tells whether a walk over the bytes can end in anything but "more": at the first call, when the head may
 * have ended, when it has grown past what its first line can have, and when it fills its limit. Only the new
 * bytes are searched.
 */
bool http_lines_worth_reading(const char *buf, size_t len, size_t last_len, size_t line_max,
                              const struct http_limits *limits);

/* True if a list field (its members tokens) has that member, in any of its lines and any case. */
bool http_fields_list(const struct http_field *fields, uint32_t count, enum http_known known,
                      struct view member);

/* The next line of a known field; *at starts at 0. Absent at the end. */
struct view http_fields_next(const struct http_field *fields, uint32_t count, enum http_known known,
                             uint32_t *at);

#endif
