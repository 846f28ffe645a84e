/* SPDX-License-Identifier: Apache-2.0 */
/* Segments to backends that are down: packets through the program, and connections between two hosts. */
#include "lab.h"

#include <net/if.h>

#include "packet.h"
#include "bpf/cut.skel.h"
#include "bpf/watch.skel.h"

enum { PORT = 9000, LOCAL_PORT = 40000, PASSED = -1, REDIRECTED = 7 };

#define LOCAL4   "10.78.0.1"
#define BACKEND4 "10.78.0.2"
#define LOCAL6   "fd78::1"
#define BACKEND6 "fd78::2"

static struct lab lab;
static struct cut_bpf *cut;
static pid_t peer; /* a process in the other host's namespace, which answers what it is sent */
static int peer_orders;

/* --- the other host --------------------------------------------------------------------------------------
 */

static void echo_for_ever(const char *addr)
{
    int listener = lab_listen(addr, PORT, 64);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fork() == 0) {
            char bytes[65536];
            ssize_t n;
            while ((n = read(fd, bytes, sizeof(bytes))) > 0)
                if (write(fd, bytes, (size_t)n) != n)
                    break;
            _exit(0);
        }
        close(fd);
    }
}

/* Obeys one command a line. */
static void be_peer(int orders, int ready)
{
    char line[256];
    FILE *in = fdopen(orders, "r");
    setpgid(0, 0);
    if (unshare(CLONE_NEWNET) || write(ready, "x", 1) != 1)
        _exit(1);
    while (fgets(line, sizeof(line), in)) {
        if (strncmp(line, "serve", 5) == 0) {
            for (int six = 0; six < 2; six++)
                if (fork() == 0)
                    echo_for_ever(six ? BACKEND6 : BACKEND4);
            usleep(100000);
        } else if (system(line) != 0) {
            _exit(1);
        }
        if (write(ready, "x", 1) != 1)
            _exit(1);
    }
    _exit(0);
}

static int peer_ready;

static void order(const char *line)
{
    char byte;
    if (line) {
        assert_int_equal(write(peer_orders, line, strlen(line)), strlen(line));
        assert_int_equal(write(peer_orders, "\n", 1), 1);
    }
    assert_int_equal(read(peer_ready, &byte, 1), 1);
}

static void start_peer(void)
{
    int orders[2], ready[2];
    assert_int_equal(pipe2(orders, O_CLOEXEC), 0);
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    peer = fork();
    if (peer == 0) {
        close(orders[1]);
        be_peer(orders[0], ready[1]);
    }
    close(orders[0]);
    close(ready[1]);
    peer_orders = orders[1];
    peer_ready = ready[0];
    order(NULL);
    lab_run("ip link add v0 type veth peer name v1 && ip link set v1 netns %d && ip link set v0 up && "
            "ip addr add " LOCAL4 "/24 dev v0 && ip addr add " LOCAL6 "/64 dev v0 nodad",
            peer);
    order("ip link set lo up && ip link set v1 up && ip addr add " BACKEND4
          "/24 dev v1 && ip addr add " BACKEND6 "/64 dev v1 nodad");
    order("serve");
}

static int open_lab(void **state)
{
    (void)state;
    LIBBPF_OPTS(bpf_object_open_opts, opts, .pin_root_path = "/sys/fs/bpf");
    lab_open(&lab);
    start_peer();
    cut = cut_bpf__open_opts(&opts);
    assert_non_null(cut);
    lab_load(&lab, cut->obj);
    struct watch_bpf *watch = watch_bpf__open_opts(&opts);
    assert_non_null(watch);
    lab_load(&lab, watch->obj);
    lab_attach_cgroup(&lab, watch->progs.watch_sockets);
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)if_nametoindex("v0"), .attach_point = BPF_TC_EGRESS);
    LIBBPF_OPTS(bpf_tc_opts, how, .prog_fd = bpf_program__fd(cut->progs.cut_egress), .priority = ABI_TC_CUT,
                .handle = ABI_TC_HANDLE);
    assert_int_equal(bpf_tc_hook_create(&hook), 0);
    assert_int_equal(bpf_tc_attach(&hook, &how), 0);
    return 0;
}

static int close_lab(void **state)
{
    (void)state;
    kill(-peer, SIGKILL);
    waitpid(peer, NULL, 0);
    lab_close(&lab);
    return 0;
}

