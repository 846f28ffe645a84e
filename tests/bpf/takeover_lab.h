/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Address takeover by BPF_PROG_RUN: a node that is the second of three managers, questions and claims for it,
 * a wire where its announcements are heard.
 */
#ifndef FL_TEST_TAKEOVER_LAB_H
#define FL_TEST_TAKEOVER_LAB_H

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
#include <time.h>
#include <unistd.h>

#include "abi.h"
#include "bpf/takeover.skel.h"

enum {
    SELF = 1, /* position of this node, of three */
    MANAGERS = 3,
    FRAME_MAX = 128,
    ARP_BYTES = 42,
    SOLICITATION_BYTES = 86,
    ANNOUNCEMENT_BYTES = 94,
    RANDOM_PACKETS = 20000,
    SECOND_MS = 1000,
    PASS = TC_ACT_UNSPEC,
    TAKEN = TC_ACT_SHOT,
    ANSWERED = 7 /* redirected */
};

static const uint8_t own_mac[6] = {2, 0, 0, 0, 0, SELF}, client_mac[6] = {2, 0, 0, 0, 0, 0x99},
                     all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static struct lab {
    struct takeover_bpf *skel;
    uint32_t ifindex;
    int wire; /* what is sent on the device */
    bool ready;
} lab;

/* The address of this test, of either kind. */
static struct subject {
    bool v6;
    struct abi_address_key key;
    uint8_t bytes[16]; /* its address as packets have it: 4 or 16 of them */
} subject;

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

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* At the machine's start at the earliest. */
static inline uint64_t ago_ns(uint64_t milliseconds)
{
    uint64_t now = now_ns(), ns = milliseconds * 1000000;
    return now > ns ? now - ns : 1;
}

static inline void put(struct bpf_map *map, const void *key, const void *value)
{
    assert_int_equal(bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY), 0);
}

static inline struct abi_address_state state(void)
{
    struct abi_address_state s;
    assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(lab.skel->maps.address_state), &subject.key, &s), 0);
    return s;
}

static inline void set_state(const struct abi_address_state *s)
{
    put(lab.skel->maps.address_state, &subject.key, s);
}

/* The session with the manager at this position; `ended_ms` ago it was up last, if it is not. */
static inline void set_session(uint32_t position, enum abi_bfd_state bfd, uint64_t ended_ms)
{
    struct abi_peer_state s = {
        .generation = ABI_PEER_BEGUN | 1, .state = (uint8_t)bfd, .changed_ns = ago_ns(60000)};
    s.ended_ns = ended_ms ? ago_ns(ended_ms) : 0;
    put(lab.skel->maps.peer_state, &position, &s);
}

static inline void set_node(uint32_t flags)
{
    uint32_t zero = 0;
    struct abi_node n = {.flags = flags, .tick_ns = 20000000, .stale_ns = 500000000};
    put(lab.skel->maps.node, &zero, &n);
}

static inline uint64_t claim(uint32_t support, uint32_t term, uint32_t position)
{
    return (uint64_t)support << 40 | (uint64_t)term << 8 | (0xff - position);
}

/* Owned by the manager at `position` since a minute (-1: by nobody, nor is it known who was). */
static inline void set_owner(int position, uint32_t support, uint32_t term)
{
    struct abi_address_state s = {.owner = position < 0 ? ABI_NO_OWNER : (uint32_t)position,
                                  .owner_node = (uint64_t)(position + 1),
                                  .since_ns = ago_ns(60000),
                                  .heard_ns = ago_ns(100),
                                  .claimed_ns = ago_ns(100),
                                  .unrest_ns = ago_ns(60000),
                                  .looked_ns = ago_ns(20),
                                  .claim = position < 0 ? 0 : claim(support, term, (uint32_t)position)};
    set_state(&s);
}

