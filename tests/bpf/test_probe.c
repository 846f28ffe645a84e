/* SPDX-License-Identifier: Apache-2.0 */
/* The programs of probes by BPF_PROG_RUN: packet in; what goes out, what becomes of it and the verdict out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bpf/probe.skel.h"
#include "packet.h"

enum {
    TCP_ID = 0, /* backends */
    HTTP_ID = 1,
    SERVICE_TCP = 1,
    SERVICE_HTTP = 2,
    PASS = TC_ACT_UNSPEC,
    DROP = TC_ACT_SHOT,
    SENT = 7, /* redirect */
    PORT = ABI_PROBE_PORT_FIRST + 5,
    SEQUENCE = 0x80001000u,
    THEIRS = 0x12345678u,
    FALL = 3,
    GENERATION = 4,
    RANDOM_PACKETS = 100000,
    MS = 1000000,
};

static const char request[] = "GET /healthz HTTP/1.0\r\n\r\n";

static struct lab {
    struct probe_bpf *probe;
    uint32_t out, fan, eth;
    int capture; /* what arrives at fan */
    bool v6;
    struct abi_addr server, host;
} lab;

/* --- the surroundings ---------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int namespace_make(void)
{
    return unshare(CLONE_NEWNET) != 0 ||
           system("ip link set lo up && ip link add o0 type veth peer name o1 && ip link add e0 type veth "
                  "peer name e1 && "
                  "for d in o0 o1 e0 e1; do sysctl -qw net.ipv6.conf.$d.accept_dad=0 "
                  "net.ipv6.conf.$d.addr_gen_mode=1; "
                  "ip link set $d up; done && ip addr add 10.1.0.1/24 dev e0 && ip addr add fd01::1/64 dev "
                  "e0 nodad && "
                  "sysctl -qw net.ipv4.conf.o1.forwarding=1 net.ipv6.conf.o1.forwarding=1") != 0;
}

static int capture_open(uint32_t ifindex)
{
    struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(0x0003), .sll_ifindex = (int)ifindex};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(0x0003));
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)))
        return -1;
    return fd;
}

static int start(void **state)
{
    struct bpf_map *map;
    (void)state;
    if (geteuid() != 0)
        return 0;
    if (namespace_make() != 0)
        return -1;
    libbpf_set_print(NULL);
    lab.probe = probe_bpf__open();
    if (!lab.probe)
        return -1;
    bpf_object__for_each_map(map, lab.probe->obj) bpf_map__set_pin_path(map, NULL);
    if (probe_bpf__load(lab.probe) != 0) {
        fprintf(stderr, "probe does not load: %s\n", strerror(errno));
        return -1;
    }
    lab.out = if_nametoindex("o0");
    lab.fan = if_nametoindex("o1");
    lab.eth = if_nametoindex("e0");
    lab.capture = capture_open(lab.fan);
    return lab.capture < 0;
}

static int stop(void **state)
{
    (void)state;
    probe_bpf__destroy(lab.probe);
    return 0;
}

static void put(const struct bpf_map *map, const void *key, const void *value)
{
    assert_int_equal(bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY), 0);
}

static void get(const struct bpf_map *map, uint32_t key, void *value)
{
    assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(map), &key, value), 0);
}

static void set_backend(uint32_t id, uint32_t service, uint16_t port)
{
    struct abi_backend b = {.addr = lab.server,
                            .source = lab.host,
                            .port = htons(port),
                            .generation = GENERATION,
                            .weight = 1,
                            .admin = ABI_ADMIN_ACTIVE,
                            .service = service,
                            .next_same = ABI_NO_BACKEND};
    struct abi_endpoint at = {.addr = b.addr, .port = b.port};
    struct abi_endpoint_backends first = {id};
    put(lab.probe->maps.backends, &id, &b);
    put(lab.probe->maps.endpoints, &at, &first);
}

static void set_check(uint32_t service, uint8_t kind)
{
    struct abi_check c = {.kind = kind,
                          .rise = 2,
                          .fall = FALL,
                          .request_bytes = sizeof(request) - 1,
                          .interval_us = 20000,
                          .timeout_us = 10000,
                          .http_interval_us = 1000000,
                          .http_timeout_us = 100000,
                          .statuses = {0, 1ull << 36}}; /* 200 */
    memcpy(c.request, request, sizeof(request) - 1);
    put(lab.probe->maps.checks, &service, &c);
}

static void set_verdict(uint32_t id, uint32_t state)
{
    uint64_t verdict = ABI_VERDICT(state, ABI_NONE, GENERATION, 1);
    put(lab.probe->maps.verdicts, &id, &verdict);
}

static void drain(void)
{
    uint8_t bytes[PACKET_MAX];
    while (recv(lab.capture, bytes, sizeof(bytes), 0) > 0)
        continue;
}

/* One backend with each kind of check: its ports are 80 and 81. A probe of each is under way, and the clock
 * runs. */
static void set_up(bool v6, uint32_t verdict)
{
    uint32_t zero = 0;
    struct abi_node node = {.flags = ABI_NODE_PROBES,
                            .tick_ifindex = lab.eth,
                            .out_ifindex = lab.out,
                            .fan_ifindex = lab.fan,
                            .backends = 2,
                            .tick_ns = 20 * MS,
                            .stale_ns = 200 * MS};
    struct abi_tick_state clock = {.ticks = 1, .last_ns = now_ns(), .fan_ns = now_ns()};
    struct abi_probe_plan plan = {.classes = 1, .class = {{.count = 2, .divisor = 1}}};
    struct abi_probe_shot shot = {
        .sent_ns = now_ns() - MS, .sequence = SEQUENCE, .source_port = PORT, .used = 1};
    struct abi_probe_state s = {.generation = GENERATION, .next = 1};
    if (geteuid() != 0) {
        print_message("it needs root\n");
        skip();
    }
    lab.v6 = v6;
    lab.server = address(v6 ? "fd01::2" : "10.1.0.2");
    lab.host = address(v6 ? "fd01::1" : "10.1.0.1");
    put(lab.probe->maps.node, &zero, &node);
    put(lab.probe->maps.tick_state, &zero, &clock);
    put(lab.probe->maps.probe_plan, &zero, &plan);
    set_check(SERVICE_TCP, ABI_CHECK_TCP);
    set_check(SERVICE_HTTP, ABI_CHECK_HTTP);
    set_backend(TCP_ID, SERVICE_TCP, 80);
    set_backend(HTTP_ID, SERVICE_HTTP, 81);
    for (uint32_t id = 0; id < 2; id++) {
        put(lab.probe->maps.probe_order, &id, &id);
        set_verdict(id, verdict);
        s.tcp[0] = id == TCP_ID ? shot : (struct abi_probe_shot){0};
        s.http = id == HTTP_ID ? shot : (struct abi_probe_shot){0};
        put(lab.probe->maps.probe_state, &id, &s);
    }
    drain();
}

/* --- running -------------------------------------------------------------------------------------------- */

static uint8_t output[PACKET_MAX];
static size_t output_bytes;

static int run(const struct bpf_program *program, const uint8_t *bytes, size_t len, uint32_t mark)
{
    struct __sk_buff context = {.mark = mark, .ifindex = lab.fan, .ingress_ifindex = lab.fan};
    LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = bytes, .data_size_in = (uint32_t)len, .data_out = output,
                .data_size_out = sizeof(output), .ctx_in = &context, .ctx_size_in = sizeof(context));
    assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(program), &opts), 0);
    output_bytes = opts.data_size_out;
    return (int)opts.retval;
}

