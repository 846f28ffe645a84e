/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file on its way to the client (move/file.h): from the page cache to the socket, or, where the wire
 * changes the bytes, through a buffer, in pieces that stay in the processor's cache. A ring waits for no
 * disk: what is cold is read into the page cache first.
 */
#include <errno.h>
#include <poll.h>

#include "check.h"
#include "dataplane/move/file.h"
#include "dataplane/store/store.h"
#include "dataplane/stream_private.h"

enum {
    TURN_BYTES = 1 << 20,    /* of a file in one turn: then it is the next one's; */
    ALONE_BYTES = 8 << 20,   /* in one turn of the only request at work */
    COPY_BYTES = 64 << 10,   /* through a buffer in one step: what the wire takes at once */
    LOOK_AHEAD = 4 << 20,    /* how far the page cache is looked at, */
    LOOK_VALID_MS = 500,     /* and for how long that counts */
    AHEAD_BYTES = 4 << 20,   /* what is read ahead where the cache is cold */
    LARGE_BYTES = 256 << 10, /* of a file: from here on full segments are worth two system calls */
};

static void file_read_done(struct op *op, const struct event *ev);
static void file_ahead_done(struct op *op, const struct event *ev);
static void order_ahead(struct stream_full *f);
static void file_warm_done(struct op *op, const struct event *ev);

/* A file's head is sent at once, so that the file can follow it in the same segment. */
void send_file_begin(struct stream_full *f)
{
    if (f->send.left >= LARGE_BYTES && send_is_direct(f)) {
        f->send.delayed = true;
        conn_nodelay(f->s.conn, false);
    }
    bool out = send_at_once(f, MSG_MORE);
    send_progress(f);
    if (out)
        send_turn(f);
    else
        send_bytes_out(f);
}

static void wait_writable(struct stream_full *f)
{
    f->send.polling = true;
    wire_poll(&f->s.conn->wire, &f->s.conn->out, POLLOUT);
}

/* Remembers for all readers of the blob what was seen; a range that grows keeps the time of its oldest part.
 */
static void seen_resident(struct blob *b, uint64_t from, uint64_t to, uint64_t now_ms)
{
    bool fresh = b->resident_ms && now_ms - b->resident_ms < LOOK_VALID_MS;
    if (fresh && from >= b->resident_from && from <= b->resident_to) {
        if (to > b->resident_to)
            b->resident_to = to;
        return;
    }
    b->resident_from = from;
    b->resident_to = to;
    b->resident_ms = now_ms;
}

/* Whether the next bytes are in the page cache. */
static bool resident(struct stream_full *f)
{
    const struct sending *s = &f->send;
    struct blob *b = s->blob;
    uint64_t now = ring_now_ms(f->s.ring);
    if (b->resident_ms && now - b->resident_ms < LOOK_VALID_MS && s->offset >= b->resident_from &&
        s->offset < b->resident_to)
        return true;
    uint64_t len = s->left < LOOK_AHEAD ? s->left : LOOK_AHEAD;
    if (!file_resident(b->fd, s->offset, len)) {
        len = len < TURN_BYTES ? len : TURN_BYTES;
        if (!file_resident(b->fd, s->offset, len))
            return false;
    }
    seen_resident(b, s->offset, s->offset + len, now);
    return true;
}

static void await_piece(struct stream_full *f)
{
    struct sending *s = &f->send;
    uint64_t piece = s->left < TURN_BYTES ? s->left : TURN_BYTES;
    s->file.done = file_warm_done;
    loop_read(f->s.ring->loop, &s->file, s->blob->fd, &s->byte, 1, s->offset + piece - 1);
}

/*
 * A ring does not wait for a disk. A cold piece is read into the page cache by the loop, and goes out from
 * there like any other: the order to read ahead, then one byte from the end of the piece, which comes when
 * the disk has come so far.
 */
