/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The least code that relays: the limit that proxies are compared with. Readiness by epoll, splice(2) through
 * a pipe of 1 MiB for each direction of each connection; it knows no HTTP, and takes a connection to the
 * backend for each client's.
 *
 *   bare_relay PORT BACKEND_PORT PROCESSES
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FDS_MAX = 4096, PIPE_BYTES = 1 << 20, TURNS = 8 };

/* One direction. */
struct way {
    int from, to, in, out; /* the pipe: splice into `in`, out of `out` */
    size_t held;
    bool ended, done;
};

struct pair {
    struct way there, back;
};

static struct pair *pair_of[FDS_MAX];

__attribute__((noreturn)) static void fail(const char *what)
{
    fprintf(stderr, "bare_relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Moves what can be moved. True: there may be more. */
static bool way_move(struct way *w)
{
    for (int i = 0; i < TURNS && !w->done; i++) {
        if (w->held > 0) {
            ssize_t n = splice(w->out, NULL, w->to, NULL, w->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            if (n < 0 && errno == EAGAIN)
                return false;
            if (n <= 0) {
                w->done = true;
                return false;
            }
            w->held -= (size_t)n;
            continue;
        }
        if (w->ended) {
            shutdown(w->to, SHUT_WR);
            w->done = true;
            return false;
        }
        ssize_t n = splice(w->from, NULL, w->in, NULL, PIPE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n < 0 && errno == EAGAIN)
            return false;
        w->ended = n <= 0;
        w->held = n > 0 ? (size_t)n : 0;
    }
    return !w->done;
}

static void way_open(struct way *w, int from, int to)
{
    int ends[2];
    *w = (struct way){.from = from, .to = to};
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0)
        fail("pipe2");
    fcntl(ends[0], F_SETPIPE_SZ, PIPE_BYTES);
    w->out = ends[0];
    w->in = ends[1];
}

static void pair_close(struct pair *p)
{
    const int fds[] = {p->there.in, p->there.out, p->back.in, p->back.out, p->there.from, p->there.to};
    pair_of[p->there.from] = pair_of[p->there.to] = NULL;
    for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        close(fds[i]);
    free(p);
}

static void watch(int epoll, int fd)
{
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) != 0)
        fail("epoll_ctl");
}

static void pair_open(int epoll, int listener, const struct sockaddr_in *backend)
{
    int one = 1, client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0)
        return;
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct pair *p = calloc(1, sizeof(*p));
    if (!p || server < 0 || client >= FDS_MAX || server >= FDS_MAX ||
        connect(server, (const struct sockaddr *)backend, sizeof(*backend)) != 0)
        fail("connect");
    fcntl(server, F_SETFL, O_NONBLOCK);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    way_open(&p->there, client, server);
    way_open(&p->back, server, client);
    pair_of[client] = pair_of[server] = p;
    watch(epoll, client);
    watch(epoll, server);
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

/* Events are edges: a way that stopped only because its turn was over is gone on with before the next wait.
 */
static void relay(int epoll, int listener, const struct sockaddr_in *backend)
{
    struct epoll_event events[128];
    static struct pair *again[FDS_MAX];
    unsigned count = 0;
    for (;;) {
        int n = epoll_wait(epoll, events, 128, count ? 0 : -1);
        unsigned ready = 0;
        static struct pair *now[FDS_MAX + 128];
        for (unsigned i = 0; i < count; i++)
            now[ready++] = again[i];
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == listener)
                pair_open(epoll, listener, backend);
            else if (pair_of[events[i].data.fd])
                now[ready++] = pair_of[events[i].data.fd];
        }
        count = 0;
        for (unsigned i = 0; i < ready; i++) {
            struct pair *p = now[i];
            if (!p)
                continue;
            bool more = way_move(&p->there);
            more = way_move(&p->back) || more;
            for (unsigned k = i + 1; k < ready; k++)
                now[k] = now[k] == p ? NULL : now[k];
            if (p->there.done && p->back.done)
                pair_close(p);
            else if (more && count < FDS_MAX)
                again[count++] = p;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "bare_relay PORT BACKEND_PORT PROCESSES\n");
        return 2;
    }
    struct sockaddr_in backend = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)strtoul(argv[2], NULL, 10))};
    backend.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    signal(SIGPIPE, SIG_IGN);
    for (long i = strtol(argv[3], NULL, 10); i > 1; i--) {
        pid_t pid = fork();
        if (pid < 0)
            fail("fork");
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    }
    int epoll = epoll_create1(EPOLL_CLOEXEC), listener = listen_on((uint16_t)strtoul(argv[1], NULL, 10));
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e) != 0)
        fail("epoll");
    relay(epoll, listener, &backend);
    return 0;
}
