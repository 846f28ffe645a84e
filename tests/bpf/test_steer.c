/* SPDX-License-Identifier: Apache-2.0 */
/* connect() to services: real sockets in a cgroup and a network namespace of the test's own. */
#include "lab.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <linux/io_uring.h>

#include "bpf/steer.skel.h"
#include "bpf/watch.skel.h"

enum { PORT = 8000, SERVICE_PORT = 80 };

#define SERVICE4 "192.0.2.1"
#define SERVICE6 "2001:db8::1"

static struct lab lab;
static const uint32_t ids[] = {0, 1, 2, 3};

static int open_lab(void **state)
{
    (void)state;
    LIBBPF_OPTS(bpf_object_open_opts, opts, .pin_root_path = "/sys/fs/bpf");
    struct abi_node node = {.node_id = 7, .flags = ABI_NODE_PROBES}; /* probes alone take a suspicion back */
    uint32_t zero = 0;
    lab_open(&lab);
    struct steer_bpf *steer = steer_bpf__open_opts(&opts);
    struct watch_bpf *watch = watch_bpf__open_opts(&opts);
    assert_non_null(steer);
    assert_non_null(watch);
    lab_load(&lab, steer->obj);
    lab_load(&lab, watch->obj);
    lab_attach_cgroup(&lab, steer->progs.steer_connect4);
    lab_attach_cgroup(&lab, steer->progs.steer_connect6);
    lab_attach_cgroup(&lab, steer->progs.steer_getpeername4);
    lab_attach_cgroup(&lab, steer->progs.steer_getpeername6);
    lab_attach_cgroup(&lab, watch->progs.watch_sockets); /* it counts */
    lab_set(&lab, "node", &zero, &node);
    return 0;
}

static int close_lab(void **state)
{
    (void)state;
    lab_close(&lab);
    return 0;
}

static void four_backends(enum abi_policy policy, enum abi_all_down all_down)
{
    struct abi_service s = {
        .policy = (uint8_t)policy, .all_down = (uint8_t)all_down, .flags = ABI_SERVICE_STEER};
    for (uint32_t i = 0; i < 4; i++) {
        char addr[16];
        snprintf(addr, sizeof(addr), "10.77.0.%u", i + 1);
        struct abi_backend b = lab_backend(addr, PORT);
        lab_set_backend(&lab, i, &b, ABI_UP);
    }
    lab_set_service(&lab, SERVICE4, SERVICE_PORT, s, ids, NULL, 4);
}

/* Takes the service's own list of backends away. */
static void by_rows(const char *service)
{
    struct abi_endpoint at = {.addr = lab_addr(service), .port = htons(SERVICE_PORT)};
    struct abi_service s;
    int fd = lab_map(&lab, "services");
    assert_int_equal(bpf_map_lookup_elem(fd, &at, &s), 0);
    s.few_count = 0;
    lab_set(&lab, "services", &at, &s);
}

/* A service of one backend. */
static void one_backend(const char *service, const char *backend)
{
    struct abi_service s = {.policy = ABI_POLICY_RANDOM, .flags = ABI_SERVICE_STEER};
    struct abi_backend b = lab_backend(backend, PORT);
    lab_set_backend(&lab, 0, &b, ABI_UP);
    lab_set_service(&lab, service, SERVICE_PORT, s, ids, NULL, 1);
}

static void listen_on_all(int listener[4])
{
    for (int i = 0; i < 4; i++) {
        char addr[16];
        snprintf(addr, sizeof(addr), "10.77.0.%d", i + 1);
        listener[i] = lab_listen(addr, PORT, 4096);
    }
}

static void close_all(const int fd[4])
{
    for (int i = 0; i < 4; i++)
        close(fd[i]);
}

/* Connects n times and closes at once; what each backend got goes to `got`. */
static void connect_times(int n, uint64_t got[4])
{
    uint64_t before[4];
    for (uint32_t i = 0; i < 4; i++)
        before[i] = lab_stats(&lab, i).connects;
    for (int i = 0; i < n; i++)
        lab_reset(lab_connected(AF_INET, SERVICE4, SERVICE_PORT));
    for (uint32_t i = 0; i < 4; i++)
        got[i] = lab_stats(&lab, i).connects - before[i];
}

static struct lab_name peer_of(int fd)
{
    struct lab_name n = {.len = sizeof(n.u)};
    assert_int_equal(getpeername(fd, &n.u.any, &n.len), 0);
    return n;
}

