/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The name that a TLS client asks for, read from its ClientHello before anybody answers (RFC 8446, 4.1.2;
 * RFC 6066, 3), over however many records it is cut into. Pure.
 */
#ifndef FL_HTTP_CLIENT_HELLO_H
#define FL_HTTP_CLIENT_HELLO_H

#include <stddef.h>
#include <stdint.h>

enum {
    CLIENT_HELLO_MAX = 16384,    /* bytes of records that one may take */
    CLIENT_HELLO_NAME_MAX = 256, /* with its NUL */
};

struct client_hello {
    char name[CLIENT_HELLO_NAME_MAX]; /* in lower case; "": none was given */
};

/* 0: it is complete; -EAGAIN: more bytes are needed; -EBADMSG: this is none. */
int client_hello_read(const uint8_t *p, size_t len, struct client_hello *out);

#endif