/* A segment from the server, with `text` as its payload. */
static size_t answer(uint8_t *bytes, uint16_t from, uint16_t to, uint8_t flags, uint32_t sequence,
                     uint32_t acknowledged, const char *text)
{
    struct packet p = {.source = lab.server,
                       .target = lab.host,
                       .source_port = from,
                       .target_port = to,
                       .flags = flags,
                       .sequence = sequence,
                       .acknowledged = acknowledged,
                       .payload_bytes = (uint16_t)strlen(text)};
    size_t len = packet_write(&p, bytes);
    memcpy(bytes + len - strlen(text), text, strlen(text));
    return len;
}

static int rx(uint16_t from, uint16_t to, uint8_t flags, uint32_t sequence, uint32_t acknowledged,
              const char *text)
{
    uint8_t bytes[PACKET_MAX];
    size_t len = answer(bytes, from, to, flags, sequence, acknowledged, text);
    return run(lab.probe->progs.rx, bytes, len, 0);
}

static uint64_t verdict(uint32_t id)
{
    uint64_t v;
    get(lab.probe->maps.verdicts, id, &v);
    return v;
}

static struct abi_probe_state state_of(uint32_t id)
{
    struct abi_probe_state s;
    get(lab.probe->maps.probe_state, id, &s);
    return s;
}

static void assert_verdict(uint32_t id, uint32_t state, uint32_t reason)
{
    assert_int_equal(ABI_VERDICT_STATE(verdict(id)), state);
    assert_int_equal(ABI_VERDICT_REASON(verdict(id)), reason);
}

/* Checksums of a whole packet are right: what they cover sums up to nothing. */
static void assert_checksums(const uint8_t *bytes, size_t len)
{
    struct packet p = {.source = lab.v6 ? address("::1") : address("0.0.0.0"), .target = p.source};
    size_t l4 = lab.v6 ? 54 : 34;
    memcpy((uint8_t *)&p.source + (lab.v6 ? 0 : 12), bytes + (lab.v6 ? 22 : 26), lab.v6 ? 16 : 4);
    p.target = p.source;
    memcpy((uint8_t *)&p.target + (lab.v6 ? 0 : 12), bytes + (lab.v6 ? 38 : 30), lab.v6 ? 16 : 4);
    assert_int_equal(sum_end(sum_words(bytes + l4, len - l4, packet_pseudo(&p, KIND_TCP, len - l4))), 0);
    if (!lab.v6)
        assert_int_equal(sum_end(sum_words(bytes + 14, 20, 0)), 0);
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* --- what answers do to verdicts ------------------------------------------------------------------------ */

struct row {
    const char *name;
    uint32_t before;
    uint16_t from, to;
    uint8_t flags;
    uint32_t sequence, acknowledged;
    const char *text;
    int result;
    uint32_t id, state, reason;
    bool accepted; /* the HTTP check's SYN has been answered */
};

#define ACKED (SEQUENCE + 1)
#define ASKED (SEQUENCE + 1 + sizeof(request) - 1)
#define NEXT  (THEIRS + 1)

static const struct row rows[] = {
    {"a SYN-ACK", ABI_UNKNOWN, 80, PORT, SYN | ACK, THEIRS, ACKED, "", SENT, TCP_ID, ABI_UP, ABI_PROBE_OK,
     false},
    {"one is not enough after a down", ABI_DOWN, 80, PORT, SYN | ACK, THEIRS, ACKED, "", SENT, TCP_ID,
     ABI_DOWN, ABI_NONE, false},
    {"it acknowledges something else", ABI_UNKNOWN, 80, PORT, SYN | ACK, THEIRS, ACKED + 1, "", PASS, TCP_ID,
     ABI_UNKNOWN, ABI_NONE, false},
    {"another port of ours", ABI_UNKNOWN, 80, PORT + 1, SYN | ACK, THEIRS, ACKED, "", PASS, TCP_ID,
     ABI_UNKNOWN, ABI_NONE, false},
    {"a port that no backend has", ABI_UNKNOWN, 82, PORT, SYN | ACK, THEIRS, ACKED, "", PASS, TCP_ID,
     ABI_UNKNOWN, ABI_NONE, false},
    {"a SYN to a port of probes", ABI_UP, 80, PORT, SYN, THEIRS, 0, "", PASS, TCP_ID, ABI_UP, ABI_NONE,
     false},
    {"a reset", ABI_UP, 80, PORT, RST | ACK, 0, ACKED, "", DROP, TCP_ID, ABI_DOWN, ABI_PROBE_REFUSED, false},
    {"a reset that acknowledges something else", ABI_UP, 80, PORT, RST | ACK, 0, ACKED - 1, "", PASS, TCP_ID,
     ABI_UP, ABI_NONE, false},
    {"a reset that acknowledges nothing", ABI_UP, 80, PORT, RST, ACKED, ACKED, "", PASS, TCP_ID, ABI_UP,
     ABI_NONE, false},
    {"HTTP: a SYN-ACK alone says nothing", ABI_UNKNOWN, 81, PORT, SYN | ACK, THEIRS, ACKED, "", SENT, HTTP_ID,
     ABI_UNKNOWN, ABI_NONE, false},
    {"HTTP: a reset to the SYN", ABI_UP, 81, PORT, RST | ACK, 0, ACKED, "", DROP, HTTP_ID, ABI_DOWN,
     ABI_PROBE_REFUSED, false},
    {"HTTP: 200", ABI_UNKNOWN, 81, PORT, PSH | ACK, NEXT, ASKED, "HTTP/1.0 200 OK\r\n\r\n", SENT, HTTP_ID,
     ABI_UP, ABI_PROBE_OK, true},
    {"HTTP: 200 before the SYN-ACK", ABI_UNKNOWN, 81, PORT, PSH | ACK, NEXT, ACKED, "HTTP/1.0 200 OK\r\n\r\n",
     DROP, HTTP_ID, ABI_UNKNOWN, ABI_NONE, false},
    {"HTTP: 200 out of order", ABI_UNKNOWN, 81, PORT, PSH | ACK, NEXT + 1, ASKED, "HTTP/1.0 200 OK\r\n\r\n",
     DROP, HTTP_ID, ABI_UNKNOWN, ABI_NONE, true},
    {"HTTP: 200 to another request", ABI_UNKNOWN, 81, PORT, PSH | ACK, NEXT, ASKED + 1,
     "HTTP/1.0 200 OK\r\n\r\n", PASS, HTTP_ID, ABI_UNKNOWN, ABI_NONE, true},
    {"HTTP: an acknowledgement", ABI_UP, 81, PORT, ACK, NEXT, ASKED, "", DROP, HTTP_ID, ABI_UP, ABI_NONE,
     true},
    {"HTTP: 503", ABI_UP, 81, PORT, PSH | ACK, NEXT, ASKED, "HTTP/1.0 503 Busy\r\n\r\n", SENT, HTTP_ID,
     ABI_DOWN, ABI_HTTP_STATUS, true},
    {"HTTP: 201 is not what is expected", ABI_UP, 81, PORT, PSH | ACK, NEXT, ASKED,
     "HTTP/1.1 201 Created\r\n", SENT, HTTP_ID, ABI_DOWN, ABI_HTTP_STATUS, true},
    {"HTTP: no number", ABI_UP, 81, PORT, PSH | ACK, NEXT, ASKED, "HTTP/1.0 2x0 OK\r\n", SENT, HTTP_ID,
     ABI_DOWN, ABI_HTTP_INVALID, true},
    {"HTTP: a status beyond all", ABI_UP, 81, PORT, PSH | ACK, NEXT, ASKED, "HTTP/1.0 999 OK\r\n", SENT,
     HTTP_ID, ABI_DOWN, ABI_HTTP_INVALID, true},
    {"HTTP: something else", ABI_UP, 81, PORT, PSH | ACK, NEXT, ASKED, "SSH-2.0-OpenSSH_9.2p1\r\n", SENT,
     HTTP_ID, ABI_DOWN, ABI_HTTP_INVALID, true},
    {"HTTP: too short", ABI_UP, 81, PORT, PSH | ACK, NEXT, ASKED, "HTTP/1.0 20", SENT, HTTP_ID, ABI_DOWN,
     ABI_HTTP_INVALID, true},
    {"HTTP: the end at once", ABI_UP, 81, PORT, FIN | ACK, NEXT, ASKED, "", SENT, HTTP_ID, ABI_DOWN,
     ABI_HTTP_INVALID, true},
    {"HTTP: a reset instead of an answer", ABI_UP, 81, PORT, RST | ACK, NEXT, ASKED, "", DROP, HTTP_ID,
     ABI_DOWN, ABI_RESET, true},
    {"HTTP: a bare reset in its place", ABI_UP, 81, PORT, RST, NEXT, 0, "", DROP, HTTP_ID, ABI_DOWN,
     ABI_RESET, true},
    {"HTTP: a bare reset elsewhere", ABI_UP, 81, PORT, RST, NEXT + 1, 0, "", PASS, HTTP_ID, ABI_UP, ABI_NONE,
     true},
};

static void play(const struct row *r, bool v6)
{
    set_up(v6, r->before);
    struct abi_probe_state s = state_of(HTTP_ID);
    uint32_t id = HTTP_ID;
    s.http.accepted = r->accepted;
    s.http_sequence = r->accepted ? NEXT : 0;
    s.http_misses = FALL - 1;
    put(lab.probe->maps.probe_state, &id, &s);
    int result = rx(r->from, r->to, r->flags, r->sequence, r->acknowledged, r->text);
    uint64_t v = verdict(r->id);
    if (result != r->result || ABI_VERDICT_STATE(v) != r->state || ABI_VERDICT_REASON(v) != r->reason)
        fail_msg("%s (%s): result %d, state %u, reason %u", r->name, v6 ? "IPv6" : "IPv4", result,
                 ABI_VERDICT_STATE(v), ABI_VERDICT_REASON(v));
}

static void test_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        play(&rows[i], false);
        play(&rows[i], true);
    }
}