static void warm(struct stream_full *f)
{
    struct sending *s = &f->send;
    ring_count(f->s.ring, CTR_FILE_COLD, 1);
    s->warming = true;
    s->warmed = s->offset;
    s->was_warmed = true;
    if (s->ahead.inflight) /* of bytes further on: this piece is waited for when that is ordered */
        return;
    if (s->ahead_to > s->offset)
        await_piece(f);
    else
        order_ahead(f);
}

/* The disk reads on while a cold file's bytes go out. */
static void keep_ahead(struct stream_full *f)
{
    struct sending *s = &f->send;
    if (s->was_warmed && !s->ahead.inflight && s->ahead_to < s->offset + AHEAD_BYTES &&
        s->ahead_to < s->offset + s->left)
        order_ahead(f);
}

static void order_ahead(struct stream_full *f)
{
    struct sending *s = &f->send;
    uint64_t from = s->ahead_to > s->offset ? s->ahead_to : s->offset, left = s->offset + s->left - from;
    size_t len = left < AHEAD_BYTES ? (size_t)left : AHEAD_BYTES;
    s->ahead.done = file_ahead_done;
    s->ahead_to = from + len;
    loop_readahead(f->s.ring->loop, &s->ahead, s->blob->fd, from, len);
}

static void file_ahead_done(struct op *op, const struct event *ev)
{
    struct sending *s = container_of(op, struct sending, ahead);
    struct stream_full *f = container_of(s, struct stream_full, send);
    (void)ev; /* advice: if it failed the read is slower */
    if (f->gone || f->state == STREAM_DONE) {
        ring_ready(f->s.ring, &f->s);
        return;
    }
    if (s->warming)
        await_piece(f);
}

static void file_failed(struct stream_full *f)
{
    ring_count(f->s.ring, CTR_STORE_ERRORS, 1);
    conn_close(f->s.conn, CLOSE_STORE_ERROR);
}

static void file_warm_done(struct op *op, const struct event *ev)
{
    struct sending *s = container_of(op, struct sending, file);
    struct stream_full *f = container_of(s, struct stream_full, send);
    s->warming = false;
    if (!f->gone && ev->res <= 0) /* also a file that ends too early */
        file_failed(f);
    else
        ring_ready(f->s.ring, &f->s);
}

/* A piece that does not stay in the page cache, or of which the kernel does not say so, goes through a
 * buffer. */
static void read_cold(struct stream_full *f)
{
    struct sending *s = &f->send;
    if (!s->buffer)
        s->buffer = ring_body_take(f->s.ring, &f->s);
    if (!s->buffer)
        return; /* in line for one */
    f->technique = "copy";
    s->file.done = file_read_done;
    size_t len = s->left < BODY_BUFFER_BYTES ? (size_t)s->left : BODY_BUFFER_BYTES;
    loop_read(f->s.ring->loop, &s->file, s->blob->fd, s->buffer, len, s->offset);
}

static void buffer_drop(struct stream_full *f)
{
    struct sending *s = &f->send;
    void *buffer = s->buffer;
    s->copying = false;
    s->buffer = NULL;
    if (buffer)
        ring_body_give(f->s.ring, buffer);
}

/* Clients that do not read must not have all buffers: a piece can be read again. */
static void copy_let_go(struct stream_full *f)
{
    struct sending *s = &f->send;
    s->offset -= s->iov[0].iov_len;
    s->left += s->iov[0].iov_len;
    s->iov[0].iov_len = 0;
    wait_writable(f);
    buffer_drop(f);
}

/* Whether all of the piece is with the wire; else the rest waits for room there, or the connection is closed.
 */
static bool copy_out(struct stream_full *f)
{
    struct sending *s = &f->send;
    struct msghdr msg = {.msg_iov = s->iov, .msg_iovlen = 1};
    ssize_t n = wire_sendmsg_now(&f->s.conn->wire, &msg, s->left && send_is_direct(f) ? MSG_MORE : 0);
    if (n < 0 && n != -EAGAIN) {
        conn_close(f->s.conn, CLOSE_CLIENT_ABORT);
        return false;
    }
    if (n > 0) {
        send_took(f, (size_t)n);
        send_iov_skip(s->iov, (size_t)n);
    }
    if (s->iov[0].iov_len == 0)
        return true;
    if (ring_bodies_short(f->s.ring))
        copy_let_go(f);
    else
        send_bytes_out(f);
    return false;
}