/* Backends 0 (IPv4) and 1 (IPv6), up. */
static int fresh(void **state)
{
    (void)state;
    uint32_t zero = 0;
    struct abi_node node = {.flags = ABI_NODE_PROBES};
    struct abi_backend four = lab_backend(BACKEND4, PORT), six = lab_backend(BACKEND6, PORT);
    four.flags = six.flags = ABI_BACKEND_CUT;
    lab_set(&lab, "node", &zero, &node);
    lab_set_backend(&lab, 0, &four, ABI_UP);
    lab_set_backend(&lab, 1, &six, ABI_UP);
    return 0;
}

/* --- packets ---------------------------------------------------------------------------------------------
 */

struct outcome {
    int verdict;
    uint32_t mark;
    uint8_t bytes[PACKET_MAX];
    uint32_t len;
};

static struct outcome run_bytes(const uint8_t *in, size_t len, uint32_t mark)
{
    struct outcome o = {.len = PACKET_MAX};
    struct __sk_buff ctx = {.mark = mark, .ifindex = if_nametoindex("v0")};
    LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = in, .data_size_in = (uint32_t)len, .data_out = o.bytes,
                .data_size_out = PACKET_MAX, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx), .ctx_out = &ctx,
                .ctx_size_out = sizeof(ctx));
    assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(cut->progs.cut_egress), &run), 0);
    o.verdict = (int)run.retval;
    o.mark = ctx.mark;
    o.len = run.data_size_out;
    return o;
}

static struct outcome run(const struct packet *p)
{
    uint8_t in[PACKET_MAX];
    return run_bytes(in, packet_write(p, in), 0);
}

static struct packet segment(bool six)
{
    return (struct packet){.source = address(six ? LOCAL6 : LOCAL4),
                           .target = address(six ? BACKEND6 : BACKEND4),
                           .source_port = LOCAL_PORT,
                           .target_port = PORT,
                           .to_mac = {2, 0, 0, 0, 0, 2},
                           .from_mac = {2, 0, 0, 0, 0, 1},
                           .flags = ACK | PSH,
                           .sequence = 0xfffffff0u,
                           .acknowledged = 0x01020304u,
                           .payload_bytes = 100};
}

static void assert_reset_for(const struct packet *p, const struct outcome *o)
{
    uint8_t expected[PACKET_MAX];
    struct packet reset = {.source = p->target,
                           .target = p->source,
                           .source_port = p->target_port,
                           .target_port = p->source_port,
                           .flags = RST | ACK,
                           .sequence = p->acknowledged,
                           .acknowledged = p->sequence + p->payload_bytes + (p->flags & FIN)};
    memcpy(reset.to_mac, p->from_mac, 6);
    memcpy(reset.from_mac, p->to_mac, 6);
    size_t len = packet_write(&reset, expected);
    assert_int_equal(o->verdict, REDIRECTED);
    assert_int_equal(o->mark, ABI_MARK);
    assert_int_equal(o->len, len);
    assert_memory_equal(o->bytes, expected, len);
}

static void a_segment_becomes_a_reset(void **state)
{
    (void)state;
    static const uint16_t payloads[] = {0, 1, 2, 3, 100, 1001, 1400};
    for (uint32_t six = 0; six < 2; six++) {
        lab_set_state(&lab, six, ABI_DOWN);
        for (size_t i = 0; i < sizeof(payloads) / sizeof(payloads[0]); i++) {
            struct packet p = segment(six);
            p.payload_bytes = payloads[i];
            struct outcome o = run(&p);
            assert_reset_for(&p, &o);
            p.flags = ACK | FIN;
            o = run(&p);
            assert_reset_for(&p, &o);
        }
        assert_int_equal(lab_stats(&lab, six).cuts, 14);
    }
}

static void assert_passes(const struct packet *p, uint32_t mark)
{
    uint8_t in[PACKET_MAX];
    size_t len = packet_write(p, in);
    struct outcome o = run_bytes(in, len, mark);
    assert_int_equal(o.verdict, PASSED);
    assert_int_equal(o.len, len);
    assert_memory_equal(o.bytes, in, len);
}

static void others_pass(void **state)
{
    (void)state;
    lab_set_state(&lab, 0, ABI_DOWN);
    for (int flags = 0; flags < 64; flags++) {
        struct packet p = segment(false);
        p.flags = (uint8_t)flags;
        if (!(flags & ACK) || (flags & (SYN | RST)))
            assert_passes(&p, 0);
    }
    struct packet p = segment(false);
    assert_passes(&p, ABI_MARK);
    p.target_port = PORT + 1;
    assert_passes(&p, 0);
    p = segment(false);
    p.target = address("10.78.0.3");
    assert_passes(&p, 0);
    p = segment(false);
    p.kind = KIND_UDP;
    assert_passes(&p, 0);
    p = segment(false);
    p.options_bytes = 8; /* left to control */
    assert_passes(&p, 0);
    p = segment(true); /* the other backend is up */
    assert_passes(&p, 0);
}

