/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/2 on a ring. A session runs on a wire, in either role. Each of its streams is a wire of its own that
 * carries HTTP/1.1: of a client's session, one request to be read and its response to be written, with a conn
 * on it (conn.h); of a session towards a backend the other way round. So nobody above knows of HTTP/2.
 *
 * What such a wire gives is framed by Content-Length where that is known, else in chunks with trailers; it
 * takes any HTTP/1.1 message. It carries one exchange.
 */
#ifndef FL_HTTP2_HTTP2_H
#define FL_HTTP2_HTTP2_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shared.h"
#include "dataplane/conn.h"
#include "dataplane/wire.h"

struct http2;
struct h2_session;
struct plan;
struct ring;

int http2_new(struct ring *ring, struct http2 **out); /* -ENOMEM */
void http2_free(struct http2 *h);
void http2_run(struct http2 *h);                 /* once a batch, after all else */
bool http2_pending(const struct http2 *h);       /* it has work that waits for nothing */
void http2_trim(struct http2 *h, uint32_t most); /* memory that a burst has touched goes back; now and then */
void http2_expire(struct http2 *h, const struct plan *old,
                  const struct plan *plan); /* sessions of services, or with nodes, that are no more */
void http2_drain(struct http2 *h);          /* sessions end when their streams have */
void http2_end(struct http2 *h);            /* and now in any case */
bool http2_idle(const struct http2 *h);     /* no session of a client is left */

/* What an HTTP/2 client sends first (RFC 9113, 3.4), by which prior knowledge is known. */
#define HTTP2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
enum { HTTP2_PREFACE_LEN = 24 };

/*
 * A client's session on a wire (taken) on which nothing is under way. peer: NULL if it is the socket's.
 * early: what was received already, from the preface on. False: no memory; the wire is still the caller's.
 */
bool h2_accepted(struct ring *ring, const struct wire *wire, uint16_t service, const struct conn_peer *peer,
                 const void *early, size_t early_len);

/* The wire under the session whose stream w is; NULL: w is no stream, or its session is gone. */
const struct wire *h2_carrier(const struct wire *w);

/* ------------------------------------------------------------------ towards backends */

/*
 * The error of an exchange of which the backend says, or we know, that it has processed nothing: it may be
 * sent again, whatever it was.
 */
#define H2_UNPROCESSED (-ECONNREFUSED)

/* The session's user; calls come between two batches' events, never from within a call of his. */
struct h2_user {
    void (*changed)(void *arg,
                    struct h2_session *s); /* there may be room for exchanges again, or none more */
    void (*gone)(void *arg, struct h2_session *s, enum close_reason why); /* the last call: s is no more */
    void *arg;
};

/* A session on a wire (taken) to a backend. NULL: no memory; the wire is still the caller's. */
struct h2_session *h2_client_start(struct ring *ring, const struct wire *wire, const struct h2_user *user);

/* How many exchanges more may begin now. */
unsigned h2_client_room(const struct h2_session *s);

/* Whether none will begin any more: the backend said so, or the session is ending. */
bool h2_client_over(const struct h2_session *s);

/* Whether its streams hold much that nobody has taken: new ones do better on another one, if there may be
 * one.
 */
bool h2_client_crowded(const struct h2_session *s);

/* Exchanges that are open. */
unsigned h2_client_busy(const struct h2_session *s);

/* A new exchange; its wire takes the request and gives the response. False: no room. */
bool h2_client_open(struct h2_session *s, struct wire *out);

/* No more exchanges; the session ends with the last one, or now. */
void h2_client_close(struct h2_session *s);

#endif
