/* SPDX-License-Identifier: Apache-2.0 */
/* An upload session as a wire to which a pump writes. */
#include <errno.h>

#include "check.h"
#include "dataplane/ring.h"
#include "dataplane/fetch/private.h"
#include "dataplane/store/store.h"

static struct fetch *fetch_of(struct wire *w)
{
    return container_of(w, struct fetch, sink);
}

static void finish(struct fetch *f, int res)
{
    struct op *op = f->writing;
    f->writing = NULL;
    loop_post(f->all->ring->loop, &f->post, op, res < 0 ? res : (int)f->writing_bytes);
}

static void written(struct waiter *w, int res)
{
    struct fetch *f = container_of(w, struct fetch, written);
    if (res == 0) {
        ring_count(f->all->ring, CTR_FETCH_BYTES, f->writing_bytes);
        fetch_entry_written(f->entry, upload_offset(f->upload));
    }
    finish(f, res);
}

/* One part at a time: it is content alone, in one piece. */
static void sink_sendmsg(struct wire *w, struct op *op, const struct msghdr *msg, int flags)
{
    struct fetch *f = fetch_of(w);
    size_t i = 0;
    (void)flags;
    while (msg->msg_iov[i].iov_len == 0)
        i++;
    CHECK(i < msg->msg_iovlen && !f->writing);
    loop_op_begin(op);
    f->writing = op;
    f->writing_bytes = msg->msg_iov[i].iov_len;
    f->writing_since_ms = ring_now_ms(f->all->ring);
    f->written.wake = written;
    int err = upload_append(f->upload, msg->msg_iov[i].iov_base, f->writing_bytes, &f->written);
    if (err)
        finish(f, err);
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

void fetch_sink_open(struct fetch *f)
{
    f->over.ops = &ops;
    f->sink = (struct wire){.loop = f->all->ring->loop, .over = &f->over, .fd = -1};
    f->writing = NULL;
}