static void only_down_is_cut(void **state)
{
    (void)state;
    struct packet p = segment(false);
    static const enum abi_state states[] = {ABI_UNKNOWN, ABI_UP, ABI_SUSPECT};
    const uint32_t zero = 0, other = 2;
    struct abi_backend b;
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        lab_set_state(&lab, 0, states[i]);
        assert_passes(&p, 0);
    }
    lab_get(&lab, "backends", 0, &b);
    b.admin = ABI_ADMIN_DRAIN;
    lab_set(&lab, "backends", &zero, &b);
    assert_passes(&p, 0);
    lab_set_state(&lab, 0, ABI_DOWN);
    b.generation++; /* the verdict was another one's */
    lab_set(&lab, "backends", &zero, &b);
    assert_passes(&p, 0);
    b.generation--;
    b.flags = 0; /* its service does not want it */
    lab_set(&lab, "backends", &zero, &b);
    assert_passes(&p, 0);
    /* Another service has the same address, and there it is not down, then down. */
    b.flags = ABI_BACKEND_CUT;
    struct abi_backend same = b;
    b.next_same = other;
    lab_set_backend(&lab, other, &same, ABI_SUSPECT);
    lab_set_backend(&lab, 0, &b, ABI_DOWN);
    assert_passes(&p, 0);
    lab_set_state(&lab, other, ABI_DOWN);
    struct outcome o = run(&p);
    assert_reset_for(&p, &o);
    b.next_same = 0; /* a ring of them, which never is: it is not followed for ever */
    lab_set(&lab, "backends", &zero, &b);
    assert_passes(&p, 0);
}

/* Twenty services have a backend at the address: it is cut when the last of them is down too. */
static void the_last_of_many_counts(void **state)
{
    (void)state;
    enum { FIRST = 100, COUNT = 20 };
    struct packet p = segment(false);
    struct abi_backend b;
    lab_get(&lab, "backends", 0, &b);
    for (uint32_t i = 0; i < COUNT; i++) {
        struct abi_backend one = b;
        one.next_same = i + 1 < COUNT ? FIRST + i + 1 : ABI_NO_BACKEND;
        lab_set_backend(&lab, FIRST + i, &one, i + 1 < COUNT ? ABI_DOWN : ABI_UP);
    }
    b.next_same = FIRST;
    lab_set_backend(&lab, 0, &b, ABI_DOWN);
    assert_passes(&p, 0);
    lab_set_state(&lab, FIRST + COUNT - 1, ABI_DOWN);
    struct outcome o = run(&p);
    assert_reset_for(&p, &o);
}

/* Whatever comes, it passes as it is or becomes a well-formed reset. */
static void damaged_packets(void **state)
{
    (void)state;
    lab_set_state(&lab, 0, ABI_DOWN);
    lab_set_state(&lab, 1, ABI_DOWN);
    srand(1);
    for (int i = 0; i < 20000; i++) {
        uint8_t in[PACKET_MAX];
        bool six = rand() & 1;
        struct packet p = segment(six);
        p.payload_bytes = (uint16_t)(rand() % 64);
        size_t len = packet_write(&p, in), header = six ? 74 : 54;
        for (int damage = rand() % 4; damage > 0; damage--)
            in[14 + (size_t)rand() % (len - 14)] ^= (uint8_t)(1 << rand() % 8);
        if (rand() % 4 == 0)
            len = header - 20 + (size_t)rand() % (len - header + 20); /* the IP header is there */
        struct outcome o = run_bytes(in, len, 0);
        if (o.verdict == PASSED) {
            assert_int_equal(o.len, len);
            assert_memory_equal(o.bytes, in, len);
        } else {
            assert_int_equal(o.verdict, REDIRECTED);
            assert_int_equal(o.len, header);
            assert_int_equal(o.bytes[header - 7], RST | ACK);
        }
    }
}

/* --- connections -----------------------------------------------------------------------------------------
 */

static int connected(bool six)
{
    int fd = lab_connected(six ? AF_INET6 : AF_INET, six ? BACKEND6 : BACKEND4, PORT);
    struct timeval wait = {.tv_sec = 5};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)), 0);
    return fd;
}

static void assert_echo(int fd)
{
    char byte = 'x';
    assert_int_equal(send(fd, &byte, 1, MSG_NOSIGNAL), 1);
    byte = 0;
    assert_int_equal(recv(fd, &byte, 1, 0), 1);
    assert_int_equal(byte, 'x');
}

