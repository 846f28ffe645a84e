/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PROXY protocol, versions 1 (a line) and 2 (binary): what a balancer in front of us puts before
 * everything else to tell whose connection it is. Pure and strict: whatever is not exactly one of the two is
 * refused.
 */
#ifndef FL_HTTP_PROXY_HEADER_H
#define FL_HTTP_PROXY_HEADER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    PROXY_HEADER_V1_MAX = 107,    /* with its CRLF */
    PROXY_HEADER_MAX = 2048,      /* taken in, with the TLVs of version 2, which are not looked at */
    PROXY_HEADER_WRITE_MAX = 108, /* written */
};

enum proxy_header_family {
    PROXY_HEADER_NONE = 0, /* LOCAL, UNKNOWN, not IP: the connection's own addresses count */
    PROXY_HEADER_IPV4 = 4,
    PROXY_HEADER_IPV6 = 6,
};

struct proxy_header {
    uint8_t family;                      /* enum proxy_header_family */
    uint8_t source[16], destination[16]; /* IPv4: the first four bytes */
    uint16_t source_port, destination_port;
};

/* Returns the header's length, -EAGAIN (all bytes belong to it so far, more are needed) or -EBADMSG. */
ssize_t proxy_header_read(const uint8_t *p, size_t len, struct proxy_header *out);

/* Writes one of version 1 or 2 into out (PROXY_HEADER_WRITE_MAX bytes). Returns its length. */
size_t proxy_header_write(const struct proxy_header *h, unsigned version, uint8_t *out);

#endif
