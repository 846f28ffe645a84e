/* SPDX-License-Identifier: Apache-2.0 */
/* The edge's tc program by BPF_PROG_RUN: packet in, packet (each byte and checksum) and verdict out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bpf/edge.skel.h"
#include "bpf/edge_xdp.skel.h"
#include "packet.h"

enum {
    SERVICE = 7,
    BACKENDS = 3,
    ROWS = 13,
    PASS = TC_ACT_UNSPEC,
    DROP = TC_ACT_SHOT,
    SENT = 7 /* redirect */
};

struct device {
    uint32_t ifindex;
    uint8_t mac[6];
};

static struct lab {
    struct edge_bpf *edge;
    struct edge_xdp_bpf *xdp;
    struct device client, backend; /* where packets of clients and of backends arrive */
    bool v6;
    struct abi_service service;
    struct abi_addr address, backends[BACKENDS], host, source; /* client's is `host` */
} lab;

/* What a program made of a packet. */
struct answer {
    int verdict;
    size_t bytes;
    uint8_t data[PACKET_MAX + 256];
};

/* --- the surroundings ---------------------------------------------------------------------------------- */

static void device_read(struct device *d, const char *name)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    assert_int_equal(ioctl(fd, SIOCGIFHWADDR, &request), 0);
    memcpy(d->mac, request.ifr_hwaddr.sa_data, 6);
    d->ifindex = if_nametoindex(name);
    close(fd);
}

/* A network namespace of our own, with a client's and a backends' side. */
static int namespace_make(void)
{
    return unshare(CLONE_NEWNET) != 0 ||
           system("ip link set lo up && ip link add e0 type veth peer name e1 && "
                  "ip link add e2 type veth peer name e3 && "
                  "for d in e0 e1 e2 e3; do ip link set $d up; done && "
                  "ip addr add 10.1.0.1/24 dev e0 && ip addr add 10.2.0.1/24 dev e2 && "
                  "ip addr add fd01::1/64 dev e0 nodad && ip addr add fd02::1/64 dev e2 nodad && "
                  "for i in 0 1 2; do ip neigh add 10.2.0.1$i lladdr 2:2:2:2:2:1$i dev e2 && "
                  "ip neigh add fd02::1$i lladdr 2:2:2:2:2:1$i dev e2 || exit 1; done && "
                  "ip neigh add 10.1.0.254 lladdr 2:1:1:1:1:fe dev e0 && ip neigh add fd01::fe lladdr "
                  "2:1:1:1:1:fe dev e0 && "
                  "ip route add 192.0.2.0/24 via 10.1.0.254 && ip route add 2001:db8::/32 via fd01::fe && "
                  "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1") != 0;
}

static void unpin(struct bpf_object *object)
{
    struct bpf_map *map;
    bpf_object__for_each_map(map, object) bpf_map__set_pin_path(map, NULL);
}

/* The XDP program works on the maps of the other. It is attached as well: only then the kernel lets it be run
 * as if on a device. */
static int start_xdp(void)
{
    struct bpf_map *map;
    lab.xdp = edge_xdp_bpf__open();
    if (!lab.xdp)
        return -1;
    unpin(lab.xdp->obj);
    bpf_object__for_each_map(map, lab.xdp->obj)
    {
        struct bpf_map *shared = bpf_object__find_map_by_name(lab.edge->obj, bpf_map__name(map));
        if (shared && bpf_map__reuse_fd(map, bpf_map__fd(shared)) != 0)
            return -1;
    }
    if (edge_xdp_bpf__load(lab.xdp) != 0)
        return -1;
    const struct device *devices[] = {&lab.client, &lab.backend};
    for (int i = 0; i < 2; i++) {
        struct abi_edge_link link = {.sends = 1};
        memcpy(link.mac, devices[i]->mac, 6);
        if (bpf_map_update_elem(bpf_map__fd(lab.xdp->maps.edge_links), &devices[i]->ifindex, &link,
                                BPF_ANY) != 0 ||
            bpf_xdp_attach((int)devices[i]->ifindex, bpf_program__fd(lab.xdp->progs.edge_xdp),
                           XDP_FLAGS_DRV_MODE, NULL) != 0)
            return -1;
    }
    return 0;
}

