/* SPDX-License-Identifier: Apache-2.0 */
/* The edge by BPF_PROG_RUN: packet in, packet (each byte and checksum) and verdict out. */
#include "edge_fixture.h"

#include <time.h>

static void both_ways(uint8_t mode)
{
    struct abi_flow f;
    open_flow(4000, &f);
    assert_int_equal(f.mode, mode);
    assert_int_equal(f.ifindex, lab.backend.ifindex);
    assert_memory_equal(&f.hop, &lab.backends[f.backend], 16);
    uint16_t nat = ntohs(f.source_port);
    if (mode == ABI_EDGE_FULL_NAT)
        assert_true(nat >= ABI_EDGE_PORT_FIRST && nat < ABI_EDGE_PORT_FIRST + ABI_EDGE_PORTS);
    else
        assert_int_equal(nat, 4000);
    for (int i = 0; i < 3; i++) {
        struct packet p = from_client(4000, PSH | ACK), out = towards_backend(p, &f);
        expect(&lab.client, p, SENT, &out);
        if (mode == ABI_EDGE_DSR)
            continue;
        struct packet in = from_backend(&out, PSH | ACK), back = towards_client(in, 4000);
        expect(&lab.backend, in, SENT, &back);
        assert_true(established(&in, &(struct abi_flow){0}));
    }
}

static void test_both_ways(void **state)
{
    (void)state;
    each(both_ways);
}

/* Every flow of many reaches one backend or another, and all backends get some. */
static void test_spread(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    unsigned counts[BACKENDS] = {0};
    for (uint16_t port = 2000; port < 2300; port++) {
        struct abi_flow f;
        struct packet p = from_client(port, SYN);
        assert_int_equal(run(&lab.client, p).verdict, SENT);
        assert_true(half_open(&p, &f));
        counts[f.backend]++;
    }
    for (int i = 0; i < BACKENDS; i++)
        assert_in_range(counts[i], 50, 150);
}

static void options_and_headers(uint8_t mode)
{
    (void)mode;
    struct abi_flow f;
    open_flow(4001, &f);
    for (uint16_t bytes = 8; bytes <= (lab.v6 ? 8 : 40); bytes += 8) {
        struct packet p = from_client(4001, PSH | ACK);
        p.options_bytes = bytes;
        struct packet out = towards_backend(p, &f);
        expect(&lab.client, p, SENT, &out);
    }
}

static void test_options_and_headers(void **state)
{
    (void)state;
    each(options_and_headers);
}

static void fragments(uint8_t mode)
{
    struct abi_flow f;
    open_flow(4002, &f);
    struct packet first = from_client(4002, PSH | ACK), later = from_client(4002, 0);
    first.id = later.id = 99;
    first.more_fragments = true;
    first.payload_bytes = 60; /* 80 with the header: a multiple of 8 */
    later.fragment_bytes = 80;
    later.payload_bytes = 50;
    expect(&lab.client, later, PASS, NULL); /* nothing is known of it yet */
    struct packet out = towards_backend(first, &f);
    expect(&lab.client, first, SENT, &out);
    out = towards_backend(later, &f);
    expect(&lab.client, later, SENT, &out);
    later.id = 100;
    expect(&lab.client, later, PASS, NULL);
    if (mode == ABI_EDGE_DSR)
        return;
    struct packet back = from_backend(&out, PSH | ACK);
    back.id = 7;
    back.more_fragments = true;
    back.payload_bytes = 20;
    struct packet back_out = towards_client(back, 4002);
    expect(&lab.backend, back, SENT, &back_out);
    back.more_fragments = false;
    back.fragment_bytes = 40;
    back_out = towards_client(back, 4002);
    expect(&lab.backend, back, SENT, &back_out);
}

static void test_fragments(void **state)
{
    (void)state;
    each(fragments);
}

