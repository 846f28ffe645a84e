/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BFD by BPF_PROG_RUN: three peers (IPv4, IPv6, several hops away), packets to their sessions, a wire where
 * the clock's packets are heard.
 */
#ifndef FL_TEST_BFD_LAB_H
#define FL_TEST_BFD_LAB_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "abi.h"
#include "bpf/heartbeat.skel.h"

enum {
    V4 = 4, /* indices of the peers here */
    V6 = 900,
    FAR = 2,
    FRAME_MAX = 256,
    BFD_BYTES = 24,
    MEMBERS = 4,
    PASS = TC_ACT_UNSPEC,
    TAKEN = TC_ACT_SHOT,
};

enum { DIAG_NONE = 0, DIAG_EXPIRED = 1, DIAG_NEIGHBOUR = 3, DIAG_ADMIN = 7 };
enum {
    POLL = 0x20,
    FINAL = 0x10,
    INDEPENDENT = 0x08,
    AUTHENTICATED = 0x04,
    DEMAND = 0x02,
    MULTIPOINT = 0x01
};

static struct lab {
    struct heartbeat_bpf *skel;
    int wire;   /* what the clock sent */
    bool ready; /* else: why not was said */
    uint16_t generation;
} lab;

/* A packet; zero means the usual. */
struct bfd {
    uint8_t version, diagnostic, state, flags, multiplier, length;
    uint32_t my, your, min_tx_us, min_rx_us;
    /* around it */
    const char *from;
    uint8_t hops;
    uint16_t port;
    uint16_t udp_bytes;
    uint16_t fragment;
    uint8_t payload_bytes, cut_bytes;
    bool no_discriminator, zero_multiplier, zero_my;
};

/* --- the surroundings ---------------------------------------------------------------------------------- */

static inline struct abi_addr address(const char *text)
{
    struct abi_addr a = {{0, 0, 0, 0}};
    if (strchr(text, ':')) {
        assert_int_equal(inet_pton(AF_INET6, text, &a), 1);
        return a;
    }
    a.word[2] = htonl(0xffff);
    assert_int_equal(inet_pton(AF_INET, text, &a.word[3]), 1);
    return a;
}

static inline void put(struct bpf_map *map, uint32_t key, const void *value)
{
    assert_int_equal(bpf_map_update_elem(bpf_map__fd(map), &key, value, BPF_ANY), 0);
}

static inline void get(struct bpf_map *map, uint32_t key, void *value)
{
    assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(map), &key, value), 0);
}

static inline struct abi_peer_state session(uint32_t index)
{
    struct abi_peer_state s;
    get(lab.skel->maps.peer_state, index, &s);
    return s;
}

static inline struct abi_peer peer(uint32_t index)
{
    struct abi_peer p;
    get(lab.skel->maps.peers, index, &p);
    return p;
}

static inline void set_peer(uint32_t index, const struct abi_peer *p)
{
    put(lab.skel->maps.peers, index, p);
}

/* A peer as control configures it, begun anew. */
static inline void fresh_peer(uint32_t index)
{
    struct abi_peer p = {.addr = address(index == V6 ? "fd01::2" : "10.1.0.2"),
                         .source = address(index == V6 ? "fd01::1" : "10.1.0.1"),
                         .discriminator = 0xabcd0000u | (index + 1),
                         .flags = ABI_PEER_USED | (index == FAR ? ABI_PEER_MULTIHOP : 0),
                         .tx_us = 100000,
                         .rx_us = 2000000,
                         .multiplier = 3,
                         .generation = ++lab.generation,
                         .members_first = 0,
                         .members_count = index == V4 ? MEMBERS : 0,
                         .source_port = htons(50000)};
    struct abi_peer_state nothing = {0};
    set_peer(index, &p);
    put(lab.skel->maps.peer_state, index, &nothing);
}

static inline void set_node(uint32_t flags)
{
    struct abi_node n = {
        .out_ifindex = if_nametoindex("out"), .flags = flags, .tick_ns = 20000000, .stale_ns = 200000000};
    put(lab.skel->maps.node, 0, &n);
}

/* Backends 0, 1 and 3 are the first peer's, 2 is listed there and is another's. */
static inline void set_backends(enum abi_state state, enum abi_reason reason, uint8_t flags)
{
    for (uint32_t id = 0; id < MEMBERS; id++) {
        struct abi_backend b = {.generation = 1,
                                .admin = ABI_ADMIN_ACTIVE,
                                .flags = flags,
                                .peer = id == 2 ? V6 + 1 : V4 + 1,
                                .service = 1,
                                .next_same = ABI_NO_BACKEND};
        uint64_t verdict = ABI_VERDICT(state, reason, 1, 1);
        struct abi_probe_state probe = {0};
        put(lab.skel->maps.backends, id, &b);
        put(lab.skel->maps.verdicts, id, &verdict);
        put(lab.skel->maps.probe_state, id, &probe);
        put(lab.skel->maps.peer_members, id, &id);
    }
}

