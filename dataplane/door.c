/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/door.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "plan_names.h"
#include "dataplane/conn.h"
#include "dataplane/ring.h"
#include "dataplane/http/client_hello.h"
#include "dataplane/http/proxy_header.h"
#include "dataplane/http2/http2.h"
#include "dataplane/proxy/tcp.h"
#include "dataplane/tls/context.h"
#include "dataplane/tls/tables.h"
#include "dataplane/tls/tls.h"

enum {
    BYTES_MAX = PROXY_HEADER_MAX, /* of a PROXY header while it comes */
    BYTES_COUNT = 1024,           /* of those at a time */
    TRIM_MOST = 64,
};

enum door_state {
    DOOR_PROXY_HEADER, /* its bytes are read */
    DOOR_HELLO,        /* what the client says first is looked at, and left where it is */
    DOOR_TLS,          /* the handshake */
    DOOR_CLOSING,      /* what is under way is waited for, then the socket is closed */
};

struct door {
    struct door *next, **prev; /* in door_ring.list */
    struct ring *ring;
    struct op op;
    struct timer timer;
    struct tls_context *context; /* a reference: how it was spoken to when it came */
    struct tls *tls;             /* a handshake is under way */
    struct wire wire;
    uint8_t *bytes; /* BYTES_MAX; NULL: none */
    size_t len;     /* of them, or of a ClientHello that is not complete */
    struct conn_peer peer;
    uint16_t service;
    uint16_t listener; /* while by_name */
    uint8_t state;     /* enum door_state */
    uint8_t mode;      /* enum plan_tls_mode */
    bool by_name;      /* the name that the client says is to choose among services of the address */
    bool has_peer;     /* the PROXY header says who it is */
    bool closed;       /* the socket is given back, or about to be */
};

struct door_ring {
    struct pool doors, bytes;
    struct tls_ring *tls;
    const struct tls_table *table;
    struct door *list;
    uint8_t hello[CLIENT_HELLO_MAX]; /* what was peeked at, for the moment */
};

static void timed_out(struct timer *t, uint64_t now_ms);
static void read_hello(struct door *d);
static void op_done(struct op *op, const struct event *ev);

int door_ring_new(struct ring *ring, struct tls_helpers *helpers, const struct tls_table *table,
                  struct door_ring **out)
{
    uint32_t connections = (uint32_t)ring_setting(ring, SET_HTTP_CONNECTIONS_MAX);
    uint32_t streams = (uint32_t)ring_setting(ring, SET_HTTP_STREAMS_MAX);
    struct door_ring *dr = calloc(1, sizeof(*dr));
    if (!dr)
        return -ENOMEM;
    dr->table = table;
    if (pool_init(&dr->doors, sizeof(struct door), connections) ||
        pool_init(&dr->bytes, BYTES_MAX, BYTES_COUNT) ||
        tls_ring_new(ring, helpers, 2 * connections, streams, &dr->tls)) {
        pool_fini(&dr->doors);
        pool_fini(&dr->bytes);
        free(dr);
        return -ENOMEM;
    }
    *out = dr;
    return 0;
}

void door_ring_free(struct door_ring *dr)
{
    tls_ring_free(dr->tls);
    pool_fini(&dr->doors);
    pool_fini(&dr->bytes);
    free(dr);
}

struct tls_ring *door_tls(const struct ring *ring)
{
    return ring->door->tls;
}

const struct tls_table *door_table(const struct ring *ring)
{
    return ring->door->table;
}

/* ------------------------------------------------------------------ the end */

static void bytes_drop(struct door *d)
{
    if (d->bytes)
        pool_give(&d->ring->door->bytes, d->bytes);
    d->bytes = NULL;
}

static void door_free(struct door *d)
{
    bytes_drop(d);
    tls_context_put(d->context);
    timer_clear(&d->timer);
    *d->prev = d->next;
    if (d->next)
        d->next->prev = d->prev;
    pool_give(&d->ring->door->doors, d);
}

static void close_try(struct door *d)
{
    if (d->op.inflight || d->tls)
        return;
    if (d->closed) {
        door_free(d);
        return;
    }
    d->closed = true;
    wire_close(&d->wire, &d->op);
}

static void door_close(struct door *d, enum close_reason reason)
{
    if (d->state == DOOR_CLOSING)
        return;
    d->state = DOOR_CLOSING;
    counter_add(&d->ring->counters->closed[reason], 1);
    timer_clear(&d->timer);
    if (d->tls)
        tls_handshake_cancel(d->tls);
    else
        loop_cancel(d->ring->loop, &d->op);
    close_try(d);
}

