/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop of one ring (thread): orders in, completions out. io_uring is behind it, in loop.c alone;
 * the interface does not show it, so that another implementation (epoll, or the one in memory that tests use)
 * can stand in its place.
 *
 * An order is a struct op that the caller embeds and keeps unmoved until its completion: op->done is called
 * with the result, once (accept: repeatedly while event->more). Orders are submitted together at the end of a
 * batch. All calls are for the ring's own thread, except loop_wake.
 */
#ifndef FL_LOOP_H
#define FL_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct loop;
struct msghdr;
struct op;

struct event {
    uint64_t now_ms; /* CLOCK_MONOTONIC at the start of the batch */
    int32_t res;     /* bytes, a descriptor or 0; or -errno */
    bool more;       /* the order goes on and will complete again */
    uint16_t buffer; /* loop_recv: which buffer holds the bytes (give it back with loop_buffer_put) */
    uint8_t *data;   /* loop_recv: the bytes, NULL if there are none */
};

struct op {
    void (*done)(struct op *op, const struct event *ev);
    bool inflight;
};

/* A completion that user space makes: of an order that something on top of the loop has taken (wire.h).
 * Belongs to whoever took the order, unmoved until it is delivered. */
struct loop_post {
    struct loop_post *next;
    struct op *op;
    struct event event;
    bool queued;
};

struct loop_config {
    unsigned entries;      /* of the submission queue */
    unsigned recv_buffers; /* buffers for loop_recv, of RECV_BUFFER_BYTES each; a power of two */
};

/*
 * Makes the loop, disabled: loop_enable is the first call of the thread that will run it (between the two the
 * process is sandboxed). On failure *why is a sentence that names the cause and the remedy.
 */
int loop_new(const struct loop_config *config, struct loop **out, const char **why);
int loop_enable(struct loop *loop);
void loop_free(struct loop *loop);

/* Whether the kernel gave deferred task running, and whether only the listed operations are allowed. */
bool loop_has_defer_taskrun(const struct loop *loop);
bool loop_has_restrictions(const struct loop *loop);

/*
 * Submits what was ordered, waits for at least one completion or until deadline_ms (CLOCK_MONOTONIC), handles
 * all that are there. Returns the number handled, or -errno.
 */
int loop_turn(struct loop *loop, uint64_t deadline_ms);
uint64_t loop_now_ms(const struct loop *loop); /* of the present batch */
uint64_t loop_clock_us(void);                  /* CLOCK_MONOTONIC now */

/* Makes loop_turn of another thread return soon. Any thread. */
void loop_wake(struct loop *loop);

/*
 * An order that is not the kernel's: begin marks it, post delivers its completion in the next turn (which
 * then does not wait), never from within the call. more: as event.more.
 */
void loop_op_begin(struct op *op);
void loop_post(struct loop *loop, struct loop_post *post, struct op *op, int32_t res);
void loop_post_data(struct loop *loop, struct loop_post *post, struct op *op, int32_t res, uint16_t buffer);

/* Sockets. flags: MSG_*. A recv with no free buffer completes with -ENOBUFS. */
void loop_accept(struct loop *loop, struct op *op, int fd); /* many completions, res: descriptor */
void loop_recv(struct loop *loop, struct op *op, int fd);   /* into a buffer of the loop's pool */
void loop_recv_first(struct loop *loop, struct op *op,
                     int fd); /* the same, where bytes may be there already */
void loop_recv_into(struct loop *loop, struct op *op, int fd, void *buf, size_t len, int flags);
void loop_send(struct loop *loop, struct op *op, int fd, const void *buf, size_t len, int flags);
void loop_sendmsg(struct loop *loop, struct op *op, int fd, const struct msghdr *msg, int flags);
struct sockaddr;
void loop_connect(struct loop *loop, struct op *op, int fd, const struct sockaddr *addr,
                  size_t addr_len); /* addr is borrowed until the completion */
void loop_poll(struct loop *loop, struct op *op, int fd, short events); /* once; res: revents */
void loop_cancel(struct loop *loop, struct op *op); /* op completes soon, with -ECANCELED or a late result */
void loop_shutdown(struct loop *loop, struct op *op, int fd, int how);
uint8_t *loop_buffer(const struct loop *loop, uint16_t buffer);
int loop_buffer_take(struct loop *loop); /* one of RECV_BUFFER_BYTES: its number, or -ENOBUFS */
void loop_buffer_put(struct loop *loop, uint16_t buffer);
void loop_trim(struct loop *loop); /* gives memory of receive buffers that a burst has touched back */

/* Files: names, buffers and statx results are borrowed until the completion. Nothing here blocks the ring. */
void loop_openat(struct loop *loop, struct op *op, int dirfd, const char *path, int flags, mode_t mode);
void loop_close(struct loop *loop, struct op *op, int fd);
/* The same on another thread, for a file that has lost its name: its last descriptor frees its blocks. */
void loop_close_removed(struct loop *loop, struct op *op, int fd);
void loop_read(struct loop *loop, struct op *op, int fd, void *buf, size_t len, uint64_t offset);
void loop_write(struct loop *loop, struct op *op, int fd, const void *buf, size_t len, uint64_t offset);
void loop_fsync(struct loop *loop, struct op *op, int fd);
/* Starts writing a range (below 4 GiB) to the disk, so that a later fsync has less to do. It promises
 * nothing, and hides no error from that fsync. */
void loop_sync_range(struct loop *loop, struct op *op, int fd, uint64_t offset, size_t len);
void loop_renameat(struct loop *loop, struct op *op, int from_dirfd, const char *from, int to_dirfd,
                   const char *to);
void loop_unlinkat(struct loop *loop, struct op *op, int dirfd, const char *path);
struct statx;
void loop_statx(struct loop *loop, struct op *op, int dirfd, const char *path, int flags, unsigned mask,
                struct statx *out);
/* Starts reading a range into the page cache (res 0 when it is under way, not when it is there). */
void loop_readahead(struct loop *loop, struct op *op, int fd, uint64_t offset, size_t len);

#endif