/* What a row of `reaches` is about: the socket's family, what it asks for, where it comes out. */
struct way {
    int family;
    const char *service, *backend;
};

static const struct way ways[] = {
    {AF_INET, SERVICE4, "10.77.0.1"},  {AF_INET6, SERVICE6, "fd77::1"}, {AF_INET6, SERVICE4, "10.77.0.1"},
    {AF_INET6, SERVICE6, "10.77.0.1"}, {AF_INET6, SERVICE4, "fd77::1"},
};

static void reaches_the_backend_and_shows_the_service(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        const struct way *w = &ways[i];
        one_backend(w->service, w->backend);
        int listener = lab_listen(w->backend, PORT, 4096);
        int fd = lab_connected(w->family, w->service, SERVICE_PORT);
        int accepted = lab_accept(listener);
        assert_true(accepted >= 0);
        struct lab_name peer = peer_of(fd), service = lab_name(w->family, w->service, SERVICE_PORT);
        assert_true(lab_same_name(&peer, &service));
        char byte = 'x';
        assert_int_equal(write(fd, &byte, 1), 1);
        assert_int_equal(read(accepted, &byte, 1), 1);
        assert_int_equal(lab_stats(&lab, 0).connects, 1);
        close(accepted);
        close(fd);
        close(listener);
    }
}

static void a_socket_goes_only_where_it_can(void **state)
{
    (void)state;
    int one = 1, listener = lab_listen("10.77.0.1", PORT, 4096),
        listener6 = lab_listen("fd77::1", PORT, 4096);
    one_backend(SERVICE4, "fd77::1");
    assert_int_equal(lab_try(AF_INET, SERVICE4, SERVICE_PORT), -ECONNREFUSED);
    one_backend(SERVICE6, "10.77.0.1");
    int only6 = lab_socket(AF_INET6);
    assert_int_equal(setsockopt(only6, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)), 0);
    assert_int_equal(lab_connect(only6, AF_INET6, SERVICE6, SERVICE_PORT), -ECONNREFUSED);
    int bound = lab_socket(AF_INET6);
    struct lab_name from = lab_name(AF_INET6, "fd77::2", 0);
    assert_int_equal(bind(bound, &from.u.any, from.len), 0);
    assert_int_equal(lab_connect(bound, AF_INET6, SERVICE6, SERVICE_PORT), -ECONNREFUSED);
    /* With one of each it takes the one that it can reach. */
    struct abi_backend six = lab_backend("fd77::1", PORT);
    struct abi_service s = {.policy = ABI_POLICY_RANDOM, .flags = ABI_SERVICE_STEER};
    lab_set_backend(&lab, 1, &six, ABI_UP);
    lab_set_service(&lab, SERVICE6, SERVICE_PORT, s, ids, NULL, 2);
    for (int i = 0; i < 20; i++) {
        int fd = lab_socket(AF_INET6);
        assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)), 0);
        assert_int_equal(lab_connect(fd, AF_INET6, SERVICE6, SERVICE_PORT), 0);
        lab_reset(fd);
    }
    assert_int_equal(lab_stats(&lab, 1).connects, 20);
    close(only6);
    close(bound);
    close(listener);
    close(listener6);
}

static void without_blocking(void **state)
{
    (void)state;
    one_backend(SERVICE4, "10.77.0.1");
    int listener = lab_listen("10.77.0.1", PORT, 4096);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = -1;
    int result = lab_connect(fd, AF_INET, SERVICE4, SERVICE_PORT);
    assert_true(result == 0 || result == -EINPROGRESS);
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    assert_int_equal(poll(&p, 1, LAB_WAIT_MS), 1);
    socklen_t len = sizeof(error);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    assert_int_equal(error, 0);
    struct lab_name peer = peer_of(fd), service = lab_name(AF_INET, SERVICE4, SERVICE_PORT);
    assert_true(lab_same_name(&peer, &service));
    close(fd);
    lab_set_state(&lab, 0, ABI_DOWN);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(lab_connect(fd, AF_INET, SERVICE4, SERVICE_PORT), -ECONNREFUSED);
    close(fd);
    close(listener);
}

