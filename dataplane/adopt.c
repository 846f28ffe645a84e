/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/adopt.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "layout.h"
#include "dataplane/messages.h"

enum { WAIT_S = 2 };

static bool peer_uid(int fd, uid_t *uid)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
        return false;
    *uid = peer.uid;
    return true;
}

void adopt_open(struct adopt *a, int fd, int link)
{
    a->fd = fd;
    if (peer_uid(link, &a->control_uid) && listen(fd, 1) == 0)
        return;
    fprintf(stderr, "fairlead-dataplane: no other control can take this process over: %s\n", strerror(errno));
    close(fd);
    a->fd = -1;
}

static int answer(int fd, const struct adopt_offer *offer)
{
    struct link_message reply = {.type = LINK_ADOPT_REPLY,
                                 .adopt_reply = {.layout = layout_id(),
                                                 .generation = offer->generation,
                                                 .pid = (uint32_t)getpid(),
                                                 .rings = offer->rings,
                                                 .features = offer->features}};
    for (unsigned i = 0; i < offer->listener_count; i++)
        reply.adopt_reply.listeners += offer->listener_fd[i] >= 0;
    int err = message_send(fd, reply, offer->fds, ADOPT_FDS);
    for (unsigned i = 0; i < offer->listener_count && !err; i++)
        if (offer->listener_fd[i] >= 0)
            err = message_send(fd, (struct link_message){.type = LINK_LISTENER, .listener = {.index = i}},
                               &offer->listener_fd[i], 1);
    return err;
}

/* The other versions' ADOPT is answered too: theirs are at least the listening sockets. */
static int greet(const struct adopt *a, int fd, const struct adopt_offer *offer)
{
    const struct timeval wait = {.tv_sec = WAIT_S};
    struct link_message m;
    int fds[LINK_FDS_MAX];
    unsigned fd_count;
    uid_t uid;
    if (!peer_uid(fd, &uid) || uid != a->control_uid)
        return -EPERM;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)))
        return -errno;
    int got = message_receive(fd, &m, fds, &fd_count);
    if (got <= 0)
        return got ? got : -ECONNRESET;
    while (fd_count)
        close(fds[--fd_count]);
    return m.type == LINK_ADOPT ? answer(fd, offer) : -EPROTO;
}

int adopt_take(const struct adopt *a, const struct adopt_offer *offer)
{
    int fd = accept4(a->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = offer ? greet(a, fd, offer) : -EBUSY;
    if (err)
        close(fd);
    return err ? err : fd;
}
