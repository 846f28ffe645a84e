/* SPDX-License-Identifier: Apache-2.0 */
/* What a pump gives to its sink: framing on, from memory by an order of the loop, from a pipe at once. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "check.h"
#include "dataplane/move/buffers.h"
#include "dataplane/move/pipe.h"
#include "dataplane/move/pump_private.h"
#include "dataplane/ring.h"

enum { HEAD, FRAME, CONTENT, TAIL, TRAILERS }; /* of pump.segment */

enum { WINDOW_LEAST = 64 << 10 };

static void set(struct pump *p, int segment, const void *bytes, size_t len)
{
    p->segment[segment] = (struct iovec){(void *)(uintptr_t)bytes, len};
}

static size_t queued(const struct pump *p)
{
    size_t n = 0;
    for (int i = 0; i < PUMP_SEGMENTS; i++)
        n += p->segment[i].iov_len;
    return n;
}

/* Of the buffer: what is not held back. */
static uint32_t sendable(const struct pump *p)
{
    uint64_t hold = p->released ? 0 : p->c.hold_back;
    uint64_t end =
        p->total == UINT64_MAX || p->source == SOURCE_COMPLETE ? p->moved + p->buffer_len : p->total;
    if (end <= p->moved + hold)
        return 0;
    uint64_t n = end - hold - p->moved;
    return n < p->buffer_len ? (uint32_t)n : p->buffer_len;
}

bool pump_head_waits(const struct pump *p)
{
    return p->segment[HEAD].iov_len == p->c.head.len && p->c.head.len && p->moved == 0 && p->received == 0 &&
           queued(p) == p->segment[HEAD].iov_len;
}

bool pump_sink_pending(const struct pump *p)
{
    return p->pipe_len || queued(p) || sendable(p);
}

/* ------------------------------------------------------------------ framing */

static size_t put(char *out, size_t at, struct view v)
{
    memcpy(out + at, v.p, v.len);
    return at + v.len;
}

/* The header of a chunk of n bytes, behind the end of the one before it. */
static void frame(struct pump *p, uint64_t n)
{
    size_t len = p->chunk_open ? put(p->frame, 0, HTTP_CHUNK_END) : 0;
    len += http_chunk_header(p->frame + len, n);
    set(p, FRAME, p->frame, len);
}

void pump_frame_spliced(struct pump *p)
{
    if (p->c.out != PUMP_CHUNKED)
        return;
    frame(p, p->pipe_len);
    p->chunk_open = true;
}

void pump_queue_chunk_end(struct pump *p)
{
    set(p, TAIL, HTTP_CHUNK_END.p, HTTP_CHUNK_END.len);
    p->chunk_open = false;
}

/* The last chunk, and trailers; `open`: behind the end of a chunk. */
static void queue_last(struct pump *p, bool open)
{
    size_t len = open ? put(p->tail, 0, HTTP_CHUNK_END) : 0;
    p->chunk_open = false;
    p->end_queued = true;
    if (p->chunked.kept_len) {
        set(p, TAIL, p->tail, put(p->tail, len, VIEW_LIT("0\r\n")));
        set(p, TRAILERS, p->trailers, put((char *)p->trailers, p->chunked.kept_len, VIEW_LIT("\r\n")));
    } else {
        set(p, TAIL, p->tail, put(p->tail, len, HTTP_CHUNK_LAST));
    }
}

bool pump_queue_end(struct pump *p)
{
    if (p->c.out != PUMP_CHUNKED || p->end_queued)
        return false;
    queue_last(p, p->chunk_open);
    return true;
}

static void queue_content(struct pump *p)
{
    uint32_t n = sendable(p);
    set(p, CONTENT, p->buffer + p->buffer_at, n);
    if (p->c.out != PUMP_CHUNKED)
        return;
    frame(p, n);
    if (p->source == SOURCE_COMPLETE && n == p->buffer_len)
        queue_last(p, true);
    else
        pump_queue_chunk_end(p);
}

/* ------------------------------------------------------------------ from memory */

static void moved(struct pump *p, size_t n, bool spliced)
{
    p->moved += n;
    p->spliced += spliced ? n : 0;
    ring_count(p->c.ring, spliced ? CTR_RELAY_SPLICED : CTR_RELAY_COPIED, n);
}

