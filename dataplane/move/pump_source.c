/* SPDX-License-Identifier: Apache-2.0 */
/* What a pump takes from its source: framing off, content into the buffer or the pipe. */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/move/buffers.h"
#include "dataplane/move/pipe.h"
#include "dataplane/move/pump_private.h"
#include "dataplane/ring.h"

enum {
    PEEK_BYTES = 256,           /* for the header of a chunk that is likely to be large */
    SPLICE_BYTES_MAX = 1 << 30, /* what splice takes is below 2 GiB */
    COMPACT_ROOM = 4 << 10,     /* less room than that behind held back bytes: they move to the front */
    TRAILER_ROOM = HTTP_TRAILER_BYTES_MAX + 2,
    LEAST_BYTES = BODY_BUFFER_BYTES, /* waited for, of a source that gives much at a time */
};

_Static_assert(SMALL_BUFFER_BYTES >= PUMP_HOLD_BACK_MAX + COMPACT_ROOM, "held back bytes leave room");
_Static_assert((int)SMALL_BUFFER_BYTES >= (int)TRAILER_ROOM, "trailers fit");

void pump_source_over(struct pump *p, enum source_state state, int err)
{
    if (p->source != SOURCE_OPEN)
        return;
    p->source = (uint8_t)state;
    p->source_err = err;
}

/* The source says that this was all; whether it is what was promised is another question. */
static void complete(struct pump *p)
{
    bool shorter = p->skip_left || (p->total != UINT64_MAX && p->received < p->total);
    bool asks = !shorter && p->source == SOURCE_OPEN && p->c.tap;
    int err = asks ? p->c.tap(p->c.arg, NULL, 0) : 0;
    if (err)
        pump_source_over(p, SOURCE_BAD, err);
    else
        pump_source_over(p, shorter ? SOURCE_ENDED : SOURCE_COMPLETE, 0);
}

static void complete_if_all(struct pump *p)
{
    if (p->c.in == PUMP_LENGTH && p->left == 0)
        complete(p);
    if (p->c.in == PUMP_RAW && p->received == p->total)
        complete(p);
}

static void end_of_source(struct pump *p)
{
    if (p->c.in != PUMP_RAW)
        pump_source_over(p, SOURCE_ENDED, 0);
    else if (wire_ended_well(p->c.from))
        complete(p);
    else
        pump_source_over(p, SOURCE_ERROR, -ECONNRESET);
}

/* Of the early bytes: those that were taken and not used, and those that were not taken. */
static void early_rest(struct pump *p)
{
    size_t n = p->early_left + p->rest.len;
    if (p->source != SOURCE_COMPLETE || n == 0)
        return;
    p->rest = view_of(p->c.early.p + p->c.early.len - n, n);
    p->early_left = 0;
}

void pump_source_begin(struct pump *p)
{
    p->left = p->c.length;
    p->skip_left = p->c.skip;
    p->early_left = p->c.early.len;
    p->chunked.pause = p->c.trailers && p->c.out == PUMP_CHUNKED;
    complete_if_all(p);
    early_rest(p);
}

/* ------------------------------------------------------------------ how much is waited for */

/*
 * A ring that is faster than the source is woken for every piece of it, and each costs a wake, a write and a
 * wake of the readers. So a sink that takes buffers gets full ones, and the source is waited for until it has
 * given about as much: far from the end of a body whose length is known, as long as much comes at a time.
 */
static void choose_least(struct pump *p)
{
    bool least = p->bulk && p->c.in == PUMP_LENGTH && p->left >= 2 * LEAST_BYTES && wire_takes(p->c.to);
    if (least != p->least)
        p->least = wire_least(p->c.from, least ? LEAST_BYTES : 1) && least;
}

void pump_source_leave(struct pump *p)
{
    p->bulk = false;
    choose_least(p);
}

bool pump_fills(const struct pump *p)
{
    return p->least && p->source == SOURCE_OPEN && p->buffer_len && p->buffer_len < wire_takes(p->c.to) &&
           p->buffer_at + p->buffer_len < p->buffer_cap;
}

/* ------------------------------------------------------------------ content */

