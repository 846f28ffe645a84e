/* SPDX-License-Identifier: Apache-2.0 */
/* What connections tell of backends: counts that come out even, and when a backend becomes suspect. */
#include "lab.h"

#include <linux/filter.h>
#include <poll.h>

#include "bpf/steer.skel.h"
#include "bpf/watch.skel.h"

enum { PORT = 8000, SERVICE_PORT = 80, CANARY_PORT = ABI_CANARY_PORT_FIRST + 1 };

#define SERVICE "192.0.2.1"
#define BACKEND "10.77.0.1"

static struct lab lab;
static const uint32_t ids[] = {0, 1};

static int open_lab(void **state)
{
    (void)state;
    LIBBPF_OPTS(bpf_object_open_opts, opts, .pin_root_path = "/sys/fs/bpf");
    lab_open(&lab);
    struct steer_bpf *steer = steer_bpf__open_opts(&opts);
    assert_non_null(steer);
    lab_load(&lab, steer->obj);
    lab_attach_cgroup(&lab, steer->progs.steer_connect4);
    struct watch_bpf *watch = watch_bpf__open_opts(&opts);
    assert_non_null(watch);
    lab_load(&lab, watch->obj);
    lab_attach_cgroup(&lab, watch->progs.watch_sockets);
    return 0;
}

static int close_lab(void **state)
{
    (void)state;
    lab_close(&lab);
    return 0;
}

/* One backend that is up, on a node that probes; nothing is known of it from before. */
static int fresh(void **state)
{
    (void)state;
    uint32_t zero = 0;
    struct abi_node node = {.flags = ABI_NODE_PROBES};
    struct abi_service s = {
        .policy = ABI_POLICY_RANDOM, .flags = ABI_SERVICE_STEER, .all_down = ABI_ALL_DOWN_OPEN};
    struct abi_backend b = lab_backend(BACKEND, PORT);
    char nothing[64] = {0};
    lab_set(&lab, "node", &zero, &node);
    lab_set_backend(&lab, 0, &b, ABI_UP);
    lab_set(&lab, "suspicions", &zero, nothing);
    lab_set_service(&lab, SERVICE, SERVICE_PORT, s, ids, NULL, 1);
    return 0;
}

static uint32_t reason(uint32_t id)
{
    return ABI_VERDICT_REASON(lab_verdict(&lab, id));
}

static uint32_t state_of(uint32_t id)
{
    return ABI_VERDICT_STATE(lab_verdict(&lab, id));
}

static uint8_t wanted(uint32_t id)
{
    struct abi_probe_state probe;
    lab_get(&lab, "probe_state", id, &probe);
    return probe.wanted;
}

/* A pair of ends of one connection to the service. */
struct pair {
    int client, server;
};

static struct pair connect_pair(int listener)
{
    struct pair p = {.client = lab_connected(AF_INET, SERVICE, SERVICE_PORT)};
    p.server = lab_accept(listener);
    assert_true(p.server >= 0);
    return p;
}

static void counts_come_out_even(void **state)
{
    (void)state;
    int listener = lab_listen(BACKEND, PORT, 64);
    struct pair p[4];
    for (int i = 0; i < 4; i++)
        p[i] = connect_pair(listener);
    assert_int_equal(lab_active(&lab, 0), 4);
    assert_int_equal(lab_stats(&lab, 0).established, 4);
    assert_true(lab_stats(&lab, 0).rtt_us < 1000000);
    close(p[0].client); /* each end closes first once */
    close(p[0].server);
    close(p[1].server);
    close(p[1].client);
    lab_reset(p[2].client);
    close(p[2].server);
    assert_true(lab_await_active(&lab, 0, 1));
    lab_reset(p[3].server);
    assert_true(lab_await_active(&lab, 0, 0));
    close(p[3].client);
    int fd = lab_socket(AF_INET); /* the same socket once more */
    for (int i = 0; i < 3; i++) {
        struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
        assert_int_equal(lab_connect(fd, AF_INET, SERVICE, SERVICE_PORT), 0);
        assert_int_equal(lab_active(&lab, 0), 1);
        assert_int_equal(connect(fd, &nowhere, sizeof(nowhere)), 0);
        assert_int_equal(lab_active(&lab, 0), 0);
    }
    int direct = lab_connected(AF_INET, BACKEND, PORT); /* not steered, counted all the same */
    assert_int_equal(lab_active(&lab, 0), 1);
    close(direct);
    close(fd);
    close(listener);
    assert_true(lab_await_active(&lab, 0, 0));
}