/* One IORING_OP_CONNECT, by the system calls themselves; -ENOSYS or -EPERM where there is no io_uring. */
static int ring_connect(int fd, const struct lab_name *to)
{
    struct io_uring_params p = {0};
    int ring = (int)syscall(__NR_io_uring_setup, 4, &p);
    if (ring < 0)
        return -errno;
    size_t sq_bytes = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
    size_t cq_bytes = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    char *sq = mmap(NULL, sq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, cq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    struct io_uring_sqe *sqe =
        mmap(NULL, p.sq_entries * sizeof(*sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    assert_true(sq != MAP_FAILED && cq != MAP_FAILED && (void *)sqe != MAP_FAILED);
    *sqe = (struct io_uring_sqe){
        .opcode = IORING_OP_CONNECT, .fd = fd, .addr = (uint64_t)(uintptr_t)&to->u, .off = to->len};
    *(uint32_t *)(sq + p.sq_off.array) = 0;
    __atomic_store_n((uint32_t *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
    assert_int_equal(syscall(__NR_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0), 1);
    int result = ((struct io_uring_cqe *)(cq + p.cq_off.cqes))[0].res;
    munmap(sq, sq_bytes);
    munmap(cq, cq_bytes);
    munmap(sqe, p.sq_entries * sizeof(*sqe));
    close(ring);
    return result;
}

static void by_a_ring(void **state)
{
    (void)state;
    one_backend(SERVICE4, "10.77.0.1");
    int listener = lab_listen("10.77.0.1", PORT, 4096), fd = lab_socket(AF_INET);
    struct lab_name to = lab_name(AF_INET, SERVICE4, SERVICE_PORT);
    int result = ring_connect(fd, &to);
    if (result == -ENOSYS || result == -EPERM)
        skip();
    assert_int_equal(result, 0);
    struct lab_name peer = peer_of(fd);
    assert_true(lab_same_name(&peer, &to));
    close(fd);
    lab_set_state(&lab, 0, ABI_DOWN);
    fd = lab_socket(AF_INET);
    assert_int_equal(ring_connect(fd, &to), -ECONNREFUSED);
    close(fd);
    close(listener);
}

static void weights_are_kept(void **state)
{
    (void)state;
    struct abi_service s = {.policy = ABI_POLICY_RANDOM, .flags = ABI_SERVICE_STEER};
    static const uint32_t weights[] = {1, 2, 3, 4};
    int listener[4];
    uint64_t got[4], owned[4] = {0};
    four_backends(ABI_POLICY_RANDOM, ABI_ALL_DOWN_REFUSE);
    uint32_t first = lab.next_row;
    lab_set_service(&lab, SERVICE4, SERVICE_PORT, s, ids, weights, 4);
    for (uint32_t r = 0; r < LAB_ROWS; r++) {
        struct abi_row row;
        lab_get(&lab, "rows", first + r, &row);
        owned[row.backend[0]]++;
    }
    listen_on_all(listener);
    connect_times(4000, got);
    for (int i = 0; i < 4; i++) { /* five standard deviations: at most 0.04 */
        double expected = (double)owned[i] / LAB_ROWS, seen = (double)got[i] / 4000;
        assert_true(seen > expected - 0.04 && seen < expected + 0.04);
    }
    close_all(listener);
}

static void a_cgroup_keeps_its_backend(void **state)
{
    (void)state;
    int listener[4], served = 0;
    uint64_t got[4], later[4];
    four_backends(ABI_POLICY_MAGLEV, ABI_ALL_DOWN_REFUSE);
    listen_on_all(listener);
    connect_times(50, got);
    for (int i = 0; i < 4; i++)
        served += got[i] > 0;
    assert_int_equal(served, 1);
    /* Another one goes down: nothing changes. Its own: another takes all. */
    uint32_t own = got[0] ? 0 : got[1] ? 1 : got[2] ? 2 : 3;
    lab_set_state(&lab, (own + 1) % 4, ABI_DOWN);
    connect_times(50, later);
    assert_int_equal(later[own], 50);
    lab_set_state(&lab, own, ABI_DOWN);
    connect_times(50, later);
    assert_int_equal(later[own], 0);
    assert_true(later[0] == 50 || later[1] == 50 || later[2] == 50 || later[3] == 50);
    close_all(listener);
}

static void set_active(uint32_t id, uint32_t count)
{
    struct abi_backend_stats stats = lab_stats(&lab, ids[id]);
    stats.active = ABI_ACTIVE(stats.active >> 32, count);
    lab_set(&lab, "backend_stats", &ids[id], &stats);
}

static void least_takes_the_less_loaded(void **state)
{
    (void)state;
    int listener[4];
    uint64_t got[4];
    four_backends(ABI_POLICY_LEAST, ABI_ALL_DOWN_REFUSE);
    listen_on_all(listener);
    connect_times(200, got); /* whose count it is is known with the first connection */
    set_active(2, 1000);
    connect_times(2000, got); /* the loaded one only when both candidates are it: 1 of 16 */
    assert_in_range(got[2], 40, 260);
    struct abi_backend heavy;
    lab_get(&lab, "backends", 2, &heavy);
    heavy.weight = 256; /* 1000 of 256 is less than 5 of 1 */
    lab_set(&lab, "backends", &ids[2], &heavy);
    set_active(0, 5);
    set_active(1, 5);
    set_active(3, 5);
    connect_times(2000, got);
    assert_in_range(got[2], 700, 1060); /* 7 of 16 */
    close_all(listener);
}

/* Those that the service names itself: spread evenly, and left for the rows by whoever is not up. */
static void the_few_of_a_service(void **state)
{
    (void)state;
    int listener[4];
    uint64_t got[4];
    four_backends(ABI_POLICY_RANDOM, ABI_ALL_DOWN_REFUSE);
    listen_on_all(listener);
    connect_times(2000, got);
    for (int i = 0; i < 4; i++)
        assert_in_range(got[i], 400, 600);
    lab_set_state(&lab, 1, ABI_SUSPECT);
    lab_set_state(&lab, 2, ABI_DOWN);
    connect_times(2000, got);
    assert_true(got[1] == 0 && got[2] == 0);
    assert_in_range(got[0], 850, 1150);
    struct abi_backend renewed; /* the list is of the generation before: the verdict is about another one */
    lab_get(&lab, "backends", 0, &renewed);
    renewed.generation++;
    lab_set(&lab, "backends", &ids[0], &renewed);
    lab_set_state(&lab, 0, ABI_DOWN);
    connect_times(200, got);
    assert_int_equal(got[3], 200);
    close_all(listener);
}

static void what_is_not_up_gets_nothing(void **state)
{
    (void)state;
    int listener[4];
    uint64_t got[4];
    four_backends(ABI_POLICY_RANDOM, ABI_ALL_DOWN_REFUSE);
    by_rows(SERVICE4); /* control takes what drains out of the service's own list */
    listen_on_all(listener);
    struct abi_backend draining;
    lab_get(&lab, "backends", 0, &draining);
    draining.admin = ABI_ADMIN_DRAIN;
    lab_set(&lab, "backends", &ids[0], &draining);
    lab_set_state(&lab, 1, ABI_DOWN);
    lab_set_state(&lab, 2, ABI_SUSPECT);
    connect_times(200, got);
    assert_int_equal(got[3], 200);
    lab_set_state(&lab, 3, ABI_DOWN); /* only a suspect is left */
    connect_times(200, got);
    assert_int_equal(got[2], 200);
    lab_set_state(&lab, 1, ABI_UNKNOWN); /* which is tried */
    connect_times(200, got);
    assert_int_equal(got[1], 200);
    struct abi_backend renewed; /* its verdict was another one's */
    lab_get(&lab, "backends", 3, &renewed);
    renewed.generation++;
    lab_set(&lab, "backends", &ids[3], &renewed);
    connect_times(200, got);
    assert_true(got[3] > 0);
    assert_int_equal(got[1] + got[3], 200);
    close_all(listener);
}

static void all_down(void **state)
{
    (void)state;
    int listener[4];
    uint64_t got[4];
    listen_on_all(listener);
    four_backends(ABI_POLICY_RANDOM, ABI_ALL_DOWN_REFUSE);
    for (uint32_t i = 0; i < 4; i++)
        lab_set_state(&lab, i, ABI_DOWN);
    assert_int_equal(lab_try(AF_INET, SERVICE4, SERVICE_PORT), -ECONNREFUSED);
    assert_int_equal(lab_try(AF_INET6, SERVICE4, SERVICE_PORT), -ECONNREFUSED);
    four_backends(ABI_POLICY_RANDOM, ABI_ALL_DOWN_OPEN);
    for (uint32_t i = 0; i < 4; i++)
        lab_set_state(&lab, i, ABI_DOWN);
    connect_times(400, got);
    for (int i = 0; i < 4; i++)
        assert_in_range(got[i], 40, 160);
    struct abi_service none = {.policy = ABI_POLICY_RANDOM, .flags = ABI_SERVICE_STEER};
    lab_set_service(&lab, SERVICE4, SERVICE_PORT, none, ids, NULL, 0);
    assert_int_equal(lab_try(AF_INET, SERVICE4, SERVICE_PORT), -ECONNREFUSED);
    close_all(listener);
}

/* Sixty backends of which one is up: it is found. */
static void the_last_one_up_is_found(void **state)
{
    (void)state;
    struct abi_service s = {.policy = ABI_POLICY_RANDOM, .flags = ABI_SERVICE_STEER};
    uint32_t many[60];
    int listener = lab_listen("10.77.0.5", PORT, 4096);
    for (uint32_t i = 0; i < 60; i++) {
        struct abi_backend b =
            lab_backend(i == 41 ? "10.77.0.5" : "10.77.0.1", (uint16_t)(i == 41 ? PORT : 9000 + i));
        many[i] = i;
        lab_set_backend(&lab, i, &b, i == 41 ? ABI_UP : ABI_DOWN);
    }
    lab_set_service(&lab, SERVICE4, SERVICE_PORT, s, many, NULL, 60);
    for (int i = 0; i < 500; i++)
        lab_reset(lab_connected(AF_INET, SERVICE4, SERVICE_PORT));
    assert_int_equal(lab_stats(&lab, 41).connects, 500);
    close(listener);
}

static void others_are_left_alone(void **state)
{
    (void)state;
    one_backend(SERVICE4, "10.77.0.1");
    int listener = lab_listen("10.77.0.1", PORT, 4096), mark = ABI_MARK;
    int marked = lab_socket(AF_INET);
    assert_int_equal(setsockopt(marked, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
    assert_int_equal(lab_connect(marked, AF_INET, SERVICE4, SERVICE_PORT), -ENETUNREACH);
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(lab_connect(udp, AF_INET, SERVICE4, SERVICE_PORT), -ENETUNREACH);
    assert_int_equal(lab_try(AF_INET, SERVICE4, SERVICE_PORT + 1), -ENETUNREACH);
    pid_t child = fork();
    if (child == 0) {
        lab_enter_cgroup(lab.cgroup_above);
        _exit(lab_try(AF_INET, SERVICE4, SERVICE_PORT) == -ENETUNREACH ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    struct abi_service edge_only = {.policy = ABI_POLICY_RANDOM};
    lab_set_service(&lab, SERVICE4, SERVICE_PORT, edge_only, ids, NULL, 1);
    assert_int_equal(lab_try(AF_INET, SERVICE4, SERVICE_PORT), -ENETUNREACH);
    close(marked);
    close(udp);
    close(listener);
}

/* A socket that is used for a second connection shows the second one's peer. */
static void a_socket_used_again(void **state)
{
    (void)state;
    one_backend(SERVICE4, "10.77.0.1");
    int fd = lab_socket(AF_INET);
    assert_int_equal(lab_connect(fd, AF_INET, SERVICE4, SERVICE_PORT), -ECONNREFUSED); /* nobody listens */
    int other = lab_listen("10.77.0.2", 9000, 8);
    assert_int_equal(lab_connect(fd, AF_INET, "10.77.0.2", 9000), 0);
    struct lab_name peer = peer_of(fd), direct = lab_name(AF_INET, "10.77.0.2", 9000);
    assert_true(lab_same_name(&peer, &direct));
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    assert_int_equal(connect(fd, &nowhere, sizeof(nowhere)), 0);
    int listener = lab_listen("10.77.0.1", PORT, 4096);
    assert_int_equal(lab_connect(fd, AF_INET, SERVICE4, SERVICE_PORT), 0);
    struct lab_name service = lab_name(AF_INET, SERVICE4, SERVICE_PORT);
    peer = peer_of(fd);
    assert_true(lab_same_name(&peer, &service));
    close(fd);
    close(other);
    close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reaches_the_backend_and_shows_the_service),
        cmocka_unit_test(a_socket_goes_only_where_it_can),
        cmocka_unit_test(without_blocking),
        cmocka_unit_test(by_a_ring),
        cmocka_unit_test(weights_are_kept),
        cmocka_unit_test(a_cgroup_keeps_its_backend),
        cmocka_unit_test(least_takes_the_less_loaded),
        cmocka_unit_test(the_few_of_a_service),
        cmocka_unit_test(what_is_not_up_gets_nothing),
        cmocka_unit_test(all_down),
        cmocka_unit_test(the_last_one_up_is_found),
        cmocka_unit_test(others_are_left_alone),
        cmocka_unit_test(a_socket_used_again),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