/* New connections go elsewhere until a later check is answered well. */
static void test_one_bad_answer_makes_suspect(void **state)
{
    (void)state;
    uint32_t id = HTTP_ID;
    set_up(false, ABI_UP);
    struct abi_probe_state s = state_of(id);
    s.http.accepted = 1;
    s.http_sequence = NEXT;
    put(lab.probe->maps.probe_state, &id, &s);
    assert_int_equal(rx(81, PORT, PSH | ACK, NEXT, ASKED, "HTTP/1.0 503 Busy\r\n\r\n"), SENT);
    assert_verdict(id, ABI_SUSPECT, ABI_HTTP_STATUS);
    s = state_of(id);
    assert_int_equal(s.http_misses, 1);
    s.http.sent_ns = now_ns();
    put(lab.probe->maps.probe_state, &id, &s);
    assert_int_equal(rx(81, PORT, PSH | ACK, NEXT, ASKED, "HTTP/1.0 200 OK\r\n\r\n"), SENT);
    assert_verdict(id, ABI_UP, ABI_PROBE_OK);
}

static void test_a_late_answer_ends_the_row_of_misses(void **state)
{
    (void)state;
    uint32_t id = TCP_ID;
    set_up(false, ABI_DOWN);
    struct abi_probe_state s = state_of(id);
    s.tcp[0].sent_ns = 0;
    s.misses = 2;
    s.rises = 1;
    put(lab.probe->maps.probe_state, &id, &s);
    assert_int_equal(rx(80, PORT, SYN | ACK, THEIRS, ACKED, ""), SENT);
    assert_int_equal(state_of(id).misses, 0);
    assert_int_equal(ABI_VERDICT_STATE(verdict(id)), ABI_DOWN); /* it is no proof that all is well now */
    assert_int_equal(rx(80, PORT, RST | ACK, 0, ACKED, ""), DROP);
    assert_int_equal(state_of(id).refusals, 0);
}

static void test_rise(void **state)
{
    (void)state;
    uint32_t id = TCP_ID;
    set_up(false, ABI_DOWN);
    rx(80, PORT, SYN | ACK, THEIRS, ACKED, "");
    struct abi_probe_state s = state_of(id);
    assert_int_equal(ABI_VERDICT_STATE(verdict(id)), ABI_DOWN);
    assert_int_equal(s.rises, 1);
    s.tcp[0].sent_ns = now_ns();
    put(lab.probe->maps.probe_state, &id, &s);
    rx(80, PORT, SYN | ACK, THEIRS, ACKED, "");
    assert_verdict(id, ABI_UP, ABI_PROBE_OK);
}

static void test_only_a_later_probe_clears_a_suspicion(void **state)
{
    (void)state;
    uint32_t id = TCP_ID;
    set_up(false, ABI_SUSPECT);
    struct abi_probe_state s = state_of(id);
    s.suspected_ns = now_ns();
    s.tcp[0].sent_ns = s.suspected_ns - 1;
    put(lab.probe->maps.probe_state, &id, &s);
    rx(80, PORT, SYN | ACK, THEIRS, ACKED, "");
    assert_int_equal(ABI_VERDICT_STATE(verdict(id)), ABI_SUSPECT);
    s = state_of(id);
    s.tcp[0].sent_ns = s.suspected_ns + 1;
    put(lab.probe->maps.probe_state, &id, &s);
    rx(80, PORT, SYN | ACK, THEIRS, ACKED, "");
    assert_verdict(id, ABI_UP, ABI_PROBE_OK);
}

static void test_a_syn_ack_does_not_clear_a_failed_http_check(void **state)
{
    (void)state;
    uint32_t id = HTTP_ID;
    const uint32_t states[] = {ABI_DOWN, ABI_SUSPECT, ABI_UNKNOWN};
    for (size_t i = 0; i < 3; i++) {
        set_up(false, states[i]);
        struct abi_probe_state s = state_of(id);
        s.tcp[0] = s.http;
        s.http = (struct abi_probe_shot){0};
        s.http_failed = 1;
        s.rises = 9;
        put(lab.probe->maps.probe_state, &id, &s);
        assert_int_equal(rx(81, PORT, SYN | ACK, THEIRS, ACKED, ""), SENT);
        assert_int_equal(ABI_VERDICT_STATE(verdict(id)), states[i]);
        assert_int_equal(state_of(id).answers, 1);
    }
}