/* n bytes of content are behind what is in the buffer. */
static void content(struct pump *p, size_t n)
{
    uint64_t room = p->total == UINT64_MAX ? UINT64_MAX : p->total - p->received;
    uint8_t *bytes = p->buffer + p->buffer_at + p->buffer_len;
    int err = n && p->c.tap ? p->c.tap(p->c.arg, bytes, n) : 0;
    if (err) {
        pump_source_over(p, SOURCE_BAD, err);
        return;
    }
    size_t drop = n < p->skip_left ? n : (size_t)p->skip_left;
    if (drop) {
        CHECK(p->buffer_len == 0);
        p->skip_left -= drop;
        p->buffer_at += (uint32_t)drop;
        n -= drop;
    }
    if (n > room) {
        n = (size_t)room;
        pump_source_over(p, SOURCE_BAD, -EMSGSIZE);
    }
    p->received += n;
    p->buffer_len += (uint32_t)n;
}

/* The first trailer is there. */
static bool trailers_begin(struct pump *p)
{
    uint32_t capacity;
    p->trailers = buffers_take(p->c.ring, 0, &capacity);
    if (!p->trailers)
        return false;
    p->chunked.kept = (char *)p->trailers;
    return true;
}

static void received_chunked(struct pump *p, size_t n)
{
    char *at = (char *)p->buffer + p->buffer_at + p->buffer_len;
    struct http_chunked_result result;
    int ret;
    p->peek = false;
    do {
        ret = http_chunked_decode(&p->chunked, at, n, &result, &p->reject);
        content(p, result.payload);
        at += result.consumed;
        n -= result.consumed;
        if (ret == HTTP_CHUNKED_TRAILERS && !trailers_begin(p))
            pump_source_over(p, SOURCE_BAD, -ENOBUFS);
    } while (ret == HTTP_CHUNKED_TRAILERS && p->source == SOURCE_OPEN);
    if (ret < 0)
        pump_source_over(p, SOURCE_BAD, ret);
    if (ret == 1)
        complete(p);
    if (ret == 1 && n)
        p->rest = view_of(at, n);
}

static void received(struct pump *p, size_t n)
{
    p->progress_ms = ring_now_ms(p->c.ring);
    p->budget -= (int64_t)n;
    if (p->c.in == PUMP_CHUNKED) {
        received_chunked(p, n);
        return;
    }
    if (p->c.in == PUMP_LENGTH)
        p->left -= n;
    content(p, n);
    complete_if_all(p);
}

/* ------------------------------------------------------------------ through memory */

/* Of the source's bytes: no more than belong to this body, where that is known. */
static uint64_t may_take(const struct pump *p)
{
    if (p->c.in == PUMP_LENGTH)
        return p->left;
    if (p->c.in == PUMP_RAW && p->total != UINT64_MAX)
        return p->total - p->received + p->skip_left;
    return UINT64_MAX;
}

static void drop_buffer(struct pump *p)
{
    if (!p->buffer || p->buffer_len)
        return;
    buffers_give(p->c.ring, p->buffer);
    p->buffer = NULL;
}

/* Room in the buffer behind what is held back; false: in line for a buffer. */
static bool make_room(struct pump *p, uint64_t want, size_t *room)
{
    if (want > p->buffer_cap) /* a larger one would be better */
        drop_buffer(p);
    if (!p->buffer) {
        p->buffer = buffers_take(p->c.ring, want, &p->buffer_cap);
        p->buffer_at = 0;
    }
    if (!p->buffer) {
        buffers_wait(p->c.ring, p);
        return false;
    }
    if (p->buffer_len == 0)
        p->buffer_at = 0;
    if (p->buffer_at && p->buffer_cap - p->buffer_at - p->buffer_len < COMPACT_ROOM) {
        memmove(p->buffer, p->buffer + p->buffer_at, p->buffer_len);
        p->buffer_at = 0;
    }
    *room = p->buffer_cap - p->buffer_at - p->buffer_len;
    size_t best = wire_takes(p->c.to);
    if (best > p->buffer_len && best - p->buffer_len < *room)
        *room = best - p->buffer_len;
    return true;
}

static bool pull_early(struct pump *p)
{
    size_t room, n = p->early_left;
    uint64_t most = may_take(p);
    if (!make_room(p, n, &room))
        return false;
    n = n < room ? n : room;
    n = n < most ? n : (size_t)most;
    memcpy(p->buffer + p->buffer_at + p->buffer_len, p->c.early.p + p->c.early.len - p->early_left, n);
    p->early_left -= n;
    received(p, n);
    early_rest(p);
    return true;
}

