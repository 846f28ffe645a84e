/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire over TLS. Receiving: OpenSSL reads the socket when it is readable, up to TLS_IN_BYTES a call, into
 * memory of its own that it gives back as soon as nothing is in it. Sending: content becomes records in a
 * buffer of the ring, several to a system call; the buffer is given back when the socket has taken them. So
 * an idle connection holds no buffer.
 *
 * Where the kernel makes the records, sending is the loop's, and so is receiving where it opens them.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/sockios.h>

#include "check.h"
#include "dataplane/tls/errors.h"
#include "dataplane/tls/tls_private.h"

static void in_done(struct op *op, const struct event *ev);
static void out_done(struct op *op, const struct event *ev);
static void rx_step(struct tls *t);
static void tx_step(struct tls *t);
static void close_try(struct tls *t);

static struct tls *tls_of(const struct wire *w)
{
    return container_of(w->over, struct tls, over);
}

/* ------------------------------------------------------------------ the buffer for the socket */

static void starve(struct tls *t)
{
    ring_count(t->tr->ring, CTR_BUFFERS_EXHAUSTED, 1);
    t->starved = true;
    t->next_starved = NULL;
    *t->tr->starved_tail = t;
    t->tr->starved_tail = &t->next_starved;
}

static void starved_leave(struct tls *t)
{
    struct tls **at = &t->tr->starved;
    if (!t->starved)
        return;
    while (*at != t)
        at = &(*at)->next_starved;
    *at = t->next_starved;
    if (!*at)
        t->tr->starved_tail = at;
    t->starved = false;
}

static void out_give(struct tls *t)
{
    struct tls *next = t->tr->starved;
    if (!t->outbuf)
        return;
    pool_give(&t->tr->outs, t->outbuf);
    t->outbuf = NULL;
    t->out_at = t->out_len = 0;
    if (!next)
        return;
    starved_leave(next);
    tx_step(next);
}

