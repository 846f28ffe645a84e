/* SPDX-License-Identifier: Apache-2.0 */
/* Clients that there is no room for: each is told so, whatever it has sent, and its socket is kept for a
 * moment only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>

#include "dataplane/refused.h"
#include "pump_rig.h"

static struct rig rig;

/* A client whose connection was refused; its end. */
static int refuse(void)
{
    int fd[2];
    rig_pair(fd, 0);
    refused_add(rig.ring, fd[1]);
    return fd[0];
}

static ssize_t receive(int fd, char *text, size_t cap)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 60000), 1);
    return recv(fd, text, cap, 0);
}

/* Until the ring has dropped what is over. */
static void tick_until(unsigned count)
{
    for (int i = 0; i < 60000 && rig.ring->refused.count != count; i++) {
        rig_turn(&rig);
        refused_tick(rig.ring);
    }
    assert_int_equal(rig.ring->refused.count, count);
}

static void check_told(int fd)
{
    char text[512] = "";
    ssize_t n = receive(fd, text, sizeof(text) - 1);
    assert_true(n > 0);
    assert_non_null(strstr(text, "429 Too Many Requests"));
    assert_non_null(strstr(text, "Retry-After: "));
    assert_int_equal(receive(fd, text, sizeof(text)), 0); /* and not a reset */
}

/* A request that nobody reads must not destroy the answer. */
static void told_whatever_it_sends(void **state)
{
    (void)state;
    int fd = refuse();
    static char body[200000];
    assert_true(send(fd, body, sizeof(body), MSG_NOSIGNAL | MSG_DONTWAIT) > 0);
    refused_tick(rig.ring);
    check_told(fd);
    assert_int_equal(rig.ring->refused.count, 1);
    close(fd);
    tick_until(0);
    assert_true(atomic_load(&rig.counters->closed[CLOSE_NO_CONNECTION]) == 1);
}

/* One that neither closes nor says anything. */
static void kept_for_a_moment(void **state)
{
    (void)state;
    int fd = refuse();
    uint64_t end_ms = rig.ring->refused.row[0].end_ms;
    assert_true(end_ms <= ring_now_ms(rig.ring) + REFUSED_MS);
    refused_tick(rig.ring);
    assert_int_equal(rig.ring->refused.count, 1);
    rig.ring->refused.row[0].end_ms = ring_now_ms(rig.ring);
    refused_tick(rig.ring);
    assert_int_equal(rig.ring->refused.count, 0);
    check_told(fd);
    close(fd);
}

/* More than are kept: the oldest goes, all are told. */
static void oldest_goes(void **state)
{
    (void)state;
    enum { ALL = REFUSED_MAX + 3 };
    static int fd[ALL];
    for (int i = 0; i < ALL; i++) {
        fd[i] = refuse();
        rig.ring->refused.row[rig.ring->refused.count - 1].end_ms = UINT64_MAX - ALL + (uint64_t)i;
    }
    assert_int_equal(rig.ring->refused.count, REFUSED_MAX);
    for (unsigned i = 0; i < REFUSED_MAX; i++)
        assert_true(rig.ring->refused.row[i].end_ms >= UINT64_MAX - ALL + 3);
    for (int i = 0; i < ALL; i++) {
        check_told(fd[i]);
        close(fd[i]);
    }
    tick_until(0);
    refuse();
    refused_close(rig.ring);
    assert_int_equal(rig.ring->refused.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(told_whatever_it_sends),
        cmocka_unit_test(kept_for_a_moment),
        cmocka_unit_test(oldest_goes),
    };
    rig_init(&rig, RIG_SMALLS, 8);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rig_fini(&rig);
    return failed;
}