static void timed_out(struct timer *t, uint64_t now_ms)
{
    (void)now_ms;
    door_close(container_of(t, struct door, timer), CLOSE_HANDSHAKE_TIMEOUT);
}

/* ------------------------------------------------------------------ on */

static bool is_tunnel(const struct ring *ring, uint16_t service)
{
    const struct plan_service *s = plan_service_of(ring->plan, service);
    return s && tcp_serves(s);
}

/* To whoever serves it. False: no memory for one more. */
static bool onward(struct door *d)
{
    const struct conn_peer *peer = d->has_peer ? &d->peer : NULL;
    if (is_tunnel(d->ring, d->service))
        return tcp_accepted(d->ring, &d->wire, d->service, peer, NULL, 0);
    if (tls_is(&d->wire) && strcmp(tls_protocol(&d->wire), "h2") == 0)
        return h2_accepted(d->ring, &d->wire, d->service, peer, NULL, 0);
    return conn_start(d->ring, &d->wire, d->service, peer, NULL, 0);
}

/* Everything was passed. */
static void hand_over(struct door *d)
{
    if (d->ring->draining) {
        door_close(d, CLOSE_DRAIN);
        return;
    }
    if (onward(d))
        door_free(d);
    else
        door_close(d, CLOSE_NO_CONNECTION);
}

/* The last word to a client, in clear. */
static void answer(struct door *d, const void *bytes, size_t len)
{
    char rest[RECV_BUFFER_BYTES];
    for (int i = 0; i < 16 && recv(d->wire.fd, rest, sizeof(rest), MSG_DONTWAIT) > 0; i++)
        ; /* unread input would turn the answer into a reset */
    ssize_t n = send(d->wire.fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)n;
    (void)shutdown(d->wire.fd, SHUT_WR);
}

/* A client that speaks HTTP in clear is told so, in clear. */
static void answer_clear(struct door *d)
{
    static const char text[] =
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 33\r\n"
        "Connection: close\r\n\r\nTLS is spoken here: use https://\n";
    answer(d, text, sizeof(text) - 1);
}

/* A fatal alert: unrecognized_name (RFC 6066, 3). */
static void answer_unknown_name(struct door *d)
{
    static const uint8_t alert[] = {21, 3, 3, 0, 2, 2, 112};
    answer(d, alert, sizeof(alert));
}

static enum close_reason reason_of(enum tls_failure failure)
{
    switch (failure) {
    case TLS_CLEAR:
        return CLOSE_TLS_CLEAR;
    case TLS_CERTIFICATE:
        return CLOSE_TLS_CERTIFICATE;
    case TLS_LOST:
        return CLOSE_CLIENT_ABORT;
    case TLS_BUSY:
        return CLOSE_TLS_BUSY;
    default:
        return CLOSE_TLS_FAILED;
    }
}

static void handshake_done(void *arg, enum tls_failure failure, const struct wire *wire)
{
    struct door *d = arg;
    d->tls = NULL;
    if (wire)
        d->wire = *wire;
    if (d->state == DOOR_CLOSING) {
        close_try(d);
    } else if (failure == TLS_OK) {
        hand_over(d);
    } else {
        if (failure == TLS_CLEAR)
            answer_clear(d);
        door_close(d, reason_of(failure));
    }
}

static void terminate(struct door *d)
{
    if (!d->context) {
        door_close(d, CLOSE_TLS_NOT_READY);
        return;
    }
    d->state = DOOR_TLS;
    d->tls = tls_accept(d->ring->door->tls, d->wire.fd, d->context, handshake_done, d);
    if (!d->tls)
        door_close(d, CLOSE_NO_CONNECTION);
}

static void look_at_hello(struct door *d)
{
    d->state = DOOR_HELLO;
    read_hello(d);
}

/* The PROXY header, if there has to be one, is behind us. */
static void next_step(struct door *d)
{
    bytes_drop(d);
    d->len = 0;
    if (d->by_name || d->mode == PLAN_TLS_PASSTHROUGH)
        look_at_hello(d);
    else if (d->mode == PLAN_TLS_TERMINATE)
        terminate(d);
    else
        hand_over(d);
}

/* ------------------------------------------------------------------ a PROXY header */

static void wait_bytes(struct door *d)
{
    loop_poll(d->ring->loop, &d->op, d->wire.fd, POLLIN);
}

