/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop over io_uring; the only file that knows it.
 *
 * One ring a thread, SINGLE_ISSUER, with deferred task running where the kernel has it (6.1 does). It is made
 * disabled: the restrictions (an allow-list of operations) must be registered before it is enabled, and it is
 * enabled by the thread that will own it, after the process is sandboxed.
 *
 * user_data is the address of the op; 0 is a cancellation, whose own result nobody needs.
 */
#include "dataplane/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "limits.h"
#include "dataplane/pool.h"

enum {
    BUFFER_GROUP = 1,
    CQ_FACTOR = 8,
    OFFERED = 64, /* receive buffers that the kernel has at a time: what is not touched costs no memory */
    /* Threads that run what cannot complete at once, for each ring: bounded by the disks' parallelism, not by
       clients. */
    IOWQ_BOUNDED = 16,
    IOWQ_UNBOUNDED = 16,
    IOPRIO_POLL_FIRST = 1, /* IORING_RECVSEND_POLL_FIRST: the socket was just found empty, wait at once */
};

struct loop {
    struct io_uring ring;
    struct io_uring_buf_ring *buffers; /* shared with the kernel */
    struct pool buffer_memory;
    unsigned buffer_count;
    unsigned offered; /* buffers that the kernel has */
    size_t buffer_ring_bytes;
    uint64_t now_ms;
    int wake_fd;
    uint64_t wake_value;
    struct op wake_op;
    struct loop_post *posts, **posts_tail; /* to be delivered in the next turn */
    bool defer_taskrun, restrictions, enabled;
};

/* Everything that the data plane ever orders. */
static const uint8_t allowed_ops[] = {
    IORING_OP_ACCEPT,          IORING_OP_RECV,     IORING_OP_SEND,         IORING_OP_SENDMSG,
    IORING_OP_POLL_ADD,        IORING_OP_READ,     IORING_OP_WRITE,        IORING_OP_FSYNC,
    IORING_OP_OPENAT,          IORING_OP_CLOSE,    IORING_OP_STATX,        IORING_OP_RENAMEAT,
    IORING_OP_FADVISE,         IORING_OP_UNLINKAT, IORING_OP_ASYNC_CANCEL, IORING_OP_SHUTDOWN,
    IORING_OP_SYNC_FILE_RANGE, IORING_OP_CONNECT,
};

uint64_t loop_clock_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t loop_now_ms(const struct loop *loop)
{
    return loop->now_ms;
}

bool loop_has_defer_taskrun(const struct loop *loop)
{
    return loop->defer_taskrun;
}

bool loop_has_restrictions(const struct loop *loop)
{
    return loop->restrictions;
}

static const char *why_blocked(int err)
{
    switch (err) {
    case -EPERM:
        return "io_uring is forbidden here: a seccomp profile refuses io_uring_setup (container runtimes do "
               "by default: allow "
               "io_uring_setup, io_uring_enter, io_uring_register), or the sysctl kernel.io_uring_disabled "
               "is 2, or 1 without "
               "membership in kernel.io_uring_group";
    case -ENOSYS:
        return "this kernel has no io_uring: Linux 6.1 or newer with CONFIG_IO_URING is needed";
    case -ENOMEM:
        return "io_uring_setup found no memory: raise RLIMIT_MEMLOCK (LimitMEMLOCK=) or free some";
    case -EMFILE:
    case -ENFILE:
        return "no file descriptor left for the ring: raise LimitNOFILE";
    case -EINVAL:
        return "io_uring here lacks what is needed (single issuer, disabled start): Linux 6.1 or newer is "
               "needed";
    default:
        return "io_uring_setup failed";
    }
}

/* Deferred task running first; without it where the kernel does not know it. */
static int ring_setup(struct loop *loop, unsigned entries)
{
    unsigned flags =
        IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    struct io_uring_params p = {.flags = flags | IORING_SETUP_DEFER_TASKRUN,
                                .cq_entries = entries * CQ_FACTOR};
    int err = io_uring_queue_init_params(entries, &loop->ring, &p);
    loop->defer_taskrun = err == 0;
    if (err == -EINVAL) {
        p = (struct io_uring_params){.flags = flags | IORING_SETUP_COOP_TASKRUN,
                                     .cq_entries = entries * CQ_FACTOR};
        err = io_uring_queue_init_params(entries, &loop->ring, &p);
    }
    return err;
}

