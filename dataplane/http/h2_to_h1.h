/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the fields of an HTTP/2 header block to the head of an HTTP/1.1 message (RFC 9113, 8; RFC 9112), one
 * field after the other. Pure: the memory is the caller's, nothing is read but the arguments.
 *
 * It is strict: what RFC 9113 calls malformed (8.1.1, 8.2, 8.3) is, and what could be read in two ways as
 * HTTP/1.1 is, too. The first fault counts, what follows it is not looked at any more. What is written can
 * be read by nobody as more or less than one head: names are tokens in lower case, values have no control
 * characters, framing fields are written here and by nobody else.
 *
 * Choices where the RFC leaves one: a Host that differs from :authority is malformed, an equal one is left
 * out; any second Content-Length is malformed; the schemes are http and https; a response has no 101.
 */
#ifndef FL_HTTP_H2_TO_H1_H
#define FL_HTTP_H2_TO_H1_H

#include <sys/types.h>

#include "http1.h"
#include "view.h"

enum h2_kind { H2_REQUEST, H2_RESPONSE, H2_TRAILERS };

enum h2_fault {
    H2_FAULT_NONE,
    H2_FAULT_MALFORMED,       /* stream error PROTOCOL_ERROR */
    H2_FAULT_TOO_LARGE,       /* over limits.header_bytes_max or headers_max, or the memory: 431 */
    H2_FAULT_TARGET_TOO_LONG, /* 414 */
    H2_FAULT_CONNECT,         /* CONNECT, also the extended one of RFC 8441: 501 */
};

/* How the content that follows is framed as HTTP/1.1. */
enum h2_framing {
    H2_FRAMING_NONE,    /* there is none */
    H2_FRAMING_LENGTH,  /* bytes as they are, content_length of them */
    H2_FRAMING_CHUNKED, /* chunks, and trailers */
};

struct h2_head {
    char *buf; /* the caller's: the head is made at its front; pseudo fields wait at its end for their line */
    size_t cap, len;
    size_t kept_at; /* where the kept pseudo fields begin */
    struct http_limits limits;
    uint64_t
        list_bytes; /* as RFC 9113, 6.5.2 counts: 32 and name and value for each field, also after a fault */
    uint64_t content_length;
    uint32_t fields;
    uint32_t cookie_end; /* where the next crumb of the one Cookie line goes; 0: there is no such line */
    struct view method, scheme, authority, path;
    int status;
    uint8_t kind, fault, framing; /* enum h2_kind, h2_fault; enum h2_framing after the end */
    bool line_written;            /* pseudo fields have ended */
    bool has_length, has_host, head_request, wants_length;
};

/* head_request: of a response, that it answers HEAD. */
void h2_head_begin(struct h2_head *h, enum h2_kind kind, bool head_request, const struct http_limits *limits,
                   char *buf, size_t cap);

void h2_head_field(struct h2_head *h, struct view name, struct view value);

/*
 * The block has ended; end_stream: so has the message. The text is h->buf, h->len: a head with its empty
 * line, or trailer lines with theirs (to be put behind "0" CRLF).
 */
enum h2_fault h2_head_end(struct h2_head *h, bool end_stream);

#endif