/* What ends was counted by another generation, in maps of before, or before sockets were forgotten: none of
 * it is in the count of now, which a new connection begins. */
static void a_count_that_begins_anew_has_no_old_ends(void **state)
{
    enum { REUSED, RESIZED, FORGOTTEN, WAYS };
    (void)state;
    int listener = lab_listen(BACKEND, PORT, 64);
    for (int way = 0; way < WAYS; way++) {
        uint32_t zero = 0;
        uint64_t no_tag = 0;
        fresh(NULL);
        struct pair old[3], one;
        for (int i = 0; i < 3; i++)
            old[i] = connect_pair(listener);
        assert_int_equal(lab_active(&lab, 0), 3);
        struct abi_backend b = lab_backend(BACKEND, PORT);
        struct abi_backend_stats nothing = {0};
        b.generation = way == REUSED ? 2 : 1;
        lab_set(&lab, "backends", &zero, &b);
        lab_set(&lab, "verdicts", &zero, &(uint64_t){ABI_VERDICT(ABI_UP, ABI_PROBE_OK, b.generation, 9)});
        if (way == RESIZED)
            lab_set(&lab, "backend_stats", &zero, &nothing);
        if (way != REUSED)
            lab_set(&lab, "socket_tag", &zero, &no_tag);
        close(old[0].client); /* before the first one of the new count */
        close(old[0].server);
        one = connect_pair(listener);
        assert_int_equal(lab_active(&lab, 0), 1);
        lab_reset(old[1].client);
        close(old[1].server);
        lab_reset(old[2].client);
        close(old[2].server);
        assert_int_equal(lab_active(&lab, 0), 1);
        lab_reset(one.client);
        close(one.server);
        assert_true(lab_await_active(&lab, 0, 0));
    }
    close(listener);
}