static void took(struct pump *p, size_t n)
{
    p->sink_progress_ms = ring_now_ms(p->c.ring);
    for (int i = 0; i < PUMP_SEGMENTS; i++) {
        struct iovec *v = &p->segment[i];
        size_t part = n < v->iov_len ? n : v->iov_len;
        v->iov_base = (char *)v->iov_base + part;
        v->iov_len -= part;
        n -= part;
        if (i == CONTENT && part) {
            moved(p, part, false);
            p->buffer_at += (uint32_t)part;
            p->buffer_len -= (uint32_t)part;
        }
    }
}

static void order(struct pump *p)
{
    int first = 0, last = PUMP_SEGMENTS - 1;
    while (p->segment[first].iov_len == 0)
        first++;
    while (p->segment[last].iov_len == 0)
        last--;
    p->msg = (struct msghdr){.msg_iov = &p->segment[first], .msg_iovlen = (size_t)(last - first + 1)};
}

static bool wait_for_sink(struct pump *p)
{
    wire_poll(p->c.to, &p->out, POLLOUT);
    return false;
}

/* The sink has the buffer from now on. */
static bool push_buffer(struct pump *p)
{
    uint8_t *buffer = p->buffer;
    uint32_t n = p->buffer_len;
    p->buffer = NULL;
    p->buffer_len = 0;
    p->lent = true;
    p->sink_progress_ms = ring_now_ms(p->c.ring);
    moved(p, n, false);
    return wire_take(p->c.to, buffer, buffer + p->buffer_at, n) || wait_for_sink(p);
}

bool pump_settles(struct pump *p)
{
    if (!p->lent)
        return false;
    p->lent = false;
    wire_settle(p->c.to, &p->out);
    return true;
}

static bool push_memory(struct pump *p)
{
    order(p);
    p->sending = true;
    wire_sendmsg(p->c.to, &p->out, &p->msg, 0);
    return false;
}

void pump_sent(struct pump *p, const struct event *ev)
{
    bool sending = p->sending;
    p->sending = false;
    if (ev->res > 0 && sending)
        took(p, (size_t)ev->res);
    else if (ev->res < 0 && ev->res != -EAGAIN && !p->stopping)
        p->sink_err = ev->res;
    else if (ev->res == 0 && sending)
        p->sink_err = -EPIPE;
}

/* ------------------------------------------------------------------ from the pipe */

/* What stands before the pipe's bytes goes out at once, so that it shares a segment with them. */
static bool push_head(struct pump *p)
{
    order(p);
    ssize_t n = wire_sendmsg_now(p->c.to, &p->msg, MSG_MORE);
    if (n > 0)
        took(p, (size_t)n);
    else if (n == -EAGAIN)
        return wait_for_sink(p);
    else
        p->sink_err = n ? (int)n : -EPIPE;
    return true;
}

/* A sink that takes little at a time gets little at a time, so that its pump seldom holds a full pipe. */
static void adapt_window(struct pump *p, size_t taken)
{
    uint32_t window = p->window == UINT32_MAX ? p->pipe->bytes : p->window;
    if (p->pipe_len)
        window = taken < WINDOW_LEAST ? WINDOW_LEAST : (uint32_t)taken;
    else if (window < p->pipe->bytes)
        window *= 2;
    p->window = window;
}

static bool push_pipe(struct pump *p)
{
    /* Where the kernel makes records, "more" leaves one open that nothing but more content ends: what would
     * be in it could wait for as long as the source likes. */
    bool more = !p->drained && p->source == SOURCE_OPEN && !p->c.to->over;
    unsigned flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | (more ? SPLICE_F_MORE : 0u);
    size_t taken = 0;
    while (p->pipe_len) {
        ssize_t n = splice(p->pipe->rd, NULL, wire_fd_to(p->c.to), NULL, p->pipe_len, flags);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0) {
            p->sink_err = n ? -errno : -EPIPE;
            return true;
        }
        p->pipe_len -= (uint32_t)n;
        taken += (size_t)n;
        moved(p, (size_t)n, true);
    }
    p->corked = more;
    if (taken)
        p->sink_progress_ms = ring_now_ms(p->c.ring);
    adapt_window(p, taken);
    if (p->pipe_len)
        return wait_for_sink(p);
    pipes_give(p->c.ring->buffers.pipes, p->pipe, false);
    p->pipe = NULL;
    return true;
}

bool pump_push(struct pump *p)
{
    if (p->pipe_len)
        return queued(p) ? push_head(p) : push_pipe(p);
    if (wire_takes(p->c.to))
        return push_buffer(p);
    if (queued(p) == 0)
        queue_content(p);
    return push_memory(p);
}