static void icmp_errors(uint8_t mode)
{
    static const uint16_t sizes[] = {28, 48, 0}; /* of IPv4; IPv6: 20 more */
    struct abi_flow f;
    open_flow(4003, &f);
    for (size_t i = 0; i < 3; i++) {
        uint16_t bytes = sizes[i] && lab.v6 ? sizes[i] + 20 : sizes[i];
        /* A router of the client's about an answer of the service. */
        struct packet request = from_client(4003, ACK), inner = towards_backend(request, &f);
        struct packet answer = from_backend(&inner, PSH | ACK), seen = towards_client(answer, 4003);
        seen.ttl = answer.ttl = 63;
        struct packet in = error_about(&seen, "192.0.2.254", "2001:db8::fe", bytes);
        struct packet out = error_about(&answer, "192.0.2.254", "2001:db8::fe", bytes);
        out.ttl = 59;
        if (mode == ABI_EDGE_FULL_NAT)
            out.source = lab.source;
        if (mode == ABI_EDGE_DSR) {
            out.inside = &seen;
            out.target = lab.address;
        } else {
            out.target = lab.backends[f.backend];
        }
        expect(&lab.client, in, SENT, &out);
        if (mode == ABI_EDGE_DSR)
            continue;
        /* A router of the backend's about a request. */
        request.ttl = inner.ttl = 63;
        in = error_about(&inner, "10.2.0.77", "fd02::77", bytes);
        out = error_about(&request, "10.2.0.77", "fd02::77", bytes);
        out.ttl = 59;
        out.source = lab.address;
        expect(&lab.backend, in, SENT, &out);
    }
}

static void test_icmp_errors(void **state)
{
    (void)state;
    each(icmp_errors);
}

static void icmp_not_ours(uint8_t mode)
{
    (void)mode;
    struct abi_flow f;
    open_flow(4004, &f);
    struct packet request = from_client(4004, ACK), inner = towards_backend(request, &f);
    struct packet seen = towards_client(from_backend(&inner, ACK), 4004);
    struct packet echo = {
        .source = lab.host, .target = lab.address, .kind = icmp_kind(), .icmp_type = lab.v6 ? 128 : 8};
    expect(&lab.client, echo, PASS, &echo);
    struct packet in = error_about(&seen, "192.0.2.254", "2001:db8::fe", 0);
    in.target = address(lab.v6 ? "2001:db8::1234" : "192.0.2.12"); /* not whose packet it is about */
    expect(&lab.client, in, PASS, &in);
    seen.source_port = 81;
    in = error_about(&seen, "192.0.2.254", "2001:db8::fe", 0);
    expect(&lab.client, in, PASS, &in);
}

static void test_icmp_not_ours(void **state)
{
    (void)state;
    each(icmp_not_ours);
}

static void not_ours(uint8_t mode)
{
    (void)mode;
    struct packet p = from_client(4005, SYN);
    p.target_port = 81;
    expect(&lab.client, p, PASS, &p);
    p = from_client(4005, 0);
    p.kind = KIND_UDP;
    p.payload_bytes = 30;
    expect(&lab.client, p, PASS, &p);
    p = from_client(4005, SYN);
    set_service(ABI_EDGE_OFF, 0);
    expect(&lab.client, p, PASS, &p);
}

static void test_not_ours(void **state)
{
    (void)state;
    each(not_ours);
}

/* A frame for another host, seen by a device that hears all. */
static void test_other_host(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    uint8_t bytes[PACKET_MAX];
    struct packet p = from_client(4006, SYN);
    struct answer a;
    memset(p.to_mac, 0x66, 6);
    size_t count = packet_write(&p, bytes);
    assert_int_equal(run_bytes(&lab.client, bytes, count, 0, &a), 0);
    assert_int_equal(a.verdict, PASS);
}