static void test_answers_for_others_pass(void **state)
{
    (void)state;
    uint8_t bytes[PACKET_MAX];
    for (int v6 = 0; v6 < 2; v6++) {
        set_up(v6, ABI_UP);
        lab.host = address(v6 ? "fd01::9" : "10.1.0.9"); /* forwarded to another host that probes */
        size_t len = answer(bytes, 80, PORT, RST | ACK, 0, ACKED, "");
        assert_int_equal(run(lab.probe->progs.rx, bytes, len, 0), PASS);
        assert_int_equal(ABI_VERDICT_STATE(verdict(TCP_ID)), ABI_UP);
    }
}

/* --- evidence ------------------------------------------------------------------------------------------- */

/* A TCP segment that arrived at the other end of the out device; its length, 0: none. The kernel has packets
 * of its own there. */
static size_t captured(uint8_t *bytes)
{
    struct pollfd p = {.fd = lab.capture, .events = POLLIN};
    while (poll(&p, 1, 200) == 1) {
        ssize_t len = recv(lab.capture, bytes, PACKET_MAX, 0);
        if (len >= 54 && bytes[lab.v6 ? 20 : 23] == KIND_TCP && bytes[12] == (lab.v6 ? 0x86 : 0x08))
            return (size_t)len;
    }
    return 0;
}

static void test_evidence(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint16_t from, to;
        uint8_t flags;
        uint32_t sequence;
        bool probed;
        uint32_t state, reason;
    } evidence[] = {
        {"data", 80, 40000, PSH | ACK, 7, false, ABI_UP, ABI_NONE},
        {"a FIN", 80, 40000, FIN | ACK, 7, true, ABI_UP, ABI_NONE},
        {"a reset", 80, 40000, RST, 7, true, ABI_UP, ABI_NONE},
        {"a refusal", 80, 40000, RST | ACK, 0, true, ABI_SUSPECT, ABI_REFUSED},
        {"the canary's FIN", 80, ABI_CANARY_PORT_FIRST + 1, FIN | ACK, 7, true, ABI_SUSPECT, ABI_CANARY},
        {"the canary's reset", 80, ABI_CANARY_PORT_FIRST, RST, 7, true, ABI_SUSPECT, ABI_CANARY},
        {"a FIN of something else", 82, 40000, FIN | ACK, 7, false, ABI_UP, ABI_NONE},
    };
    uint8_t bytes[PACKET_MAX];
    for (size_t i = 0; i < 2 * sizeof(evidence) / sizeof(evidence[0]); i++) {
        size_t row = i / 2;
        set_up(i & 1, ABI_UP);
        assert_int_equal(
            rx(evidence[row].from, evidence[row].to, evidence[row].flags, evidence[row].sequence, 99, ""),
            PASS);
        bool probed = captured(bytes) > 0;
        if (probed != evidence[row].probed || ABI_VERDICT_STATE(verdict(TCP_ID)) != evidence[row].state ||
            ABI_VERDICT_REASON(verdict(TCP_ID)) != evidence[row].reason)
            fail_msg("%s: probed %d, verdict %llx", evidence[row].name, probed,
                     (unsigned long long)verdict(TCP_ID));
    }
}

static void test_a_flood_of_resets_is_few_probes(void **state)
{
    (void)state;
    uint8_t bytes[PACKET_MAX];
    int probes = 0;
    set_up(false, ABI_UP);
    for (int i = 0; i < 200; i++)
        rx(80, (uint16_t)(40000 + i), RST, 7, 99, "");
    while (captured(bytes))
        probes++;
    assert_in_range(probes, 1, 8);
    assert_int_equal(ABI_VERDICT_STATE(verdict(TCP_ID)), ABI_UP);
}

/* --- fan ------------------------------------------------------------------------------------------------ */

static void test_fan_makes_the_request(void **state)
{
    (void)state;
    uint8_t bytes[PACKET_MAX];
    for (int v6 = 0; v6 < 2; v6++) {
        set_up(v6, ABI_UP);
        size_t l4 = v6 ? 54 : 34, len = answer(bytes, 81, PORT, SYN | ACK, THEIRS, ACKED, "");
        assert_int_equal(run(lab.probe->progs.fan, bytes, len, ABI_MARK | ABI_FAN_REQUEST), SENT);
        assert_int_equal(output_bytes, l4 + 20 + sizeof(request) - 1);
        assert_memory_equal(output + l4 + 20, request, sizeof(request) - 1);
        assert_int_equal(get32(output + l4 + 4), ACKED);
        assert_int_equal(get32(output + l4 + 8), NEXT);
        assert_int_equal(output[l4 + 13], PSH | ACK);
        assert_int_equal(output[l4 + 1] | output[l4] << 8, PORT);
        assert_checksums(output, output_bytes);
    }
}

static void test_fan_ends_connections(void **state)
{
    (void)state;
    uint8_t bytes[PACKET_MAX];
    for (int v6 = 0; v6 < 2; v6++) {
        set_up(v6, ABI_UP);
        size_t l4 = v6 ? 54 : 34, len = answer(bytes, 80, PORT, SYN | ACK, THEIRS, ACKED, "");
        assert_int_equal(run(lab.probe->progs.fan, bytes, len, ABI_MARK | ABI_FAN_RESET), SENT);
        assert_int_equal(output_bytes, l4 + 20);
        assert_int_equal(output[l4 + 13], RST);
        assert_int_equal(get32(output + l4 + 4), ACKED);
        assert_checksums(output, output_bytes);
    }
}

static void test_fan_probes_at_once(void **state)
{
    (void)state;
    uint32_t id = TCP_ID;
    uint8_t bytes[PACKET_MAX];
    for (int v6 = 0; v6 < 2; v6++) {
        set_up(v6, ABI_UP);
        size_t l4 = v6 ? 54 : 34, len = answer(bytes, 80, 40000, FIN | ACK, 5, 6, "some last words");
        assert_int_equal(run(lab.probe->progs.fan, bytes, len, ABI_MARK | ABI_FAN_PROBE),
                         DROP); /* nobody wants it */
        struct abi_probe_state s = state_of(id);
        s.wanted = ABI_WANTED_PROBE;
        s.next = 1;
        put(lab.probe->maps.probe_state, &id, &s);
        assert_int_equal(run(lab.probe->progs.fan, bytes, len, ABI_MARK | ABI_FAN_PROBE), SENT);
        s = state_of(id);
        assert_int_equal(s.wanted, ABI_WANTED_NOT);
        assert_int_equal(s.probes, 1);
        assert_int_equal(output_bytes, l4 + 20);
        assert_int_equal(output[l4 + 13], SYN);
        assert_int_equal(get32(output + l4 + 4), s.tcp[1].sequence);
        assert_int_equal(output[l4] << 8 | output[l4 + 1], s.tcp[1].source_port);
        assert_in_range(s.tcp[1].source_port, ABI_PROBE_PORT_FIRST,
                        ABI_PROBE_PORT_FIRST + ABI_PROBE_PORTS - 1);
        assert_checksums(output, output_bytes);
    }
}