static int start(void **state)
{
    (void)state;
    if (geteuid() != 0)
        return 0;
    if (namespace_make() != 0)
        return -1;
    libbpf_set_print(NULL);
    lab.edge = edge_bpf__open();
    if (!lab.edge)
        return -1;
    unpin(lab.edge->obj);
    if (edge_bpf__load(lab.edge) != 0) {
        fprintf(stderr, "edge does not load: %s\n", strerror(errno));
        return -1;
    }
    device_read(&lab.client, "e0");
    device_read(&lab.backend, "e2");
    return start_xdp();
}

static int stop(void **state)
{
    (void)state;
    edge_xdp_bpf__destroy(lab.xdp);
    edge_bpf__destroy(lab.edge);
    return 0;
}

static void put(const struct bpf_map *map, const void *key, const void *value)
{
    assert_int_equal(bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY), 0);
}

static void clear(const struct bpf_map *map)
{
    uint8_t key[64];
    while (bpf_map_get_next_key(bpf_map__fd(map), NULL, key) == 0)
        bpf_map_delete_elem(bpf_map__fd(map), key);
}

static void set_service(uint8_t mode, uint8_t all_down)
{
    struct abi_endpoint key = {.addr = lab.address, .port = htons(80)};
    lab.service = (struct abi_service){.id = SERVICE,
                                       .rows = ROWS,
                                       .policy = ABI_POLICY_MAGLEV,
                                       .edge = mode,
                                       .all_down = all_down,
                                       .seed = 5,
                                       .backend_count = BACKENDS,
                                       .edge_source = lab.source};
    put(lab.edge->maps.services, &key, &lab.service);
}

static void set_backend(uint32_t id, uint8_t admin, uint8_t state, uint16_t generation)
{
    struct abi_backend b = {.addr = lab.backends[id],
                            .port = htons(8080),
                            .generation = generation,
                            .weight = 1,
                            .admin = admin,
                            .service = SERVICE,
                            .next_same = ABI_NO_BACKEND};
    uint64_t verdict = ABI_VERDICT(state, ABI_PROBE_OK, generation, 1);
    put(lab.edge->maps.backends, &id, &b);
    put(lab.edge->maps.verdicts, &id, &verdict);
}

static void set_rows(void)
{
    for (uint32_t i = 0; i < ROWS; i++) {
        struct abi_row row = {{i % BACKENDS, (i + 1) % BACKENDS, (i + 2) % BACKENDS, ABI_NO_BACKEND}};
        put(lab.edge->maps.rows, &i, &row);
    }
}

/* A service of `mode` with three backends that are up, and no flows. */
static void fresh(uint8_t mode, bool v6)
{
    if (geteuid() != 0) {
        print_message("not root: skipped\n");
        skip();
    }
    lab.v6 = v6;
    lab.address = address(v6 ? "2001:db8:5::80" : "198.51.100.80");
    lab.host = address(v6 ? "2001:db8::9" : "192.0.2.9");
    lab.source = address(v6 ? "fd02::1" : "10.2.0.1");
    for (int i = 0; i < BACKENDS; i++) {
        char text[32];
        snprintf(text, sizeof(text), v6 ? "fd02::1%d" : "10.2.0.1%d", i);
        lab.backends[i] = address(text);
    }
    clear(lab.edge->maps.services);
    clear(lab.edge->maps.flows);
    clear(lab.edge->maps.half_open);
    clear(lab.edge->maps.fragments);
    set_service(mode, ABI_ALL_DOWN_REFUSE);
    set_rows();
    for (uint32_t i = 0; i < BACKENDS; i++)
        set_backend(i, ABI_ADMIN_ACTIVE, ABI_UP, 1);
}