/* Nothing may be held while nothing moves (but what a full buffer lacks little of), and nothing may be left
 * unsaid. */
static bool wait_for_source(struct pump *p)
{
    p->drained = true;
    if (p->chunk_open)
        pump_queue_chunk_end(p);
    choose_least(p);
    if (pump_sink_pending(p) && !pump_fills(p))
        return true;
    if (p->corked)
        wire_nodelay(p->c.to, true); /* pushes what was kept for a full segment */
    p->corked = false;
    drop_buffer(p);
    p->drained = false;
    p->polling = true;
    wire_poll(p->c.from, &p->in, POLLIN);
    return false;
}

static bool pull_failed(struct pump *p, ssize_t n)
{
    if (n == -EAGAIN)
        return wait_for_source(p);
    if (n == 0)
        end_of_source(p);
    else
        pump_source_over(p, SOURCE_ERROR, (int)n);
    return true;
}

static bool pull_copy(struct pump *p)
{
    size_t room;
    uint64_t most = may_take(p);
    if (!make_room(p, technique_copies(p, most), &room))
        return false;
    size_t want = room < most ? room : (size_t)most;
    if (p->peek && want > PEEK_BYTES)
        want = PEEK_BYTES;
    ssize_t n = wire_recv_now(p->c.from, p->buffer + p->buffer_at + p->buffer_len, want);
    if (n <= 0)
        return pull_failed(p, n);
    p->drained = (size_t)n < want;
    p->bulk = n >= SMALL_BUFFER_BYTES || (p->bulk && p->peek);
    p->received_copied += (size_t)n;
    received(p, (size_t)n);
    return true;
}

/* ------------------------------------------------------------------ through a pipe */

/* Content that follows without framing, and that the sink may get. */
static uint64_t next_content(const struct pump *p)
{
    uint64_t next = p->c.in == PUMP_CHUNKED ? http_chunked_data(&p->chunked) : may_take(p);
    uint64_t promised = p->total == UINT64_MAX ? UINT64_MAX : p->total - p->received;
    return next < promised ? next : promised;
}

static void spliced_in(struct pump *p, size_t n, bool full)
{
    p->pipe_len = (uint32_t)n;
    p->received += n;
    p->budget -= (int64_t)n;
    p->progress_ms = ring_now_ms(p->c.ring);
    p->drained = !full;
    p->bulk = n >= SMALL_BUFFER_BYTES;
    p->refused = 0;
    if (p->c.in == PUMP_LENGTH)
        p->left -= n;
    if (p->c.in == PUMP_CHUNKED) {
        http_chunked_skip(&p->chunked, n);
        p->peek = true;
    }
    pump_frame_spliced(p);
    complete_if_all(p);
}

static bool pull_splice(struct pump *p, uint64_t next)
{
    struct pipes *pipes = p->c.ring->buffers.pipes;
    drop_buffer(p);
    p->pipe = pipes_take(pipes);
    if (!p->pipe) {
        ring_count(p->c.ring, CTR_PIPES_EXHAUSTED, 1);
        return pull_copy(p);
    }
    size_t most = next < SPLICE_BYTES_MAX ? (size_t)next : SPLICE_BYTES_MAX;
    most = most < p->pipe->bytes ? most : p->pipe->bytes;
    most = most < p->window ? most : p->window;
    ssize_t n = wire_splice_now(p->c.from, p->pipe->wr, most);
    if (n > 0) {
        spliced_in(p, (size_t)n, (size_t)n == most);
        return true;
    }
    pipes_give(pipes, p->pipe, false);
    p->pipe = NULL;
    if (n == -EINVAL) { /* a record that is no content (TLS in the kernel), or no such source at all */
        p->refused++;
        return pull_copy(p);
    }
    return pull_failed(p, n);
}

bool pump_pull(struct pump *p)
{
    if (p->early_left)
        return pull_early(p);
    if (p->drained)
        return wait_for_source(p);
    uint64_t next = p->buffer_len ? 0 : next_content(p);
    if (technique_splices(p, next))
        return pull_splice(p, next);
    return pull_copy(p);
}
