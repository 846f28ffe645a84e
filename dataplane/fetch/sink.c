/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/fetch/sink.h"

#include <errno.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/store/store.h"

static void finish(struct sink *s, int res)
{
    struct op *op = s->writing;
    s->writing = NULL;
    loop_post(s->ring->loop, &s->post, op, res < 0 ? res : (int)s->writing_bytes);
}

static void written(struct waiter *w, int res)
{
    struct sink *s = container_of(w, struct sink, written);
    if (res == 0 && s->wrote)
        s->wrote(s, s->writing_bytes);
    finish(s, res);
}

/* One part at a time: it is content alone, in one piece. */
static void sink_sendmsg(struct wire *w, struct op *op, const struct msghdr *msg, int flags)
{
    struct sink *s = container_of(w, struct sink, wire);
    size_t i = 0;
    (void)flags;
    while (msg->msg_iov[i].iov_len == 0)
        i++;
    CHECK(i < msg->msg_iovlen && !s->writing);
    loop_op_begin(op);
    s->writing = op;
    s->writing_bytes = msg->msg_iov[i].iov_len;
    s->writing_since_ms = ring_now_ms(s->ring);
    s->written.wake = written;
    int err = upload_append(s->upload, msg->msg_iov[i].iov_base, s->writing_bytes, &s->written);
    if (err)
        finish(s, err);
}

/* What was given to the disk cannot be taken back: it completes as it would have. */
static void sink_cancel(struct wire *w, struct op *op)
{
    (void)w;
    (void)op;
}

static int sink_fd(const struct wire *w)
{
    (void)w;
    return -1;
}

static const struct wire_ops ops = {
    .name = "store",
    .sendmsg = sink_sendmsg,
    .cancel = sink_cancel,
    .fd_from = sink_fd,
    .fd_to = sink_fd,
};

void sink_open(struct sink *s, struct ring *ring, struct upload *upload,
               void (*wrote)(struct sink *s, size_t bytes))
{
    *s = (struct sink){.ring = ring, .upload = upload, .wrote = wrote, .over.ops = &ops};
    s->wire = (struct wire){.loop = ring->loop, .over = &s->over, .fd = -1};
}
