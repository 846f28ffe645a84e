/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS on a socket. A handshake is a chain of short steps on helper threads (helpers.h), between which the
 * ring waits for the socket: the ring that everybody else's bytes go through computes no signature and no
 * exchange of keys, only the end of TLS 1.3's, which costs no more than a request. What comes out is a wire
 * (wire.h): in user space, or, where the kernel takes over the records, one whose descriptor may be sent to
 * (and received from) as it is.
 *
 * A stream that ends without close_notify ends with -ECONNRESET and not with 0: it may have been cut.
 */
#ifndef FL_TLS_H
#define FL_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/wire.h"

struct ring;
struct tls;
struct tls_context;
struct tls_helpers;
struct tls_ring;

/* Of one ring. connections: the most that there can be; senders: that can have bytes waiting for the socket
 * at a time. -ENOMEM. */
int tls_ring_new(struct ring *ring, struct tls_helpers *helpers, uint32_t connections, uint32_t senders,
                 struct tls_ring **out);
void tls_ring_free(struct tls_ring *tr);
void tls_ring_turn(struct tls_ring *tr); /* once a batch: what has come back from the helpers */
void tls_ring_trim(struct tls_ring *tr, uint32_t most);
bool tls_ring_idle(const struct tls_ring *tr); /* no helper has anything of it */

enum tls_failure {
    TLS_OK = 0,
    TLS_FAILED,      /* what came is no handshake, or one that nothing can be agreed on in */
    TLS_CLEAR,       /* HTTP in clear came */
    TLS_CERTIFICATE, /* the other side's certificate is not good, or missing */
    TLS_LOST,        /* the other side has gone */
    TLS_BUSY,        /* too many handshakes wait, or no memory */
    TLS_CANCELED,
};

/* failure TLS_OK: wire is the result, taken. Else wire is NULL, and the socket, still open, the caller's
 * again. */
typedef void tls_done(void *arg, enum tls_failure failure, const struct wire *wire);

/*
 * The server's side on a socket on which nothing is under way and nothing was sent. done comes once, never
 * from within this call. NULL: no memory, done does not come. Time limits are the caller's.
 */
struct tls *tls_accept(struct tls_ring *tr, int fd, struct tls_context *context, tls_done *done, void *arg);

/*
 * The client's side, to a backend. name: for SNI and for the certificate (a host or an address), borrowed.
 * session_key: another value for each backend, so that its sessions are resumed; 0: not.
 */
struct tls *tls_connect(struct tls_ring *tr, int fd, struct tls_context *context, const char *name,
                        uint64_t session_key, tls_done *done, void *arg);

/* Offers HTTP/1.1 alone, whatever the context does. In the turn in which tls_connect returned it. */
void tls_offer_http1(struct tls *t);

/* done comes soon, with TLS_CANCELED or another failure. */
void tls_handshake_cancel(struct tls *t);

/* ------------------------------------------------------------------ of a wire */

/* Whether TLS is what stands on the socket. */
bool tls_is(const struct wire *w);

/* What ALPN agreed on ("h2", "http/1.1"), "" if nothing. Of a TLS wire. */
const char *tls_protocol(const struct wire *w);

/* The certificate that the client has shown and that was verified. */
struct tls_client {
    char subject[512];    /* RFC 2253, one line, without control characters */
    char fingerprint[65]; /* SHA-256 of the DER, hex */
    char serial[64];      /* hex */
    char issuer[512];
};

/* False: none (also when the wire is no TLS). */
bool tls_client_of(const struct wire *w, struct tls_client *out);

/* The same certificate as an item of RFC 9440 (":base64 of the DER:"). Its length, 0: none, -ENOBUFS. */
ssize_t tls_client_cert(const struct wire *w, char *out, size_t cap);

/*
 * The node that the client's verified certificate names (node_uri.h): its id; 0: it names none, or there is
 * no certificate; TLS_NODE_FOREIGN: it is of another cluster, or names more than one. Looked at once for each
 * connection, whose cluster is always the same one.
 */
#define TLS_NODE_FOREIGN UINT64_MAX
uint64_t tls_client_node(const struct wire *w, const uint8_t cluster_id[16]);

#endif
