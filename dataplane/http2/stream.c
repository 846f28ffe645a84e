/* SPDX-License-Identifier: Apache-2.0 */
/* A stream of a session as a wire: the orders of its user (wire.h), and its life between him and nghttp2. */
#include <string.h>

#include "check.h"
#include "dataplane/http2/session.h"

static struct h2_stream *of(const struct wire *w)
{
    return (struct h2_stream *)w->over;
}

static struct loop *loop_of(const struct h2_stream *st)
{
    return st->h->ring->loop;
}

/* ------------------------------------------------------------------ life */

struct h2_stream *h2_stream_make(struct h2_session *s, int32_t id)
{
    struct h2_stream *st = pool_take(&s->h->streams);
    if (!st) {
        ring_count(s->ring, CTR_BUFFERS_EXHAUSTED, 1);
        return NULL;
    }
    memset(st, 0, sizeof(*st));
    st->over.ops = &h2_wire_ops;
    st->h = s->h;
    st->session = s;
    st->id = id;
    st->client = s->client;
    st->reader.request = s->client;
    st->open = id > 0;
    st->next = s->streams;
    st->prev = &s->streams;
    if (st->next)
        st->next->prev = &st->next;
    s->streams = st;
    h2_session_count_stream(s, 1);
    return st;
}

static void unlink_stream(struct h2_stream *st)
{
    if (!st->prev)
        return;
    *st->prev = st->next;
    if (st->next)
        st->next->prev = st->prev;
    st->next = NULL;
    st->prev = NULL;
}

static void leave_session(struct h2_stream *st)
{
    struct h2_session *s = st->session;
    if (!s)
        return;
    h2_queue_leave(st);
    if (s->turn == st)
        s->turn = st->next;
    unlink_stream(st);
    st->session = NULL;
    h2_session_count_stream(s, -1);
}

/* Its last completion may still be on its way: then it is looked at again after the next turn. */
void h2_stream_try_free(struct h2_stream *st)
{
    struct http2 *h = st->h;
    if (!st->released || st->open)
        return;
    leave_session(st);
    if (st->in_post.queued || st->out_post.queued || st->close_post.queued) {
        if (st->dead)
            return;
        st->dead = true;
        st->next = h->dead;
        st->prev = &h->dead;
        if (st->next)
            st->next->prev = &st->next;
        h->dead = st;
        return;
    }
    h2_queue_drop(st);
    h2_send_drop(st);
    unlink_stream(st);
    pool_give(&h->streams, st);
}

void h2_stream_reset(struct h2_stream *st, uint32_t code)
{
    struct h2_session *s = st->session;
    if (!s || !st->open)
        return;
    (void)nghttp2_submit_rst_stream(s->ng, NGHTTP2_FLAG_NONE, st->id, code); /* no memory: the session ends */
    h2_session_ready(s);
}

/* ------------------------------------------------------------------ completions */

static void in_complete(struct h2_stream *st, int32_t res)
{
    st->in_order = H2_ORDER_NONE;
    loop_post(loop_of(st), &st->in_post, st->in_op, res);
}

static void out_complete(struct h2_stream *st, int32_t res)
{
    st->out_order = H2_ORDER_NONE;
    st->iov_count = 0;
    loop_post(loop_of(st), &st->out_post, st->out_op, res);
}

/* Nothing to take: how it ended, or -EAGAIN. */
static int in_state(const struct h2_stream *st)
{
    if (st->end_received || (st->out_shut && st->end_taken && !st->client))
        return 0;
    if (st->in_error)
        return st->in_error;
    return st->session && (st->open || st->client) ? -EAGAIN : -ECONNRESET;
}

static void in_recv(struct h2_stream *st)
{
    int buffer = loop_buffer_take(loop_of(st));
    if (buffer < 0) {
        in_complete(st, buffer);
        return;
    }
    size_t n = h2_queue_take(st, loop_buffer(loop_of(st), (uint16_t)buffer), RECV_BUFFER_BYTES);
    st->in_order = H2_ORDER_NONE;
    loop_post_data(loop_of(st), &st->in_post, st->in_op, (int32_t)n, (uint16_t)buffer);
}

void h2_stream_input(struct h2_stream *st)
{
    if (st->in_order == H2_ORDER_NONE)
        return;
    if (st->in_order == H2_ORDER_POLL_HUP) {
        if (st->in_error || st->out_error)
            in_complete(st, st->in_error ? st->in_error : st->out_error);
        return;
    }
    if (st->queued == 0) {
        int state = in_state(st);
        if (state != -EAGAIN)
            in_complete(st, st->in_order == H2_ORDER_POLL_IN ? POLLIN : state);
    } else if (st->in_order == H2_ORDER_POLL_IN) {
        in_complete(st, POLLIN);
    } else if (st->in_order == H2_ORDER_RECV) {
        in_recv(st);
    } else {
        in_complete(st, (int32_t)h2_queue_take(st, st->in_buffer, st->in_cap));
    }
}