static void test_fan_takes_only_its_own(void **state)
{
    (void)state;
    uint8_t bytes[PACKET_MAX];
    set_up(false, ABI_UP);
    size_t len = answer(bytes, 80, PORT, SYN | ACK, THEIRS, ACKED, "");
    assert_int_equal(run(lab.probe->progs.fan, bytes, len, 0), DROP);
    assert_int_equal(run(lab.probe->progs.fan, bytes, len, ABI_FAN_RESET), DROP);
}

/* --- tick ----------------------------------------------------------------------------------------------- */

static void set_clock(uint64_t last_ns)
{
    uint32_t zero = 0;
    struct abi_tick_state t = {.ticks = 1, .last_ns = last_ns, .fan_ns = now_ns()};
    put(lab.probe->maps.tick_state, &zero, &t);
}

static int tick(void)
{
    uint8_t arp[60] = {[12] = 8, [13] = 6, [15] = 1, [16] = 8, [18] = 6, [19] = 4, [21] = 1};
    return run(lab.probe->progs.tick, arp, sizeof(arp), 0);
}

static void test_a_tick_sends_what_is_due(void **state)
{
    (void)state;
    uint8_t bytes[PACKET_MAX];
    for (int v6 = 0; v6 < 2; v6++) {
        size_t l4 = v6 ? 54 : 34, len;
        int syns = 0;
        set_up(v6, ABI_UP);
        set_clock(now_ns() - 20 * MS);
        assert_int_equal(tick(), PASS); /* others may send with it */
        while ((len = captured(bytes)) != 0) {
            assert_int_equal(len, l4 + 20);
            assert_int_equal(bytes[l4 + 13], SYN);
            assert_checksums(bytes, len);
            syns++;
        }
        assert_int_equal(syns, 2); /* an HTTP check is under way already */
        assert_int_equal(state_of(TCP_ID).probes, 1);
        assert_int_equal(state_of(HTTP_ID).probes, 1);
    }
}

/* What answers a probe that nobody remembers ends its connection; what is like it, but another's, passes. */
static void test_own_answers_of_long_ago(void **state)
{
    (void)state;
    const uint32_t ids[] = {TCP_ID, HTTP_ID};
    const struct abi_probe_state nothing = {.generation = GENERATION};
    for (int v6 = 0; v6 < 2; v6++) {
        set_up(v6, ABI_UP);
        struct abi_probe_state s = nothing;
        s.wanted = ABI_WANTED_HTTP;
        for (int i = 0; i < 2; i++)
            put(lab.probe->maps.probe_state, &ids[i], &s);
        set_clock(now_ns() - 20 * MS);
        assert_int_equal(tick(), PASS);
        struct abi_probe_shot tcp = state_of(TCP_ID).tcp[0], http = state_of(HTTP_ID).http;
        assert_true(tcp.used && http.used);
        for (int i = 0; i < 2; i++)
            put(lab.probe->maps.probe_state, &ids[i], &nothing);
        uint32_t asked = http.sequence + 1 + sizeof(request) - 1;
        const struct {
            uint16_t from, to;
            uint8_t flags;
            uint32_t acknowledged;
            const char *text;
            int result;
        } late[] = {
            {80, tcp.source_port, SYN | ACK, tcp.sequence + 1, "", SENT},
            {80, tcp.source_port, ACK, tcp.sequence + 1, "", SENT}, /* to a later SYN on its ports */
            {81, http.source_port, SYN | ACK, http.sequence + 1, "", SENT},
            {81, http.source_port, PSH | ACK, asked, "HTTP/1.0 200 OK", SENT},
            {81, http.source_port, FIN | ACK, asked, "", SENT},
            {81, http.source_port, ACK, asked, "", PASS},
            {81, http.source_port, SYN | ACK, asked, "", PASS},
            {80, tcp.source_port, SYN | ACK, tcp.sequence + 2, "", PASS},
            {80, tcp.source_port, SYN, tcp.sequence + 1, "", PASS},
            {80, tcp.source_port ^ 1, SYN | ACK, tcp.sequence + 1, "", PASS},
            {81, tcp.source_port, SYN | ACK, tcp.sequence + 1, "", PASS},
        };
        for (size_t i = 0; i < sizeof(late) / sizeof(late[0]); i++)
            if (rx(late[i].from, late[i].to, late[i].flags, THEIRS, late[i].acknowledged, late[i].text) !=
                late[i].result)
                fail_msg("answer %zu, IPv%d", i, v6 ? 6 : 4);
        assert_verdict(TCP_ID, ABI_UP, ABI_NONE);
        drain();
    }
}

/* Of two probes with one number and one port the one that waits is answered. */
static void test_the_open_probe_is_answered(void **state)
{
    (void)state;
    uint32_t first = TCP_ID, second = HTTP_ID;
    set_up(false, ABI_UP);
    set_backend(second, SERVICE_TCP, 80);
    set_backend(first, SERVICE_TCP, 80);
    struct abi_backend b;
    get(lab.probe->maps.backends, first, &b);
    b.next_same = second;
    put(lab.probe->maps.backends, &first, &b);
    struct abi_probe_state s = state_of(first);
    struct abi_probe_state t = s;
    s.tcp[0].sent_ns = 0; /* it has its answer */
    put(lab.probe->maps.probe_state, &first, &s);
    put(lab.probe->maps.probe_state, &second, &t);
    assert_int_equal(rx(80, PORT, SYN | ACK, THEIRS, ACKED, ""), SENT);
    assert_int_equal(state_of(second).answers, 1);
    assert_int_equal(state_of(second).tcp[0].sent_ns, 0);
}

enum { MANY_SERVICES = 40 };

/* Evidence is against all that is at the address. */
static void test_evidence_against_many_services(void **state)
{
    (void)state;
    uint8_t bytes[PACKET_MAX];
    set_up(false, ABI_UP);
    const struct abi_probe_state nothing = {.generation = GENERATION};
    for (uint32_t id = MANY_SERVICES; id-- > 0;) {
        struct abi_backend b;
        set_backend(id, SERVICE_TCP, 80);
        get(lab.probe->maps.backends, id, &b);
        b.next_same = id + 1 < MANY_SERVICES ? id + 1 : ABI_NO_BACKEND;
        put(lab.probe->maps.backends, &id, &b);
        put(lab.probe->maps.probe_state, &id, &nothing);
        set_verdict(id, ABI_UP);
    }
    assert_int_equal(rx(80, 40000, RST, 7, 99, ""), PASS);
    assert_true(captured(bytes) > 0);
    for (uint32_t id = 0; id < MANY_SERVICES; id++)
        assert_int_equal(state_of(id).wanted, ABI_WANTED_PROBE);
    assert_int_equal(rx(80, 40000, RST | ACK, 0, 99, ""), PASS); /* refused */
    for (uint32_t id = 0; id < MANY_SERVICES; id++)
        assert_verdict(id, ABI_SUSPECT, ABI_REFUSED);
    drain();
}

/* A class whose turn is far away; somebody else has a suspicion. */
static void test_a_tick_probes_who_is_wanted(void **state)
{
    (void)state;
    uint32_t zero = 0, id = TCP_ID;
    struct abi_probe_plan none = {.classes = 0};
    set_up(false, ABI_SUSPECT);
    put(lab.probe->maps.probe_plan, &zero, &none);
    struct abi_probe_state s = state_of(id);
    for (uint8_t wanted = ABI_WANTED_NOT; wanted <= ABI_WANTED_PROBE; wanted++) {
        s.wanted = wanted;
        put(lab.probe->maps.probe_state, &id, &s);
        put(lab.probe->maps.wanted, NULL, &id);
        set_clock(now_ns() - 20 * MS);
        assert_int_equal(tick(), PASS);
        assert_int_equal(state_of(id).probes, wanted == ABI_WANTED_PROBE);
    }
    drain();
}

