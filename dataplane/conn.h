/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client connection: the transport and the framing of requests on it. What a request means is the stream's
 * (stream.h). A connection that waits for its next request holds this structure and nothing else.
 *
 *            first byte          head complete                response sent, keep-alive
 *   IDLE ---------------> HEAD ---------------> EXCHANGE -----------------------------> IDLE
 *    |                     |                     |  |
 *    | idle time-out,      | 408, 4xx            |  | response sent, no keep-alive, unread bytes may come
 *    | client closed       v                     |  v
 *    |                  EXCHANGE (refusal)       | LINGER: reads and drops, so that the answer is not lost
 *    v                                           v  v
 *   CLOSING: orders under way and the stream's last step are waited for, then the descriptor is closed ->
 * FREE
 */
#ifndef FL_CONN_H
#define FL_CONN_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "shared.h"
#include "dataplane/loop.h"
#include "dataplane/timer.h"
#include "dataplane/wire.h"
#include "dataplane/http/reject.h"

struct ring;
struct stream;

/* What holds received bytes that nobody has used; a connection has at most one of them. */
enum partial_pool { PARTIAL_HEAD, PARTIAL_REST, PARTIAL_LARGE };

enum conn_state { CONN_FREE, CONN_IDLE, CONN_HEAD, CONN_EXCHANGE, CONN_LINGER, CONN_CLOSING, CONN_STATES };

struct conn {
    struct conn *next, **prev; /* in ring->conn_list */
    struct conn *next_unfed;   /* in ring->unfed */
    struct ring *ring;
    struct stream *stream; /* while there is an exchange */
    struct op in, out;     /* receiving, sending: one each */
    struct timer timer;    /* the one deadline that counts in this state */
    struct wire wire;
    uint8_t state;      /* enum conn_state; written by conn_move alone */
    uint8_t reason;     /* enum close_reason, once it closes */
    uint8_t end_reason; /* the one to close with after this exchange */
    bool peer_known : 1, close_after : 1, lingers : 1;
    bool has_input : 1;     /* input_buffer is held */
    bool partial_fresh : 1; /* nobody has looked for a head's end in it */
    bool watching : 1;      /* receives during an exchange: the next request, or the end */
    bool half_closed : 1;   /* the client sends no more, and waits for its answer */
    bool closed : 1;        /* the descriptor is given back, or about to be, or somebody else's */
    bool advancing : 1;     /* conn_advance is on the stack: it goes on with the next request */
    bool stale : 1;         /* its service has left the plan, or its place has another one */
    uint8_t partial_pool;   /* enum partial_pool: which one partial is of */
    uint8_t peer_family;
    uint16_t service;      /* index into the plan's services */
    uint16_t input_buffer; /* a receive buffer with bytes that nobody has taken, if input_len */
    uint16_t input_at, input_len;
    uint16_t peer_port;
    uint16_t local_port; /* 0: not known yet */
    char *partial; /* received and not used: the beginning of a head, or what was unread; before the input */
    union {
        uint32_t partial_len;
        uint32_t linger_left; /* bytes that are still read and dropped */
    };
    uint32_t requests;
    uint8_t peer[16];
};

_Static_assert(sizeof(struct conn) <= 184, "an idle connection costs this");

/* Who is at the other end of a wire that is not the client's own socket. */
struct conn_peer {
    uint8_t family; /* AF_INET, AF_INET6; 0: not known */
    uint8_t addr[16];
    uint16_t port;
};

/* A new descriptor (taken), from a listener of that service, on that port. */
void conn_accepted(struct ring *ring, int fd, uint16_t service, uint16_t port);

/*
 * The same for a wire (taken) on which nothing is under way. peer: NULL if it is the socket's. Bytes that
 * were received on it already (at most HEADER_BYTES_CEILING) are the beginning of the first request. False:
 * no memory for one more; the wire is still the caller's.
 */
bool conn_start(struct ring *ring, const struct wire *wire, uint16_t service, const struct conn_peer *peer,
                const void *early, size_t early_len);

/* Begins the end, whatever the state; again is harmless. The first reason counts. */
void conn_close(struct conn *c, enum close_reason reason);

/* For the stream: its last byte is sent and it is released. */
void conn_exchange_done(struct conn *c);

/* For the stream: bytes that were received behind the end of its body belong to the next request. False: no
 * room, the connection must close after this response. */
bool conn_unread(struct conn *c, const void *data, size_t len);

/* A stream of an HTTP/2 session: it carries one exchange, and the session is what counts as a connection. */
static inline bool conn_is_stream(const struct conn *c)
{
    return c->wire.fd < 0;
}

/* Whether bytes of the request are here already. */
static inline bool conn_has_input(const struct conn *c)
{
    return c->input_len || c->partial;
}

/* For the stream: takes up to cap bytes of the input that is already here. Returns how many. */
size_t conn_take_input(struct conn *c, void *out, size_t cap);

/* For the stream, when nothing of the request is still to come: so that a client that goes away during the
 * exchange is noticed. What comes is the next request. */
void conn_watch(struct conn *c);

/* For the stream, every CONN_LOOK_MS: a client that sends no more may be gone: then it closes. */
enum { CONN_LOOK_MS = 1000 };
void conn_look(struct conn *c);

/* For the stream: the time limit of what it does now. */
void conn_deadline(struct conn *c, uint64_t deadline_ms);
void conn_no_deadline(struct conn *c);

/* Whether small segments go out at once. On but for the length of a large file. */
void conn_nodelay(struct conn *c, bool on);

/* The port that it came to; 0: there is none. */
uint16_t conn_local_port(struct conn *c);

/* Its addresses and ours, as a PROXY header tells them. */
struct proxy_header;
void conn_addresses(struct conn *c, struct proxy_header *out);

/* The client's address as text, at most SOURCE_TEXT_MAX with its NUL. */
void conn_peer_text(struct conn *c, char *out, size_t cap);

/* For the ring: a receive buffer is free again; the node stops. */
void conn_feed(struct ring *ring);
void conn_drain(struct conn *c);
/* Its service is no more, or another one stands at its place: it takes no other request, and goes. */
void conn_expire(struct conn *c);

/* Within the connection (conn_http2.c): whether its first bytes, the head and the input behind it, began an
 * HTTP/2 session, which has the wire now. The head's bytes from `seen` on are the input's, too. */
bool conn_becomes_session(struct conn *c, const char *head, size_t len, size_t seen);

/* Within the connection (conn_input.c): orders more input; there was no buffer for it, it waits for one, or
 * does so no more. */
void conn_receive(struct conn *c);
void conn_unfed(struct conn *c);
void conn_unfed_leave(struct conn *c);

/* Within the connection (conn_input.c): gives the kept memory back, or takes some for len bytes (false: there
 * is none). */
void conn_input_drop(struct conn *c);
void conn_input_keep(struct conn *c); /* moves it out of the receive buffer, which others need */
void conn_partial_drop(struct conn *c);
bool conn_partial_take(struct conn *c, size_t len);

#endif