/* liburing 2.3 declares the two calls that need this, but its library does not export them. */
static int ring_register(const struct loop *loop, unsigned opcode, void *arg, unsigned count)
{
    long ret = syscall(SYS_io_uring_register, loop->ring.ring_fd, opcode, arg, count);
    return ret < 0 ? -errno : (int)ret;
}

static int ring_restrict(struct loop *loop)
{
    struct io_uring_restriction res[ARRAY_SIZE(allowed_ops) + 1];
    memset(res, 0, sizeof(res));
    for (size_t i = 0; i < ARRAY_SIZE(allowed_ops); i++) {
        res[i].opcode = IORING_RESTRICTION_SQE_OP;
        res[i].sqe_op = allowed_ops[i];
    }
    res[ARRAY_SIZE(allowed_ops)].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    res[ARRAY_SIZE(allowed_ops)].sqe_flags = IOSQE_BUFFER_SELECT | IOSQE_ASYNC;
    return ring_register(loop, IORING_REGISTER_RESTRICTIONS, res, ARRAY_SIZE(res));
}

/* Those that wait with input in them are replaced, so that they are nobody else's concern; the ones that were
 * used last come first. */
static void buffers_offer(struct loop *loop)
{
    while (loop->offered < OFFERED) {
        uint8_t *buffer = pool_take(&loop->buffer_memory);
        if (!buffer)
            return;
        size_t number = (size_t)(buffer - loop->buffer_memory.base) / RECV_BUFFER_BYTES;
        io_uring_buf_ring_add(loop->buffers, buffer, RECV_BUFFER_BYTES, (uint16_t)number,
                              io_uring_buf_ring_mask(loop->buffer_count), 0);
        io_uring_buf_ring_advance(loop->buffers, 1);
        loop->offered++;
    }
}

static int buffers_setup(struct loop *loop, unsigned count)
{
    CHECK(count && (count & (count - 1)) == 0 && count <= 32768);
    loop->buffer_count = count;
    loop->buffer_ring_bytes = count * sizeof(struct io_uring_buf);
    loop->buffers =
        mmap(NULL, loop->buffer_ring_bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    if (loop->buffers == MAP_FAILED || pool_init(&loop->buffer_memory, RECV_BUFFER_BYTES, count))
        return -ENOMEM;
    struct io_uring_buf_reg reg = {
        .ring_addr = (uintptr_t)loop->buffers, .ring_entries = count, .bgid = BUFFER_GROUP};
    int err = io_uring_register_buf_ring(&loop->ring, &reg, 0);
    if (err)
        return err;
    io_uring_buf_ring_init(loop->buffers);
    buffers_offer(loop);
    return 0;
}

int loop_new(const struct loop_config *config, struct loop **out, const char **why)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (!loop) {
        *why = "no memory for a ring";
        return -ENOMEM;
    }
    loop->ring.ring_fd = -1;
    loop->posts_tail = &loop->posts;
    loop->wake_fd = eventfd(0, EFD_CLOEXEC);
    int err = loop->wake_fd < 0 ? -errno : ring_setup(loop, config->entries);
    if (err) {
        *why = why_blocked(err);
        goto err_loop;
    }
    err = buffers_setup(loop, config->recv_buffers);
    if (err) {
        *why = "the ring's receive buffers could not be registered: Linux 6.1 or newer and memory for them "
               "are needed";
        goto err_ring;
    }
    unsigned workers[2] = {IOWQ_BOUNDED, IOWQ_UNBOUNDED};
    (void)io_uring_register_iowq_max_workers(&loop->ring,
                                             workers); /* a bound that is not kept costs threads only */
    err = ring_restrict(loop);
    if (err) {
        *why = "the ring's restrictions could not be registered";
        goto err_ring;
    }
    loop->restrictions = true;
    loop->now_ms = loop_clock_us() / 1000;
    *out = loop;
    return 0;
err_ring:
    io_uring_queue_exit(&loop->ring);
err_loop:
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    free(loop);
    return err;
}

static struct io_uring_sqe *order(struct loop *loop, struct op *op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);
    if (!sqe) {
        io_uring_submit(&loop->ring); /* the kernel takes all of them: the queue is empty after it */
        sqe = io_uring_get_sqe(&loop->ring);
        CHECK(sqe);
    }
    if (op) {
        CHECK(!op->inflight);
        op->inflight = true;
    }
    return sqe;
}

static void finish(struct io_uring_sqe *sqe, struct op *op)
{
    io_uring_sqe_set_data(sqe, op);
}