/* What the data plane says: words in, emptied slots and suspicions out. */
static void give_evidence(uint64_t word, uint32_t slot)
{
    put(lab.probe->maps.evidence, &slot, &word);
    set_clock(now_ns() - 20 * MS);
    assert_int_equal(tick(), PASS);
    get(lab.probe->maps.evidence, slot, &word);
    assert_int_equal(word, 0);
    drain();
}

static void test_evidence_of_the_data_plane(void **state)
{
    (void)state;
    uint32_t id = TCP_ID, zero = 0;
    struct abi_probe_plan none = {.classes = 0};
    uint64_t soft = ABI_EVIDENCE_WORD(id, GENERATION, ABI_EVIDENCE_SOFT);
    set_up(false, ABI_UP);
    put(lab.probe->maps.probe_plan, &zero, &none);
    give_evidence(ABI_EVIDENCE_WORD(id, GENERATION + 1, ABI_EVIDENCE_HARD), 0);
    give_evidence(ABI_EVIDENCE_WORD(0xfffffff0u, GENERATION, ABI_EVIDENCE_HARD), 1);
    give_evidence(soft, 2);
    assert_verdict(id, ABI_UP, ABI_NONE);
    assert_int_equal(state_of(id).probes, 0);
    give_evidence(soft, ABI_EVIDENCE_SLOTS - 1);
    assert_verdict(id, ABI_SUSPECT, ABI_EVIDENCE);
    assert_int_equal(state_of(id).probes, 1); /* at once */
    set_up(false, ABI_UP);
    put(lab.probe->maps.probe_plan, &zero, &none);
    give_evidence(ABI_EVIDENCE_WORD(id, GENERATION, ABI_EVIDENCE_HARD), id);
    assert_verdict(id, ABI_SUSPECT, ABI_EVIDENCE);
    set_up(false, ABI_DOWN); /* and never makes a down weaker */
    put(lab.probe->maps.probe_plan, &zero, &none);
    give_evidence(ABI_EVIDENCE_WORD(id, GENERATION, ABI_EVIDENCE_HARD), id);
    assert_verdict(id, ABI_DOWN, ABI_NONE);
}

/* What control says of handshakes. */
static void give_handshake(uint32_t id, uint16_t generation, uint32_t reason, uint64_t age_s)
{
    uint32_t slot = ABI_HANDSHAKE_SLOTS - 1;
    uint64_t word = ABI_HANDSHAKE_WORD(id, generation, reason, (now_ns() / 1000000000 - age_s) & 0xff);
    put(lab.probe->maps.handshakes, &slot, &word);
    set_clock(now_ns() - 20 * MS);
    assert_int_equal(tick(), PASS);
    get(lab.probe->maps.handshakes, slot, &word);
    assert_int_equal(word, 0);
    drain();
}

/* A SYN that was sent now is answered. */
static void answer_a_probe(uint32_t id)
{
    struct abi_probe_state s = state_of(id);
    s.tcp[0] =
        (struct abi_probe_shot){.sent_ns = now_ns(), .sequence = SEQUENCE, .source_port = PORT, .used = 1};
    put(lab.probe->maps.probe_state, &id, &s);
    (void)rx(80, PORT, 0x12, THEIRS, SEQUENCE + 1, "");
    drain();
}

static void test_handshakes_of_control(void **state)
{
    (void)state;
    uint32_t id = TCP_ID, zero = 0;
    struct abi_probe_plan none = {.classes = 0};
    set_up(false, ABI_UP);
    set_check(SERVICE_TCP, ABI_CHECK_TLS);
    put(lab.probe->maps.probe_plan, &zero, &none);
    answer_a_probe(id);
    give_handshake(id, GENERATION + 1, ABI_TLS_TIMEOUT, 0); /* of another backend */
    give_handshake(0xfffffff0u, GENERATION, ABI_TLS_TIMEOUT, 0);
    give_handshake(id, GENERATION, ABI_TLS_TIMEOUT, ABI_HANDSHAKE_LIFE_S + 2); /* the clock stood still */
    assert_verdict(id, ABI_UP, ABI_NONE);
    for (int i = 1; i <= FALL; i++) {
        give_handshake(id, GENERATION, ABI_TLS_TIMEOUT, 0);
        assert_verdict(id, i < FALL ? ABI_SUSPECT : ABI_DOWN, ABI_TLS_TIMEOUT);
        answer_a_probe(id); /* which is not enough */
        assert_verdict(id, i < FALL ? ABI_SUSPECT : ABI_DOWN, ABI_TLS_TIMEOUT);
    }
    give_handshake(id, GENERATION, ABI_PROBE_OK, 0);
    assert_verdict(id, ABI_DOWN, ABI_TLS_TIMEOUT);
    answer_a_probe(id);
    answer_a_probe(id);
    assert_verdict(id, ABI_UP, ABI_PROBE_OK);
    give_handshake(id, GENERATION, ABI_TLS_CERTIFICATE, 0);
    assert_verdict(id, ABI_SUSPECT, ABI_TLS_CERTIFICATE);
    struct abi_probe_state s = state_of(id); /* control has gone: its last word is forgotten */
    s.http_sent_ns -= 61000000000ull;
    put(lab.probe->maps.probe_state, &id, &s);
    answer_a_probe(id);
    assert_verdict(id, ABI_UP, ABI_PROBE_OK);
    set_check(SERVICE_TCP, ABI_CHECK_TCP); /* nobody asked */
    give_handshake(id, GENERATION, ABI_TLS_TIMEOUT, 0);
    assert_verdict(id, ABI_UP, ABI_PROBE_OK);
}

/* --- what a manager tells --------------------------------------------------------------------------------
 */

static void set_fed(bool fed)
{
    uint32_t zero = 0;
    struct abi_node n;
    get(lab.probe->maps.node, 0, &n);
    n.flags = ABI_NODE_PROBES | (fed ? ABI_NODE_FED : 0u);
    put(lab.probe->maps.node, &zero, &n);
}

/* Nothing was told, and suspicions are allowed. */
static void forget_told(void)
{
    char nothing[64] = {0};
    for (uint32_t id = 0; id < 2; id++) {
        put(lab.probe->maps.fed, &id, nothing);
        put(lab.probe->maps.suspicions, &id, nothing);
    }
    put(lab.probe->maps.feed_state, &(uint32_t){0}, nothing);
}

static void told(uint32_t id, uint16_t generation, uint32_t said)
{
    uint8_t bytes[14 + 2 * sizeof(uint64_t)] = {0};
    uint64_t word = ABI_FEED_WORD(id, generation, said),
             beyond = ABI_FEED_WORD(0xfffffff0u, generation, said);
    memcpy(bytes + 14, &beyond, sizeof(beyond));
    memcpy(bytes + 14 + sizeof(beyond), &word, sizeof(word));
    assert_int_equal(run(lab.probe->progs.feed, bytes, sizeof(bytes), 0), DROP);
}

