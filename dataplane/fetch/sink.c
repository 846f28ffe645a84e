/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/fetch/sink.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/move/buffers.h"
#include "dataplane/store/store.h"

static struct sink *sink_of(const struct wire *w)
{
    return container_of(w, struct sink, wire);
}

/* ------------------------------------------------------------------ whoever waits */

static bool has_room(const struct sink *s)
{
    return s->count == 0 ||
           (s->count < SINK_PIECES && buffers_plenty(s->ring, s->piece[s->count - 1].buffer));
}

/* After an error nothing is held any more. */
static void tell(struct sink *s)
{
    struct op *op = s->op;
    if (!op || (s->settles ? s->count != 0 : !has_room(s)))
        return;
    s->op = NULL;
    loop_post(s->ring->loop, &s->post, op, s->error ? s->error : s->settles ? 0 : POLLOUT);
}

static void wait_for(struct sink *s, struct op *op, bool settles)
{
    CHECK(!s->op);
    loop_op_begin(op);
    s->op = op;
    s->settles = settles;
    tell(s);
}

/* ------------------------------------------------------------------ pieces */

static void piece_drop(struct sink *s)
{
    uint8_t *buffer = s->piece[0].buffer;
    s->count--;
    memmove(s->piece, s->piece + 1, s->count * sizeof(s->piece[0]));
    buffers_give(s->ring, buffer);
}

/* What was not written when something failed never is: the file has no holes. */
static void fail(struct sink *s, int err)
{
    s->error = err;
    while (s->count)
        piece_drop(s);
}

static void piece_write(struct sink *s)
{
    s->writing = true;
    s->writing_since_ms = ring_now_ms(s->ring);
    int err = upload_append(s->upload, s->piece[0].bytes, s->piece[0].len, &s->written);
    if (!err)
        return;
    s->writing = false;
    fail(s, err);
}

static void written(struct waiter *w, int res)
{
    struct sink *s = container_of(w, struct sink, written);
    s->writing = false;
    if (res == 0 && s->wrote)
        s->wrote(s, s->piece[0].len);
    if (res)
        fail(s, res);
    else
        piece_drop(s);
    if (s->count)
        piece_write(s);
    tell(s);
}

/* ------------------------------------------------------------------ the wire */

static size_t sink_room(const struct wire *w)
{
    return BODY_BUFFER_BYTES - (size_t)(sink_of(w)->end % BODY_BUFFER_BYTES);
}

static bool sink_take(struct wire *w, void *buffer, const void *bytes, size_t len)
{
    struct sink *s = sink_of(w);
    CHECK(s->count < SINK_PIECES && len);
    s->piece[s->count++] = (struct sink_piece){buffer, bytes, len};
    s->end += len;
    if (s->error)
        fail(s, s->error);
    else if (!s->writing)
        piece_write(s);
    return !s->error && has_room(s);
}

static void sink_settle(struct wire *w, struct op *op)
{
    wait_for(sink_of(w), op, true);
}

static void sink_poll(struct wire *w, struct op *op, short events)
{
    CHECK(events == POLLOUT);
    wait_for(sink_of(w), op, false);
}

/* What was given to the disk cannot be taken back: it completes as it would have. */
static void sink_cancel(struct wire *w, struct op *op)
{
    struct sink *s = sink_of(w);
    if (s->op != op || s->settles)
        return;
    s->op = NULL;
    loop_post(s->ring->loop, &s->post, op, -ECANCELED);
}

static const struct wire_ops ops = {
    .name = "store",
    .poll = sink_poll,
    .cancel = sink_cancel,
    .take = sink_take,
    .settle = sink_settle,
    .room = sink_room,
};

void sink_open(struct sink *s, struct ring *ring, struct upload *upload,
               void (*wrote)(struct sink *s, size_t bytes))
{
    *s = (struct sink){
        .ring = ring, .upload = upload, .wrote = wrote, .end = upload_offset(upload), .over.ops = &ops};
    s->written.wake = written;
    s->wire = (struct wire){.loop = ring->loop, .over = &s->over, .fd = -1};
}
