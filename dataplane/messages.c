/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/messages.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

union descriptors {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(LINK_FDS_MAX * sizeof(int))];
};

static unsigned take_descriptors(struct msghdr *msg, int *fds)
{
    unsigned count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), count * sizeof(int));
    }
    return count;
}

int message_receive(int fd, struct link_message *m, int *fds, unsigned *fd_count)
{
    union descriptors control;
    struct iovec iov = {m, sizeof(*m)};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    ssize_t n;
    do
        n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    *fd_count = 0;
    if (n < 0)
        return -errno;
    *fd_count = take_descriptors(&msg, fds);
    if (n == sizeof(*m) && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return 1;
    while (*fd_count)
        close(fds[--*fd_count]);
    return n ? -EPROTO : 0;
}

int message_send(int fd, struct link_message m, const int *fds, unsigned fd_count)
{
    union descriptors control;
    struct iovec iov = {&m, sizeof(m)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    CHECK(fd_count <= LINK_FDS_MAX);
    m.version = LINK_VERSION;
    if (fd_count) {
        memset(&control, 0, sizeof(control));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        *head = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * fd_count)};
        memcpy(CMSG_DATA(head), fds, sizeof(int) * fd_count);
    }
    ssize_t n;
    do
        n = sendmsg(fd, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

void *message_memory(int fd, size_t bytes)
{
    struct stat st;
    if (fstat(fd, &st) || (uint64_t)st.st_size < bytes)
        return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

const struct plan *message_plan(int fd)
{
    struct stat st;
    if (fstat(fd, &st) || (uint64_t)st.st_size < sizeof(struct plan) || (uint64_t)st.st_size > PLAN_BYTES_MAX)
        return NULL;
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        return NULL;
    if (plan_check(p, (uint64_t)st.st_size))
        return p;
    munmap(p, (size_t)st.st_size);
    return NULL;
}