static inline void assert_verdicts(enum abi_state state, enum abi_reason reason, enum abi_state other)
{
    for (uint32_t id = 0; id < MEMBERS; id++) {
        uint64_t verdict;
        get(lab.skel->maps.verdicts, id, &verdict);
        assert_int_equal(ABI_VERDICT_STATE(verdict), id == 2 ? other : state);
        if (id != 2)
            assert_int_equal(ABI_VERDICT_REASON(verdict), reason);
    }
}

static inline int wire_open(const char *device)
{
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL));
    at.sll_ifindex = (int)if_nametoindex(device);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    return fd;
}

static inline int group_setup(void **context)
{
    struct bpf_map *map;
    (void)context;
    if (geteuid() != 0)
        return 0;
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    assert_int_equal(system("ip link set lo up && ip link add out type veth peer name fan && "
                            "for d in out fan; do echo 1 >/proc/sys/net/ipv6/conf/$d/disable_ipv6; "
                            "ip link set $d up; done"),
                     0);
    lab.skel = heartbeat_bpf__open();
    assert_non_null(lab.skel);
    bpf_object__for_each_map(map, lab.skel->obj) assert_int_equal(bpf_map__set_pin_path(map, NULL), 0);
    assert_int_equal(heartbeat_bpf__load(lab.skel), 0);
    lab.wire = wire_open("fan");
    lab.ready = true;
    return 0;
}

static inline int group_teardown(void **context)
{
    (void)context;
    heartbeat_bpf__destroy(lab.skel);
    return 0;
}

static inline int setup(void **context)
{
    char drop[FRAME_MAX];
    (void)context;
    if (!lab.ready)
        return 0;
    set_node(0);
    set_backends(ABI_UP, ABI_PROBE_OK, 0);
    fresh_peer(V4);
    fresh_peer(V6);
    fresh_peer(FAR);
    while (recv(lab.wire, drop, sizeof(drop), 0) > 0)
        ;
    return 0;
}

static inline void need_root(void)
{
    if (lab.ready)
        return;
    print_message("it needs root\n");
    skip();
}

/* --- packets in ------------------------------------------------------------------------------------------
 */

static inline uint8_t or_usual(uint8_t value, uint8_t usual)
{
    return value ? value : usual;
}

static inline size_t write_bfd(uint8_t *at, const struct bfd *b, uint32_t index)
{
    uint32_t my = b->zero_my ? 0 : htonl(b->my ? b->my : 77),
             your = b->no_discriminator ? 0 : htonl(b->your ? b->your : 0xabcd0000u | (index + 1)),
             tx = htonl(b->min_tx_us ? b->min_tx_us : 100000),
             rx = htonl(b->min_rx_us ? b->min_rx_us : 100000);
    size_t bytes = or_usual(b->payload_bytes, BFD_BYTES);
    memset(at, 0, bytes);
    at[0] = (uint8_t)(or_usual(b->version, 1) << 5 | b->diagnostic);
    at[1] = (uint8_t)(b->state << 6 | b->flags);
    at[2] = b->zero_multiplier ? 0 : or_usual(b->multiplier, 3);
    at[3] = or_usual(b->length, BFD_BYTES);
    memcpy(at + 4, &my, 4);
    memcpy(at + 8, &your, 4);
    memcpy(at + 12, &tx, 4);
    memcpy(at + 16, &rx, 4);
    return bytes;
}

static inline void put16(uint8_t *at, size_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* The frame to peer `index`'s session. Checksums are the stack's business, and left out. */
static inline size_t write_frame(uint8_t *f, const struct bfd *b, uint32_t index)
{
    bool v6 = index == V6;
    size_t head = v6 ? 40 : 20, l4 = 14 + head, payload = write_bfd(f + l4 + 8, b, index);
    struct abi_addr from = address(b->from ? b->from
                                   : v6    ? "fd01::2"
                                           : "10.1.0.2"),
                    to = address(v6 ? "fd01::1" : "10.1.0.1");
    memset(f, 0, l4 + 8);
    put16(f + 12, v6 ? 0x86dd : 0x0800);
    if (v6) {
        f[14] = 0x60;
        put16(f + 18, 8 + payload);
        f[20] = 17;
        f[21] = or_usual(b->hops, 255);
        memcpy(f + 22, &from, 16);
        memcpy(f + 38, &to, 16);
    } else {
        f[14] = 0x45;
        put16(f + 16, head + 8 + payload);
        put16(f + 20, b->fragment);
        f[22] = or_usual(b->hops, 255);
        f[23] = 17;
        memcpy(f + 26, &from.word[3], 4);
        memcpy(f + 30, &to.word[3], 4);
    }
    put16(f + l4, 50001);
    put16(f + l4 + 2, b->port ? b->port : index == FAR ? 4784 : 3784);
    put16(f + l4 + 4, b->udp_bytes ? b->udp_bytes : 8 + payload);
    return l4 + 8 + payload - b->cut_bytes;
}

static inline int run(struct bpf_program *program, const uint8_t *frame, size_t bytes)
{
    LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = frame, .data_size_in = (uint32_t)bytes, .repeat = 1);
    int err = bpf_prog_test_run_opts(bpf_program__fd(program), &o);
    if (err)
        fail_msg("BPF_PROG_RUN: %d", err);
    return (int)o.retval;
}