/* Takes n bytes that were peeked at off the socket. */
static bool consume(struct door *d, size_t n)
{
    ssize_t got = n ? recv(d->wire.fd, d->bytes + d->len, n, MSG_DONTWAIT) : 0;
    d->len += n;
    return got == (ssize_t)n;
}

static void peer_set(struct door *d, const struct proxy_header *h)
{
    if (h->family == PROXY_HEADER_NONE)
        return;
    d->has_peer = true;
    d->peer.family = h->family == PROXY_HEADER_IPV4 ? AF_INET : AF_INET6;
    memcpy(d->peer.addr, h->source, sizeof(d->peer.addr));
    d->peer.port = h->source_port;
}

/* Not one byte more than the header is taken: what follows is somebody else's. */
static void read_proxy_header(struct door *d)
{
    struct proxy_header h;
    ssize_t got = recv(d->wire.fd, d->bytes + d->len, PROXY_HEADER_MAX - d->len, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) {
        wait_bytes(d);
        return;
    }
    if (got <= 0) {
        door_close(d, d->len ? CLOSE_CLIENT_ABORT : CLOSE_CLIENT_EOF);
        return;
    }
    ssize_t len = proxy_header_read(d->bytes, d->len + (size_t)got, &h);
    if (len == -EAGAIN && consume(d, (size_t)got)) {
        wait_bytes(d);
    } else if (len > 0 && consume(d, (size_t)len - d->len)) {
        peer_set(d, &h);
        next_step(d);
    } else {
        door_close(d, CLOSE_PROXY_HEADER);
    }
}

/* ------------------------------------------------------------------ a ClientHello, looked at */

/* The socket is readable when it has more than n bytes, or the end. */
static void readable_beyond(struct door *d, size_t n)
{
    int least = (int)n + 1;
    (void)setsockopt(d->wire.fd, SOL_SOCKET, SO_RCVLOWAT, &least, sizeof(least));
}

static void context_set(struct door *d, unsigned listener)
{
    const struct ring *ring = d->ring;
    struct tls_context *c = tls_table_server(ring->door->table, ring->plan, d->service, listener);
    d->context = c ? tls_context_get(c) : NULL;
}

/* The client has said its name, or that it has none. */
static void choose(struct door *d, const char *name)
{
    const struct plan *plan = d->ring->plan;
    const struct plan_service *s = plan_service_of(plan, d->service);
    if (s && s->name_count) {
        d->service = plan_name_place(plan, s, name);
        s = d->service == PLAN_NOBODY ? NULL : plan_service_of(plan, d->service);
    }
    d->by_name = false;
    if (!s || s->tls.mode == PLAN_TLS_OFF) {
        answer_unknown_name(d);
        door_close(d, CLOSE_TLS_NAME);
        return;
    }
    d->mode = s->tls.mode;
    context_set(d, d->listener);
    if (d->mode == PLAN_TLS_TERMINATE)
        terminate(d);
    else
        hand_over(d);
}

/* Nothing that could be TLS. */
static void refuse_hello(struct door *d, size_t len)
{
    bool http = d->by_name && len && d->ring->door->hello[0] >= 'A' && d->ring->door->hello[0] <= 'Z';
    if (http)
        answer_clear(d);
    door_close(d, http ? CLOSE_TLS_CLEAR : CLOSE_CLIENT_HELLO);
}

/* The bytes stay in the socket: for the backend, or for the handshake. */
static void read_hello(struct door *d)
{
    struct client_hello hello;
    uint8_t *bytes = d->ring->door->hello;
    ssize_t got = recv(d->wire.fd, bytes, CLIENT_HELLO_MAX, MSG_PEEK | MSG_DONTWAIT);
    bool nothing = got < 0 && errno == EAGAIN;
    if (got <= 0 && !nothing) {
        door_close(d, CLOSE_CLIENT_EOF);
        return;
    }
    size_t len = nothing ? 0 : (size_t)got;
    int err = client_hello_read(bytes, len, &hello);
    if (err == -EAGAIN && (nothing || len > d->len)) {
        d->len = len;
        readable_beyond(d, len);
        wait_bytes(d);
    } else if (err) { /* also when the client has ended in the middle of it */
        refuse_hello(d, len);
    } else {
        readable_beyond(d, 0);
        d->by_name ? choose(d, hello.name) : hand_over(d);
    }
}

static void op_done(struct op *op, const struct event *ev)
{
    struct door *d = container_of(op, struct door, op);
    (void)ev; /* what there is to read says it all */
    if (d->state == DOOR_CLOSING)
        close_try(d);
    else if (d->state == DOOR_HELLO)
        read_hello(d);
    else
        read_proxy_header(d);
}

