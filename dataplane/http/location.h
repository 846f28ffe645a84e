/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a server sends its client (Location, RFC 9110, 10.2.2): bytes in, views out. Pure, and strict: a URL
 * of http or https, or a path on the same server; what two readers could take for two hosts is refused.
 */
#ifndef FL_HTTP_LOCATION_H
#define FL_HTTP_LOCATION_H

#include "view.h"

enum { HTTP_HOST_MAX = 253 };

struct http_location {
    bool elsewhere;     /* it says a server: */
    bool tls;           /* of https */
    uint16_t port;      /* the scheme's, where it says none */
    struct view host;   /* a name, an IPv4 address, or an IPv6 address without its brackets */
    struct view target; /* path and query, with its first '/'; absent: "/" */
};

/* 0, or -EINVAL. The views point into text. */
int http_location_read(struct view text, struct http_location *out);

#endif