static inline int group_setup(void **context)
{
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    struct bpf_map *map;
    (void)context;
    if (geteuid() != 0)
        return 0;
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    assert_int_equal(system("ip link set lo up && ip link add here type veth peer name there && "
                            "for d in here there; do echo 1 >/proc/sys/net/ipv6/conf/$d/disable_ipv6; "
                            "ip link set $d up; done"),
                     0);
    lab.skel = takeover_bpf__open();
    assert_non_null(lab.skel);
    bpf_object__for_each_map(map, lab.skel->obj) assert_int_equal(bpf_map__set_pin_path(map, NULL), 0);
    assert_int_equal(takeover_bpf__load(lab.skel), 0);
    lab.ifindex = if_nametoindex("here");
    lab.wire = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL));
    at.sll_ifindex = (int)if_nametoindex("there");
    assert_int_equal(bind(lab.wire, (struct sockaddr *)&at, sizeof(at)), 0);
    while (now_ns() < 12000000000) /* just started: what is long ago has to have been */
        sleep(1);
    lab.ready = true;
    return 0;
}

static inline int group_teardown(void **context)
{
    (void)context;
    takeover_bpf__destroy(lab.skel);
    return 0;
}

/* Three managers that see each other; the first owns the address. */
static inline void arrange(bool v6)
{
    struct abi_address a = {.managers = MANAGERS, .self = SELF};
    char drop[FRAME_MAX];
    if (lab.ready && subject.key.ifindex) {
        bpf_map_delete_elem(bpf_map__fd(lab.skel->maps.addresses), &subject.key);
        bpf_map_delete_elem(bpf_map__fd(lab.skel->maps.address_state), &subject.key);
    }
    subject.v6 = v6;
    subject.key =
        (struct abi_address_key){.addr = address(v6 ? "fd01::100" : "10.1.0.100"), .ifindex = lab.ifindex};
    if (v6)
        memcpy(subject.bytes, &subject.key.addr, 16);
    else
        memcpy(subject.bytes, &subject.key.addr.word[3], 4);
    for (uint32_t i = 0; i < MANAGERS; i++) {
        a.peer[i] = i == SELF ? 0 : i + 1;
        a.node_id[i] = i + 1;
        memcpy(a.mac[i], (uint8_t[]){2, 0, 0, 0, 0, (uint8_t)i}, 6);
        set_session(i, ABI_BFD_UP, 0);
    }
    memcpy(a.own_mac, own_mac, 6);
    put(lab.skel->maps.addresses, &subject.key, &a);
    set_node(0);
    set_owner(0, 3, 5);
    while (recv(lab.wire, drop, sizeof(drop), 0) > 0)
        ;
}

/* Runs the test for both kinds of address. */
static inline void both(void (*test)(void))
{
    if (!lab.ready) {
        print_message("it needs root\n");
        skip();
    }
    for (int v6 = 0; v6 < 2; v6++) {
        arrange(v6);
        test();
    }
}

/* --- packets ---------------------------------------------------------------------------------------------
 */

struct frame {
    uint8_t data[FRAME_MAX];
    size_t bytes;
};

static inline int run(struct bpf_program *program, struct frame *f)
{
    struct __sk_buff skb = {.ifindex = lab.ifindex, .ingress_ifindex = lab.ifindex};
    struct frame out = {0};
    LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = f->data, .data_size_in = (uint32_t)f->bytes,
                .data_out = out.data, .data_size_out = sizeof(out.data), .ctx_in = &skb,
                .ctx_size_in = sizeof(skb), .repeat = 1);
    int err = bpf_prog_test_run_opts(bpf_program__fd(program), &o);
    if (err)
        fail_msg("BPF_PROG_RUN: %d", err);
    out.bytes = o.data_size_out;
    *f = out;
    return (int)o.retval;
}