/* ------------------------------------------------------------------ in */

static struct door *door_open(struct ring *ring, int fd, uint16_t service)
{
    struct door_ring *dr = ring->door;
    struct door *d = pool_take(&dr->doors);
    if (!d)
        return NULL;
    memset(d, 0, sizeof(*d));
    d->ring = ring;
    d->wire = wire_of_socket(ring->loop, fd);
    d->service = service;
    d->op.done = op_done;
    d->timer.fire = timed_out;
    d->next = dr->list;
    d->prev = &dr->list;
    if (d->next)
        d->next->prev = &d->next;
    dr->list = d;
    timer_set(&ring->wheel, &d->timer, ring_now_ms(ring) + ring_setting(ring, SET_HTTP_HEADER_TIMEOUT));
    return d;
}

static void refuse(struct ring *ring, int fd, enum close_reason reason)
{
    ring_count(ring, CTR_CONNECTIONS_ACCEPTED, 1);
    counter_add(&ring->counters->closed[reason], 1);
    close(fd);
}

/* A tunnel that nothing stands before. */
static void tunnel_accepted(struct ring *ring, int fd, uint16_t service)
{
    struct wire wire = wire_of_socket(ring->loop, fd);
    if (tcp_accepted(ring, &wire, service, NULL, NULL, 0))
        ring_count(ring, CTR_CONNECTIONS_ACCEPTED, 1);
    else
        refuse(ring, fd, CLOSE_NO_CONNECTION);
}

void door_accepted(struct ring *ring, int fd, uint16_t service, uint16_t listener, uint16_t port)
{
    const struct plan_tls *tls = plan_tls_of(ring->plan, service, listener);
    if (!tls) {
        refuse(ring, fd, CLOSE_SERVICE_GONE);
        return;
    }
    if (tls->mode == PLAN_TLS_OFF && !tls->proxy_protocol) {
        is_tunnel(ring, service) ? tunnel_accepted(ring, fd, service)
                                 : conn_accepted(ring, fd, service, port);
        return;
    }
    struct door *d = door_open(ring, fd, service);
    if (!d) {
        refuse(ring, fd, CLOSE_NO_CONNECTION);
        return;
    }
    ring_count(ring, CTR_CONNECTIONS_ACCEPTED, 1);
    d->mode = tls->mode;
    d->by_name = plan_service_of(ring->plan, service)->name_count > 0;
    d->listener = listener;
    if (!d->by_name)
        context_set(d, listener);
    if (!tls->proxy_protocol) {
        next_step(d);
        return;
    }
    d->state = DOOR_PROXY_HEADER;
    d->bytes = pool_take(&ring->door->bytes);
    if (d->bytes)
        wait_bytes(d);
    else
        door_close(d, CLOSE_NO_CONNECTION);
}

/* ------------------------------------------------------------------ of the ring */

void door_turn(struct ring *ring)
{
    tls_ring_turn(ring->door->tls);
}

/* Who has not said a name yet belongs to the address, and to none of its services. False: it has gone. */
static bool follow_address(struct door *d, const struct plan *old)
{
    const struct plan *plan = d->ring->plan;
    if (d->listener >= old->listener_count)
        return false;
    const struct plan_listener *was = plan_listener(old, d->listener);
    unsigned now = plan_listener_of_slot(plan, was->first);
    if (now == PLAN_LISTENERS_MAX || strcmp(plan_listener(plan, now)->address, was->address) != 0)
        return false;
    d->listener = (uint16_t)now;
    d->service = plan_listener(plan, now)->service;
    return true;
}

void door_plan(struct ring *ring, const struct plan *old, const struct tls_table *table)
{
    if (table)
        ring->door->table = table;
    for (struct door *d = ring->door->list, *next; d; d = next) {
        next = d->next;
        if (d->by_name ? !follow_address(d, old) : !plan_same_service(old, ring->plan, d->service))
            door_close(d, CLOSE_SERVICE_GONE);
    }
}

void door_drain(struct ring *ring)
{
    for (struct door *d = ring->door->list, *next; d; d = next) {
        next = d->next;
        door_close(d, CLOSE_DRAIN);
    }
}

void door_tick(struct ring *ring)
{
    pool_trim(&ring->door->bytes, TRIM_MOST);
    tls_ring_trim(ring->door->tls, TRIM_MOST);
}

bool door_idle(const struct ring *ring)
{
    return !ring->door->list && tls_ring_idle(ring->door->tls);
}
