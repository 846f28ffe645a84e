/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring with nothing but what pumps need, a real loop, and pairs of connected sockets whose other ends the
 * test holds. Include it in one file of a program.
 */
#ifndef FL_TEST_PUMP_RIG_H
#define FL_TEST_PUMP_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/sockios.h>

#include "check.h"
#include "dataplane/move/pipe.h"
#include "dataplane/move/pump.h"
#include "dataplane/ring.h"

enum { RIG_SMALLS = 64 };

struct rig {
    struct ring *ring;
    struct ring_counters *counters;
    struct plan plan;
};

static uint64_t rig_state = 88172645463325252u;

static inline uint64_t rig_random(uint64_t below)
{
    rig_state ^= rig_state << 13;
    rig_state ^= rig_state >> 7;
    rig_state ^= rig_state << 17;
    return below ? (rig_state >> 11) % below : 0;
}

static inline void rig_init(struct rig *r, uint32_t smalls, uint32_t bodies)
{
    const char *why;
    struct loop_config lc = {.entries = 64, .recv_buffers = 64};
    signal(SIGPIPE, SIG_IGN);
    r->ring = calloc(1, sizeof(*r->ring));
    r->counters = calloc(1, sizeof(*r->counters));
    CHECK(r->ring && r->counters);
    r->ring->counters = r->counters;
    r->ring->plan = &r->plan;
    r->ring->starved_tail = &r->ring->starved;
    CHECK(loop_new(&lc, &r->ring->loop, &why) == 0 && loop_enable(r->ring->loop) == 0);
    CHECK(pool_init(&r->ring->bodies, BODY_BUFFER_BYTES, bodies) == 0);
    CHECK(buffers_init(&r->ring->buffers, &r->ring->bodies, smalls, 2) == 0);
    timer_wheel_init(&r->ring->wheel, loop_now_ms(r->ring->loop));
}

/* Everything that was lent has to be back. */
static inline void rig_fini(struct rig *r)
{
    CHECK(r->ring->buffers.smalls.used == 0 && r->ring->bodies.used == 0 && r->ring->buffers.pumps == 0);
    CHECK(!r->ring->buffers.hungry);
    loop_free(r->ring->loop);
    buffers_fini(&r->ring->buffers);
    pool_fini(&r->ring->bodies);
    free(r->ring);
    free(r->counters);
}

static inline void rig_turn(struct rig *r)
{
    CHECK(loop_turn(r->ring->loop, loop_clock_us() / 1000 + 1) >= 0);
    (void)timer_wheel_run(&r->ring->wheel, loop_now_ms(r->ring->loop));
}

static inline uint64_t rig_counter(const struct rig *r, enum counter_id id)
{
    return atomic_load(&r->counters->counter[id]);
}

/* Connected over loopback, both ends non-blocking. buffer: bytes of the sockets' buffers, 0 as they come. */
static inline void rig_pair(int fd[2], int buffer)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(l >= 0 && fd[0] >= 0);
    if (buffer) {
        CHECK(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer)) == 0);
        CHECK(setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)) == 0);
    }
    CHECK(bind(l, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(l, 1) == 0);
    CHECK(getsockname(l, (struct sockaddr *)&a, &len) == 0);
    CHECK(connect(fd[0], (struct sockaddr *)&a, sizeof(a)) == 0);
    fd[1] = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK(fd[1] >= 0 && fcntl(fd[0], F_SETFL, O_NONBLOCK) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
    close(l);
}

static inline void rig_reset(int fd)
{
    struct linger now = {.l_onoff = 1};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
    close(fd);
}

/* The content of all tests: byte `at` of any body. */
static inline uint8_t rig_byte(uint64_t at)
{
    uint64_t x = (at + 1) * 0x9e3779b97f4a7c15u;
    return (uint8_t)(x >> 56 ^ x >> 29);
}

#endif
