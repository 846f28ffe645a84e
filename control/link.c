/* SPDX-License-Identifier: Apache-2.0 */
#include "control/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

/* A message that did not fit into the socket yet. Its descriptors are copies. */
struct pending {
    struct pending *next;
    struct link_message message;
    size_t fd_count;
    int fds[LINK_FDS_MAX];
};

struct link {
    uv_poll_t poll;
    int fd;
    struct link_handlers handlers;
    void *arg;
    struct pending *first, **last;
    bool ended, closing;
};

static void pending_free(struct pending *p)
{
    for (size_t i = 0; i < p->fd_count; i++)
        close(p->fds[i]);
    free(p);
}

static void on_closed(uv_handle_t *handle)
{
    struct link *link = handle->data;
    close(link->fd);
    while (link->first) {
        struct pending *p = link->first;
        link->first = p->next;
        pending_free(p);
    }
    free(link);
}

void link_close(struct link *link)
{
    if (link->closing)
        return;
    link->closing = true;
    uv_close((uv_handle_t *)&link->poll, on_closed);
}

static void link_end(struct link *link, int err)
{
    if (link->ended || link->closing)
        return;
    link->ended = true;
    uv_poll_stop(&link->poll);
    link->handlers.ended(link->arg, err);
}

static int send_now(int fd, const struct link_message *message, const int *fds, size_t fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * LINK_FDS_MAX)];
    } control;
    struct iovec iov = {.iov_base = (void *)message, .iov_len = sizeof(*message)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd_count) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(head), fds, sizeof(int) * fd_count);
    }
    ssize_t n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    return n < 0 ? -errno : 0;
}

static int queue_message(struct link *link, const struct link_message *message, const int *fds,
                         size_t fd_count)
{
    struct pending *p = calloc(1, sizeof(*p));
    CHECK(p);
    p->message = *message;
    for (size_t i = 0; i < fd_count; i++) {
        p->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
        if (p->fds[i] < 0) {
            int err = -errno;
            pending_free(p);
            return err;
        }
        p->fd_count++;
    }
    *link->last = p;
    link->last = &p->next;
    return 0;
}

static int flush(struct link *link)
{
    while (link->first) {
        struct pending *p = link->first;
        int err = send_now(link->fd, &p->message, p->fds, p->fd_count);
        if (err)
            return err == -EAGAIN ? 0 : err;
        link->first = p->next;
        if (!link->first)
            link->last = &link->first;
        pending_free(p);
    }
    return 0;
}

static ssize_t receive(int fd, struct link_message *message, int flags, int *fds, size_t *fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * LINK_FDS_MAX)];
    } control;
    struct iovec iov = {.iov_base = message, .iov_len = sizeof(*message)};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    *fd_count = 0;
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | flags);
    if (n < 0)
        return -errno;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&msg); head; head = CMSG_NXTHDR(&msg, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        *fd_count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(head), *fd_count * sizeof(int));
    }
    return msg.msg_flags & MSG_TRUNC ? -EPROTO : n;
}

static void close_all(const int *fds, size_t fd_count)
{
    while (fd_count)
        close(fds[--fd_count]);
}

ssize_t link_receive_fds(int fd, struct link_message *message, int *fds, size_t *fd_count)
{
    ssize_t n;
    do
        n = receive(fd, message, 0, fds, fd_count);
    while (n == -EINTR);
    if (n != (ssize_t)sizeof(*message)) {
        close_all(fds, *fd_count);
        *fd_count = 0;
    }
    return n;
}

/* Descriptors are not expected from a data plane that serves: whatever came is closed. */
static ssize_t receive_now(int fd, struct link_message *message)
{
    int fds[LINK_FDS_MAX];
    size_t fd_count;
    ssize_t n = receive(fd, message, MSG_DONTWAIT, fds, &fd_count);
    close_all(fds, fd_count);
    return n;
}

static void on_readable(struct link *link)
{
    enum { MESSAGES_A_TURN = 64 };
    for (int i = 0; i < MESSAGES_A_TURN && !link->ended && !link->closing; i++) {
        struct link_message message;
        ssize_t n = receive_now(link->fd, &message);
        if (n == -EAGAIN || n == -EINTR)
            return;
        if (n == 0 || n == -ECONNRESET)
            link_end(link, 0);
        else if (n != (ssize_t)sizeof(message))
            link_end(link, n < 0 ? (int)n : -EPROTO);
        else
            link->handlers.message(link->arg, &message);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events);

static int watch(struct link *link)
{
    return uv_poll_start(&link->poll, UV_READABLE | (link->first ? UV_WRITABLE : 0), on_poll);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct link *link = poll->data;
    if (events & UV_WRITABLE) {
        int err = flush(link);
        if (err && err != -EPIPE && err != -ECONNRESET) {
            link_end(link, err);
            return;
        }
    }
    if (status < 0 || events & UV_READABLE)
        on_readable(link);
    if (!link->ended && !link->closing)
        watch(link);
}

int link_open(uv_loop_t *loop, int fd, const struct link_handlers *handlers, void *arg, struct link **out)
{
    struct link *link = calloc(1, sizeof(*link));
    CHECK(link);
    link->fd = fd;
    link->handlers = *handlers;
    link->arg = arg;
    link->last = &link->first;
    link->poll.data = link;
    int err = uv_poll_init(loop, &link->poll, fd);
    if (err) {
        close(fd);
        free(link);
        return err;
    }
    err = watch(link);
    if (err) {
        link_close(link);
        return err;
    }
    *out = link;
    return 0;
}

int link_send(struct link *link, const struct link_message *message, const int *fds, size_t fd_count)
{
    CHECK(fd_count <= LINK_FDS_MAX && !link->closing);
    if (link->ended)
        return -ENOTCONN;
    int err = link->first ? -EAGAIN : send_now(link->fd, message, fds, fd_count);
    if (err != -EAGAIN && err != -ETOOMANYREFS)
        return err;
    err = queue_message(link, message, fds, fd_count);
    return err ? err : watch(link);
}