/* What the socket takes at once. 0: all of it; -EAGAIN: a rest is left; or -errno. */
static int flush_now(struct tls *t, int flags)
{
    while (t->out_at < t->out_len) {
        ssize_t n =
            send(t->fd, t->outbuf + t->out_at, t->out_len - t->out_at, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            return -errno;
        t->out_at += (uint32_t)n;
    }
    out_give(t);
    return 0;
}

static void flush_order(struct tls *t)
{
    if (!t->out.inflight)
        loop_send(t->tr->loop, &t->out, t->fd, t->outbuf + t->out_at, t->out_len - t->out_at,
                  t->more ? MSG_MORE : 0);
}

/* What the protocol itself had to say (an alert, new keys) while something else was done. */
static void flush_own(struct tls *t)
{
    if (t->out_at == t->out_len || t->out.inflight)
        return;
    int err = flush_now(t, 0);
    if (err == -EAGAIN)
        flush_order(t);
    else if (err)
        t->broken = err;
}

/* ------------------------------------------------------------------ receiving */

static int read_error(struct tls *t)
{
    switch (SSL_get_error(t->ssl, 0)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        t->ended = 1;
        return 0;
    default:
        if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
            ring_count(t->tr->ring, CTR_TLS_TRUNCATED, 1);
        else
            t->unsound = true;
        t->ended = -ECONNRESET;
        return -ECONNRESET;
    }
}

/* OpenSSL's: every message of the protocol. */
static void heard(int sent, int version, int type, const void *bytes, size_t len, SSL *ssl, void *arg)
{
    enum { MESSAGE_HEAD = 4, REQUESTED = 1 };
    struct tls *t = arg;
    const uint8_t *message = bytes;
    (void)version;
    (void)ssl;
    if (!sent && type == SSL3_RT_HANDSHAKE && len > MESSAGE_HEAD && message[0] == SSL3_MT_KEY_UPDATE)
        t->rekeyed |= message[MESSAGE_HEAD] == REQUESTED;
}

/* OpenSSL has said yes, and the kernel goes on with the keys before: nothing that it sends can be read. */
static int end_rekeyed(struct tls *t)
{
    t->rekeyed = false;
    t->ended = -ECONNRESET;
    ring_count(t->tr->ring, CTR_TLS_REKEYS_REFUSED, 1);
    (void)shutdown(t->fd, SHUT_RDWR);
    return t->ended;
}

/* Up to len bytes of content: what is here now. 0: the end; -EAGAIN; -ECONNRESET. */
static ssize_t content_read(struct tls *t, void *buf, size_t len)
{
    size_t done = 0;
    if (t->ended)
        return t->ended > 0 ? 0 : t->ended;
    while (done < len && (done == 0 || SSL_has_pending(t->ssl))) {
        size_t n = 0;
        ERR_clear_error();
        bool more = SSL_read_ex(t->ssl, (uint8_t *)buf + done, len - done, &n) == 1;
        int err = more ? 0 : read_error(t);
        done += n;
        if (t->rekeyed)
            err = end_rekeyed(t);
        if (!more || err) {
            flush_own(t);
            return done ? (ssize_t)done : err;
        }
    }
    flush_own(t);
    return (ssize_t)done;
}

/* Whether content, or the end, can be had at once. */
static bool content_ready(struct tls *t)
{
    uint8_t byte;
    size_t n;
    if (t->ended)
        return true;
    ERR_clear_error();
    bool ready = SSL_peek_ex(t->ssl, &byte, 1, &n) == 1 || read_error(t) != -EAGAIN;
    if (t->rekeyed)
        ready = end_rekeyed(t) != 0;
    flush_own(t);
    return ready;
}

static void rx_post(struct tls *t, int32_t res)
{
    struct op *op = t->rx;
    t->rx = NULL;
    loop_post(t->tr->loop, &t->rx_post, op, res);
}

/* Into a buffer of the loop's. False: nothing is here yet. */
static bool rx_recv(struct tls *t)
{
    int buffer = loop_buffer_take(t->tr->loop);
    if (buffer < 0) {
        rx_post(t, -ENOBUFS);
        return true;
    }
    ssize_t n = content_read(t, loop_buffer(t->tr->loop, (uint16_t)buffer), RECV_BUFFER_BYTES);
    if (n > 0) {
        struct op *op = t->rx;
        t->rx = NULL;
        loop_post_data(t->tr->loop, &t->rx_post, op, (int32_t)n, (uint16_t)buffer);
        return true;
    }
    loop_buffer_put(t->tr->loop, (uint16_t)buffer);
    if (n != -EAGAIN)
        rx_post(t, (int32_t)n);
    return n != -EAGAIN;
}

static bool rx_recv_into(struct tls *t)
{
    ssize_t n = content_read(t, t->rx_buf, t->rx_len);
    if (n != -EAGAIN)
        rx_post(t, (int32_t)n);
    return n != -EAGAIN;
}

static bool rx_ready(struct tls *t)
{
    bool ready = content_ready(t);
    if (ready)
        rx_post(t, POLLIN);
    return ready;
}

static void rx_step(struct tls *t)
{
    bool done = t->rx_kind == ORDER_RECV        ? rx_recv(t)
                : t->rx_kind == ORDER_RECV_INTO ? rx_recv_into(t)
                                                : rx_ready(t);
    if (!done && !t->in.inflight)
        loop_poll(t->tr->loop, &t->in, t->fd, POLLIN);
}

static void in_done(struct op *op, const struct event *ev)
{
    struct tls *t = container_of(op, struct tls, in);
    if (t->close)
        close_try(t);
    else if (t->rx && ev->res == -ECANCELED)
        rx_post(t, -ECANCELED);
    else if (t->rx)
        rx_step(t);
}

/* Content may wait in OpenSSL's memory, where the socket does not know of it. */
static void rx_begin(struct tls *t, struct op *op, enum tls_order kind)
{
    CHECK(!t->rx);
    loop_op_begin(op);
    t->rx = op;
    t->rx_kind = (uint8_t)kind;
    if (t->ended || SSL_has_pending(t->ssl))
        rx_step(t);
    else if (!t->in.inflight)
        loop_poll(t->tr->loop, &t->in, t->fd, POLLIN);
}

static void tls_recv(struct wire *w, struct op *op)
{
    rx_begin(tls_of(w), op, ORDER_RECV);
}

static void tls_recv_into(struct wire *w, struct op *op, void *buf, size_t len, int flags)
{
    struct tls *t = tls_of(w);
    if (flags & MSG_DONTWAIT) {
        loop_op_begin(op);
        loop_post(w->loop, &t->rx_post, op, (int32_t)content_read(t, buf, len));
        return;
    }
    t->rx_buf = buf;
    t->rx_len = len;
    rx_begin(t, op, ORDER_RECV_INTO);
}

static ssize_t tls_recv_now(struct wire *w, void *buf, size_t len)
{
    return content_read(tls_of(w), buf, len);
}

/* ------------------------------------------------------------------ sending */

static void tx_post(struct tls *t, int32_t res)
{
    struct op *op = t->tx;
    t->tx = NULL;
    loop_post(t->tr->loop, &t->tx_post, op, res);
}

/* Where the kernel makes the records, close_notify needs room in the socket like any other. */
static bool shut_waits(struct tls *t, int ret)
{
    return t->kernel_send && ret < 0 && SSL_get_error(t->ssl, ret) == SSL_ERROR_WANT_WRITE;
}

static void shut_now(struct tls *t)
{
    ERR_clear_error();
    if (shut_waits(t, SSL_shutdown(t->ssl))) {
        t->polling = true;
        loop_poll(t->tr->loop, &t->out, t->fd, POLLOUT);
        return;
    }
    t->shut = true;
    t->more = false;
    if (t->out_at < t->out_len && flush_now(t, MSG_MORE) == -EAGAIN) { /* the FIN goes with it */
        flush_order(t);                                                /* then the FIN follows */
        return;
    }
    out_give(t);
    (void)shutdown(t->fd, SHUT_WR);
}

static void tx_content(struct tls *t)
{
    if (!tls_out_take(t)) {
        starve(t);
        return;
    }
    ssize_t n = tls_content_write(t, t->tx_msg);
    if (n <= 0) {
        t->broken = n ? (int)n : -EINVAL;
        out_give(t);
        tx_post(t, t->broken);
        return;
    }
    t->taken = (size_t)n;
    flush_order(t);
}

/* Whatever is next for the socket; nothing is under way there. */
static void tx_step(struct tls *t)
{
    if (t->out.inflight || t->starved)
        return;
    if (t->tx && t->broken) {
        tx_post(t, t->broken);
    } else if (t->out_at < t->out_len) {
        flush_order(t);
    } else if (t->tx && t->tx_kind == ORDER_SEND) {
        tx_content(t);
    } else if (t->tx) {
        t->polling = true;
        loop_poll(t->tr->loop, &t->out, t->fd, POLLOUT);
    } else {
        out_give(t);
        if (t->shut_wanted && !t->shut && !t->broken)
            shut_now(t);
    }
}

static void flushed(struct tls *t, int32_t res)
{
    if (res <= 0) {
        t->broken = res ? res : -EPIPE;
        out_give(t);
        tx_step(t);
        return;
    }
    t->out_at += (uint32_t)res;
    if (t->out_at < t->out_len) {
        flush_order(t);
        return;
    }
    t->out_at = t->out_len = 0;
    if (t->tx && t->taken) {
        tx_post(t, (int32_t)t->taken);
        t->taken = 0;
    }
    if (t->shut)
        (void)shutdown(t->fd, SHUT_WR);
    tx_step(t);
}

static void out_done(struct op *op, const struct event *ev)
{
    struct tls *t = container_of(op, struct tls, out);
    bool polled = t->polling;
    t->polling = false;
    if (t->close) {
        close_try(t);
    } else if (ev->res == -ECANCELED) {
        if (t->tx)
            tx_post(t, -ECANCELED);
        t->taken = 0;
    } else if (polled && t->tx) {
        tx_post(t, POLLOUT);
    } else if (polled) {
        tx_step(t);
    } else {
        flushed(t, ev->res);
    }
}

static void tx_begin(struct tls *t, struct op *op, enum tls_order kind)
{
    CHECK(!t->tx);
    loop_op_begin(op);
    t->tx = op;
    t->tx_kind = (uint8_t)kind;
    t->taken = 0;
    tx_step(t);
}

static void tls_sendmsg(struct wire *w, struct op *op, const struct msghdr *msg, int flags)
{
    struct tls *t = tls_of(w);
    if (t->kernel_send) {
        loop_sendmsg(w->loop, op, w->fd, msg, flags);
        return;
    }
    t->tx_msg = msg;
    t->more = flags & MSG_MORE;
    tx_begin(t, op, ORDER_SEND);
}

static void tls_send(struct wire *w, struct op *op, const void *buf, size_t len, int flags)
{
    struct tls *t = tls_of(w);
    t->one = (struct iovec){(void *)(uintptr_t)buf, len};
    t->one_msg = (struct msghdr){.msg_iov = &t->one, .msg_iovlen = 1};
    tls_sendmsg(w, op, &t->one_msg, flags);
}

static ssize_t tls_sendmsg_now(struct wire *w, const struct msghdr *msg, int flags)
{
    struct tls *t = tls_of(w);
    if (t->kernel_send) {
        ssize_t n = sendmsg(t->fd, msg, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
        return n < 0 ? -errno : n;
    }
    if (t->broken)
        return t->broken;
    if (t->out.inflight || t->out_at < t->out_len || !tls_out_take(t))
        return -EAGAIN;
    ssize_t n = tls_content_write(t, msg);
    if (n < 0)
        return t->broken = (int)n;
    t->more = flags & MSG_MORE;
    int err = flush_now(t, flags & MSG_MORE);
    if (err == -EAGAIN)
        flush_order(t);
    else if (err)
        return t->broken = err;
    return n;
}

/* ------------------------------------------------------------------ both */

static void tls_poll(struct wire *w, struct op *op, short events)
{
    if (events & POLLOUT)
        tx_begin(tls_of(w), op, ORDER_POLL);
    else
        rx_begin(tls_of(w), op, ORDER_POLL);
}

/* With records by the kernel a sending order is the loop's own. */
static void tls_cancel(struct wire *w, struct op *op)
{
    struct tls *t = tls_of(w);
    if (!op->inflight)
        return;
    if (op == t->rx) {
        loop_cancel(w->loop, &t->in);
    } else if (op == t->tx && t->starved) {
        starved_leave(t);
        tx_post(t, -ECANCELED);
    } else if (op == t->tx) {
        loop_cancel(w->loop, &t->out);
    } else if (t->kernel_send && !(t->rx_post.queued && t->rx_post.op == op)) {
        loop_cancel(w->loop, op);
    }
}

static void tls_shutdown(struct wire *w)
{
    struct tls *t = tls_of(w);
    if (t->shut_wanted)
        return;
    t->shut_wanted = true;
    tx_step(t);
}

static size_t tls_unsent(struct wire *w)
{
    struct tls *t = tls_of(w);
    int queued = 0;
    (void)ioctl(t->fd, SIOCOUTQ, &queued);
    return (size_t)(queued > 0 ? queued : 0) + (t->out_len - t->out_at);
}

static int tls_fd_to(const struct wire *w)
{
    return tls_of(w)->kernel_send ? w->fd : -1;
}

/* ------------------------------------------------------------------ the beginning and the end */

void tls_wire_begin(struct tls *t)
{
    t->in.done = in_done;
    t->out.done = out_done;
    if (t->kernel_send) {
        SSL_set_msg_callback(t->ssl, heard);
        SSL_set_msg_callback_arg(t->ssl, t);
    }
}

static void release(struct tls *t)
{
    ERR_clear_error();
    if (t->ssl && !t->unsound &&
        !t->handshaking) /* else it would count as broken: nobody waits for the end */
        SSL_set_shutdown(t->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(t->ssl);
    t->ssl = NULL;
    tls_context_put(t->context);
    t->context = NULL;
    starved_leave(t);
    out_give(t);
}

void tls_give(struct tls *t)
{
    release(t);
    *t->prev_open = t->next_open;
    if (t->next_open)
        t->next_open->prev_open = t->prev_open;
    pool_give(&t->tr->wires, t);
}

static void closed(struct op *op, const struct event *ev)
{
    struct tls *t = container_of(op, struct tls, out);
    struct op *user = t->close;
    tls_give(t);
    user->inflight = false;
    user->done(user, ev);
}

static void close_try(struct tls *t)
{
    if (t->in.inflight || t->out.inflight)
        return;
    release(t);
    t->out.done = closed;
    loop_close(t->tr->loop, &t->out, t->fd);
}

static void tls_close(struct wire *w, struct op *op)
{
    struct tls *t = tls_of(w);
    CHECK(!t->rx && !t->tx);
    loop_op_begin(op);
    t->close = op;
    loop_cancel(w->loop, &t->in);
    loop_cancel(w->loop, &t->out);
    close_try(t);
}

const struct wire_ops tls_wire_ops = {
    .name = "tls",
    .recv = tls_recv,
    .recv_into = tls_recv_into,
    .send = tls_send,
    .sendmsg = tls_sendmsg,
    .poll = tls_poll,
    .cancel = tls_cancel,
    .recv_now = tls_recv_now,
    .sendmsg_now = tls_sendmsg_now,
    .shutdown = tls_shutdown,
    .close = tls_close,
    .unsent = tls_unsent,
    .fd_to = tls_fd_to,
};