static struct packet too_big_for(const struct packet *p, uint32_t mtu)
{
    return (struct packet){.source = p->target,
                           .target = p->source,
                           .kind = icmp_kind(),
                           .tos = lab.v6 ? 0 : 0xc0,
                           .icmp_type = lab.v6 ? 2 : 3,
                           .icmp_code = lab.v6 ? 0 : 4,
                           .icmp_rest = mtu,
                           .inside = p,
                           .inside_bytes = 512};
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void limits(uint8_t mode)
{
    (void)mode;
    struct abi_flow f;
    open_flow(4014, &f);
    struct packet p = from_client(4014, PSH | ACK), out;
    p.ttl = 1;
    uint64_t expired = COUNTED(expired), too_big = COUNTED(too_big);
    expect(&lab.client, p, DROP, NULL);
    assert_int_equal(COUNTED(expired) - expired, 1);
    p.ttl = 2;
    out = towards_backend(p, &f);
    expect(&lab.client, p, SENT, &out);
    p.ttl = 64;
    p.payload_bytes = (uint16_t)(1500 - 20 - (lab.v6 ? 40 : 20));
    out = towards_backend(p, &f);
    expect(&lab.client, p, SENT, &out);
    p.payload_bytes++;
    struct packet told = too_big_for(&p, 1500);
    expect(&lab.client, p, SENT, &told);
    assert_int_equal(COUNTED(too_big) - too_big, 1);
}

static void test_limits(void **state)
{
    (void)state;
    each(limits);
}

static bool routes_are_narrow;

/* Takes back what test_too_big does to the routes, also when it failed. */
static int widen_routes(void **state)
{
    (void)state;
    if (!routes_are_narrow)
        return 0;
    routes_are_narrow = false;
    const char *restore =
        lab.v6 ? "ip route del fd02::10/124 dev e2; ip route replace 2001:db8::/32 via fd01::fe"
               : "ip route del 10.2.0.8/29 dev e2; ip route replace 192.0.2.0/24 via 10.1.0.254";
    return system(restore);
}

/* The route to the other side has a smaller MTU than its device: both sides are told, of IPv4 with options
 * too, in the name of whom the packet was for. */
static void too_big(uint8_t mode)
{
    char line[256];
    const char *to[] = {lab.v6 ? "fd02::10/124" : "10.2.0.8/29", lab.v6 ? "2001:db8::/32" : "192.0.2.0/24"};
    const char *way[] = {"dev e2", lab.v6 ? "via fd01::fe" : "via 10.1.0.254"};
    for (int i = 0; i < 2; i++) {
        snprintf(line, sizeof(line), "ip route replace %s %s mtu lock 1300", to[i], way[i]);
        assert_int_equal(system(line), 0);
    }
    routes_are_narrow = true;
    struct abi_flow f;
    open_flow(4030, &f);
    uint64_t before = COUNTED(told);
    struct packet p = from_client(4030, PSH | ACK), out = towards_backend(p, &f), told;
    assert_int_equal(f.mtu_bytes, 1300);
    p.payload_bytes = (uint16_t)(1300 - 20 - (lab.v6 ? 40 : 20));
    out = towards_backend(p, &f);
    expect(&lab.client, p, SENT, &out);
    p.payload_bytes++;
    told = too_big_for(&p, 1300);
    expect(&lab.client, p, SENT, &told);
    p.options_bytes = 8;
    told = too_big_for(&p, 1300);
    expect(&lab.client, p, SENT, &told);
    if (mode != ABI_EDGE_DSR) {
        struct packet in = from_backend(&out, PSH | ACK);
        in.payload_bytes = 1400;
        told = too_big_for(&in, 1300);
        expect(&lab.backend, in, SENT, &told);
    }
    assert_int_equal(COUNTED(told) - before, mode == ABI_EDGE_DSR ? 2 : 3);
    assert_int_equal(widen_routes(NULL), 0);
}

static void test_too_big(void **state)
{
    (void)state;
    each(too_big);
}

/* Rations are each processor's own. */
static void stay_on_one_processor(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
}

/* Sends it until it is told no more; how often it was told. */
static uint64_t told_until_ration_ends(struct packet p)
{
    uint64_t before = COUNTED(told), begun = now_ns();
    for (int i = 0; i < 2000; i++) {
        int verdict = run(&lab.client, p).verdict;
        assert_true(verdict == SENT || verdict == DROP);
    }
    uint64_t seconds = (now_ns() - begun) / 1000000000u + 1, told = COUNTED(told) - before;
    if (seconds < 5) /* else the machine is so slow that the ration never ends */
        assert_in_range(told, 1, (seconds + 1) * 200);
    return told;
}

/* What cannot be answered is dropped alone, and answers are rationed: flows that are established have a
 * ration that beginnings, which anybody forges, do not use up. */
static void test_told_no_more(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    stay_on_one_processor();
    struct abi_flow f;
    open_flow(4031, &f);
    f.path_time = 0; /* looked up with the next packet, and not again for a while */
    struct packet p = from_client(4031, PSH | ACK), later = p;
    p.payload_bytes = later.payload_bytes = 1500;
    p.id = later.id = 77;
    p.more_fragments = true;
    later.fragment_bytes = 1520;
    struct packet told = too_big_for(&p, 1500);
    struct abi_flow_key key = key_of(&p);
    struct packet small = from_client(4031, PSH | ACK);
    put(lab.edge->maps.flows, &key, &f);
    assert_int_equal(run(&lab.client, small).verdict, SENT);
    assert_true(established(&small, &f));
    assert_int_not_equal(f.path_time, 0);
    small.payload_bytes = 470;
    f.mtu_bytes = 500;
    put(lab.edge->maps.flows, &key, &f);
    expect(&lab.client, small, DROP, NULL); /* less than the head that is sent */
    f.mtu_bytes = 1500;
    put(lab.edge->maps.flows, &key, &f);
    struct abi_fragment_key fragment = {p.source, p.target, htons(77), 0};
    put(lab.edge->maps.fragments, &fragment, &f);
    expect(&lab.client, later, DROP, NULL);
    expect(&lab.client, p, SENT, &told);
    uint64_t big = COUNTED(too_big);
    p.id = 0;
    p.more_fragments = false;
    struct packet forged = p;
    forged.source_port = 4032;
    forged.flags = SYN;
    told_until_ration_ends(forged);
    assert_int_equal(COUNTED(too_big) - big, 2000);
    expect(&lab.client, p, SENT, &told);
    told_until_ration_ends(p);
    assert_int_equal(COUNTED(too_big) - big, 4001);
}

/* What is sent in segments later is judged by them. */
static void test_segments_later(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    uint8_t bytes[PACKET_MAX];
    struct abi_flow f;
    struct answer a;
    open_flow(4015, &f);
    struct packet p = from_client(4015, PSH | ACK);
    memcpy(p.to_mac, lab.client.mac, 6);
    p.payload_bytes = 1700;
    size_t count = packet_write(&p, bytes);
    assert_int_equal(run_bytes(&lab.client, bytes, count, 1460, &a), 0);
    assert_int_equal(a.verdict, SENT);
    assert_int_equal(a.bytes, count);
    assert_int_equal(run_bytes(&lab.client, bytes, count, 1461, &a), 0);
    assert_int_equal(a.verdict, SENT);
    assert_int_equal(a.bytes, 14 + 28 + 512);
}

/* An element that was pushed out is made again from the other direction's. */
static void test_half_evicted(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    struct abi_flow f;
    open_flow(4016, &f);
    struct packet data = from_client(4016, PSH | ACK), out = towards_backend(data, &f);
    struct packet in = from_backend(&out, PSH | ACK), back = towards_client(in, 4016);
    struct abi_flow_key key = key_of(&in);
    assert_int_equal(bpf_map_delete_elem(bpf_map__fd(lab.edge->maps.flows), &key), 0);
    expect(&lab.backend, in, PASS, NULL);
    key = key_of(&data);
    f.path_time = 0; /* as if a second had passed */
    put(lab.edge->maps.flows, &key, &f);
    expect(&lab.client, data, SENT, &out);
    expect(&lab.backend, in, SENT, &back);
}

/* --- the short cut ------------------------------------------------------------------------------------- */

static void run_xdp(const struct device *d, struct packet p, struct answer *a)
{
    uint8_t bytes[PACKET_MAX];
    memcpy(p.to_mac, d->mac, 6);
    memset(p.from_mac, 0x42, 6);
    size_t count = packet_write(&p, bytes);
    struct xdp_md context = {.data_end = (uint32_t)count, .ingress_ifindex = d->ifindex};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = bytes, .data_size_in = (uint32_t)count,
                .data_out = a->data, .data_size_out = sizeof(a->data), .ctx_in = &context,
                .ctx_size_in = sizeof(context));
    assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(lab.xdp->progs.edge_xdp), &options), 0);
    a->verdict = (int)options.retval;
    a->bytes = options.data_size_out;
}