static void wake_arm(struct loop *loop)
{
    struct io_uring_sqe *sqe = order(loop, &loop->wake_op);
    io_uring_prep_read(sqe, loop->wake_fd, &loop->wake_value, sizeof(loop->wake_value), 0);
    finish(sqe, &loop->wake_op);
}

static void wake_done(struct op *op, const struct event *ev)
{
    struct loop *loop = container_of(op, struct loop, wake_op);
    if (ev->res != -ECANCELED)
        wake_arm(loop);
}

int loop_enable(struct loop *loop)
{
    int err = ring_register(loop, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (err)
        return err;
    loop->enabled = true;
    loop->wake_op.done = wake_done;
    wake_arm(loop);
    return 0;
}

void loop_free(struct loop *loop)
{
    io_uring_queue_exit(&loop->ring);
    munmap(loop->buffers, loop->buffer_ring_bytes);
    pool_fini(&loop->buffer_memory);
    close(loop->wake_fd);
    free(loop);
}

void loop_wake(struct loop *loop)
{
    uint64_t one = 1;
    ssize_t n = write(loop->wake_fd, &one, sizeof(one));
    (void)n; /* a full counter wakes as well */
}

uint8_t *loop_buffer(const struct loop *loop, uint16_t buffer)
{
    return loop->buffer_memory.base + (size_t)buffer * RECV_BUFFER_BYTES;
}

int loop_buffer_take(struct loop *loop)
{
    uint8_t *buffer = pool_take(&loop->buffer_memory);
    return buffer ? (int)((size_t)(buffer - loop->buffer_memory.base) / RECV_BUFFER_BYTES) : -ENOBUFS;
}

void loop_buffer_put(struct loop *loop, uint16_t buffer)
{
    pool_give(&loop->buffer_memory, loop_buffer(loop, buffer));
    buffers_offer(loop);
}

void loop_trim(struct loop *loop)
{
    pool_trim(&loop->buffer_memory, loop->buffer_count);
}

static void deliver(struct loop *loop, const struct io_uring_cqe *cqe)
{
    struct op *op = io_uring_cqe_get_data(cqe);
    if (!op)
        return;
    struct event ev = {.now_ms = loop->now_ms, .res = cqe->res, .more = cqe->flags & IORING_CQE_F_MORE};
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        ev.buffer = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        ev.data = loop_buffer(loop, ev.buffer);
        loop->offered--;
    }
    if (!ev.more)
        op->inflight = false;
    op->done(op, &ev);
}

void loop_op_begin(struct op *op)
{
    CHECK(!op->inflight);
    op->inflight = true;
}

static void post(struct loop *loop, struct loop_post *p, struct op *op)
{
    CHECK(op->inflight && !p->queued);
    p->queued = true;
    p->op = op;
    p->next = NULL;
    *loop->posts_tail = p;
    loop->posts_tail = &p->next;
}

void loop_post(struct loop *loop, struct loop_post *p, struct op *op, int32_t res)
{
    p->event = (struct event){.res = res};
    post(loop, p, op);
}

void loop_post_data(struct loop *loop, struct loop_post *p, struct op *op, int32_t res, uint16_t buffer)
{
    p->event = (struct event){.res = res, .buffer = buffer, .data = loop_buffer(loop, buffer)};
    post(loop, p, op);
}

/* Those that are there now; what they cause is the next turn's. */
static unsigned deliver_posts(struct loop *loop)
{
    struct loop_post *p = loop->posts;
    unsigned n = 0;
    loop->posts = NULL;
    loop->posts_tail = &loop->posts;
    while (p) {
        struct loop_post *next = p->next;
        struct event ev = p->event;
        struct op *op = p->op;
        ev.now_ms = loop->now_ms;
        p->queued = false;
        op->inflight = false;
        op->done(op, &ev); /* may free p */
        p = next;
        n++;
    }
    return n;
}

int loop_turn(struct loop *loop, uint64_t deadline_ms)
{
    uint64_t now = loop_clock_us();
    uint64_t wait_us = deadline_ms * 1000 > now && !loop->posts ? deadline_ms * 1000 - now : 0;
    struct __kernel_timespec ts = {.tv_sec = (long long)(wait_us / 1000000),
                                   .tv_nsec = (long long)(wait_us % 1000000) * 1000};
    struct io_uring_cqe *cqe = NULL;
    int err = wait_us ? io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, &ts, NULL)
                      : io_uring_submit_and_get_events(&loop->ring);
    loop->now_ms = loop_clock_us() / 1000;
    if (err < 0 && err != -ETIME && err != -EINTR && err != -EAGAIN && err != -EBUSY)
        return err;
    unsigned head, n = 0;
    io_uring_for_each_cqe(&loop->ring, head, cqe)
    {
        deliver(loop, cqe);
        n++;
    }
    io_uring_cq_advance(&loop->ring, n);
    return (int)(n + deliver_posts(loop));
}

