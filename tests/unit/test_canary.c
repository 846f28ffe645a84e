/* SPDX-License-Identifier: Apache-2.0 */
/* Canaries against real servers on loopback; a second of theirs takes 20 ms here. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>
#include <cmocka.h>

#include "control/canary.h"

enum { MAX = 4, CONNECTIONS = 64 };

static const struct canary_times times = {
    .retry_ms = 4,
    .retry_max_ms = 100,
    .life_min_ms = 40,
    .died_ms = 10000,
    .unwanted_ms = 300,
    .unwanted_max_ms = 1200,
    .connect_ms = 100,
};

/* Takes connections, and closes each after idle_ms (0: never). */
struct server {
    uv_loop_t *loop;
    uv_poll_t poll;
    uv_timer_t sweep;
    int fd, idle_ms;
    uint16_t port;
    int connection[CONNECTIONS];
    uint64_t since_ms[CONNECTIONS];
    int accepted;
    bool marked; /* every one so far came from a canary's port */
};

static uv_loop_t loop;
static struct canaries *canaries;

static void on_connection(uv_poll_t *poll, int status, int events)
{
    struct server *server = poll->data;
    struct sockaddr_in6 from;
    socklen_t len = sizeof(from);
    (void)status;
    (void)events;
    int fd = accept4(server->fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(fd >= 0);
    uint16_t port = ntohs(from.sin6_port); /* at the same place in both families */
    server->marked =
        server->marked && port >= ABI_CANARY_PORT_FIRST && port < ABI_CANARY_PORT_FIRST + ABI_CANARY_PORTS;
    for (int i = 0; i < CONNECTIONS; i++) {
        if (server->connection[i] >= 0)
            continue;
        server->connection[i] = fd;
        server->since_ms[i] = uv_now(server->loop);
        server->accepted++;
        return;
    }
    fail_msg("too many connections");
}

/* Closes what is idle for long, and what its client has closed. */
static void on_sweep(uv_timer_t *timer)
{
    struct server *server = timer->data;
    char byte;
    for (int i = 0; i < CONNECTIONS; i++) {
        int fd = server->connection[i];
        if (fd < 0)
            continue;
        bool idle =
            server->idle_ms && uv_now(server->loop) - server->since_ms[i] >= (uint64_t)server->idle_ms;
        ssize_t n = recv(fd, &byte, 1, 0);
        assert_true(n <= 0); /* nothing is ever sent */
        if (n == 0 || idle || (errno != EAGAIN && errno != EINTR)) {
            close(fd);
            server->connection[i] = -1;
        }
    }
}

static struct abi_endpoint endpoint(const struct server *server, bool six)
{
    struct abi_endpoint at = {.addr = {{0, 0, htonl(0xffff), htonl(INADDR_LOOPBACK)}},
                              .port = htons(server->port)};
    if (six)
        at.addr = (struct abi_addr){{0, 0, 0, htonl(1)}};
    return at;
}

static void bind_server(struct server *server, bool six)
{
    struct sockaddr_in in = {
        .sin_family = AF_INET, .sin_port = htons(server->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 in6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(server->port), .sin6_addr = in6addr_loopback};
    struct sockaddr *name = six ? (struct sockaddr *)&in6 : (struct sockaddr *)&in;
    socklen_t len = six ? sizeof(in6) : sizeof(in);
    int one = 1;
    server->fd = socket(name->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(server->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    assert_int_equal(bind(server->fd, name, len), 0);
    assert_int_equal(getsockname(server->fd, name, &len), 0);
    server->port = ntohs(six ? in6.sin6_port : in.sin_port);
}

static void start_server(struct server *server, bool six, int idle_ms, uint16_t port)
{
    *server = (struct server){.loop = &loop, .idle_ms = idle_ms, .port = port, .marked = true};
    for (int i = 0; i < CONNECTIONS; i++)
        server->connection[i] = -1;
    bind_server(server, six);
    assert_int_equal(listen(server->fd, CONNECTIONS), 0);
    uv_poll_init(&loop, &server->poll, server->fd);
    server->poll.data = server;
    uv_poll_start(&server->poll, UV_READABLE, on_connection);
    uv_timer_init(&loop, &server->sweep);
    server->sweep.data = server;
    uv_timer_start(&server->sweep, on_sweep, 1, 1);
}

static void stop_server(struct server *server)
{
    uv_close((uv_handle_t *)&server->poll, NULL);
    uv_close((uv_handle_t *)&server->sweep, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
    for (int i = 0; i < CONNECTIONS; i++)
        if (server->connection[i] >= 0)
            close(server->connection[i]);
    close(server->fd);
}

static void on_alarm(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void run_ms(uint64_t ms)
{
    uv_timer_t alarm;
    uv_timer_init(&loop, &alarm);
    uv_timer_start(&alarm, on_alarm, ms, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&alarm, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
}

/* Runs until so many are open, or too much time has passed. */
static bool run_until_open(uint64_t open)
{
    for (int i = 0; i < 500; i++) {
        if (canaries_counts(canaries).open == open)
            return true;
        run_ms(10);
    }
    return false;
}

static int setup(void **state)
{
    (void)state;
    int mark = ABI_MARK, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool may_mark = setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) == 0;
    close(fd);
    uv_loop_init(&loop);
    canaries = canaries_new(&loop, &times, MAX);
    *state = may_mark ? &loop : NULL;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    canaries_close(canaries);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

/* Marking sockets needs a capability. */
static void need_rights(void **state)
{
    if (!*state)
        skip();
}

static void stays_open(void **state)
{
    struct server four, six;
    need_rights(state);
    start_server(&four, false, 0, 0);
    start_server(&six, true, 0, 0);
    struct abi_endpoint at[] = {endpoint(&four, false), endpoint(&six, true)};
    qsort(at, 2, sizeof(at[0]), canary_compare);
    canaries_set(canaries, at, 2);
    assert_true(run_until_open(2));
    run_ms(300);
    struct canary_counts counts = canaries_counts(canaries);
    assert_int_equal(counts.open, 2);
    assert_int_equal(counts.attempts, 2);
    assert_int_equal(counts.closed + counts.renewed + counts.failures, 0);
    assert_true(four.accepted == 1 && six.accepted == 1 && four.marked && six.marked);
    canaries_set(canaries, &at[1], 1); /* what stays is not touched */
    run_ms(20);
    assert_int_equal(canaries_counts(canaries).open, 1);
    assert_int_equal(canaries_counts(canaries).attempts, 2);
    stop_server(&four);
    stop_server(&six);
}

static void comes_back_with_the_server(void **state)
{
    struct server server;
    need_rights(state);
    start_server(&server, false, 0, 0);
    struct abi_endpoint at = endpoint(&server, false);
    uint16_t port = server.port;
    canaries_set(canaries, &at, 1);
    assert_true(run_until_open(1));
    run_ms(100);
    stop_server(&server);
    run_ms(1000);
    struct canary_counts counts = canaries_counts(canaries);
    assert_int_equal(counts.open, 0);
    assert_int_equal(counts.closed, 1);
    assert_in_range(counts.failures, 4, 25); /* 4, 8 ... 100, 100 ms apart */
    start_server(&server, false, 0, port);
    canaries_retry(canaries, &at);
    run_ms(20);
    assert_int_equal(canaries_counts(canaries).open, 1);
    run_ms(500);
    counts = canaries_counts(canaries);
    assert_int_equal(counts.closed, 1);
    assert_int_equal(counts.renewed, 0); /* that end was no rule */
    stop_server(&server);
}

/* A minute and a half of a server that closes idle connections after five seconds. */
static void a_server_with_a_rule_is_learnt(void **state)
{
    struct server server;
    need_rights(state);
    start_server(&server, false, 100, 0);
    struct abi_endpoint at = endpoint(&server, false);
    canaries_set(canaries, &at, 1);
    run_ms(900); /* learnt, forgotten, learnt again */
    uint64_t closed = canaries_counts(canaries).closed;
    assert_in_range(closed, 1, 3);
    run_ms(1800);
    struct canary_counts counts = canaries_counts(canaries);
    assert_int_equal(counts.closed, closed);
    assert_in_range(counts.renewed, 15, 45);
    assert_int_equal(counts.failures, 0);
    assert_int_equal(counts.open, 1);
    stop_server(&server);
}

static void a_server_that_wants_none_is_left_alone(void **state)
{
    struct server server;
    need_rights(state);
    start_server(&server, false, 1, 0);
    struct abi_endpoint at = endpoint(&server, false);
    canaries_set(canaries, &at, 1);
    run_ms(1500); /* 0, 300, 900 (each a quarter earlier or later) */
    assert_in_range(canaries_counts(canaries).attempts, 2, 5);
    assert_in_range(server.accepted, 2, 5);
    canaries_retry(canaries, &at);
    run_ms(20);
    assert_in_range(server.accepted, 2, 5);
    stop_server(&server);
}

/* Servers that die young, and come back: `early` if the verdict is heard of before the connection's end. */
static void dies_young(bool early)
{
    struct server server;
    start_server(&server, false, 0, 0);
    struct abi_endpoint at = endpoint(&server, false);
    uint16_t port = server.port;
    canaries_set(canaries, &at, 1);
    for (uint64_t times_died = 0; times_died < 4; times_died++) {
        assert_true(run_until_open(1));
        stop_server(&server);
        if (early)
            canaries_down(canaries, &at);
        for (int i = 0; i < 500 && canaries_counts(canaries).closed == times_died; i++)
            run_ms(1);
        assert_int_equal(canaries_counts(canaries).closed, times_died + 1);
        if (!early)
            canaries_down(canaries, &at);
        start_server(&server, false, 0, port);
        canaries_retry(canaries, &at);
    }
    assert_true(run_until_open(1));
    run_ms(200);
    assert_int_equal(canaries_counts(canaries).renewed, 0); /* no rule was learnt */
    stop_server(&server);
    canaries_set(canaries, NULL, 0);
    run_ms(20);
}

static void a_young_death_is_no_rule(void **state)
{
    need_rights(state);
    dies_young(false);
}

static void a_young_death_is_no_rule_whatever_is_heard_first(void **state)
{
    need_rights(state);
    dies_young(true);
}

static void the_budget_is_kept(void **state)
{
    struct server server[MAX + 2];
    struct abi_endpoint at[MAX + 2];
    need_rights(state);
    for (int i = 0; i < MAX + 2; i++) {
        start_server(&server[i], false, 0, 0);
        at[i] = endpoint(&server[i], false);
    }
    qsort(at, MAX + 2, sizeof(at[0]), canary_compare);
    canaries_set(canaries, at, MAX + 2);
    assert_true(run_until_open(MAX));
    run_ms(50);
    struct canary_counts counts = canaries_counts(canaries);
    assert_int_equal(counts.wanted, MAX);
    assert_int_equal(counts.open, MAX);
    assert_int_equal(counts.over_budget, 2);
    canaries_set(canaries, NULL, 0);
    run_ms(50);
    assert_int_equal(canaries_counts(canaries).open, 0);
    for (int i = 0; i < MAX + 2; i++) {
        for (int c = 0; c < CONNECTIONS; c++)
            assert_int_equal(server[i].connection[c], -1);
        stop_server(&server[i]);
    }
}

/* What a server says unasked is thrown away; one that does not stop talking loses its canary. */
static void what_comes_is_discarded(void **state)
{
    struct server server;
    char bytes[8192] = {0};
    need_rights(state);
    start_server(&server, false, 0, 0);
    struct abi_endpoint at = endpoint(&server, false);
    canaries_set(canaries, &at, 1);
    assert_true(run_until_open(1));
    run_ms(60);
    assert_int_equal(send(server.connection[0], bytes, sizeof(bytes), MSG_NOSIGNAL), sizeof(bytes));
    run_ms(20);
    assert_int_equal(canaries_counts(canaries).open, 1);
    for (int i = 0; i < 40 && canaries_counts(canaries).closed == 0; i++) {
        send(server.connection[0], bytes, sizeof(bytes), MSG_NOSIGNAL);
        run_ms(1);
    }
    assert_int_equal(canaries_counts(canaries).closed, 1);
    stop_server(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(stays_open, setup, teardown),
        cmocka_unit_test_setup_teardown(comes_back_with_the_server, setup, teardown),
        cmocka_unit_test_setup_teardown(a_server_with_a_rule_is_learnt, setup, teardown),
        cmocka_unit_test_setup_teardown(a_server_that_wants_none_is_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(a_young_death_is_no_rule, setup, teardown),
        cmocka_unit_test_setup_teardown(a_young_death_is_no_rule_whatever_is_heard_first, setup, teardown),
        cmocka_unit_test_setup_teardown(the_budget_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(what_comes_is_discarded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