static void copy_begin(struct stream_full *f, size_t n)
{
    struct sending *s = &f->send;
    s->copying = true;
    s->offset += n;
    s->left -= n;
    s->iov[0] = (struct iovec){s->buffer, n};
    s->iov[1].iov_len = 0;
}

static void file_read_done(struct op *op, const struct event *ev)
{
    struct sending *s = container_of(op, struct sending, file);
    struct stream_full *f = container_of(s, struct stream_full, send);
    if (f->gone) {
        ring_ready(f->s.ring, &f->s);
        return;
    }
    if (ev->res <= 0) { /* also a file that ends too early */
        file_failed(f);
        return;
    }
    copy_begin(f, (size_t)ev->res);
    if (copy_out(f))
        send_part_out(f);
}

/* The next bytes are not in the page cache. */
static void cold(struct stream_full *f)
{
    if (f->send.was_warmed && f->send.warmed == f->send.offset)
        read_cold(f);
    else
        warm(f);
}

/* One piece through the buffer. False: it did not all go, or was not to be had. */
static bool copy_piece(struct stream_full *f)
{
    struct sending *s = &f->send;
    size_t len = s->left < COPY_BYTES ? (size_t)s->left : COPY_BYTES;
    ssize_t n = resident(f) ? file_read_now(s->blob->fd, s->offset, s->buffer, len) : -EAGAIN;
    if (n > 0) {
        copy_begin(f, (size_t)n);
        keep_ahead(f);
        return copy_out(f);
    }
    buffer_drop(f); /* others have a use for it while the disk has this one's bytes */
    if (n == -EAGAIN)
        cold(f);
    else if (n == -EOPNOTSUPP)
        read_cold(f);
    else /* also a file that ends too early */
        file_failed(f);
    return false;
}

/* The wire changes the bytes: they have to pass through memory. */
static void copy_turn(struct stream_full *f, size_t budget)
{
    struct sending *s = &f->send;
    if (!s->buffer)
        s->buffer = ring_body_take(f->s.ring, &f->s);
    if (!s->buffer)
        return; /* in line for one */
    f->technique = "copy";
    for (size_t moved = 0; s->left && moved < budget; moved += COPY_BYTES)
        if (!copy_piece(f))
            return;
    send_part_out(f);
}

static void direct_turn(struct stream_full *f, size_t budget)
{
    struct sending *s = &f->send;
    while (s->left && budget) {
        if (!resident(f)) {
            cold(f);
            return;
        }
        keep_ahead(f);
        size_t len = s->left < budget ? (size_t)s->left : budget;
        ssize_t n = file_send(wire_fd_to(&f->s.conn->wire), s->blob->fd, s->offset, len);
        if (n == -EAGAIN) {
            wait_writable(f);
            return;
        }
        if (n <= 0) {
            conn_close(f->s.conn, n == 0 || n == -EIO ? CLOSE_STORE_ERROR : CLOSE_CLIENT_ABORT);
            return;
        }
        s->offset += (size_t)n;
        s->left -= (size_t)n;
        budget -= (size_t)n;
        send_took(f, (size_t)n);
        ring_count(f->s.ring, CTR_BYTES_SENT_FILE, (uint64_t)n);
        if ((size_t)n < len) {
            wait_writable(f);
            return;
        }
    }
    send_part_out(f);
}

void send_file_turn(struct stream_full *f)
{
    if (f->send.blob->damaged) { /* as was found while it went out: its end must not be believed */
        conn_close(f->s.conn, CLOSE_BLOB_DAMAGED);
        return;
    }
    /* Who waits for a disk has no use for a long turn, and somebody else may come meanwhile. */
    bool long_turn = f->s.ring->streams.used == 1 && !f->send.was_warmed;
    size_t budget = long_turn ? ALONE_BYTES : TURN_BYTES;
    if (send_is_direct(f))
        direct_turn(f, budget);
    else
        copy_turn(f, budget);
}