static inline int receive(uint32_t index, const struct bfd *b)
{
    uint8_t frame[FRAME_MAX];
    size_t bytes = write_frame(frame, b, index);
    return run(lab.skel->progs.bfd_rx, frame, bytes);
}

#define RECEIVE(index, ...) receive(index, &(struct bfd){__VA_ARGS__})

/* To the state, by the way there. */
static inline void bring(uint32_t index, enum abi_bfd_state state)
{
    struct abi_peer p = peer(index);
    p.draining = state == ABI_BFD_ADMIN_DOWN;
    set_peer(index, &p);
    if (state == ABI_BFD_INIT)
        assert_int_equal(RECEIVE(index, .state = ABI_BFD_DOWN), TAKEN);
    else
        assert_int_equal(RECEIVE(index, .state = state == ABI_BFD_UP ? ABI_BFD_INIT : ABI_BFD_ADMIN_DOWN),
                         TAKEN);
    assert_int_equal(session(index).state, state);
}

/* --- packets out ------------------------------------------------------------------------------------------
 */

struct heard {
    bool v6;
    uint8_t frame[FRAME_MAX];
    const uint8_t *ip, *udp, *bfd;
};

static inline uint32_t sum_bytes(const uint8_t *at, size_t bytes, uint32_t sum)
{
    for (size_t i = 0; i < bytes; i += 2)
        sum += (uint32_t)at[i] << 8 | at[i + 1];
    return sum;
}

static inline bool sums_to_nothing(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum == 0xffff;
}

/* Everything around the control packet. */
static inline void check_headers(const struct heard *h)
{
    uint32_t addresses = h->v6 ? sum_bytes(h->ip + 8, 32, 0) : sum_bytes(h->ip + 12, 8, 0);
    assert_int_equal(h->v6 ? h->ip[7] : h->ip[8], 255);
    assert_int_equal(h->v6 ? h->ip[6] : h->ip[9], 17);
    assert_int_equal(h->udp[4] << 8 | h->udp[5], 8 + BFD_BYTES);
    assert_int_equal(h->udp[0] << 8 | h->udp[1], 50000);
    assert_true(sums_to_nothing(sum_bytes(h->udp, 8 + BFD_BYTES, addresses + 17 + 8 + BFD_BYTES)));
    if (!h->v6)
        assert_true(sums_to_nothing(sum_bytes(h->ip, 20, 0)));
}

/* A tick; false if it brought nothing for peer `index`. */
static inline bool tick(uint32_t index, struct heard *h)
{
    uint8_t arp[60] = {0};
    bool found = false;
    struct pollfd p = {.fd = lab.wire, .events = POLLIN};
    put16(arp + 12, 0x0806);
    assert_int_equal(run(lab.skel->progs.bfd_tick, arp, sizeof(arp)), PASS);
    while (poll(&p, 1, 20) == 1) {
        struct heard one = {0};
        ssize_t bytes = recv(lab.wire, one.frame, sizeof(one.frame), 0);
        assert_true(bytes == 66 || bytes == 86);
        one.v6 = bytes == 86;
        one.ip = one.frame + 14;
        one.udp = one.ip + (one.v6 ? 40 : 20);
        one.bfd = one.udp + 8;
        check_headers(&one);
        if ((one.bfd[6] << 8 | one.bfd[7]) != (int)index + 1)
            continue;
        assert_false(found);
        found = true;
        *h = one;
        h->ip = h->frame + 14;
        h->udp = h->ip + (h->v6 ? 40 : 20);
        h->bfd = h->udp + 8;
    }
    return found;
}

static inline uint32_t word(const struct heard *h, size_t at)
{
    const uint8_t *p = h->bfd + at;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Makes the session's next packet due. */
static inline void make_due(uint32_t index)
{
    struct abi_peer_state s = session(index);
    s.next_tx_ns = 0;
    put(lab.skel->maps.peer_state, index, &s);
}

#define CASE(name) cmocka_unit_test_setup(name, setup)

#endif