void loop_accept(struct loop *loop, struct op *op, int fd)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    finish(sqe, op);
}

void loop_recv(struct loop *loop, struct op *op, int fd)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_recv(sqe, fd, NULL, 0, 0);
    sqe->ioprio |= IOPRIO_POLL_FIRST;
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    finish(sqe, op);
}

void loop_recv_first(struct loop *loop, struct op *op, int fd)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_recv(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    finish(sqe, op);
}

void loop_recv_into(struct loop *loop, struct op *op, int fd, void *buf, size_t len, int flags)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_recv(sqe, fd, buf, len, flags);
    finish(sqe, op);
}

void loop_send(struct loop *loop, struct op *op, int fd, const void *buf, size_t len, int flags)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_send(sqe, fd, buf, len, flags | MSG_NOSIGNAL);
    finish(sqe, op);
}

void loop_sendmsg(struct loop *loop, struct op *op, int fd, const struct msghdr *msg, int flags)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_sendmsg(sqe, fd, msg, (unsigned)flags | MSG_NOSIGNAL);
    finish(sqe, op);
}

void loop_connect(struct loop *loop, struct op *op, int fd, const struct sockaddr *addr, size_t addr_len)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_connect(sqe, fd, addr, (socklen_t)addr_len);
    finish(sqe, op);
}

void loop_poll(struct loop *loop, struct op *op, int fd, short events)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_poll_add(sqe, fd, (unsigned)events);
    finish(sqe, op);
}

void loop_cancel(struct loop *loop, struct op *op)
{
    if (!op->inflight)
        return;
    struct io_uring_sqe *sqe = order(loop, NULL);
    io_uring_prep_cancel(sqe, op, 0);
    finish(sqe, NULL);
}

void loop_shutdown(struct loop *loop, struct op *op, int fd, int how)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_shutdown(sqe, fd, how);
    finish(sqe, op);
}

void loop_openat(struct loop *loop, struct op *op, int dirfd, const char *path, int flags, mode_t mode)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_openat(sqe, dirfd, path, flags, mode);
    finish(sqe, op);
}

void loop_close(struct loop *loop, struct op *op, int fd)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_close(sqe, fd);
    finish(sqe, op);
}

void loop_close_removed(struct loop *loop, struct op *op, int fd)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_close(sqe, fd);
    io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
    finish(sqe, op);
}

void loop_read(struct loop *loop, struct op *op, int fd, void *buf, size_t len, uint64_t offset)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_read(sqe, fd, buf, (unsigned)len, offset);
    finish(sqe, op);
}

void loop_write(struct loop *loop, struct op *op, int fd, const void *buf, size_t len, uint64_t offset)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_write(sqe, fd, buf, (unsigned)len, offset);
    finish(sqe, op);
}

void loop_fsync(struct loop *loop, struct op *op, int fd)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_fsync(sqe, fd, 0);
    finish(sqe, op);
}

void loop_sync_range(struct loop *loop, struct op *op, int fd, uint64_t offset, size_t len)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_sync_file_range(sqe, fd, (unsigned)len, offset, SYNC_FILE_RANGE_WRITE);
    finish(sqe, op);
}

void loop_renameat(struct loop *loop, struct op *op, int from_dirfd, const char *from, int to_dirfd,
                   const char *to)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_renameat(sqe, from_dirfd, from, to_dirfd, to, 0);
    finish(sqe, op);
}

void loop_unlinkat(struct loop *loop, struct op *op, int dirfd, const char *path)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_unlinkat(sqe, dirfd, path, 0);
    finish(sqe, op);
}

void loop_statx(struct loop *loop, struct op *op, int dirfd, const char *path, int flags, unsigned mask,
                struct statx *out)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_statx(sqe, dirfd, path, flags, mask, out);
    finish(sqe, op);
}

void loop_readahead(struct loop *loop, struct op *op, int fd, uint64_t offset, size_t len)
{
    struct io_uring_sqe *sqe = order(loop, op);
    io_uring_prep_fadvise(sqe, fd, offset, (off_t)len, POSIX_FADV_WILLNEED);
    finish(sqe, op);
}