/* Nothing can be sent any more: why, or 0. */
static int out_state(const struct h2_stream *st)
{
    if (st->out_error)
        return st->out_error;
    if (st->out_shut || st->end_taken)
        return -EPIPE;
    return st->session && (st->open || (st->client && !st->head_sent)) ? 0 : -ECONNRESET;
}

/* Whether a frame of content could be made now. */
bool h2_stream_writable(const struct h2_stream *st)
{
    const struct h2_session *s = st->session;
    if (!s || out_state(st))
        return true; /* it will be told */
    if (s->out.inflight || s->in_callback)
        return false;
    if (!st->head_sent)
        return true;
    return s->out_end + H2_OUT_RESERVE < H2_OUT_BYTES / 2 && h2_room_ready(st);
}

bool h2_stream_waits_room(const struct h2_stream *st)
{
    return st->out_order == H2_ORDER_POLL_OUT;
}

void h2_stream_output(struct h2_stream *st)
{
    if (st->out_order == H2_ORDER_NONE)
        return;
    if (st->out_order == H2_ORDER_POLL_OUT) {
        if (h2_stream_writable(st))
            out_complete(st, POLLOUT);
        return;
    }
    if (st->taken)
        out_complete(st, (int32_t)st->taken);
    else if (out_state(st))
        out_complete(st, out_state(st));
}

/* nghttp2 has closed it, or the session is ending. */
void h2_stream_gone(struct h2_stream *st, int error)
{
    st->open = false;
    if (!st->end_received && !st->in_error)
        st->in_error = error;
    if (!st->end_sent && !st->out_error)
        st->out_error = error;
    h2_stream_input(st);
    h2_stream_output(st);
    h2_stream_try_free(st);
}

void h2_stream_orphan(struct h2_stream *st, int error)
{
    leave_session(st);
    h2_stream_gone(st, error);
}

/* ------------------------------------------------------------------ receiving */

static void order_in(struct h2_stream *st, struct op *op, enum h2_order order)
{
    CHECK(st->in_order == H2_ORDER_NONE && !st->in_post.queued);
    loop_op_begin(op);
    st->in_op = op;
    st->in_order = (uint8_t)order;
    h2_stream_input(st);
}

static void wire_h2_recv(struct wire *w, struct op *op)
{
    order_in(of(w), op, H2_ORDER_RECV);
}

static void wire_h2_recv_into(struct wire *w, struct op *op, void *buf, size_t len, int flags)
{
    struct h2_stream *st = of(w);
    st->in_buffer = buf;
    st->in_cap = len < INT32_MAX ? len : INT32_MAX;
    order_in(st, op, H2_ORDER_RECV_INTO);
    if (st->in_order != H2_ORDER_NONE && (flags & MSG_DONTWAIT))
        in_complete(st, -EAGAIN);
}

static ssize_t wire_h2_recv_now(struct wire *w, void *buf, size_t len)
{
    struct h2_stream *st = of(w);
    return st->queued ? (ssize_t)h2_queue_take(st, buf, len) : in_state(st);
}

/* ------------------------------------------------------------------ sending */

/* The user's bytes, for as long as they may be looked at. */
static void lend(struct h2_stream *st, const struct iovec *iov, size_t count)
{
    st->iov = iov;
    st->iov_count = count;
    st->iov_at = 0;
    st->taken = 0;
}

/* Heads are taken at once; content when a frame is made of it. */
static void offer(struct h2_stream *st)
{
    h2_send_heads(st);
    if (st->head_sent && st->open && st->iov_count)
        (void)nghttp2_session_resume_data(st->session->ng, st->id); /* an error: it waits for nothing */
    if (st->session)
        h2_session_ready(st->session);
}

static void order_send(struct h2_stream *st, struct op *op)
{
    CHECK(st->out_order == H2_ORDER_NONE && !st->out_post.queued);
    loop_op_begin(op);
    st->out_op = op;
    st->out_order = H2_ORDER_SEND;
    int state = out_state(st);
    if (state) {
        out_complete(st, state);
        return;
    }
    offer(st);
    if (st->iov_count == 0 || st->out_error)
        h2_stream_output(st);
}

static void wire_h2_send(struct wire *w, struct op *op, const void *buf, size_t len, int flags)
{
    struct h2_stream *st = of(w);
    (void)flags;
    st->one = (struct iovec){(void *)(uintptr_t)buf, len};
    lend(st, &st->one, 1);
    order_send(st, op);
}

static void wire_h2_sendmsg(struct wire *w, struct op *op, const struct msghdr *msg, int flags)
{
    struct h2_stream *st = of(w);
    (void)flags;
    lend(st, msg->msg_iov, msg->msg_iovlen);
    order_send(st, op);
}

