/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pong ADDRESS PORT NAME: a server for tests of failover. Reads one request of each connection, answers it as
 * HTTP/1.0 with its name as the body, and closes. SIGUSR1: every answer is 503 from then on; SIGUSR2: 200
 * again. Prints "ready".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

static volatile sig_atomic_t failing;

static void on_signal(int signum)
{
    failing = signum == SIGUSR1;
}

static int listen_on(const char *address, const char *port)
{
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
    char mapped[64];
    int one = 1, off = 0;
    snprintf(mapped, sizeof(mapped), "%s%s", strchr(address, ':') ? "" : "::ffff:", address);
    if (strcmp(address, "*") && inet_pton(AF_INET6, mapped, &to.sin6_addr) != 1) {
        fprintf(stderr, "pong: %s is not an address\n", address);
        exit(2);
    }
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, (struct sockaddr *)&to, sizeof(to)) || listen(fd, 4096)) {
        perror("pong: bind");
        exit(1);
    }
    return fd;
}

static void answer(int fd, const char *name)
{
    char request[2048], text[256];
    ssize_t got = recv(fd, request, sizeof(request), 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got > 0) {
        int n = snprintf(text, sizeof(text), "HTTP/1.0 %s\r\nContent-Length: %zu\r\n\r\n%s",
                         failing ? "503 Service Unavailable" : "200 OK", strlen(name), name);
        if (send(fd, text, (size_t)n, MSG_NOSIGNAL) < 0)
            errno = 0; /* the client has gone */
    }
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: pong ADDRESS PORT NAME\n");
        return 2;
    }
    struct epoll_event event = {.events = EPOLLIN}, events[64];
    int listener = listen_on(argv[1], argv[2]), poll = epoll_create1(EPOLL_CLOEXEC);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    event.data.fd = listener;
    CHECK(epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) == 0);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(poll, events, (int)ARRAY_SIZE(events), -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                answer(fd, argv[3]);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event))
                    close(fd);
            }
        }
    }
}
