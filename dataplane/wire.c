/* SPDX-License-Identifier: Apache-2.0 */
/* Plain sockets, and the way to what stands on top of one. */
#include "dataplane/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <linux/sockios.h>

void wire_recv(struct wire *w, struct op *op)
{
    if (w->over)
        w->over->ops->recv(w, op);
    else
        loop_recv(w->loop, op, w->fd);
}

void wire_recv_into(struct wire *w, struct op *op, void *buf, size_t len, int flags)
{
    if (w->over)
        w->over->ops->recv_into(w, op, buf, len, flags);
    else
        loop_recv_into(w->loop, op, w->fd, buf, len, flags);
}

void wire_send(struct wire *w, struct op *op, const void *buf, size_t len, int flags)
{
    if (w->over)
        w->over->ops->send(w, op, buf, len, flags);
    else
        loop_send(w->loop, op, w->fd, buf, len, flags);
}

void wire_sendmsg(struct wire *w, struct op *op, const struct msghdr *msg, int flags)
{
    if (w->over)
        w->over->ops->sendmsg(w, op, msg, flags);
    else
        loop_sendmsg(w->loop, op, w->fd, msg, flags);
}

void wire_poll(struct wire *w, struct op *op, short events)
{
    if (w->over)
        w->over->ops->poll(w, op, events);
    else
        loop_poll(w->loop, op, w->fd, events);
}

void wire_cancel(struct wire *w, struct op *op)
{
    if (w->over)
        w->over->ops->cancel(w, op);
    else
        loop_cancel(w->loop, op);
}

ssize_t wire_recv_now(struct wire *w, void *buf, size_t len)
{
    if (w->over)
        return w->over->ops->recv_now(w, buf, len);
    ssize_t n = recv(w->fd, buf, len, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

ssize_t wire_sendmsg_now(struct wire *w, const struct msghdr *msg, int flags)
{
    if (w->over)
        return w->over->ops->sendmsg_now(w, msg, flags);
    ssize_t n = sendmsg(w->fd, msg, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

void wire_shutdown(struct wire *w)
{
    w->shut = true;
    if (w->over)
        w->over->ops->shutdown(w);
    else
        (void)shutdown(w->fd, SHUT_WR); /* of memory only; an error means that it is closed already */
}

bool wire_ended_well(const struct wire *w)
{
    uint8_t state; /* the first one of struct tcp_info */
    socklen_t len = sizeof(state);
    if (w->over || w->shut || getsockopt(w->fd, IPPROTO_TCP, TCP_INFO, &state, &len))
        return true; /* its own affair; closed in order by both; no TCP */
    return state != TCP_CLOSE;
}

void wire_close(struct wire *w, struct op *op)
{
    if (w->over)
        w->over->ops->close(w, op);
    else
        loop_close(w->loop, op, w->fd);
}

void wire_resets(struct wire *w)
{
    struct linger now = {.l_onoff = 1};
    if (w->fd >= 0)
        (void)setsockopt(w->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

size_t wire_unsent(struct wire *w)
{
    int queued = 0;
    if (w->over)
        return w->over->ops->unsent(w);
    (void)ioctl(w->fd, SIOCOUTQ, &queued);
    return queued > 0 ? (size_t)queued : 0;
}

void wire_nodelay(struct wire *w, bool on)
{
    int value = on;
    if (w->fd >= 0)
        (void)setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &value,
                         sizeof(value)); /* not TCP: nothing to hurry */
}

bool wire_least(struct wire *w, unsigned bytes)
{
    int value = (int)bytes;
    return w->fd >= 0 && setsockopt(w->fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof(value)) == 0;
}

/* An order of the loop would come with the end of the other side alone, too. */
bool wire_broken(const struct wire *w)
{
    struct pollfd p = {.fd = w->fd};
    return w->fd >= 0 && poll(&p, 1, 0) == 1 && p.revents & (POLLERR | POLLHUP);
}

void wire_user_timeout(struct wire *w, unsigned ms)
{
    if (w->fd >= 0)
        (void)setsockopt(w->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

void wire_keepalive(struct wire *w)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 30},
        {IPPROTO_TCP, TCP_KEEPINTVL, 10},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
    };
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]) && w->fd >= 0; i++)
        (void)setsockopt(w->fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

int wire_fd_to(const struct wire *w)
{
    if (!w->over)
        return w->fd;
    return w->over->ops->fd_to ? w->over->ops->fd_to(w) : -1;
}

bool wire_splices(const struct wire *w)
{
    return w->over ? w->over->ops->splice_now != NULL : w->fd >= 0;
}

ssize_t wire_splice_now(struct wire *w, int pipe, size_t len)
{
    if (w->over)
        return w->over->ops->splice_now(w, pipe, len);
    ssize_t n = splice(w->fd, NULL, pipe, NULL, len, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    return n < 0 ? -errno : n;
}

size_t wire_takes(const struct wire *w)
{
    return w->over && w->over->ops->take ? w->over->ops->room(w) : 0;
}

bool wire_take(struct wire *w, void *buffer, const void *bytes, size_t len)
{
    return w->over->ops->take(w, buffer, bytes, len);
}

void wire_settle(struct wire *w, struct op *op)
{
    w->over->ops->settle(w, op);
}