static ssize_t wire_h2_sendmsg_now(struct wire *w, const struct msghdr *msg, int flags)
{
    struct h2_stream *st = of(w);
    (void)flags;
    int state = out_state(st);
    if (state)
        return state;
    if (st->session->in_callback)
        return -EAGAIN;
    lend(st, msg->msg_iov, msg->msg_iovlen);
    offer(st);
    int err = st->session ? h2_session_fill(st->session) : 0;
    ssize_t taken = (ssize_t)st->taken;
    st->iov_count = 0;
    if (err && st->session)
        h2_session_fail(st->session, err);
    if (taken)
        return taken;
    return out_state(st) ? out_state(st) : -EAGAIN;
}

static void wire_h2_poll(struct wire *w, struct op *op, short events)
{
    struct h2_stream *st = of(w);
    if (events & (POLLIN | POLLHUP)) {
        order_in(st, op, events & POLLIN ? H2_ORDER_POLL_IN : H2_ORDER_POLL_HUP);
        return;
    }
    CHECK(st->out_order == H2_ORDER_NONE && !st->out_post.queued);
    loop_op_begin(op);
    st->out_op = op;
    st->out_order = H2_ORDER_POLL_OUT;
    if (out_state(st))
        h2_stream_output(st);
    else
        h2_session_ready(st->session); /* looked at when frames were made: one after the other has its turn */
}

static void wire_h2_cancel(struct wire *w, struct op *op)
{
    struct h2_stream *st = of(w);
    if (st->in_order != H2_ORDER_NONE && st->in_op == op)
        in_complete(st, -ECANCELED);
    if (st->out_order != H2_ORDER_NONE && st->out_op == op)
        out_complete(st, st->out_order == H2_ORDER_SEND && st->taken ? (int32_t)st->taken : -ECANCELED);
}

/* The other side need not send the rest of what nobody reads. */
static void stop_when_sent(struct h2_stream *st)
{
    st->stop_wanted = true;
    if (st->end_sent && st->open && !st->end_received)
        h2_stream_reset(st, NGHTTP2_NO_ERROR);
}

static void wire_h2_shutdown(struct wire *w)
{
    struct h2_stream *st = of(w);
    if (st->out_shut)
        return;
    st->out_shut = true;
    if (!st->session || !st->open)
        return;
    if (!st->end_taken && !h1_closed(&st->reader)) { /* cut short: never a clean end */
        h2_stream_reset(st, NGHTTP2_INTERNAL_ERROR);
        return;
    }
    if (!st->client)
        stop_when_sent(st);
    (void)nghttp2_session_resume_data(st->session->ng, st->id);
    h2_session_ready(st->session);
}

static void wire_h2_close(struct wire *w, struct op *op)
{
    struct h2_stream *st = of(w);
    CHECK(st->in_order == H2_ORDER_NONE && st->out_order == H2_ORDER_NONE && !st->released);
    loop_op_begin(op);
    loop_post(loop_of(st), &st->close_post, op, 0);
    st->released = true;
    h2_queue_drop(st);
    if (st->open && !st->end_taken)
        h2_stream_reset(st, st->client ? NGHTTP2_CANCEL : NGHTTP2_INTERNAL_ERROR);
    else if (st->open && st->client && !st->end_received)
        h2_stream_reset(st, NGHTTP2_CANCEL);
    else if (st->open)
        stop_when_sent(st);
    h2_stream_try_free(st);
}

/* Of the frames that it has part in; what other streams sent before them counts too, which is never less. */
static size_t wire_h2_unsent(struct wire *w)
{
    const struct h2_stream *st = of(w);
    struct h2_session *s = st->session;
    if (!s)
        return 0;
    uint64_t waiting = s->out_end - s->out_at + wire_unsent(&s->wire), behind = s->out_total - st->sent_at;
    return waiting > behind ? (size_t)(waiting - behind) : 0;
}

const struct wire_ops h2_wire_ops = {
    .name = "h2",
    .recv = wire_h2_recv,
    .recv_into = wire_h2_recv_into,
    .send = wire_h2_send,
    .sendmsg = wire_h2_sendmsg,
    .poll = wire_h2_poll,
    .cancel = wire_h2_cancel,
    .recv_now = wire_h2_recv_now,
    .sendmsg_now = wire_h2_sendmsg_now,
    .shutdown = wire_h2_shutdown,
    .close = wire_h2_close,
    .unsent = wire_h2_unsent,
};

const struct wire *h2_carrier(const struct wire *w)
{
    const struct h2_stream *st =
        w->over && w->over->ops == &h2_wire_ops ? container_of(w->over, struct h2_stream, over) : NULL;
    return st && st->session ? &st->session->wire : NULL;
}
