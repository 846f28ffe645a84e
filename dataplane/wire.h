/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A wire is one end of a byte stream. Most are plain sockets, and every call is then the loop's call of the
 * same name; others stand on top of one: TLS in user space, one stream of an HTTP/2 session (seen as HTTP/1.1
 * bytes). Whoever moves bytes (conn, stream, pump) uses wires and does not see the difference.
 *
 * An order's op is embedded in the caller's structure and stays unmoved until its completion, which comes
 * exactly once and never from within the ordering call. One receiving and one sending order may be under way
 * at a time (poll counts as the one whose direction it waits for).
 */
#ifndef FL_DATAPLANE_WIRE_H
#define FL_DATAPLANE_WIRE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "dataplane/loop.h"

struct wire_over;

struct wire {
    struct loop *loop;
    struct wire_over *over; /* what stands on the socket; NULL: nothing, the wire is the socket */
    int fd;                 /* of the socket below, -1: there is none of its own (HTTP/2) */
    bool shut;              /* wire_shutdown was called */
};

/* What a kind of wire does; each call as described below. */
struct wire_ops {
    const char *name; /* "tls", "h2", for logs */
    void (*recv)(struct wire *w, struct op *op);
    void (*recv_into)(struct wire *w, struct op *op, void *buf, size_t len, int flags);
    void (*send)(struct wire *w, struct op *op, const void *buf, size_t len, int flags);
    void (*sendmsg)(struct wire *w, struct op *op, const struct msghdr *msg, int flags);
    void (*poll)(struct wire *w, struct op *op, short events);
    void (*cancel)(struct wire *w, struct op *op);
    ssize_t (*recv_now)(struct wire *w, void *buf, size_t len);
    ssize_t (*sendmsg_now)(struct wire *w, const struct msghdr *msg, int flags);
    void (*shutdown)(struct wire *w);
    void (*close)(struct wire *w, struct op *op);
    size_t (*unsent)(struct wire *w);
    ssize_t (*splice_now)(struct wire *w, int pipe, size_t len); /* NULL: it has to be received */
    int (*fd_to)(const struct wire *w);                          /* NULL: -1 */
    /* Of those that take content over with the buffer that it is in; both or none. */
    bool (*take)(struct wire *w, void *buffer, const void *bytes, size_t len);
    void (*settle)(struct wire *w, struct op *op);
    size_t (*room)(const struct wire *w);
};

/* Embedded at the front of each kind's own structure. An ordering call marks the op with loop_op_begin, and
 * completes it with loop_post. */
struct wire_over {
    const struct wire_ops *ops;
};

/* As loop_recv: into a buffer of the loop's pool (event.data, event.buffer: give it back with
 * loop_buffer_put). res 0: the other end sends no more. -ECONNRESET and its like: broken. */
void wire_recv(struct wire *w, struct op *op);

/* Into the caller's memory. flags: MSG_DONTWAIT (then -EAGAIN at once), 0. */
void wire_recv_into(struct wire *w, struct op *op, void *buf, size_t len, int flags);

/* Completes with the bytes taken, at least one, or -errno. flags: MSG_MORE or 0. */
void wire_send(struct wire *w, struct op *op, const void *buf, size_t len, int flags);
void wire_sendmsg(struct wire *w, struct op *op, const struct msghdr *msg,
                  int flags); /* msg borrowed until then */

/* Once: completes when recv_now (POLLIN) or sendmsg_now (POLLOUT) would not say -EAGAIN. POLLHUP, in the
 * direction of receiving and for a stream of HTTP/2 alone: with an error when the other side has given it up.
 */
void wire_poll(struct wire *w, struct op *op, short events);

/* The order completes soon, with -ECANCELED or a late result. Harmless if it is not under way. */
void wire_cancel(struct wire *w, struct op *op);

/* At once, without an order: bytes, 0 (recv: the end), -EAGAIN, or -errno. Not while an order of the same
 * direction is under way. */
ssize_t wire_recv_now(struct wire *w, void *buf, size_t len);
ssize_t wire_sendmsg_now(struct wire *w, const struct msghdr *msg, int flags);

/* This end sends no more: FIN; close_notify and FIN; END_STREAM. Receiving goes on. After what was sent. */
void wire_shutdown(struct wire *w);

/*
 * After a receive has said the end, where nothing else tells a whole message from a part: whether the other
 * end really said so. A reset is told once, and a send may have been the one that was told: a receive after
 * it finds an end like any other.
 */
bool wire_ended_well(const struct wire *w);

/* The end. No order may be under way but cancelled ones have completed. op completes when nothing is left:
 * the descriptor is closed, and what stood on it has been given back. An unread or unsent rest may be reset.
 */
void wire_close(struct wire *w, struct op *op);

/* The close to come is a reset: what the other end has is not to be taken for all. */
void wire_resets(struct wire *w);

/* Bytes that were taken by a send and that the other end has not acknowledged. */
size_t wire_unsent(struct wire *w);

/* Whether small segments go out at once. Nothing where there is no TCP. */
void wire_nodelay(struct wire *w, bool on);

/* A poll for reading completes when so many bytes are there, not with the first one; 1 at the beginning.
 * False: there is no TCP of its own below. */
bool wire_least(struct wire *w, unsigned bytes);

/* Whether the connection below is over, by a reset, or by the ends of both sides. */
bool wire_broken(const struct wire *w);

/* A peer that does not acknowledge, or take, what was sent for so long is gone. */
void wire_user_timeout(struct wire *w, unsigned ms);

/* A peer that is gone without a word is noticed after a minute. For what may be silent for long. */
void wire_keepalive(struct wire *w);

/* The descriptor that sendfile and splice may write to, when it carries content as it is (a plain socket;
 * with TLS in the kernel); -1: bytes have to go through memory. */
int wire_fd_to(const struct wire *w);

/* Whether content can be spliced from it; and that, into a pipe, as wire_recv_now. -EINVAL: what is next has
 * to be received. */
bool wire_splices(const struct wire *w);
ssize_t wire_splice_now(struct wire *w, int pipe, size_t len);

/*
 * Some sinks are memory's end: they take content together with the buffer that it is in, and give that back
 * (buffers_give) when they are done with it. Nothing is sent to them then.
 *
 * wire_takes: how many bytes of content the next buffer had best have; 0: this is no such sink.
 * wire_take: takes them. False: it wants no more now, and says so by the completion of a wire_poll for
 * POLLOUT: with an error if it has failed.
 * wire_settle: completes, with 0 or the error, when it is done with all that it has taken. It cannot be
 * cancelled.
 */
size_t wire_takes(const struct wire *w);
bool wire_take(struct wire *w, void *buffer, const void *bytes, size_t len);
void wire_settle(struct wire *w, struct op *op);

static inline struct wire wire_of_socket(struct loop *loop, int fd)
{
    return (struct wire){.loop = loop, .fd = fd};
}

#endif
