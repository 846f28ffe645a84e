/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader of HTTP/1.x request heads (RFC 9112): bytes in, views into the same bytes out. Pure: it keeps
 * nothing between calls, allocates nothing, and reads no byte outside [buf, buf + len).
 *
 * It is strict: what two recipients could read in two ways is refused, never repaired. Every refusal has a
 * reason from reject.def, is final, and ends the connection. Bytes are judged from left to right, so a prefix
 * of an input either asks for more or is refused for the same reason as the whole input: how the bytes were
 * cut into reads never shows in the outcome.
 *
 * Choices where the RFCs leave one:
 * - any second Content-Length is refused, also one with the same value (RFC 9110, 8.6 allows both);
 *   leading zeros in it are decimal digits like others;
 * - the fields that may stand only once (enum http_known, up to HTTP_KNOWN_SINGLE_END) are refused when
 * repeated;
 * - HTTP/1.2 to 1.9 are read as HTTP/1.1 (RFC 9110, 2.5); Transfer-Encoding in HTTP/1.0 is refused;
 * - an absolute-form target replaces Host, which must be there and well-formed nevertheless (RFC
 * 9112, 3.2.2);
 * - CONNECT is refused, "*" is taken with OPTIONS only, "#" and user information in a target are refused, and
 * so is a path with characters outside RFC 3986; a query may hold any other visible ASCII, as curl -g sends
 * it;
 * - at most HTTP_BLANK_LINES_MAX empty lines are skipped before the request line.
 */
#ifndef FL_HTTP_HTTP1_H
#define FL_HTTP_HTTP1_H

#include <sys/types.h>

#include "reject.h"
#include "view.h"

enum {
    HTTP_BLANK_LINES_MAX = 2,
    HTTP_METHOD_BYTES_MAX = 32,
};

enum http_method {
    HTTP_GET,
    HTTP_HEAD,
    HTTP_POST,
    HTTP_PUT,
    HTTP_PATCH,
    HTTP_DELETE,
    HTTP_OPTIONS,
    HTTP_TRACE,
    HTTP_CONNECT, /* never comes out of the reader */
    HTTP_OTHER,   /* a well-formed token; see method_name */
};

enum http_target_form { HTTP_TARGET_ORIGIN, HTTP_TARGET_ABSOLUTE, HTTP_TARGET_ASTERISK };

enum http_framing { HTTP_BODY_NONE, HTTP_BODY_LENGTH, HTTP_BODY_CHUNKED, HTTP_BODY_CLOSE /* a response's */ };

/* The fields this product looks at. */
enum http_known {
    /* Refused when repeated. */
    HTTP_KNOWN_HOST,
    HTTP_KNOWN_CONTENT_LENGTH,
    HTTP_KNOWN_TRANSFER_ENCODING,
    HTTP_KNOWN_AUTHORIZATION,
    HTTP_KNOWN_CONTENT_TYPE,
    HTTP_KNOWN_CONTENT_RANGE,
    HTTP_KNOWN_RANGE,
    HTTP_KNOWN_IF_RANGE,
    HTTP_KNOWN_EXPECT,
    HTTP_KNOWN_SINGLE_END,
    /* Lists, or of no consequence: known[] has the first line, http_request_next_field() all. */
    HTTP_KNOWN_CONNECTION = HTTP_KNOWN_SINGLE_END,
    HTTP_KNOWN_UPGRADE,
    HTTP_KNOWN_ACCEPT,
    HTTP_KNOWN_IF_MATCH,
    HTTP_KNOWN_IF_NONE_MATCH,
    HTTP_KNOWN_USER_AGENT,
    HTTP_KNOWN_X_REQUEST_ID,
    HTTP_KNOWN_KEEP_ALIVE,
    HTTP_KNOWN_TE,
    HTTP_KNOWN_HTTP2_SETTINGS,
    HTTP_KNOWN_X_FORWARDED_FOR,
    HTTP_KNOWN_X_FORWARDED_PROTO,
    HTTP_KNOWN_X_FORWARDED_HOST,
    HTTP_KNOWN_X_FORWARDED_PORT,
    HTTP_KNOWN_FORWARDED,
    HTTP_KNOWN_CDN_LOOP,
    /* Of responses. */
    HTTP_KNOWN_DATE,
    HTTP_KNOWN_ETAG,
    HTTP_KNOWN_LOCATION,
    HTTP_KNOWN_CONTENT_LOCATION,
    HTTP_KNOWN_WWW_AUTHENTICATE,
    HTTP_KNOWN_CONTENT_ENCODING,
    HTTP_KNOWN_DOCKER_CONTENT_DIGEST,
    HTTP_KNOWN_DOCKER_UPLOAD_UUID,
    HTTP_KNOWN_COUNT,
    HTTP_KNOWN_NOT = HTTP_KNOWN_COUNT,
};

