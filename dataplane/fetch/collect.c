/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/fetch/collect.h"

#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/http/response_reader.h"

enum { COLLECT_MS = 10000 /* for all of it: it is small */ };

/* What is there is taken at once. */
static void collect_sendmsg(struct wire *w, struct op *op, const struct msghdr *msg, int flags)
{
    struct collect *c = container_of(w, struct collect, wire);
    int taken = 0;
    (void)flags;
    for (size_t i = 0; i < msg->msg_iovlen && !c->too_large; i++) {
        size_t n = msg->msg_iov[i].iov_len;
        c->too_large = n > c->cap - c->len;
        if (n == 0 || c->too_large)
            continue;
        memcpy(c->bytes + c->len, msg->msg_iov[i].iov_base, n);
        c->len += n;
        taken += (int)n;
    }
    loop_op_begin(op);
    loop_post(w->loop, &c->post, op, c->too_large ? -EFBIG : taken);
}

static void collect_cancel(struct wire *w, struct op *op)
{
    (void)w;
    (void)op; /* its completion is posted already */
}

static int collect_fd(const struct wire *w)
{
    (void)w;
    return -1;
}

static const struct wire_ops ops = {
    .name = "memory",
    .sendmsg = collect_sendmsg,
    .cancel = collect_cancel,
    .fd_to = collect_fd,
};

/* A source that is there and says nothing. */
static void too_slow(struct timer *t, uint64_t now_ms)
{
    (void)now_ms;
    pump_fail_source(&container_of(t, struct collect, timer)->pump);
}

static void pumped(struct pump *p, enum pump_end end, int err)
{
    struct collect *c = container_of(p, struct collect, pump);
    (void)err;
    timer_clear(&c->timer);
    c->keep_alive = c->keep_alive && end == PUMP_DONE && pump_rest(p).len == 0;
    c->done(c, end == PUMP_DONE ? 0 : c->too_large ? -EFBIG : end == PUMP_STOPPED ? -ECANCELED : -EPIPE);
}

void collect_start(struct collect *c, struct question *q)
{
    const struct http_answer *a = q->answer;
    struct pump_config config = {
        .ring = q->ring,
        .from = q->wire,
        .to = &c->wire,
        .in = a->framing == HTTP_BODY_CHUNKED                    ? PUMP_CHUNKED
              : a->framing == HTTP_BODY_LENGTH || a->length_told ? PUMP_LENGTH
                                                                 : PUMP_RAW,
        .out = PUMP_RAW,
        .length = a->content_length,
        .early = q->early,
        .done = pumped,
    };
    c->len = 0;
    c->too_large = false;
    c->keep_alive = a->keep_alive;
    c->over.ops = &ops;
    c->wire = (struct wire){.loop = q->ring->loop, .over = &c->over, .fd = -1};
    memset(&c->pump, 0, sizeof(c->pump));
    c->timer = (struct timer){.fire = too_slow};
    timer_set(&q->ring->wheel, &c->timer, ring_now_ms(q->ring) + COLLECT_MS);
    pump_start(&c->pump, &config);
}

void collect_stop(struct collect *c)
{
    pump_stop(&c->pump);
}