/* Probes that one tick sends to the backend. */
static uint64_t tick_probes(uint32_t id)
{
    uint64_t before = state_of(id).probes;
    set_clock(now_ns() - 20 * MS);
    assert_int_equal(tick(), PASS);
    drain();
    return state_of(id).probes - before;
}

static void test_what_a_manager_calls_up_is_not_probed(void **state)
{
    (void)state;
    set_up(false, ABI_UNKNOWN);
    forget_told();
    told(TCP_ID, GENERATION, ABI_UP); /* this node wants none of it */
    assert_verdict(TCP_ID, ABI_UNKNOWN, ABI_NONE);
    set_fed(true);
    told(TCP_ID, GENERATION + 1, ABI_UP);
    assert_verdict(TCP_ID, ABI_UNKNOWN, ABI_NONE);
    assert_int_equal(tick_probes(TCP_ID), 1);
    told(TCP_ID, GENERATION, ABI_UP);
    assert_verdict(TCP_ID, ABI_UP, ABI_TOLD);
    assert_int_equal(tick_probes(TCP_ID), 0);
    assert_int_equal(tick_probes(HTTP_ID), 1); /* of which it says nothing */
    set_verdict(TCP_ID, ABI_SUSPECT);          /* traffic of this host does */
    assert_int_equal(tick_probes(TCP_ID), 1);
    answer_a_probe(TCP_ID);
    assert_verdict(TCP_ID, ABI_UP, ABI_PROBE_OK);
    told(TCP_ID, GENERATION, ABI_UNKNOWN);
    assert_int_equal(tick_probes(TCP_ID), 1);
    /* It was told before the backend was there. */
    uint32_t id = TCP_ID;
    struct abi_backend b;
    told(TCP_ID, GENERATION + 1, ABI_UP);
    get(lab.probe->maps.backends, id, &b);
    b.generation++;
    put(lab.probe->maps.backends, &id, &b);
    told(HTTP_ID, GENERATION, ABI_UP);
    uint64_t up = ABI_VERDICT(ABI_UP, ABI_PROBE_OK, GENERATION + 1, 1);
    put(lab.probe->maps.verdicts, &id, &up);
    assert_int_equal(tick_probes(TCP_ID), 0);
}

static void test_what_a_manager_calls_down_is_looked_at(void **state)
{
    (void)state;
    set_up(false, ABI_UP);
    forget_told();
    set_fed(true);
    told(TCP_ID, GENERATION, ABI_DOWN);
    assert_verdict(TCP_ID, ABI_SUSPECT, ABI_TOLD);
    assert_int_equal(state_of(TCP_ID).wanted, ABI_WANTED_PROBE);
    assert_true(tick_probes(TCP_ID) > 0);
    answer_a_probe(TCP_ID); /* the manager knows something that an answer does not say */
    assert_verdict(TCP_ID, ABI_SUSPECT, ABI_TOLD);
    assert_int_equal(tick_probes(TCP_ID), 1);
    set_verdict(TCP_ID, ABI_DOWN); /* by these probes */
    assert_int_equal(tick_probes(TCP_ID), 0);
    told(TCP_ID, GENERATION, ABI_DOWN);
    assert_verdict(TCP_ID, ABI_DOWN, ABI_NONE);
    told(TCP_ID, GENERATION, ABI_UP);
    assert_verdict(TCP_ID, ABI_DOWN, ABI_NONE); /* its word alone takes nothing back */
    assert_int_equal(tick_probes(TCP_ID), 1);
    answer_a_probe(TCP_ID);
    answer_a_probe(TCP_ID);
    assert_verdict(TCP_ID, ABI_UP, ABI_PROBE_OK);
    assert_int_equal(tick_probes(TCP_ID), 0);
}

/* Who hears nothing goes by itself, whatever was said last. */
static void test_a_manager_that_is_not_heard_does_not_count(void **state)
{
    (void)state;
    struct abi_feed_state f;
    uint32_t zero = 0;
    set_up(false, ABI_UP);
    forget_told();
    set_fed(true);
    told(TCP_ID, GENERATION, ABI_UP);
    assert_int_equal(tick_probes(TCP_ID), 0);
    get(lab.probe->maps.feed_state, 0, &f);
    assert_true(f.heard_ns > 0 && f.words == 2 && f.doubts == 0);
    f.heard_ns -= (ABI_FEED_LIFE_MS + 1) * (uint64_t)MS;
    put(lab.probe->maps.feed_state, &zero, &f);
    assert_int_equal(tick_probes(TCP_ID), 1);
    told(TCP_ID, GENERATION, ABI_DOWN);
    get(lab.probe->maps.feed_state, 0, &f);
    assert_int_equal(f.doubts, 1);
    f.heard_ns -= (ABI_FEED_LIFE_MS + 1) * (uint64_t)MS;
    put(lab.probe->maps.feed_state, &zero, &f);
    answer_a_probe(TCP_ID);
    assert_verdict(TCP_ID, ABI_UP, ABI_PROBE_OK);
}

/* Nobody would see the answers: it is up, and a suspicion ends by itself. */
static void test_who_cannot_be_probed_is_not(void **state)
{
    (void)state;
    uint32_t id = TCP_ID;
    struct abi_backend b;
    set_up(false, ABI_UNKNOWN);
    get(lab.probe->maps.backends, id, &b);
    b.flags = ABI_BACKEND_UNCHECKED | ABI_BACKEND_UNPROBED;
    put(lab.probe->maps.backends, &id, &b);
    assert_int_equal(tick_probes(id), 0);
    assert_verdict(id, ABI_UP, ABI_UNCHECKED);
    struct abi_probe_state s = state_of(id);
    s.suspected_ns = now_ns();
    s.wanted = ABI_WANTED_PROBE;
    put(lab.probe->maps.probe_state, &id, &s);
    set_verdict(id, ABI_SUSPECT);
    assert_int_equal(tick_probes(id), 0);
    assert_verdict(id, ABI_SUSPECT, ABI_NONE);
    s = state_of(id);
    s.suspected_ns -= 6000ull * MS;
    put(lab.probe->maps.probe_state, &id, &s);
    assert_int_equal(tick_probes(id), 0);
    assert_verdict(id, ABI_UP, ABI_UNCHECKED);
}

static void test_a_tick_too_early_is_none(void **state)
{
    (void)state;
    struct abi_tick_state t;
    set_up(false, ABI_UP);
    assert_int_equal(tick(), DROP);
    get(lab.probe->maps.tick_state, 0, &t);
    assert_int_equal(t.storms, 1);
    assert_int_equal(state_of(TCP_ID).probes, 0);
}

/* Layout of the program's own map. */
static void set_lateness(bool late)
{
    struct {
        uint64_t forgiven_ns;
        uint32_t is_late;
    } value = {.is_late = late};
    uint32_t zero = 0;
    put(lab.probe->maps.tick_lateness, &zero, &value);
}

/* However many of a series are missed: a standstill of a few ms has them all. */
static void test_a_series_that_is_missed_says_nothing(void **state)
{
    (void)state;
    uint32_t id = TCP_ID;
    set_up(false, ABI_UP);
    struct abi_probe_state s = state_of(id);
    for (size_t i = 0; i < ABI_PROBE_SHOTS; i++)
        s.tcp[i] = (struct abi_probe_shot){.sent_ns = now_ns() - 30 * MS, .used = ABI_SHOT_SERIES};
    put(lab.probe->maps.probe_state, &id, &s);
    set_lateness(false);
    set_clock(now_ns() - 20 * MS);
    assert_int_equal(tick(), PASS);
    assert_verdict(id, ABI_UP, ABI_NONE);
    assert_int_equal(state_of(id).misses, 0);
    drain();
}