static uint64_t counted(size_t offset)
{
    int cpus = libbpf_num_possible_cpus();
    struct abi_edge_stats *stats = calloc((size_t)cpus, sizeof(*stats));
    uint32_t id = SERVICE;
    uint64_t sum = 0;
    assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(lab.edge->maps.edge_stats), &id, stats), 0);
    for (int i = 0; i < cpus; i++)
        sum += *(uint64_t *)((uint8_t *)&stats[i] + offset);
    free(stats);
    return sum;
}
#define COUNTED(counter) counted(offsetof(struct abi_edge_stats, counter))

/* --- packets ------------------------------------------------------------------------------------------- */

static int run_bytes(const struct device *d, const uint8_t *bytes, size_t count, uint32_t gso_bytes,
                     struct answer *a)
{
    struct __sk_buff context = {.ifindex = d->ifindex, .gso_size = gso_bytes};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = bytes, .data_size_in = (uint32_t)count,
                .data_out = a->data, .data_size_out = sizeof(a->data), .ctx_in = &context,
                .ctx_size_in = sizeof(context));
    int error = bpf_prog_test_run_opts(bpf_program__fd(lab.edge->progs.edge), &options);
    a->verdict = (int)options.retval;
    a->bytes = options.data_size_out;
    return error;
}

static struct answer run(const struct device *d, struct packet p)
{
    uint8_t bytes[PACKET_MAX];
    struct answer a;
    memcpy(p.to_mac, d->mac, 6);
    memset(p.from_mac, 0x42, 6);
    size_t count = packet_write(&p, bytes);
    assert_int_equal(run_bytes(d, bytes, count, 0, &a), 0);
    return a;
}

/* Sends `in` to the device and compares. `out`'s link addresses are those of `in`, or swapped in an answer.
 */
static void expect(const struct device *d, struct packet in, int verdict, const struct packet *out)
{
    uint8_t wanted[PACKET_MAX];
    struct answer a = run(d, in);
    assert_int_equal(a.verdict, verdict);
    if (!out)
        return;
    struct packet o = *out;
    bool answer = memcmp(&o.target, &in.source, 16) == 0 && o.flags & RST && !(in.flags & RST);
    memcpy(answer ? o.from_mac : o.to_mac, d->mac, 6);
    memset(answer ? o.to_mac : o.from_mac, 0x42, 6);
    size_t count = packet_write(&o, wanted);
    assert_int_equal(a.bytes, count);
    assert_memory_equal(a.data, wanted, count);
}

static struct packet from_client(uint16_t port, uint8_t flags)
{
    return (struct packet){.source = lab.host,
                           .target = lab.address,
                           .source_port = port,
                           .target_port = 80,
                           .flags = flags,
                           .sequence = 1000,
                           .acknowledged = flags & ACK ? 5001 : 0,
                           .payload_bytes = flags & PSH ? 33 : 0};
}

static struct abi_flow_key key_of(const struct packet *p)
{
    return (struct abi_flow_key){p->source, p->target, htons(p->source_port), htons(p->target_port)};
}

static bool find(const struct bpf_map *map, const struct packet *p, struct abi_flow *f)
{
    struct abi_flow_key key = key_of(p);
    return bpf_map_lookup_elem(bpf_map__fd(map), &key, f) == 0;
}

static bool established(const struct packet *p, struct abi_flow *f)
{
    return find(lab.edge->maps.flows, p, f);
}

static bool half_open(const struct packet *p, struct abi_flow *f)
{
    return find(lab.edge->maps.half_open, p, f);
}

/* What the client's packet becomes. */
static struct packet towards_backend(struct packet p, const struct abi_flow *f)
{
    p.ttl = (uint8_t)((p.ttl ? p.ttl : 64) - 1);
    p.source = f->source;
    p.target = f->target;
    p.source_port = ntohs(f->source_port);
    p.target_port = ntohs(f->target_port);
    return p;
}

