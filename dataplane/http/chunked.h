/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chunked transfer coding (RFC 9112, 7.1): an incremental decoder that works in place, and the headers of
 * chunks for writing. Pure; the state is a few bytes and the input may be cut anywhere.
 *
 * Strict: sizes are hexadecimal digits alone (up to 2^63 - 1, at most 16 of them), lines end with CRLF, no
 * blanks around an extension. Extensions and trailers are checked, bounded over the whole message, and
 * dropped; trailers are kept where somebody asks for them.
 */
#ifndef FL_HTTP_CHUNKED_H
#define FL_HTTP_CHUNKED_H

#include "reject.h"
#include "view.h"

enum {
    HTTP_CHUNK_EXTENSION_BYTES_MAX = 16384, /* over all chunks of a message */
    HTTP_TRAILER_BYTES_MAX = 8192,
    HTTP_TRAILERS_MAX = 64,
    HTTP_CHUNK_HEADER_MAX = 18, /* 16 digits and CRLF */
    HTTP_CHUNKED_TRAILERS = 2,  /* of http_chunked_decode */
};

/* All zero is the start of a body. */
struct http_chunked {
    uint64_t data_left;       /* payload bytes of the current chunk that have not come yet */
    uint16_t extension_bytes; /* seen so far */
    uint16_t trailer_bytes;
    uint8_t trailers;
    uint8_t digits; /* of the current chunk size */
    uint8_t state;  /* private; see http_chunked_done() */
    bool pause; /* set by the caller: decode returns HTTP_CHUNKED_TRAILERS, once, before the first trailer */
    /* Where trailers go, HTTP_TRAILER_BYTES_MAX bytes; NULL: nowhere. May be set while nothing of them was
     * read. They stand there as "name: value" lines with their CRLF, without those that a trailer must not
     * have (http_trailer_allowed). */
    char *kept;
    uint16_t kept_len;
    uint16_t kept_line; /* private: where the line at work begins */
};

struct http_chunked_result {
    size_t payload;  /* bytes of content, now at the front of buf */
    size_t consumed; /* bytes of input used; what follows is untouched */
};

/*
 * Decodes the len bytes at buf, moving the content to its front. Stops after the end of the body: bytes
 * behind it belong to the next request and stay where they are, at buf + consumed. Returns 1 when the end is
 * reached, 0 when more input is needed (everything is consumed then), -EBADMSG with *reject filled when the
 * coding is broken; payload in *result is then what was well framed before. Not to be called again after 1 or
 * an error. HTTP_CHUNKED_TRAILERS (only with st->pause): trailers begin at buf + consumed; to be called again
 * for what is there.
 */
int http_chunked_decode(struct http_chunked *st, char *buf, size_t len, struct http_chunked_result *result,
                        struct http_reject *reject);

/* True once the whole body, trailers included, was read. */
bool http_chunked_done(const struct http_chunked *st);

/*
 * For content that reaches its place without passing through the decoder (splice): n bytes, at most
 * st->data_left, of the current chunk are taken as seen. The decoder goes on after them.
 */
void http_chunked_skip(struct http_chunked *st, uint64_t n);

/* Content that follows next in the input, without any framing before its end; 0: framing follows. */
uint64_t http_chunked_data(const struct http_chunked *st);

/* Whether a field of that name may stand in a trailer section: nothing that frames, routes, authenticates or
 * changes the meaning of the message before it (RFC 9110, 6.5.1), nothing that is of one connection only. */
bool http_trailer_allowed(struct view name);

/* Writes the header of a chunk of size bytes (above 0) and returns its length. Not ended by NUL. */
size_t http_chunk_header(char out[HTTP_CHUNK_HEADER_MAX], uint64_t size);

/* What follows the data of a chunk, and what ends a body without trailers. */
#define HTTP_CHUNK_END  VIEW_LIT("\r\n")
#define HTTP_CHUNK_LAST VIEW_LIT("0\r\n\r\n")

#endif