static inline uint16_t checksum(const uint8_t *frame, size_t bytes)
{
    uint32_t sum = (uint32_t)(bytes - 54) + 58;
    for (size_t i = 22; i < bytes; i += 2)
        sum += (uint32_t)frame[i] << 8 | frame[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static inline void finish_nd(struct frame *f)
{
    memset(f->data + 56, 0, 2);
    uint16_t sum = htons(checksum(f->data, f->bytes));
    memcpy(f->data + 56, &sum, 2);
}

static const uint8_t *target(void)
{
    return subject.bytes;
}

static inline struct frame arp(uint16_t operation, const uint8_t *to, const uint8_t *mac,
                               const uint8_t *sender, const uint8_t *marks, const uint8_t *asked)
{
    static const uint8_t kind[] = {8, 6, 0, 1, 8, 0, 6, 4, 0};
    struct frame f = {.bytes = ARP_BYTES};
    memcpy(f.data, to, 6);
    memcpy(f.data + 6, mac, 6);
    memcpy(f.data + 12, kind, sizeof(kind));
    f.data[21] = (uint8_t)operation;
    memcpy(f.data + 22, mac, 6);
    memcpy(f.data + 28, sender, 4);
    if (marks)
        memcpy(f.data + 32, marks, 6);
    memcpy(f.data + 38, asked, 4);
    return f;
}

/* With 8 bytes of options and, if given, 8 more. */
static inline struct frame nd(uint8_t type, const char *from, const char *to, const uint8_t *mac,
                              const uint8_t *more)
{
    struct abi_addr source = address(from), destination = address(to);
    struct frame f = {.bytes = SOLICITATION_BYTES + (more ? 8 : 0)};
    memcpy(f.data, (uint8_t[]){0x33, 0x33, 0, 0, 0, 1}, 6);
    memcpy(f.data + 6, mac, 6);
    memcpy(f.data + 12, (uint8_t[]){0x86, 0xdd, 0x60}, 3);
    f.data[19] = (uint8_t)(f.bytes - 54);
    f.data[20] = 58;
    f.data[21] = 255;
    memcpy(f.data + 22, &source, 16);
    memcpy(f.data + 38, &destination, 16);
    f.data[54] = type;
    memcpy(f.data + 62, target(), 16);
    f.data[78] = type == 135 ? 1 : 2;
    f.data[79] = 1;
    memcpy(f.data + 80, mac, 6);
    if (more)
        memcpy(f.data + 86, more, 8);
    finish_nd(&f);
    return f;
}

static inline struct frame question(void)
{
    struct abi_addr client = address("10.1.0.9");
    return subject.v6 ? nd(135, "fd01::9", "ff02::1:ff00:100", client_mac, NULL)
                      : arp(1, all, client_mac, (uint8_t *)&client.word[3], NULL, target());
}

/* What another manager announces; its support, term and position. */
static inline struct frame announcement(const uint8_t *mac, uint8_t support, uint8_t term, uint8_t position)
{
    uint8_t mark[] = {2, 0xfa, (uint8_t)(support << 4 | position), 0, 0, term}, option[8] = {254, 1};
    memcpy(option + 2, mark, 6);
    return subject.v6 ? nd(136, "fd01::100", "ff02::1", mac, option)
                      : arp(1, all, mac, target(), mark, target());
}

static inline int receive(struct frame f)
{
    return run(lab.skel->progs.takeover, &f);
}

static inline void hear(uint8_t support, uint8_t term, uint8_t position)
{
    uint8_t mac[6] = {2, 0, 0, 0, 0, position};
    assert_int_equal(receive(announcement(mac, support, term, position)), PASS);
}

static struct frame first_sent; /* of a tick */

/* A tick. Returns how many packets it sent, the last of them in *last. */
static inline int tick(struct frame *last)
{
    struct frame f = {.bytes = 60};
    struct pollfd p = {.fd = lab.wire, .events = POLLIN};
    int count = 0;
    memcpy(f.data + 12, (uint8_t[]){8, 6}, 2);
    assert_int_equal(run(lab.skel->progs.takeover_tick, &f), TAKEN);
    while (poll(&p, 1, 10) == 1) {
        ssize_t bytes = recv(lab.wire, last->data, sizeof(last->data), 0);
        assert_true(bytes > 0);
        last->bytes = (size_t)bytes;
        if (!count)
            first_sent = *last;
        count++;
    }
    return count;
}

#endif
