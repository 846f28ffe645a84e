/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a pump. One loop of steps: what is there goes to the sink, then more is taken from the source,
 * until one of the two says "later" (an order is under way then, and its completion takes the next step), or
 * this batch's share has moved (then the next batch's first completion does). So at most one order is under
 * way, and what was received is always with the sink before anything is said about the source.
 */
#include "dataplane/move/pump.h"

#include <errno.h>

#include "check.h"
#include "dataplane/move/buffers.h"
#include "dataplane/move/pipe.h"
#include "dataplane/move/pump_private.h"
#include "dataplane/ring.h"

enum {
    TURN_BYTES = 1 << 20,  /* in one batch: then it is the others' turn; */
    ALONE_BYTES = 8 << 20, /* of the only pump at work */
    LEAST_MS = 100,        /* a source that gives nothing for so long is not waited for until it gives much */
};

static void step(struct pump *p);

/* ------------------------------------------------------------------ the end */

/* What is left in the buffer is good for pump_rest until the owner has been told. */
static void tell(struct pump *p)
{
    struct ring *ring = p->c.ring;
    uint8_t *kept = p->buffer;
    p->buffer = NULL;
    p->active = false;
    p->c.done(p, p->end, p->err); /* may begin anew, or free it */
    if (kept)
        buffers_give(ring, kept);
}

static void post(struct pump *p)
{
    if (p->posted)
        return;
    p->posted = true;
    p->polling = false;
    loop_op_begin(&p->in);
    loop_post(p->c.ring->loop, &p->turn, &p->in, 0);
}

static void finish(struct pump *p, enum pump_end end, int err)
{
    struct ring *ring = p->c.ring;
    if (p->pipe)
        pipes_give(ring->buffers.pipes, p->pipe, true);
    if (p->trailers)
        buffers_give(ring, p->trailers);
    if (p->hungry)
        buffers_leave(ring, p);
    if (p->corked)
        wire_nodelay(p->c.to, true);
    p->pipe = NULL;
    p->trailers = NULL;
    p->corked = false;
    p->received = p->moved;
    p->end = (uint8_t)end;
    p->err = err;
    p->finished = true;
    ring->buffers.pumps--;
    pump_source_leave(p);
}

static void finish_source(struct pump *p)
{
    static const uint8_t ends[] = {
        [SOURCE_COMPLETE] = PUMP_DONE,
        [SOURCE_ENDED] = PUMP_SOURCE_ENDED,
        [SOURCE_ERROR] = PUMP_SOURCE_ERROR,
        [SOURCE_BAD] = PUMP_SOURCE_BAD,
    };
    finish(p, ends[p->source], p->source_err);
}

/* ------------------------------------------------------------------ steps */

/* All that may go is with the sink, and the source is over. True: go on. */
static bool end_step(struct pump *p)
{
    bool waits = p->source == SOURCE_COMPLETE && p->buffer_len > 0; /* for pump_release */
    if (waits)
        return false;
    if (p->source == SOURCE_COMPLETE && pump_queue_end(p))
        return true;
    if (!pump_settles(p))
        finish_source(p);
    return false;
}

static void stop_step(struct pump *p)
{
    if (pump_settles(p))
        return;
    if (p->stopping)
        finish(p, PUMP_STOPPED, 0);
    else
        finish(p, PUMP_SINK_ERROR, p->sink_err);
}

static bool one_step(struct pump *p)
{
    bool joins = pump_head_waits(p) && p->source == SOURCE_OPEN && !p->drained;
    if (p->stopping || p->sink_err)
        stop_step(p);
    else if (!joins && !pump_fills(p) && pump_sink_pending(p))
        return pump_push(p);
    else if (p->source != SOURCE_OPEN)
        return end_step(p);
    else if (p->budget > 0)
        return pump_pull(p);
    else
        post(p);
    return false;
}

static void step(struct pump *p)
{
    struct ring *ring = p->c.ring;
    bool more = true;
    p->budget = ring->buffers.pumps > 1 ? TURN_BYTES : ALONE_BYTES;
    p->stepping = true;
    while (more && !p->in.inflight && !p->out.inflight)
        more = one_step(p);
    p->stepping = false;
    if (p->finished && p->called)
        post(p);
    else if (p->finished)
        tell(p);
}