struct http_field {
    struct view name;  /* as sent, at least one byte */
    struct view value; /* without the white space around it; may be empty */
    uint8_t known;     /* enum http_known */
};

struct http_limits {
    uint32_t header_bytes_max; /* of the whole head, from its first byte to the empty line: 431 */
    uint32_t headers_max;      /* header lines: 431 */
    uint32_t target_bytes_max; /* of the request target: 414 */
};

struct http_request {
    /* The caller's part: room for fields, which lives as long as the views are looked at. */
    struct http_field *fields;
    uint32_t fields_max;

    /* The reader's part; valid only after a return above 0. All views point into the input. */
    uint32_t fields_count;
    enum http_method method;
    enum http_target_form target_form;
    enum http_framing framing;
    uint8_t version_minor;   /* 0 or 1 */
    bool keep_alive;         /* the client agrees to another request on this connection */
    bool expect_continue;    /* the client waits for 100 before it sends the body (only if there is one) */
    uint64_t content_length; /* HTTP_BODY_LENGTH: up to 2^63 - 1; otherwise 0 */
    struct view method_name;
    struct view target;  /* as sent */
    struct view path;    /* starts with "/", or is "*" for HTTP_TARGET_ASTERISK; still percent-encoded */
    struct view query;   /* after the "?", absent without one; still percent-encoded */
    struct view host;    /* host[:port] by RFC 9112, 3.3; absent only for HTTP/1.0 without Host */
    struct view upgrade; /* first protocol of Upgrade that is not HTTP/2; absent when none is asked for */
    struct view known[HTTP_KNOWN_COUNT]; /* the first value of each, absent if not sent */
};

/*
 * Reads one request head from the front of buf.
 *
 * last_len is the len of the previous call for the same head, 0 at the first: the bytes before it are known
 * not to hold the end of the head, so that input in small pieces costs time linear in its length. The bytes
 * must be the same as then, their address need not.
 * For the same reason a head that comes in pieces and is bad may be refused only when it ends or reaches a
 * limit.
 *
 * Returns the bytes used (a pipelined request may follow them); -EAGAIN when more bytes are needed, which
 * never happens once len reaches limits->header_bytes_max; or -EBADMSG with *reject filled. req->fields and
 * req->fields_max must be set; the smaller of fields_max and limits->headers_max counts.
 */
ssize_t http_request_read(const char *buf, size_t len, size_t last_len, const struct http_limits *limits,
                          struct http_request *req, struct http_reject *reject);

/* The value of the first field of that name (any case), absent if there is none. */
struct view http_request_field(const struct http_request *req, const char *name);

/*
 * The next line of a known field, for those that may be repeated: *at starts at 0. Absent at the end.
 */
struct view http_request_next_field(const struct http_request *req, enum http_known known, uint32_t *at);

/* True if a list field (its members tokens) has that member, in any of its lines and any case. */
bool http_request_lists(const struct http_request *req, enum http_known known, struct view member);

/* "GET" and so on; "OTHER" for HTTP_OTHER. */
const char *http_method_name(enum http_method method);

#endif