/* What the backend answers to it. */
static struct packet from_backend(const struct packet *p, uint8_t flags)
{
    return (struct packet){.source = p->target,
                           .target = p->source,
                           .source_port = p->target_port,
                           .target_port = p->source_port,
                           .flags = flags,
                           .sequence = flags & SYN ? 5000 : 5001,
                           .acknowledged = 1001,
                           .payload_bytes = flags & PSH ? 77 : 0};
}

/* What the client gets. */
static struct packet towards_client(struct packet p, uint16_t port)
{
    p.ttl = (uint8_t)((p.ttl ? p.ttl : 64) - 1);
    p.source = lab.address;
    p.target = lab.host;
    p.source_port = 80;
    p.target_port = port;
    return p;
}

/* A handshake; `f` is then the client's element, in flows. */
static void open_flow(uint16_t port, struct abi_flow *f)
{
    struct packet syn = from_client(port, SYN), ack = from_client(port, ACK);
    assert_int_equal(run(&lab.client, syn).verdict, SENT);
    assert_true(half_open(&syn, f));
    assert_false(established(&syn, f));
    assert_true(half_open(&syn, f));
    struct packet out = towards_backend(syn, f);
    if (f->mode != ABI_EDGE_DSR) {
        struct packet in = from_backend(&out, SYN | ACK), back = towards_client(in, port);
        expect(&lab.backend, in, SENT, &back);
    } else {
        assert_int_equal(run(&lab.client, ack).verdict, SENT);
    }
    out = towards_backend(ack, f);
    expect(&lab.client, ack, SENT, &out);
    assert_true(established(&syn, f));
}

/* --- tests --------------------------------------------------------------------------------------------- */

static const uint8_t modes[] = {ABI_EDGE_NAT, ABI_EDGE_FULL_NAT, ABI_EDGE_DSR};

/* Runs a test for each mode and family. */
static void each(void (*test)(uint8_t mode))
{
    for (size_t i = 0; i < sizeof(modes); i++) {
        for (int v6 = 0; v6 < 2; v6++) {
            fresh(modes[i], v6);
            test(modes[i]);
        }
    }
}

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

static uint8_t icmp_kind(void)
{
    return lab.v6 ? KIND_ICMP6 : KIND_ICMP;
}