static void in_done(struct op *op, const struct event *ev)
{
    struct pump *p = container_of(op, struct pump, in);
    struct ring *ring = p->c.ring;
    bool polled = p->polling, fed = p->fed;
    p->posted = p->polling = p->fed = false;
    if (polled && ev->res < 0 && ev->res != -ECANCELED)
        pump_source_over(p, SOURCE_ERROR, ev->res);
    if (p->finished)
        tell(p);
    else
        step(p);
    if (fed)
        buffers_feed(ring);
}

static void out_done(struct op *op, const struct event *ev)
{
    struct pump *p = container_of(op, struct pump, out);
    pump_sent(p, ev);
    step(p);
}

void pump_fed(struct pump *p)
{
    p->fed = true;
    post(p);
}

/* ------------------------------------------------------------------ the owner's calls */

static void begin(struct pump *p)
{
    p->active = true;
    p->finished = p->stopping = p->released = p->hungry = false;
    p->source = SOURCE_OPEN;
    p->source_err = p->err = 0;
    p->progress_ms = ring_now_ms(p->c.ring);
    p->rest = (struct view){NULL, 0};
    CHECK(p->c.hold_back <= PUMP_HOLD_BACK_MAX);
    p->c.ring->buffers.pumps++;
    pump_source_begin(p);
    p->called = true;
    step(p);
    p->called = false;
}

void pump_start(struct pump *p, const struct pump_config *config)
{
    *p = (struct pump){.c = *config, .total = UINT64_MAX};
    p->in.done = in_done;
    p->out.done = out_done;
    p->window = UINT32_MAX;
    p->sink_progress_ms = ring_now_ms(config->ring);
    CHECK(!wire_takes(config->to) ||
          (config->out != PUMP_CHUNKED && !config->head.len && !config->hold_back));
    if (config->out == PUMP_LENGTH && config->total)
        p->total = config->total;
    else if (config->in == PUMP_LENGTH && config->length >= config->skip)
        p->total = config->length - config->skip;
    if (config->head.len)
        p->segment[0] = (struct iovec){(void *)(uintptr_t)config->head.p, config->head.len};
    begin(p);
}

void pump_resume(struct pump *p, const struct pump_config *config)
{
    struct pump_config before = p->c;
    CHECK(!p->active && !p->pipe && !p->buffer);
    p->c = *config;
    p->c.to = before.to;
    p->c.out = before.out;
    p->c.total = before.total;
    p->c.head = before.head;
    p->buffer_at = p->buffer_len = 0;
    p->chunked = (struct http_chunked){0};
    p->reject = (struct http_reject){0};
    p->refused = 0;
    p->drained = p->bulk = p->peek = false;
    begin(p);
}

/* Sees to it that a step is taken soon. */
static void kick(struct pump *p)
{
    if (p->in.inflight && p->polling)
        wire_cancel(p->c.from, &p->in);
    if (p->hungry)
        buffers_leave(p->c.ring, p);
    if (!p->in.inflight && !p->out.inflight && !p->stepping)
        post(p);
}

void pump_release(struct pump *p, bool good)
{
    if (!p->active || p->finished)
        return;
    p->released = good;
    p->stopping = p->stopping || !good;
    kick(p);
}

void pump_stop(struct pump *p)
{
    if (!p->active || p->finished)
        return;
    p->stopping = true;
    if (p->out.inflight)
        wire_cancel(p->c.to, &p->out);
    kick(p);
}

void pump_look(struct pump *p)
{
    if (!p->active || !p->least || !p->polling || ring_now_ms(p->c.ring) - p->progress_ms < LEAST_MS)
        return;
    pump_source_leave(p);
    kick(p);
}

void pump_fail_source(struct pump *p)
{
    if (!p->active || p->finished)
        return;
    pump_source_over(p, SOURCE_ERROR, -ETIMEDOUT);
    kick(p);
}

struct view pump_rest(const struct pump *p)
{
    return p->rest;
}

const char *pump_technique_name(const struct pump *p)
{
    if (p->spliced == 0)
        return "copy";
    return p->received_copied ? "mixed" : "splice";
}
