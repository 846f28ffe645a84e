/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reach ADDRESS PORT INTERVAL_US TIMEOUT_MS: starts a connection at every interval, however the ones before
 * fare, asks "GET /" and waits for a whole answer. A line for each: "START_NS END_NS NAME" with the body of
 * the answer, or "START_NS END_NS -ERROR". Times are CLOCK_MONOTONIC. Ends when its standard input does.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { TRIES_MAX = 8192 };

struct attempt {
    int fd; /* -1: over */
    bool asked;
    uint64_t start_ns;
};

struct reach {
    struct sockaddr_storage to;
    socklen_t to_len;
    int poll;
    uint64_t timeout_ns;
    uint64_t first, next; /* attempts under way are in [first, next), in the order of their start */
    struct attempt attempt[TRIES_MAX];
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct attempt *at(struct reach *r, uint64_t number)
{
    return &r->attempt[number % TRIES_MAX];
}

static void over(struct reach *r, struct attempt *a, const char *name, int err)
{
    if (err)
        printf("%" PRIu64 " %" PRIu64 " -%s\n", a->start_ns, now_ns(), strerrorname_np(err));
    else
        printf("%" PRIu64 " %" PRIu64 " %s\n", a->start_ns, now_ns(), name);
    close(a->fd);
    a->fd = -1;
    while (r->first < r->next && at(r, r->first)->fd < 0)
        r->first++;
}

static void start(struct reach *r)
{
    if (r->next - r->first == TRIES_MAX)
        return; /* as many as may wait, wait */
    struct attempt *a = at(r, r->next);
    *a = (struct attempt){.start_ns = now_ns()};
    a->fd = socket(r->to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(a->fd >= 0);
    struct epoll_event event = {.events = EPOLLOUT, .data.u64 = r->next++};
    if (connect(a->fd, (struct sockaddr *)&r->to, r->to_len) && errno != EINPROGRESS)
        over(r, a, NULL, errno);
    else
        CHECK(epoll_ctl(r->poll, EPOLL_CTL_ADD, a->fd, &event) == 0);
}

static void step(struct reach *r, uint64_t number)
{
    static const char ask[] = "GET / HTTP/1.0\r\n\r\n";
    struct attempt *a = at(r, number);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = number};
    char text[512];
    int err = 0;
    socklen_t len = sizeof(err);
    if (a->fd < 0)
        return;
    if (!a->asked) {
        a->asked = true;
        getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &err, &len);
        if (!err && send(a->fd, ask, sizeof(ask) - 1, MSG_NOSIGNAL) < 0)
            err = errno;
        if (err)
            over(r, a, NULL, err);
        else
            epoll_ctl(r->poll, EPOLL_CTL_MOD, a->fd, &event);
        return;
    }
    ssize_t got = recv(a->fd, text, sizeof(text) - 1, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    text[got > 0 ? got : 0] = '\0';
    char *body = strstr(text, "\r\n\r\n");
    if (got <= 0 || !body)
        over(r, a, NULL, got < 0 ? errno : EPIPE);
    else if (strncmp(text + 8, " 200", 4) != 0)
        over(r, a, NULL, EPROTO);
    else
        over(r, a, body + 4, 0);
}

static void expire(struct reach *r)
{
    uint64_t now = now_ns();
    while (r->first < r->next && at(r, r->first)->start_ns + r->timeout_ns < now)
        over(r, at(r, r->first), NULL, ETIMEDOUT);
}

static void set_target(struct reach *r, const char *address, const char *port)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&r->to;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&r->to;
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)atoi(port));
        r->to_len = sizeof(*v4);
    } else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)atoi(port));
        r->to_len = sizeof(*v6);
    } else {
        fprintf(stderr, "reach: %s is not an address\n", address);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    enum { TIMER = -1, INPUT = -2 };
    static struct reach r;
    struct epoll_event events[256];
    if (argc != 5) {
        fprintf(stderr, "usage: reach ADDRESS PORT INTERVAL_US TIMEOUT_MS\n");
        return 2;
    }
    set_target(&r, argv[1], argv[2]);
    long interval_us = atol(argv[3]);
    r.timeout_ns = (uint64_t)atol(argv[4]) * 1000000;
    r.poll = epoll_create1(EPOLL_CLOEXEC);
    struct itimerspec every = {.it_interval = {interval_us / 1000000, interval_us % 1000000 * 1000}};
    every.it_value = every.it_interval;
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    CHECK(timer >= 0 && timerfd_settime(timer, 0, &every, NULL) == 0);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)TIMER};
    CHECK(epoll_ctl(r.poll, EPOLL_CTL_ADD, timer, &event) == 0);
    event.data.u64 = (uint64_t)INPUT;
    CHECK(epoll_ctl(r.poll, EPOLL_CTL_ADD, STDIN_FILENO, &event) == 0);
    for (bool ended = false; !ended;) {
        int n = epoll_wait(r.poll, events, (int)ARRAY_SIZE(events), 100);
        for (int i = 0; i < n; i++) {
            uint64_t times;
            if (events[i].data.u64 == (uint64_t)INPUT)
                ended = true;
            else if (events[i].data.u64 != (uint64_t)TIMER)
                step(&r, events[i].data.u64);
            else if (read(timer, &times, sizeof(times)) == (ssize_t)sizeof(times))
                start(&r); /* one, however late: an overloaded client measures nothing */
        }
        expire(&r);
    }
    return 0;
}
