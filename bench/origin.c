/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server behind the proxies that are compared: as little work for each byte as the kernel allows, so that
 * what is measured is what stands in front of it.
 *
 *   origin PORT PROCESSES
 *
 * Its process on the loopback port answers GET /N, or a request for whatever ends in ?n=N, with N bytes, up
 * to 32 KiB from memory, more of them by sendfile from a memfd; a request with Upgrade by 101, and from then
 * on it sends back what comes (a tunnel). A request is taken to come in one piece.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <unistd.h>

enum {
    FDS_MAX = 20000,
    REQUEST_MAX = 16384,
    SMALL_BYTES = 32 << 10,
    FILE_BYTES = 64 << 20,
    SEND_BYTES = 1 << 20,
};

struct client {
    int64_t left; /* of the body that goes out by sendfile */
    off_t pos;    /* in the file, which is sent again and again */
    bool tunnel;
};

struct origin {
    int listener, epoll, file;
    struct client clients[FDS_MAX];
    char small[SMALL_BYTES];
};

__attribute__((noreturn)) static void fail(const char *what)
{
    fprintf(stderr, "origin: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void watch(struct origin *o, int fd, int op, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (epoll_ctl(o->epoll, op, fd, &e) != 0)
        fail("epoll_ctl");
}

static void client_accept(struct origin *o)
{
    int one = 1, fd = accept4(o->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (fd >= FDS_MAX) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    o->clients[fd] = (struct client){0};
    watch(o, fd, EPOLL_CTL_ADD, EPOLLIN);
}

/* Sends what the socket takes of the file; the next request is awaited at the end. */
static void client_send(struct origin *o, int fd)
{
    struct client *c = &o->clients[fd];
    while (c->left > 0) {
        size_t want = c->left < SEND_BYTES ? (size_t)c->left : SEND_BYTES;
        if (c->pos == FILE_BYTES)
            c->pos = 0;
        ssize_t n = sendfile(fd, o->file, &c->pos, want);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            close(fd);
            return;
        }
        c->left -= n;
    }
    watch(o, fd, EPOLL_CTL_MOD, EPOLLIN);
}

/* The head, and the body with it if it is small. */
static void client_answer(struct origin *o, int fd, int64_t length)
{
    char head[SMALL_BYTES + 256];
    int len =
        snprintf(head, 256,
                 "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %lld\r\n\r\n",
                 (long long)length);
    size_t body = length <= SMALL_BYTES ? (size_t)length : 0;
    memcpy(head + len, o->small, body);
    size_t all = (size_t)len + body;
    if (send(fd, head, all, MSG_NOSIGNAL | (length > SMALL_BYTES ? MSG_MORE : 0)) != (ssize_t)all) {
        close(fd);
        return;
    }
    if (length <= SMALL_BYTES)
        return;
    o->clients[fd].left = length;
    o->clients[fd].pos = 0;
    watch(o, fd, EPOLL_CTL_MOD, EPOLLOUT);
    client_send(o, fd);
}

static void client_read(struct origin *o, int fd)
{
    static const char upgraded[] = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    char in[REQUEST_MAX + 1];
    ssize_t n = recv(fd, in, REQUEST_MAX, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        close(fd);
        return;
    }
    in[n] = '\0';
    if (o->clients[fd].tunnel) {
        if (send(fd, in, (size_t)n, MSG_NOSIGNAL) != n)
            close(fd);
    } else if (strcasestr(in, "\r\nupgrade:")) {
        o->clients[fd].tunnel = true;
        if (send(fd, upgraded, sizeof(upgraded) - 1, MSG_NOSIGNAL) < 0)
            close(fd);
    } else {
        const char *slash = strchr(in, '/'), *query = strstr(in, "?n=");
        client_answer(o, fd, query ? strtoll(query + 3, NULL, 10) : slash ? strtoll(slash + 1, NULL, 10) : 0);
    }
}

static void serve(struct origin *o)
{
    struct epoll_event events[128];
    for (;;) {
        int n = epoll_wait(o->epoll, events, 128, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == o->listener)
                client_accept(o);
            else if (o->clients[fd].left > 0)
                client_send(o, fd);
            else
                client_read(o, fd);
        }
    }
}

static int listen_on(uint16_t port)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) != 0 ||
        bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(fd, 4096) != 0)
        fail("listen");
    return fd;
}

static int file_make(void)
{
    int fd = memfd_create("body", MFD_CLOEXEC);
    char block[65536];
    if (fd < 0)
        fail("memfd_create");
    for (size_t i = 0; i < sizeof(block); i++)
        block[i] = (char)(i * 131 >> 3);
    for (size_t at = 0; at < FILE_BYTES; at += sizeof(block))
        if (write(fd, block, sizeof(block)) != (ssize_t)sizeof(block))
            fail("memfd");
    return fd;
}

int main(int argc, char **argv)
{
    static struct origin o;
    struct rlimit files;
    if (argc != 3) {
        fprintf(stderr, "origin PORT PROCESSES\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    memset(o.small, 'x', sizeof(o.small));
    o.file = file_make();
    for (long i = strtol(argv[2], NULL, 10); i > 1; i--) {
        pid_t pid = fork();
        if (pid < 0)
            fail("fork");
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    }
    o.listener = listen_on((uint16_t)strtoul(argv[1], NULL, 10));
    o.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (o.epoll < 0)
        fail("epoll_create1");
    watch(&o, o.listener, EPOLL_CTL_ADD, EPOLLIN);
    serve(&o);
    return 0;
}
