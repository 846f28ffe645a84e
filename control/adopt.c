/* SPDX-License-Identifier: Apache-2.0 */
#include "control/adopt.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "control/link.h"
#include "control/orphan.h"
#include "layout.h"

#define SOCKET_NAME "dataplane.sock"

enum { ANSWER_WAIT_S = 3, MEET_TRIES = 50, MEET_PAUSE_MS = 20 };

/* By the folder's descriptor: the path of a state folder may be longer than an address has room for. */
static struct sockaddr_un socket_address(const struct folders *folders)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" SOCKET_NAME, folders->state_fd);
    return address;
}

void adopt_socket_remove(const struct folders *folders)
{
    unlinkat(folders->state_fd, SOCKET_NAME, 0);
}

int adopt_socket(const struct folders *folders)
{
    struct sockaddr_un address = socket_address(folders);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    adopt_socket_remove(folders);
    mode_t mask = umask(0177);
    int err = bind(fd, (const struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
    umask(mask);
    if (err)
        close(fd);
    return err ? err : fd;
}

/* Who listens is told by the kernel: it notes the process that called listen(), which is the data plane. */
static bool is_process(int fd, pid_t pid, const struct dataplane_user *user)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid == pid &&
           peer.uid == user->uid;
}

static int meet_once(const struct folders *folders, const struct dataplane_user *user, pid_t pid)
{
    const struct timeval wait = {.tv_sec = ANSWER_WAIT_S};
    struct sockaddr_un address = socket_address(folders);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int err = 0;
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) ||
        connect(fd, (const struct sockaddr *)&address, sizeof(address)))
        err = -errno;
    else if (!is_process(fd, pid, user))
        err = -EPERM;
    if (err)
        close(fd);
    return err ? err : fd;
}

static int receive(int fd, struct link_message *message, int *fds, size_t *fd_count)
{
    ssize_t n = link_receive_fds(fd, message, fds, fd_count);
    if (n == (ssize_t)sizeof(*message))
        return 0;
    return n < 0 ? (int)n : n == 0 ? -ECONNRESET : -EPROTO;
}

static bool listens(int fd)
{
    int on = 0;
    socklen_t len = sizeof(on);
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on;
}

static int take_listeners(struct adopted *a, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct link_message message;
        int fds[LINK_FDS_MAX];
        size_t fd_count;
        int err = receive(a->link_fd, &message, fds, &fd_count);
        uint32_t slot = message.listener.index;
        if (!err && (message.type != LINK_LISTENER || fd_count != 1 || slot >= LISTENERS_MAX ||
                     a->listener_fd[slot] >= 0 || !listens(fds[0])))
            err = -EPROTO;
        if (err) {
            while (fd_count)
                close(fds[--fd_count]);
            return err;
        }
        a->listener_fd[slot] = fds[0];
        a->had_slot[slot] = true;
    }
    return 0;
}

static int take_reply(struct adopted *a)
{
    struct link_message reply;
    int fds[LINK_FDS_MAX];
    size_t fd_count;
    int err = receive(a->link_fd, &reply, fds, &fd_count);
    if (!err && (reply.type != LINK_ADOPT_REPLY || fd_count != ADOPT_FDS ||
                 reply.adopt_reply.pid != (uint32_t)a->pid || reply.adopt_reply.listeners > LISTENERS_MAX))
        err = -EPROTO;
    if (err) {
        while (fd_count)
            close(fds[--fd_count]);
        return err;
    }
    memcpy(a->fds, fds, sizeof(a->fds));
    a->rings = reply.adopt_reply.rings;
    a->features = reply.adopt_reply.features;
    a->generation = reply.adopt_reply.generation;
    a->same_layout = reply.version == LINK_VERSION && reply.adopt_reply.layout == layout_id();
    return take_listeners(a, reply.adopt_reply.listeners);
}

static int talk(struct adopted *a, const char **why)
{
    const struct link_message ask = {
        .type = LINK_ADOPT, .version = LINK_VERSION, .adopt = {.layout = layout_id()}};
    *why = "it did not answer as one does";
    if (send(a->link_fd, &ask, sizeof(ask), MSG_NOSIGNAL) < 0)
        return -errno;
    return take_reply(a);
}

static void clear(struct adopted *a)
{
    memset(a, 0, sizeof(*a));
    a->pidfd = a->link_fd = -1;
    for (int i = 0; i < ADOPT_FDS; i++)
        a->fds[i] = -1;
    for (int i = 0; i < LISTENERS_MAX; i++)
        a->listener_fd[i] = -1;
}

static void close_one(int fd)
{
    if (fd >= 0)
        close(fd);
}

void adopt_forget(struct adopted *a)
{
    close_one(a->pidfd);
    close_one(a->link_fd);
    for (int i = 0; i < ADOPT_FDS; i++)
        close_one(a->fds[i]);
    for (int i = 0; i < LISTENERS_MAX; i++)
        close_one(a->listener_fd[i]);
    clear(a);
}

/* The data plane may not have noticed yet that its control is gone: then it refuses, and is asked again. */
int adopt_meet(const struct folders *folders, const struct dataplane_user *user, struct adopted *out,
               const char **why)
{
    const struct timespec pause = {0, MEET_PAUSE_MS * 1000000L};
    int err = -ECONNRESET;
    clear(out);
    for (int i = 0; i < MEET_TRIES && (err == -ECONNRESET || err == -EPIPE); i++) {
        if (i)
            nanosleep(&pause, NULL);
        *why = "there is none";
        out->pidfd = orphan_find(folders, &out->pid);
        if (out->pidfd < 0) {
            clear(out);
            return -ESRCH;
        }
        *why = "its socket cannot be reached, or is another process'";
        err = out->link_fd = meet_once(folders, user, out->pid);
        if (err >= 0)
            err = talk(out, why);
        if (err)
            adopt_forget(out);
    }
    return err;
}