/* Connects n times without waiting and says when it did, then waits to be killed. */
static pid_t hold_connections(int n)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < n; i++)
            lab_connected(AF_INET, SERVICE, SERVICE_PORT);
        if (write(ready[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return child;
}

static void killed_clients_are_counted_out(void **state)
{
    (void)state;
    int listener = lab_listen(BACKEND, PORT, 256);
    pid_t child = hold_connections(100);
    assert_int_equal(lab_active(&lab, 0), 100);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(listener); /* what nobody accepted is reset */
    assert_true(lab_await_active(&lab, 0, 0));
}

static void refused_is_suspect_and_probed(void **state)
{
    (void)state;
    assert_int_equal(lab_try(AF_INET, SERVICE, SERVICE_PORT), -ECONNREFUSED);
    assert_int_equal(state_of(0), ABI_SUSPECT);
    assert_int_equal(reason(0), ABI_REFUSED);
    assert_int_equal(wanted(0), ABI_WANTED_PROBE);
    assert_int_equal(lab_stats(&lab, 0).refused, 1);
    assert_int_equal(lab_active(&lab, 0), 0);
    uint32_t service = 1;
    struct abi_check http = {.kind = ABI_CHECK_HTTP};
    lab_set(&lab, "checks", &service, &http);
    lab_set_state(&lab, 0, ABI_UP);
    assert_int_equal(lab_try(AF_INET, SERVICE, SERVICE_PORT), -ECONNREFUSED);
    assert_int_equal(wanted(0), ABI_WANTED_HTTP);
    struct abi_check tcp = {.kind = ABI_CHECK_TCP};
    lab_set(&lab, "checks", &service, &tcp);
}

static void a_suspicion_is_about_the_address(void **state)
{
    (void)state;
    struct abi_backend first = lab_backend(BACKEND, PORT), second = first;
    first.next_same = 1;
    lab_set_backend(&lab, 1, &second, ABI_UP);
    lab_set_backend(&lab, 0, &first, ABI_UP);
    assert_int_equal(lab_try(AF_INET, SERVICE, SERVICE_PORT), -ECONNREFUSED);
    assert_int_equal(state_of(0), ABI_SUSPECT);
    assert_int_equal(state_of(1), ABI_SUSPECT);
    struct abi_endpoint at = {.addr = second.addr, .port = second.port};
    struct abi_endpoint_backends back = {.first = 0};
    lab_set(&lab, "endpoints", &at, &back);
}

static void a_down_is_not_weakened(void **state)
{
    (void)state;
    lab_set_state(&lab, 0, ABI_DOWN);
    uint64_t before = lab_verdict(&lab, 0);
    assert_int_equal(lab_try(AF_INET, SERVICE, SERVICE_PORT), -ECONNREFUSED); /* it fails open */
    assert_int_equal(lab_verdict(&lab, 0), before);
}

/* Where nobody probes, a connection that is made clears the suspicion; else only the probe does. */
static void a_connection_clears_where_nobody_probes(void **state)
{
    (void)state;
    uint32_t zero = 0;
    struct abi_node worker = {0};
    int listener = lab_listen(BACKEND, PORT, 64);
    lab_set_state(&lab, 0, ABI_SUSPECT);
    assert_int_equal(lab_try(AF_INET, SERVICE, SERVICE_PORT), 0);
    assert_int_equal(state_of(0), ABI_SUSPECT);
    lab_set(&lab, "node", &zero, &worker);
    assert_int_equal(lab_try(AF_INET, SERVICE, SERVICE_PORT), 0);
    assert_int_equal(state_of(0), ABI_UP);
    assert_int_equal(reason(0), ABI_CONNECTED);
    lab_set_state(&lab, 0, ABI_DOWN);
    assert_int_equal(lab_try(AF_INET, SERVICE, SERVICE_PORT), 0);
    assert_int_equal(state_of(0), ABI_DOWN);
    close(listener);
}

static void one_reset_says_nothing(void **state)
{
    (void)state;
    int listener = lab_listen(BACKEND, PORT, 64);
    struct pair a = connect_pair(listener), b = connect_pair(listener), c;
    lab_reset(a.server);
    assert_true(lab_await_active(&lab, 0, 1));
    assert_int_equal(state_of(0), ABI_UP);
    c = connect_pair(listener); /* a sign of life */
    lab_reset(b.server);
    assert_true(lab_await_active(&lab, 0, 1));
    assert_int_equal(state_of(0), ABI_UP);
    lab_reset(c.server);
    assert_true(lab_await_active(&lab, 0, 0));
    assert_int_equal(state_of(0), ABI_SUSPECT);
    assert_int_equal(reason(0), ABI_RESET);
    assert_int_equal(lab_stats(&lab, 0).resets, 3);
    close(a.client);
    close(b.client);
    close(c.client);
    close(listener);
}

static void a_close_says_nothing(void **state)
{
    (void)state;
    int listener = lab_listen(BACKEND, PORT, 64);
    for (int i = 0; i < 50; i++) {
        struct pair p = connect_pair(listener);
        close(p.server);
        close(p.client);
    }
    assert_true(lab_await_active(&lab, 0, 0));
    assert_int_equal(state_of(0), ABI_UP);
    close(listener);
}

static int canary(void)
{
    int fd = lab_socket(AF_INET), mark = ABI_MARK, one = 1;
    struct lab_name from = lab_name(AF_INET, "0.0.0.0", CANARY_PORT);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
    assert_int_equal(bind(fd, &from.u.any, from.len), 0);
    assert_int_equal(lab_connect(fd, AF_INET, BACKEND, PORT), 0);
    return fd;
}

static void a_canary_that_ends_is_evidence(void **state)
{
    (void)state;
    int listener = lab_listen(BACKEND, PORT, 64);
    int fd = canary(), server = lab_accept(listener);
    assert_int_equal(lab_active(&lab, 0), 0); /* it is not load */
    close(server);
    assert_true(lab_await_state(&lab, 0, ABI_SUSPECT));
    assert_int_equal(reason(0), ABI_CANARY);
    lab_reset(fd);
    lab_set_state(&lab, 0, ABI_UP);
    fd = canary();
    server = lab_accept(listener);
    lab_reset(server);
    assert_true(lab_await_state(&lab, 0, ABI_SUSPECT));
    assert_int_equal(reason(0), ABI_CANARY);
    close(fd);
    lab_set_state(&lab, 0, ABI_UP);
    fd = canary(); /* closed by us: nothing */
    server = lab_accept(listener);
    lab_reset(fd);
    usleep(20000);
    fd = canary();
    close(fd);
    usleep(20000);
    assert_int_equal(state_of(0), ABI_UP);
    close(server);
    close(listener);
}

/* A server in a process of its own. */
static pid_t serve(void)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        int listener = lab_listen(BACKEND, PORT, 64);
        if (write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            accept(listener, NULL, NULL);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return child;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The time is taken by the program that changes the verdict; the bound is wide, machines are busy. */
static void a_killed_server_is_suspect_at_once(void **state)
{
    (void)state;
    uint64_t taken_ns[15];
    enum { RUNS = sizeof(taken_ns) / sizeof(taken_ns[0]) };
    for (size_t i = 0; i < RUNS; i++) {
        fresh(NULL);
        pid_t child = serve();
        int fd = canary();
        usleep(2000);
        uint64_t head, killed_ns = lab_now_ns();
        kill(child, SIGKILL);
        assert_true(lab_await_state(&lab, 0, ABI_SUSPECT));
        struct abi_change change;
        lab_get(&lab, "history_head", 0, &head);
        lab_get(&lab, "history", (uint32_t)(head - 1) & (ABI_HISTORY - 1), &change);
        assert_int_equal(change.number, head - 1);
        assert_int_equal(ABI_VERDICT_STATE(change.after), ABI_SUSPECT);
        taken_ns[i] = change.time_ns - killed_ns;
        waitpid(child, NULL, 0);
        lab_reset(fd);
    }
    qsort(taken_ns, RUNS, sizeof(taken_ns[0]), by_value);
    print_message("kill -9 to suspect: min %llu, median %llu, max %llu us\n", taken_ns[0] / 1000ull,
                  taken_ns[RUNS / 2] / 1000ull, taken_ns[RUNS - 1] / 1000ull);
    assert_true(taken_ns[RUNS / 2] < 50 * 1000000ull);
}

static void a_storm_of_refusals_is_bounded(void **state)
{
    (void)state;
    int suspected = 0;
    for (int i = 0; i < 2000; i++) { /* as if a probe had cleared it each time */
        assert_int_equal(lab_try(AF_INET, SERVICE, SERVICE_PORT), -ECONNREFUSED);
        if (state_of(0) == ABI_SUSPECT) {
            suspected++;
            lab_set_state(&lab, 0, ABI_UP);
        }
    }
    assert_in_range(suspected, 8, 40); /* eight at once, then four a second */
    assert_int_equal(lab_stats(&lab, 0).refused, 2000);
    assert_int_equal(lab_active(&lab, 0), 0);
}

/* A listener whose queue is full drops what asks to connect. */
static void one_lost_segment_says_nothing(void **state)
{
    (void)state;
    int listener = lab_listen(BACKEND, PORT, 0), fd[2];
    struct pair full = {.client = lab_connected(AF_INET, SERVICE, SERVICE_PORT)};
    for (int i = 0; i < 2; i++) {
        fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        assert_int_equal(lab_connect(fd[i], AF_INET, SERVICE, SERVICE_PORT), -EINPROGRESS);
        if (i == 0) {
            usleep(1500000);
            assert_int_equal(lab_stats(&lab, 0).retransmits, 1);
            assert_int_equal(state_of(0), ABI_UP);
        }
    }
    assert_true(lab_await_state(&lab, 0, ABI_SUSPECT)); /* a second one says more */
    assert_int_equal(reason(0), ABI_CONNECT_TIMEOUT);
    assert_int_equal(lab_active(&lab, 0), 3);
    close(fd[0]); /* given up: counted out */
    close(fd[1]);
    close(full.client);
    close(listener);
    assert_true(lab_await_active(&lab, 0, 0));
}

static void attempts_that_time_out_count_out(void **state)
{
    (void)state;
    int listener = lab_listen(BACKEND, PORT, 0), fd = lab_socket(AF_INET), once = 1;
    int first = lab_connected(AF_INET, SERVICE, SERVICE_PORT);
    assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_SYNCNT, &once, sizeof(once)), 0);
    assert_int_equal(lab_connect(fd, AF_INET, SERVICE, SERVICE_PORT), -ETIMEDOUT);
    assert_int_equal(lab_stats(&lab, 0).timeouts, 1);
    assert_int_equal(state_of(0), ABI_SUSPECT);
    assert_int_equal(reason(0), ABI_CONNECT_TIMEOUT);
    assert_int_equal(lab_active(&lab, 0), 1);
    close(first);
    close(fd);
    close(listener);
    assert_true(lab_await_active(&lab, 0, 0));
}

/* Its end takes nothing any more, and acknowledges nothing. */
static void deafen(int fd)
{
    struct sock_filter nothing = {.code = BPF_RET | BPF_K, .k = 0};
    struct sock_fprog program = {.len = 1, .filter = &nothing};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), 0);
}