static void expect_xdp(const struct device *d, struct packet in, int verdict, struct packet out,
                       const char *mac)
{
    uint8_t wanted[PACKET_MAX];
    struct answer a;
    run_xdp(d, in, &a);
    assert_int_equal(a.verdict, verdict);
    const struct device *way_out = d == &lab.client ? &lab.backend : &lab.client;
    memcpy(out.to_mac, verdict == XDP_PASS ? (const char *)d->mac : mac, 6);
    memcpy(out.from_mac, verdict == XDP_PASS ? (const uint8_t *)"BBBBBB" : way_out->mac, 6);
    size_t count = packet_write(&out, wanted);
    assert_int_equal(a.bytes, count);
    assert_memory_equal(a.data, wanted, count);
}

static void short_cut(uint8_t mode)
{
    struct abi_flow f;
    struct packet p = from_client(4020, PSH | ACK);
    expect_xdp(&lab.client, p, XDP_PASS, p, NULL); /* not known yet */
    open_flow(4020, &f);
    char backend[] = {2, 2, 2, 2, 2, (char)(0x10 + f.backend)}, client[] = {2, 1, 1, 1, 1, (char)0xfe};
    struct packet out = towards_backend(p, &f);
    expect_xdp(&lab.client, p, XDP_REDIRECT, out, backend);
    if (mode != ABI_EDGE_DSR) {
        struct packet in = from_backend(&out, PSH | ACK), back = towards_client(in, 4020);
        expect(&lab.backend, in, SENT,
               &back); /* its path is not looked up yet if the SYN-ACK was another second */
        expect_xdp(&lab.backend, in, XDP_REDIRECT, back, client);
    }
    for (unsigned flag = 0; flag < 3; flag++) {
        p.flags = (uint8_t)(ACK | (const uint8_t[]){SYN, FIN, RST}[flag]);
        expect_xdp(&lab.client, p, XDP_PASS, p, NULL);
    }
    p = from_client(4020, PSH | ACK);
    p.ttl = 1;
    expect_xdp(&lab.client, p, XDP_PASS, p, NULL);
    p.ttl = 0;
    p.id = 9;
    p.more_fragments = true;
    expect_xdp(&lab.client, p, XDP_PASS, p, NULL);
    p.id = 0;
    p.more_fragments = false;
    p.payload_bytes = 1500;
    expect_xdp(&lab.client, p, XDP_PASS, p, NULL);
    p.payload_bytes = 33;
    set_backend(f.backend, ABI_ADMIN_ACTIVE, ABI_DOWN, 1);
    expect_xdp(&lab.client, p, XDP_PASS, p, NULL);
}

static void test_short_cut(void **state)
{
    (void)state;
    each(short_cut);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_options_and_headers),
        cmocka_unit_test(test_fragments),
        cmocka_unit_test(test_icmp_errors),
        cmocka_unit_test(test_icmp_not_ours),
        cmocka_unit_test(test_not_ours),
        cmocka_unit_test(test_other_host),
        cmocka_unit_test(test_limits),
        cmocka_unit_test_teardown(test_too_big, widen_routes),
        cmocka_unit_test(test_segments_later),
        cmocka_unit_test(test_half_evicted),
        cmocka_unit_test(test_short_cut),
        cmocka_unit_test(test_told_no_more), /* the last: no more are told for a second */
    };
    return cmocka_run_group_tests(tests, start, stop);
}
