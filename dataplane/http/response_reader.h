/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader of HTTP/1.x response heads (RFC 9112): what a backend says, bytes in, views out. Pure, and as
 * strict as the reader of requests, with which it shares the syntax of lines and fields; a response that two
 * recipients could read in two ways is refused: 502 with the reason. The connection it came on is then of no
 * use.
 *
 * Choices: any reason phrase is taken, none too; a second Content-Length or Transfer-Encoding is refused
 * whatever it says, and so is a coding other than chunked; other fields may repeat.
 */
#ifndef FL_HTTP_RESPONSE_READER_H
#define FL_HTTP_RESPONSE_READER_H

#include "http1.h"

struct http_answer {
    /* The caller's part, as in struct http_request. */
    struct http_field *fields;
    uint32_t fields_max;

    /* The reader's part; valid only after a return above 0. All views point into the input. */
    uint32_t fields_count;
    int status; /* 100 to 599 */
    enum http_framing framing;
    uint8_t version_minor;   /* 0 or 1 */
    bool keep_alive;         /* the connection is good for another request after this response */
    bool length_told;        /* Content-Length is there, though perhaps not its body (HEAD, 304) */
    uint64_t content_length; /* if length_told */
    struct view reason;      /* the phrase; may be empty */
    struct view known[HTTP_KNOWN_COUNT];
};

/*
 * Reads one response head from the front of buf, the answer to a request of that method, which decides about
 * the body (RFC 9112, 6.3). An interim response (1xx but 101) is a head of its own: the next one follows it.
 * limits->target_bytes_max is not looked at; the rest is as in http_request_read().
 */
ssize_t http_answer_read(const char *buf, size_t len, size_t last_len, const struct http_limits *limits,
                         enum http_method method, struct http_answer *answer, struct http_reject *reject);

/* The value of the first field of that name (any case), absent if there is none. */
struct view http_answer_field(const struct http_answer *answer, const char *name);

/* True if a list field has that member, in any of its lines and any case. */
bool http_answer_lists(const struct http_answer *answer, enum http_known known, struct view member);

#endif