/* An error about `about` from a router, with so much of it inside. */
static struct packet error_about(const struct packet *about, const char *v4, const char *v6, uint16_t bytes)
{
    return (struct packet){.source = address(lab.v6 ? v6 : v4),
                           .target = about->source,
                           .kind = icmp_kind(),
                           .icmp_type = lab.v6 ? 2 : 3,
                           .inside = about,
                           .inside_bytes = bytes,
                           .ttl = 60};
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

static struct packet reset_for(const struct packet *p)
{
    struct packet r = {.source = p->target,
                       .target = p->source,
                       .source_port = p->target_port,
                       .target_port = p->source_port,
                       .flags = RST,
                       .sequence = p->acknowledged};
    if (!(p->flags & ACK)) {
        r.flags = RST | ACK;
        r.sequence = 0;
        r.acknowledged = p->sequence + p->payload_bytes + (p->flags & SYN ? 1 : 0);
    }
    r.options_bytes = lab.v6 ? 0 : p->options_bytes;
    r.end_options = true;
    return r;
}

static void all_down(uint8_t mode)
{
    for (uint32_t i = 0; i < BACKENDS; i++)
        set_backend(i, ABI_ADMIN_ACTIVE, ABI_DOWN, 1);
    struct packet syn = from_client(4007, SYN), reset = reset_for(&syn);
    uint64_t before = COUNTED(no_backend);
    expect(&lab.client, syn, SENT, &reset);
    syn.payload_bytes = 21;
    reset = reset_for(&syn);
    expect(&lab.client, syn, SENT, &reset);
    if (!lab.v6) {
        syn.options_bytes = 12;
        reset = reset_for(&syn);
        expect(&lab.client, syn, SENT, &reset);
    }
    assert_int_equal(COUNTED(no_backend) - before, lab.v6 ? 2 : 3);
    struct packet rst = from_client(4007, RST);
    expect(&lab.client, rst, DROP, NULL);
    set_service(mode, ABI_ALL_DOWN_OPEN);
    struct abi_flow f;
    open_flow(4007, &f);
    struct packet data = from_client(4007, PSH | ACK), out = towards_backend(data, &f);
    expect(&lab.client, data, SENT, &out);
    /* Not once another is up. */
    set_backend((f.backend + 1) % BACKENDS, ABI_ADMIN_ACTIVE, ABI_UP, 1);
    reset = reset_for(&data);
    expect(&lab.client, data, SENT, &reset);
}

static void test_all_down(void **state)
{
    (void)state;
    each(all_down);
}

/* Its backend goes down: what the client sends is answered by a reset, a SYN goes to another. */
static void backend_down(uint8_t mode)
{
    (void)mode;
    struct abi_flow f, other;
    open_flow(4008, &f);
    set_backend(f.backend, ABI_ADMIN_ACTIVE, ABI_SUSPECT, 1);
    struct packet data = from_client(4008, PSH | ACK), out = towards_backend(data, &f);
    expect(&lab.client, data, SENT, &out);
    set_backend(f.backend, ABI_ADMIN_ACTIVE, ABI_DOWN, 1);
    struct packet reset = reset_for(&data);
    expect(&lab.client, data, SENT, &reset);
    struct packet syn = from_client(4008, SYN);
    uint64_t before = COUNTED(moved);
    assert_int_equal(run(&lab.client, syn).verdict, SENT);
    assert_int_equal(COUNTED(moved) - before, 1);
    assert_true(half_open(&syn, &other));
    assert_int_not_equal(other.backend, f.backend);
    assert_false(established(&syn, &f));
    /* The second one goes down too, while its answer is awaited. */
    set_backend(other.backend, ABI_ADMIN_ACTIVE, ABI_DOWN, 1);
    assert_int_equal(run(&lab.client, syn).verdict, SENT);
    struct abi_flow third;
    assert_true(half_open(&syn, &third));
    assert_true(third.backend != f.backend && third.backend != other.backend);
}

static void test_backend_down(void **state)
{
    (void)state;
    each(backend_down);
}

/* Drained, removed, its id used again, other rows: an established flow stays where it is. */
static void set_changes(uint8_t mode)
{
    struct abi_flow f, now;
    open_flow(4009, &f);
    struct packet data = from_client(4009, PSH | ACK), out = towards_backend(data, &f);
    set_backend(f.backend, ABI_ADMIN_DRAIN, ABI_UP, 1);
    expect(&lab.client, data, SENT, &out);
    struct abi_row one = {{(f.backend + 1) % BACKENDS, ABI_NO_BACKEND, ABI_NO_BACKEND, ABI_NO_BACKEND}};
    for (uint32_t i = 0; i < ROWS; i++)
        put(lab.edge->maps.rows, &i, &one);
    set_backend(f.backend, ABI_ADMIN_NONE, ABI_UP, 1);
    expect(&lab.client, data, SENT, &out);
    set_backend(f.backend, ABI_ADMIN_ACTIVE, ABI_DOWN, 2);
    expect(&lab.client, data, SENT, &out);
    /* A forged SYN does not move it, ... */
    assert_int_equal(run(&lab.client, from_client(4009, SYN)).verdict, SENT);
    assert_true(established(&data, &now));
    assert_int_equal(now.backend, f.backend);
    /* ... but one after its end does. */
    struct packet fin = from_client(4009, FIN | ACK), fin_out = towards_backend(fin, &f);
    expect(&lab.client, fin, SENT, &fin_out);
    if (mode != ABI_EDGE_DSR) { /* half closed, it goes on */
        assert_int_equal(run(&lab.client, from_client(4009, SYN)).verdict, SENT);
        assert_true(established(&data, &now));
        struct packet end = from_backend(&fin_out, FIN | ACK), end_out = towards_client(end, 4009);
        expect(&lab.backend, end, SENT, &end_out);
    }
    assert_int_equal(run(&lab.client, from_client(4009, SYN)).verdict, SENT);
    assert_true(half_open(&data, &now));
    assert_int_equal(now.backend, one.backend[0]);
}

static void test_set_changes(void **state)
{
    (void)state;
    each(set_changes);
}

/* After its end a flow's ports may begin another connection with the same backend, which is as safe as the
 * first. */
static void ports_again(uint8_t mode)
{
    struct abi_flow f, now;
    open_flow(4021, &f);
    struct packet reset = from_client(4021, RST | ACK), out = towards_backend(reset, &f);
    expect(&lab.client, reset, SENT, &out);
    assert_true(established(&reset, &now));
    assert_true(now.closing & ABI_FLOW_RESET);
    struct packet syn = from_client(4021, SYN);
    out = towards_backend(syn, &f);
    expect(&lab.client, syn, SENT, &out);
    assert_true(established(&syn, &now));
    assert_int_equal(now.closing, 0);
    struct packet back = from_backend(&out, SYN | ACK);
    if (mode != ABI_EDGE_DSR) {
        assert_true(established(&back, &now));
        assert_int_equal(now.closing, 0);
    }
    /* An answer that nobody asked for begins nothing. */
    expect(&lab.client, from_client(4022, SYN | ACK), DROP, NULL);
}

static void test_ports_again(void **state)
{
    (void)state;
    each(ports_again);
}

/* Another node had the address before: its flows go on, or are reset where only it knew their port. */
static void takes_over(uint8_t mode)
{
    struct abi_flow f, again;
    open_flow(4010, &f);
    clear(lab.edge->maps.flows);
    struct packet data = from_client(4010, PSH | ACK), out = towards_backend(data, &f),
                  reset = reset_for(&data);
    expect(&lab.client, data, SENT, mode == ABI_EDGE_FULL_NAT ? &reset : &out);
    if (mode == ABI_EDGE_FULL_NAT)
        return;
    assert_true(half_open(&data, &again));
    assert_int_equal(again.backend, f.backend);
    if (mode == ABI_EDGE_NAT) {
        struct packet in = from_backend(&out, PSH | ACK), back = towards_client(in, 4010);
        expect(&lab.backend, in, SENT, &back);
    } else {
        expect(&lab.client, data, SENT, &out);
    }
    expect(&lab.client, data, SENT, &out);
    assert_true(established(&data, &again));
}

static void test_takes_over(void **state)
{
    (void)state;
    each(takes_over);
}

/* However many SYNs come, and acknowledgements of nothing, established flows stay. */
static void flood(uint8_t mode)
{
    (void)mode;
    struct abi_flow f;
    open_flow(4011, &f);
    struct packet p = from_client(1, SYN), data = from_client(4011, PSH | ACK);
    for (unsigned i = 0; i < 20000; i++) {
        p.source.word[3] = htonl((lab.v6 ? 0u : 0xc0000200u) + (i & 0xff));
        p.source_port = (uint16_t)(1024 + i);
        p.flags = i & 1 ? ACK : SYN;
        int verdict = run(&lab.client, p).verdict;
        assert_true(verdict == SENT || verdict == DROP);
    }
    unsigned held = 0;
    struct abi_flow_key key;
    for (void *previous = NULL; bpf_map_get_next_key(bpf_map__fd(lab.edge->maps.flows), previous, &key) == 0;
         previous = &key)
        held++;
    assert_int_equal(held, f.mode == ABI_EDGE_DSR ? 1 : 2);
    struct packet out = towards_backend(data, &f);
    expect(&lab.client, data, SENT, &out);
}

static void test_flood(void **state)
{
    (void)state;
    each(flood);
}

/* An answer that does not fit to what the backend said does not make a flow established. */
static void test_guessed_acknowledgement(void **state)
{
    (void)state;
    fresh(ABI_EDGE_NAT, false);
    struct abi_flow f;
    struct packet syn = from_client(4012, SYN), ack = from_client(4012, ACK);
    run(&lab.client, syn);
    assert_true(half_open(&syn, &f));
    struct packet out = towards_backend(syn, &f);
    ack.acknowledged = 0;
    assert_int_equal(run(&lab.client, ack).verdict, SENT);
    assert_false(established(&syn, &f));
    run(&lab.backend, from_backend(&out, SYN | ACK));
    ack.acknowledged = 5000;
    assert_int_equal(run(&lab.client, ack).verdict, SENT);
    assert_false(established(&syn, &f));
    ack.acknowledged = 5001;
    assert_int_equal(run(&lab.client, ack).verdict, SENT);
    assert_true(established(&syn, &f));
}

/* Ports towards a backend are unique; a client's own port is kept in NAT, unless another service has it. */
static void test_ports(void **state)
{
    (void)state;
    fresh(ABI_EDGE_FULL_NAT, false);
    static uint8_t used[BACKENDS][65536];
    memset(used, 0, sizeof(used));
    for (uint16_t port = 2000; port < 6000; port++) {
        struct abi_flow f;
        struct packet syn = from_client(port, SYN);
        assert_int_equal(run(&lab.client, syn).verdict, SENT);
        assert_true(half_open(&syn, &f));
        uint16_t nat = ntohs(f.source_port);
        assert_in_range(nat, ABI_EDGE_PORT_FIRST, ABI_EDGE_PORT_FIRST + ABI_EDGE_PORTS - 1);
        assert_int_equal(used[f.backend][nat]++, 0);
    }
    fresh(ABI_EDGE_NAT, false);
    struct abi_flow f, g;
    struct abi_endpoint second = {.addr = address("198.51.100.81"), .port = htons(80)};
    put(lab.edge->maps.services, &second, &lab.service);
    struct packet syn = from_client(4013, SYN);
    run(&lab.client, syn);
    assert_true(half_open(&syn, &f));
    syn.target = second.addr;
    run(&lab.client, syn);
    assert_true(half_open(&syn, &g));
    assert_int_equal(f.backend, g.backend);
    assert_int_equal(ntohs(f.source_port), 4013);
    assert_int_not_equal(ntohs(g.source_port), 4013);
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
    expect(&lab.client, p, DROP, NULL);
    assert_int_equal(COUNTED(too_big) - too_big, 1);
}

static void test_limits(void **state)
{
    (void)state;
    each(limits);
}

/* What is sent in segments later is not too big. */
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
    assert_int_equal(run_bytes(&lab.client, bytes, count, 1400, &a), 0);
    assert_int_equal(a.verdict, SENT);
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

/* --- hostile packets ----------------------------------------------------------------------------------- */

static void sane(const struct answer *a, const uint8_t *in, size_t count, size_t number)
{
    if (a->verdict != PASS && a->verdict != DROP && a->verdict != SENT)
        fail_msg("packet %zu: verdict %d", number, a->verdict);
    if (a->bytes > count && a->bytes > 60 + 34)
        fail_msg("packet %zu grew from %zu to %zu bytes", number, count, a->bytes);
    if (a->verdict == PASS && (a->bytes != count || memcmp(a->data, in, count) != 0))
        fail_msg("packet %zu was passed on, changed", number);
}

/* Every prefix of each kind of packet. */
static void cut_short(uint8_t mode)
{
    struct abi_flow f;
    open_flow(4017, &f);
    struct packet data = from_client(4017, PSH | ACK), inner = towards_backend(data, &f);
    struct packet answer = from_backend(&inner, ACK), seen = towards_client(answer, 4017);
    struct packet options = data, syn = from_client(4018, SYN);
    options.options_bytes = 8;
    struct packet kinds[] = {data, options, syn, error_about(&seen, "192.0.2.254", "2001:db8::fe", 0)};
    (void)mode;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        uint8_t bytes[PACKET_MAX];
        memcpy(kinds[i].to_mac, lab.client.mac, 6);
        size_t count = packet_write(&kinds[i], bytes);
        for (size_t length = 15; length < count; length++) {
            struct answer a;
            if (run_bytes(&lab.client, bytes, length, 0, &a) == 0)
                sane(&a, bytes, length, length);
        }
    }
}