static int error_within(int fd, int ms)
{
    struct pollfd poll_fd = {.fd = fd};
    int error = 0;
    socklen_t len = sizeof(error);
    if (poll(&poll_fd, 1, ms) > 0)
        assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len), 0);
    return error;
}

/* Where no reset comes, as for a container's connections, they end by their own retransmissions. */
static void a_stuck_connection_ends(void **state)
{
    int listener = lab_listen(BACKEND, PORT, 4);
    (void)state;
    for (int cut = 0; cut < 2; cut++) {
        struct abi_backend b = lab_backend(BACKEND, PORT);
        b.flags = cut ? ABI_BACKEND_CUT : 0;
        lab_set_backend(&lab, 0, &b, ABI_UP);
        struct pair p = connect_pair(listener);
        deafen(p.server);
        lab_set_state(&lab, 0, ABI_DOWN);
        assert_int_equal(send(p.client, "x", 1, 0), 1);
        assert_int_equal(error_within(p.client, cut ? 20000 : 1500), cut ? ETIMEDOUT : 0);
        assert_int_equal(state_of(0), ABI_DOWN);
        lab_reset(p.client);
        close(p.server);
        struct pair late = connect_pair(listener); /* all are down: it fails open, and may last */
        deafen(late.server);
        assert_int_equal(send(late.client, "x", 1, 0), 1);
        assert_int_equal(error_within(late.client, 1500), 0);
        lab_reset(late.client);
        close(late.server);
    }
    close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(counts_come_out_even, fresh),
        cmocka_unit_test_setup(a_count_that_begins_anew_has_no_old_ends, fresh),
        cmocka_unit_test_setup(killed_clients_are_counted_out, fresh),
        cmocka_unit_test_setup(refused_is_suspect_and_probed, fresh),
        cmocka_unit_test_setup(a_suspicion_is_about_the_address, fresh),
        cmocka_unit_test_setup(a_down_is_not_weakened, fresh),
        cmocka_unit_test_setup(a_connection_clears_where_nobody_probes, fresh),
        cmocka_unit_test_setup(one_reset_says_nothing, fresh),
        cmocka_unit_test_setup(a_close_says_nothing, fresh),
        cmocka_unit_test_setup(a_canary_that_ends_is_evidence, fresh),
        cmocka_unit_test_setup(a_killed_server_is_suspect_at_once, fresh),
        cmocka_unit_test_setup(a_storm_of_refusals_is_bounded, fresh),
        cmocka_unit_test_setup(one_lost_segment_says_nothing, fresh),
        cmocka_unit_test_setup(attempts_that_time_out_count_out, fresh),
        cmocka_unit_test_setup(a_stuck_connection_ends, fresh),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
