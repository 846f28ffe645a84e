/* SPDX-License-Identifier: Apache-2.0 */
/* One TLS connection, between the files of this folder. */
#ifndef FL_TLS_PRIVATE_H
#define FL_TLS_PRIVATE_H

#include <openssl/ssl.h>
#include <stdatomic.h>

#include "dataplane/pool.h"
#include "dataplane/ring.h"
#include "dataplane/tls/context.h"
#include "dataplane/tls/helpers.h"
#include "dataplane/tls/tls.h"

enum {
    TLS_RECORD_BYTES = 16384, /* of content */
    TLS_RECORD_OVERHEAD = 64, /* more than any cipher adds */
    TLS_OUT_RECORDS = 4,      /* that go to the socket in one call */
    TLS_OUT_RESERVE = 2048,   /* for what the protocol itself has to say */
    TLS_OUT_BYTES = TLS_OUT_RECORDS * (TLS_RECORD_BYTES + TLS_RECORD_OVERHEAD) + TLS_OUT_RESERVE,
    TLS_IN_BYTES = 64 << 10, /* received in one call */
    TLS_NAME_MAX = 256,
};

/* What the helper's step has come to. */
enum tls_step { STEP_WANT_READ, STEP_WANT_WRITE, STEP_DONE, STEP_FAILED };

enum tls_order { ORDER_RECV, ORDER_RECV_INTO, ORDER_POLL, ORDER_SEND };

struct tls {
    struct wire_over over;              /* first */
    struct tls *next_open, **prev_open; /* in tls_ring.open */
    struct tls_ring *tr;
    SSL *ssl;
    struct tls_context *context; /* a reference */
    int fd;
    struct op in, out; /* orders on the socket */

    /* Orders of the wire's user; NULL: none. */
    struct op *rx, *tx, *close;
    struct loop_post rx_post, tx_post;
    void *rx_buf;
    size_t rx_len;
    const struct msghdr *tx_msg; /* of ORDER_SEND: one_msg, or the user's */
    struct msghdr one_msg;
    struct iovec one;
    size_t taken; /* content of tx_msg that is in outbuf */
    uint8_t rx_kind, tx_kind;
    bool more; /* more content follows what is in outbuf at once */

    /* Records for the socket: [out_at, out_len) of outbuf, one of the ring's; NULL: there are none. */
    uint8_t *outbuf;
    uint32_t out_at, out_len;
    struct tls *next_starved;

    bool handshaking, with_helper, canceled, server;
    bool http1;                    /* is all that is offered to a backend */
    bool kernel_send, kernel_recv; /* the kernel makes, or opens, the records */
    bool polling;                  /* out waits for room in the socket */
    bool starved;                  /* waits for an outbuf */
    bool shut_wanted, shut;        /* close_notify and FIN */
    bool rekeyed;                  /* the other side has asked for new keys, which the kernel takes none of */
    bool unsound;                  /* what came broke the protocol: its session is not used again */
    bool node_known;
    uint64_t node; /* tls_client_node */
    int ended;     /* receiving: 1: close_notify has come; or -errno */
    int broken;    /* sending: -errno */

    /* The handshake. */
    tls_done *done;
    void *arg;
    const char *name; /* TLS_NAME_MAX, of a pool; NULL: none */
    uint64_t session_key;
    struct tls *next_job; /* in the helpers' line, or on the way back */
    uint8_t step;         /* enum tls_step, of the helper */
    uint8_t failure;      /* enum tls_failure */
};

struct tls_ring {
    struct ring *ring;
    struct loop *loop;
    struct tls_helpers *helpers;
    struct pool wires, outs, names;
    struct tls *open; /* all of them */
    struct tls *starved, **starved_tail;
    _Atomic(struct tls *) returned; /* by helpers, the newest first */
    uint32_t away;                  /* with the helpers */
    uint8_t scratch[TLS_RECORD_BYTES];
};

/* tls_wire.c */
extern const struct wire_ops tls_wire_ops;
void tls_wire_begin(struct tls *t); /* the handshake is done */
void tls_give(struct tls *t);       /* with all it holds, but the socket, to the pool */

/* tls_records.c */
BIO_METHOD *tls_out_method_new(void); /* how OpenSSL's records get into outbuf */
bool tls_out_take(struct tls *t);     /* an outbuf; false: there is none now */
/* Makes records of as much of the content as there is room for in outbuf. The bytes taken, or -errno. */
ssize_t tls_content_write(struct tls *t, const struct msghdr *msg);

/* helpers.c: of the BIO that records leave by; good for any thread */
const BIO_METHOD *tls_helpers_method(const struct tls_helpers *h);

/* handshake.c: on a helper's thread, or on the ring's if it is a cheap one */
void tls_handshake_step(struct tls *t, const BIO_METHOD *out_method);

#endif
