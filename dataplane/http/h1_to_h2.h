/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way from an HTTP/1.1 message, as this product writes it, to what HTTP/2 carries: fields, content,
 * trailers. Incremental: the bytes may come in any pieces. Pure: memory is the caller's.
 *
 * The writer is on our own side, so this reader has to be right and safe, not forgiving: anything that is not
 * a well-formed message is H1_BAD, and the stream is reset. Fields that are about the connection are left out
 * (RFC 9113, 8.2.2), names keep their case.
 */
#ifndef FL_HTTP_H1_TO_H2_H
#define FL_HTTP_H1_TO_H2_H

#include <stdbool.h>
#include <stdint.h>

#include "limits.h"
#include "view.h"

enum h1_got {
    H1_MORE,     /* all bytes are used; the next ones are needed */
    H1_MEMORY,   /* a head or trailers have begun and are not complete: give hold, then call again */
    H1_HEAD,     /* in *head */
    H1_CONTENT,  /* *content; used says where it ends: the caller may call again with less, taking a part */
    H1_TRAILERS, /* in *head: fields alone; the message has ended */
    H1_END,      /* the message has ended, without trailers */
    H1_BAD,
};

struct h1_field {
    struct view name, value;
};

struct h1_head {
    int status;                                /* of a response */
    struct view method, target, host;          /* of a request */
    struct h1_field field[REQUEST_FIELDS_MAX]; /* without those of the connection, and without Host */
    uint32_t count;
    bool ends; /* the message has no content: it has ended with this */
};

/* All zero but for the two first is the start of a message. */
struct h1_reader {
    bool request;      /* of a request, not of a response */
    bool head_request; /* of the response to HEAD */
    uint8_t state;
    uint8_t digits;
    uint64_t left; /* of the content, or of the chunk */
    /* Memory for what comes in pieces: given after H1_MEMORY, the caller's again after H1_HEAD, H1_TRAILERS
     * or at any end, once the views into it are not needed any more. */
    char *hold;
    uint32_t hold_len, hold_cap;
};

/*
 * Reads the next thing from the front of buf. *used: how many bytes of it are done with, or, with
 * H1_CONTENT, would be if all of *content is taken: call h1_took with what was taken of it. Views point into
 * buf or hold. After an interim response (1xx) comes another head. Not to be called after H1_TRAILERS, H1_END
 * or H1_BAD.
 */
enum h1_got h1_read(struct h1_reader *r, const char *buf, size_t len, size_t *used, struct h1_head *head,
                    struct view *content);

/* n bytes, at most all, of the content that was found are taken. */
void h1_took(struct h1_reader *r, size_t n);

/* Whether nothing more can come once what h1_took was told is gone (content of known length). */
bool h1_at_end(const struct h1_reader *r);

/* The other side sends no more: true if the message is complete thereby, or was already. */
bool h1_closed(struct h1_reader *r);

#endif
