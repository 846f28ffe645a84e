/* SPDX-License-Identifier: Apache-2.0 */
/* Idle sockets to an endpoint are destroyed, and no others. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>
#include <cmocka.h>

#include "control/cut_idle.h"

static uv_loop_t loop;
static struct cut_idle *cut;

static int setup(void **state)
{
    uv_loop_init(&loop);
    int result = cut_idle_open(&loop, &cut);
    if (result)
        print_message("%s\n", strerror(-result));
    assert_true(result == 0 || result == -EOPNOTSUPP || result == -EPERM);
    *state = result ? NULL : cut;
    return 0;
}

static int teardown(void **state)
{
    if (*state)
        cut_idle_close(cut);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop);
}

static struct abi_addr mapped(uint32_t v4)
{
    return (struct abi_addr){{0, 0, htonl(0xffff), v4}};
}

static struct abi_addr loopback6(void)
{
    return (struct abi_addr){{0, 0, 0, htonl(1)}};
}

/* A listener that answers both families; returns its port. */
static uint16_t listen_anywhere(int *fd)
{
    struct sockaddr_in6 name = {.sin6_family = AF_INET6};
    socklen_t len = sizeof(name);
    *fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(*fd, (struct sockaddr *)&name, len), 0);
    assert_int_equal(listen(*fd, 128), 0);
    assert_int_equal(getsockname(*fd, (struct sockaddr *)&name, &len), 0);
    return ntohs(name.sin6_port);
}

static int connect_to(int family, struct abi_addr addr, uint16_t port, uint32_t mark)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = addr.word[3]};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    memcpy(&in6.sin6_addr, &addr, sizeof(in6.sin6_addr));
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (mark)
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
    int result = family == AF_INET ? connect(fd, (struct sockaddr *)&in, sizeof(in))
                                   : connect(fd, (struct sockaddr *)&in6, sizeof(in6));
    assert_int_equal(result, 0);
    return fd;
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

static bool run_until_ended(uint64_t count)
{
    for (int i = 0; i < 100 && cut_idle_ended(cut) < count; i++)
        run_ms(10);
    run_ms(20);
    return cut_idle_ended(cut) == count;
}

static int error_of(int fd)
{
    int error = 0;
    socklen_t len = sizeof(error);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    return error;
}

static void ends_what_goes_there(void **state)
{
    if (!*state)
        skip();
    int listener, other_listener;
    uint16_t port = listen_anywhere(&listener), other_port = listen_anywhere(&other_listener);
    struct abi_addr four = mapped(htonl(INADDR_LOOPBACK)), elsewhere = mapped(htonl(INADDR_LOOPBACK + 1));
    int ended[] = {connect_to(AF_INET, four, port, 0), connect_to(AF_INET6, four, port, 0)};
    int staying[] = {connect_to(AF_INET, four, other_port, 0), connect_to(AF_INET, elsewhere, port, 0),
                     connect_to(AF_INET6, loopback6(), port, 0), connect_to(AF_INET, four, port, ABI_MARK)};
    struct abi_endpoint at = {.addr = four, .port = htons(port)};
    assert_int_equal(cut_idle_add(cut, &at), 0);
    assert_true(run_until_ended(2));
    for (size_t i = 0; i < 2; i++) {
        struct pollfd p = {.fd = ended[i], .events = POLLIN};
        assert_int_equal(poll(&p, 1, 1000), 1);
        assert_int_equal(error_of(ended[i]), ECONNABORTED);
        close(ended[i]);
    }
    for (size_t i = 0; i < 4; i++) {
        struct pollfd p = {.fd = staying[i], .events = POLLIN};
        assert_int_equal(poll(&p, 1, 0), 0);
        close(staying[i]);
    }
    close(listener);
    close(other_listener);
}

/* Several at once, and more while the first are being looked for. */
static void many_at_once(void **state)
{
    if (!*state)
        skip();
    enum { SERVERS = 10, EACH = 20 };
    int listener[SERVERS], fd[SERVERS][EACH];
    uint16_t port[SERVERS];
    for (int s = 0; s < SERVERS; s++) {
        port[s] = listen_anywhere(&listener[s]);
        for (int i = 0; i < EACH; i++)
            fd[s][i] = i & 1 ? connect_to(AF_INET6, loopback6(), port[s], 0)
                             : connect_to(AF_INET, mapped(htonl(INADDR_LOOPBACK)), port[s], 0);
    }
    for (int s = 0; s < SERVERS - 1; s++) {
        struct abi_endpoint four = {.addr = mapped(htonl(INADDR_LOOPBACK)), .port = htons(port[s])};
        struct abi_endpoint six = {.addr = loopback6(), .port = htons(port[s])};
        assert_int_equal(cut_idle_add(cut, &four), 0);
        assert_int_equal(cut_idle_add(cut, &six), 0);
    }
    assert_true(run_until_ended((SERVERS - 1) * EACH));
    for (int s = 0; s < SERVERS; s++) {
        for (int i = 0; i < EACH; i++) {
            assert_int_equal(error_of(fd[s][i]), s < SERVERS - 1 ? ECONNABORTED : 0);
            close(fd[s][i]);
        }
        close(listener[s]);
    }
}

static void the_queue_is_bounded(void **state)
{
    if (!*state)
        skip();
    struct abi_endpoint at = {.addr = mapped(htonl(INADDR_LOOPBACK)), .port = htons(9)};
    int result = 0;
    for (int i = 0; i <= CUT_IDLE_PENDING_MAX + 1 && result == 0; i++)
        result = cut_idle_add(cut, &at);
    assert_int_equal(result, -ENOSPC);
    run_ms(100);
    assert_int_equal(cut_idle_add(cut, &at), 0);
    run_ms(20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ends_what_goes_there, setup, teardown),
        cmocka_unit_test_setup_teardown(many_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(the_queue_is_bounded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
