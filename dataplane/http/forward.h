/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads on their way through a proxy (RFC 9110, 7.6; RFC 9112, 3.2): the request for the backend, the
 * response for the client. Pure.
 *
 * Fields go on in their order, repeated ones too, byte for byte. What belongs to one connection alone stays
 * behind: Connection and the fields that it names (but never those that frame the message or name the host),
 * Keep-Alive, Proxy-*, TE but for trailers, Transfer-Encoding, Upgrade unless an upgrade goes on. Framing is
 * written anew. What tells a backend about the client and its certificate (Client-Cert*, X-Client-Cert*) is
 * replaced, never taken from a client that is not trusted.
 */
#ifndef FL_HTTP_FORWARD_H
#define FL_HTTP_FORWARD_H

#include "http1.h"
#include "response.h"
#include "response_reader.h"

struct http_extra {
    struct view name, value;
};

struct http_forward {
    struct view host;               /* in place of the client's Host; absent: the client's */
    struct view host_default;       /* for clients that sent none */
    struct view peer;               /* the client's address, without a port */
    struct view port;               /* at which it came in, decimal */
    struct view scheme;             /* that it spoke: "http", "https" */
    struct view request_id;         /* ours; the client's is passed on if it is trusted */
    struct view mark;               /* of this service, in CDN-Loop (RFC 8586) behind those of others */
    struct view range;              /* for Range and conditions: a body that goes on; empty: all of it */
    bool x_forwarded;               /* X-Forwarded-For, -Proto, -Host, -Port */
    bool forwarded;                 /* RFC 7239 */
    bool trust;                     /* what the client's own fields say is kept, and added to */
    bool upgrade;                   /* the request for another protocol goes on */
    bool h2c;                       /* also for HTTP/2 in clear, which is not passed on otherwise */
    const struct http_extra *extra; /* added, in place of the client's own fields of these names */
    uint32_t extra_count;
};

/* Writes the head. Returns its length, -ENOBUFS or -EINVAL. */
ssize_t http_forward_request(char *buf, size_t cap, const struct http_request *req,
                             const struct http_forward *how);

/* Whether a field of that name tells who the client is, by its certificate or as a user: who reads it trusts
 * whoever wrote it. */
bool http_is_about_who(struct view name);

/* Whether the request has passed what has that mark, or so many others that it must be going round. */
bool http_goes_round(const struct http_request *req, struct view mark);

/* Whether the client asks for another protocol that is passed on; h2c: also if that is HTTP/2 in clear. */
bool http_asks_upgrade(const struct http_request *req, bool h2c);

struct http_backward {
    struct view scheme;     /* that the client spoke */
    struct view host;       /* by which it knows us, with a port if it named one; absent: not known */
    struct view backend;    /* the backend's own address, as URLs may name it, */
    struct view sent_host;  /* and the Host that it was told */
    struct view request_id; /* ours */
};

/*
 * Begins the head for the client: status line and fields. Not Connection, Content-Length and
 * Transfer-Encoding, which depend on the client's connection, and no Date if there was none. 101: complete
 * with Connection and Upgrade.
 */
void http_forward_response(struct http_response *res, char *buf, size_t cap, const struct http_answer *answer,
                           const struct http_backward *how);

#endif