static void test_misses_make_down_and_only_while_the_clock_runs(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t last_ms, fan_ms, sent_ms; /* ago */
        uint8_t misses;                   /* so far */
        uint32_t state;
        uint8_t used;
        bool late; /* the tick before was */
    } cases[] = {
        {"the last of the row", 20, 20, 30, FALL - 1, ABI_DOWN, ABI_SHOT_ONE, false},
        {"the second", 20, 20, 30, 1, ABI_SUSPECT, ABI_SHOT_ONE, false},
        {"the first", 20, 20, 30, 0, ABI_UP, ABI_SHOT_ONE, false},
        {"its time is not up", 20, 5, 8, FALL - 1, ABI_UP, ABI_SHOT_ONE, false},
        {"the clock stood still", 300, 20, 30, FALL - 1, ABI_UP, ABI_SHOT_ONE, false},
        {"it never came to the fan", 20, 40, 30, FALL - 1, ABI_UP, ABI_SHOT_ONE, false},
        {"one of a series", 20, 20, 30, FALL - 1, ABI_UP, ABI_SHOT_SERIES, false},
        {"the tick is late", 70, 20, 30, FALL - 1, ABI_UP, ABI_SHOT_ONE, false},
        {"it always is", 70, 20, 30, FALL - 1, ABI_DOWN, ABI_SHOT_ONE, true},
    };
    uint32_t id = TCP_ID;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t zero = 0;
        set_up(false, ABI_UP);
        uint64_t now = now_ns();
        struct abi_tick_state t = {.ticks = 1,
                                   .last_ns = now - (uint64_t)cases[i].last_ms * MS,
                                   .fan_ns = now - (uint64_t)cases[i].fan_ms * MS};
        struct abi_probe_state s = state_of(id);
        s.misses = cases[i].misses;
        s.next = 1;
        s.tcp[0].sent_ns = now - (uint64_t)cases[i].sent_ms * MS;
        s.tcp[0].used = cases[i].used;
        set_lateness(cases[i].late);
        put(lab.probe->maps.tick_state, &zero, &t);
        put(lab.probe->maps.probe_state, &id, &s);
        assert_int_equal(tick(), PASS);
        if (ABI_VERDICT_STATE(verdict(id)) != cases[i].state)
            fail_msg("%s: %llx", cases[i].name, (unsigned long long)verdict(id));
        drain();
    }
}

static void test_the_timer_judges(void **state)
{
    (void)state;
    uint32_t id = TCP_ID;
    set_up(false, ABI_UP);
    struct abi_probe_state s = state_of(id);
    s.misses = FALL - 1;
    s.tcp[0] = (struct abi_probe_shot){0};
    put(lab.probe->maps.probe_state, &id, &s);
    set_clock(now_ns() - 20 * MS);
    assert_int_equal(tick(), PASS);
    /* Nobody is on the fan's side here; as if it had been. */
    struct abi_tick_state t;
    uint32_t zero = 0;
    get(lab.probe->maps.tick_state, 0, &t);
    t.fan_ns = now_ns();
    put(lab.probe->maps.tick_state, &zero, &t);
    for (int i = 0; i < 100 && ABI_VERDICT_STATE(verdict(id)) != ABI_DOWN; i++)
        usleep(10000);
    assert_verdict(id, ABI_DOWN, ABI_PROBE_TIMEOUT);
}

/* --- anything ------------------------------------------------------------------------------------------- */

static void scribble(uint8_t *bytes, size_t len, unsigned *seed)
{
    int changes = 1 + rand_r(seed) % 12;
    for (int i = 0; i < changes; i++)
        bytes[14 + (unsigned)rand_r(seed) % (len - 14)] = (uint8_t)rand_r(seed);
}

/* Whatever comes, nothing is down: no packet knows a sequence number. */
static void test_random_packets(void **state)
{
    (void)state;
    unsigned seed = 1;
    uint8_t bytes[PACKET_MAX];
    set_up(false, ABI_UP);
    for (int i = 0; i < RANDOM_PACKETS; i++) {
        if (i % 1000 == 0)
            set_up(i / 1000 & 1, ABI_UP);
        size_t len = answer(bytes, (uint16_t)(80 + i % 2), (uint16_t)(PORT + rand_r(&seed) % 2),
                            (uint8_t)rand_r(&seed), (uint32_t)rand_r(&seed) | 1,
                            (uint32_t)rand_r(&seed) & 0x7fffffff, "HTTP/1.0 503 x");
        scribble(bytes, len, &seed);
        if (rand_r(&seed) % 4 == 0)
            len -= (unsigned)rand_r(&seed) % (len - 54);
        run(lab.probe->progs.rx, bytes, len, 0);
        run(lab.probe->progs.fan, bytes, len, ABI_MARK | (unsigned)(rand_r(&seed) % 6));
        assert_int_not_equal(ABI_VERDICT_STATE(verdict(TCP_ID)), ABI_DOWN);
        assert_int_not_equal(ABI_VERDICT_STATE(verdict(HTTP_ID)), ABI_DOWN);
    }
    drain();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_one_bad_answer_makes_suspect),
        cmocka_unit_test(test_a_late_answer_ends_the_row_of_misses),
        cmocka_unit_test(test_rise),
        cmocka_unit_test(test_only_a_later_probe_clears_a_suspicion),
        cmocka_unit_test(test_a_syn_ack_does_not_clear_a_failed_http_check),
        cmocka_unit_test(test_answers_for_others_pass),
        cmocka_unit_test(test_evidence),
        cmocka_unit_test(test_a_flood_of_resets_is_few_probes),
        cmocka_unit_test(test_fan_makes_the_request),
        cmocka_unit_test(test_fan_ends_connections),
        cmocka_unit_test(test_fan_probes_at_once),
        cmocka_unit_test(test_fan_takes_only_its_own),
        cmocka_unit_test(test_a_tick_sends_what_is_due),
        cmocka_unit_test(test_own_answers_of_long_ago),
        cmocka_unit_test(test_the_open_probe_is_answered),
        cmocka_unit_test(test_evidence_against_many_services),
        cmocka_unit_test(test_a_tick_probes_who_is_wanted),
        cmocka_unit_test(test_evidence_of_the_data_plane),
        cmocka_unit_test(test_handshakes_of_control),
        cmocka_unit_test(test_what_a_manager_calls_up_is_not_probed),
        cmocka_unit_test(test_what_a_manager_calls_down_is_looked_at),
        cmocka_unit_test(test_a_manager_that_is_not_heard_does_not_count),
        cmocka_unit_test(test_who_cannot_be_probed_is_not),
        cmocka_unit_test(test_a_tick_too_early_is_none),
        cmocka_unit_test(test_misses_make_down_and_only_while_the_clock_runs),
        cmocka_unit_test(test_a_series_that_is_missed_says_nothing),
        cmocka_unit_test(test_the_timer_judges),
        cmocka_unit_test(test_random_packets),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