static void test_cut_short(void **state)
{
    (void)state;
    each(cut_short);
}

static uint32_t chance(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static void mutate(uint8_t *bytes, size_t *count, uint64_t *seed)
{
    for (uint32_t changes = 1 + chance(seed) % 4; changes > 0; changes--) {
        size_t at = 6 + chance(seed) % (*count - 6);
        switch (chance(seed) % 3) {
        case 0:
            bytes[at] = (uint8_t)chance(seed);
            break;
        case 1:
            bytes[at] ^= (uint8_t)(1u << chance(seed) % 8);
            break;
        default:
            bytes[12 + chance(seed) % 48 % (*count - 12)] = (uint8_t)(chance(seed) % 3 ? 0xff : 0);
            break;
        }
    }
    if (chance(seed) % 8 == 0)
        *count = 15 + chance(seed) % (*count - 14);
}

static size_t mutations_of_mode;

static void mutations(uint8_t mode)
{
    uint64_t seed = 1000u * mode + (lab.v6 ? 1 : 0);
    struct abi_flow f;
    open_flow(4019, &f);
    struct packet data = from_client(4019, PSH | ACK), inner = towards_backend(data, &f);
    struct packet answer = from_backend(&inner, PSH | ACK), seen = towards_client(answer, 4019);
    struct packet options = data, fragment = data, later = data;
    options.options_bytes = 8;
    fragment.id = later.id = 3;
    fragment.more_fragments = true;
    later.fragment_bytes = 56;
    struct packet kinds[] = {data,
                             options,
                             fragment,
                             later,
                             from_client(4020, SYN),
                             answer,
                             error_about(&seen, "192.0.2.254", "2001:db8::fe", 0),
                             error_about(&inner, "10.2.0.77", "fd02::77", 0)};
    size_t errors = 0;
    for (size_t i = 0; i < mutations_of_mode; i++) {
        uint8_t bytes[PACKET_MAX];
        struct packet *p = &kinds[i % (sizeof(kinds) / sizeof(kinds[0]))];
        memcpy(p->to_mac, lab.client.mac, 6);
        size_t count = packet_write(p, bytes);
        mutate(bytes, &count, &seed);
        struct answer a;
        if (run_bytes(&lab.client, bytes, count, 0, &a) == 0)
            sane(&a, bytes, count, i);
        else
            errors++;
        if (i % 1000 == 0) /* backends come and go meanwhile */
            set_backend((uint32_t)(i / 1000 % BACKENDS), ABI_ADMIN_ACTIVE, i / 3000 % 2 ? ABI_DOWN : ABI_UP,
                        1);
    }
    assert_true(errors < mutations_of_mode / 10); /* too short for the kernel */
}

static void test_mutations(void **state)
{
    (void)state;
    const char *wanted = getenv("EDGE_MUTATIONS");
    mutations_of_mode = wanted ? strtoul(wanted, NULL, 10) : 20000;
    each(mutations);
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
        cmocka_unit_test(test_all_down),
        cmocka_unit_test(test_backend_down),
        cmocka_unit_test(test_set_changes),
        cmocka_unit_test(test_ports_again),
        cmocka_unit_test(test_takes_over),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_guessed_acknowledgement),
        cmocka_unit_test(test_ports),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_segments_later),
        cmocka_unit_test(test_half_evicted),
        cmocka_unit_test(test_short_cut),
        cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