static void assert_reset(int fd)
{
    char byte;
    assert_int_equal(recv(fd, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
    close(fd);
}

/* Sum of a counter of /proc/net/snmp in this namespace: column `name` of Tcp. */
static long tcp_counter(const char *name)
{
    char names[1024], values[1024], *n, *v, *save_n, *save_v;
    FILE *f = fopen("/proc/self/net/snmp", "r");
    assert_non_null(f);
    while (fgets(names, sizeof(names), f) && strncmp(names, "Tcp:", 4) != 0)
        continue;
    assert_non_null(fgets(values, sizeof(values), f));
    fclose(f);
    for (n = strtok_r(names, " \n", &save_n), v = strtok_r(values, " \n", &save_v); n && v;
         n = strtok_r(NULL, " \n", &save_n), v = strtok_r(NULL, " \n", &save_v))
        if (strcmp(n, name) == 0)
            return strtol(v, NULL, 10);
    fail_msg("no counter %s", name);
    return -1;
}

static void the_next_send_ends_it(void **state)
{
    (void)state;
    for (uint32_t six = 0; six < 2; six++) {
        int fd = connected(six);
        assert_echo(fd);
        lab_set_state(&lab, six, ABI_SUSPECT);
        assert_echo(fd);
        lab_set_state(&lab, six, ABI_UNKNOWN);
        assert_echo(fd);
        lab_set_state(&lab, six, ABI_DOWN);
        assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), 1);
        assert_reset(fd);
        assert_int_equal(lab_stats(&lab, six).cuts, 1);
        assert_int_equal(lab_active(&lab, six), 0);
    }
    assert_int_equal(tcp_counter("InCsumErrors"), 0);
}

/* Large sends: segments of 64 KiB, still to be split and summed. */
static void large_segments_too(void **state)
{
    (void)state;
    char *bytes = calloc(1, 1 << 20);
    for (uint32_t six = 0; six < 2; six++) {
        int fd = connected(six);
        assert_echo(fd);
        lab_set_state(&lab, six, ABI_DOWN);
        ssize_t sent = send(fd, bytes, 1 << 20, MSG_NOSIGNAL | MSG_DONTWAIT);
        assert_true(sent > 0);
        assert_reset(fd);
    }
    free(bytes);
    assert_int_equal(tcp_counter("InCsumErrors"), 0);
}

/* Silence: what was sent is not acknowledged; the next retransmission ends it, while the reader waits. */
static void a_retransmission_ends_it(void **state)
{
    (void)state;
    int fd = connected(false);
    assert_echo(fd);
    order("ip addr del " BACKEND4 "/24 dev v1");
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), 1);
    usleep(50000);
    uint64_t down_ns = lab_now_ns();
    lab_set_state(&lab, 0, ABI_DOWN);
    assert_reset(fd);
    print_message("down to reset by retransmission: %llu ms\n", (lab_now_ns() - down_ns) / 1000000ull);
    assert_true(lab_now_ns() - down_ns < 2000000000ull);
    order("ip addr add " BACKEND4 "/24 dev v1");
}

static void marked_and_late_connections_stay(void **state)
{
    (void)state;
    int marked = connected(false), mark = ABI_MARK;
    assert_int_equal(setsockopt(marked, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
    assert_echo(marked);
    lab_set_state(&lab, 0, ABI_DOWN);
    assert_echo(marked);
    int late = connected(false); /* made by who knows that it is down */
    assert_echo(late);
    lab_set_state(&lab, 0, ABI_UP);
    assert_echo(late);
    lab_set_state(&lab, 0, ABI_DOWN); /* which is news to it */
    assert_int_equal(send(late, "x", 1, MSG_NOSIGNAL), 1);
    assert_reset(late);
    close(marked);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_segment_becomes_a_reset, fresh),
        cmocka_unit_test_setup(others_pass, fresh),
        cmocka_unit_test_setup(only_down_is_cut, fresh),
        cmocka_unit_test_setup(the_last_of_many_counts, fresh),
        cmocka_unit_test_setup(damaged_packets, fresh),
        cmocka_unit_test_setup(the_next_send_ends_it, fresh),
        cmocka_unit_test_setup(large_segments_too, fresh),
        cmocka_unit_test_setup(a_retransmission_ends_it, fresh),
        cmocka_unit_test_setup(marked_and_late_connections_stay, fresh),
    };
    return cmocka_run_group_tests(tests, open_lab, close_lab);
}
