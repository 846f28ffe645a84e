/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of the edge's programs by BPF_PROG_RUN: a network namespace with a client's and a backends' side,
 * a service with three backends, and packets in and out. Include it first.
 */
#ifndef FL_TEST_EDGE_FIXTURE_H
#define FL_TEST_EDGE_FIXTURE_H

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
    uint8_t policy;
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

static inline void device_read(struct device *d, const char *name)
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
static inline int namespace_make(void)
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

static inline void unpin(struct bpf_object *object)
{
    struct bpf_map *map;
    bpf_object__for_each_map(map, object) bpf_map__set_pin_path(map, NULL);
}

/* The XDP program works on the maps of the other. It is attached as well: only then the kernel lets it be run
 * as if on a device. */
static inline int start_xdp(void)
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

static inline int start(void **state)
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

static inline int stop(void **state)
{
    (void)state;
    edge_xdp_bpf__destroy(lab.xdp);
    edge_bpf__destroy(lab.edge);
    return 0;
}

static inline void put(const struct bpf_map *map, const void *key, const void *value)
{
    assert_int_equal(bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY), 0);
}

static inline void clear(const struct bpf_map *map)
{
    uint8_t key[64];
    while (bpf_map_get_next_key(bpf_map__fd(map), NULL, key) == 0)
        bpf_map_delete_elem(bpf_map__fd(map), key);
}

static inline void set_service(uint8_t mode, uint8_t all_down)
{
    struct abi_endpoint key = {.addr = lab.address, .port = htons(80)};
    lab.service = (struct abi_service){.id = SERVICE,
                                       .rows = ROWS,
                                       .policy = lab.policy,
                                       .edge = mode,
                                       .all_down = all_down,
                                       .seed = 5,
                                       .backend_count = BACKENDS,
                                       .edge_source = lab.source};
    put(lab.edge->maps.services, &key, &lab.service);
}

static inline void set_backend(uint32_t id, uint8_t admin, uint8_t state, uint16_t generation)
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

static inline void set_rows(void)
{
    for (uint32_t i = 0; i < ROWS; i++) {
        struct abi_row row = {{i % BACKENDS, (i + 1) % BACKENDS, (i + 2) % BACKENDS, ABI_NO_BACKEND}};
        put(lab.edge->maps.rows, &i, &row);
    }
}

static inline void forget_loads(void)
{
    uint64_t none[2] = {0};
    assert_int_equal(bpf_map__value_size(lab.edge->maps.edge_loads), sizeof(none));
    for (uint32_t i = 0; i < BACKENDS; i++)
        put(lab.edge->maps.edge_loads, &i, none);
}

/* Sets the policy of the service that is there. */
static inline void set_policy(uint8_t policy)
{
    lab.policy = policy;
    set_service(lab.service.edge, lab.service.all_down);
}

/* A service of `mode` with three backends that are up, and no flows. */
static inline void fresh(uint8_t mode, bool v6)
{
    if (geteuid() != 0) {
        print_message("not root: skipped\n");
        skip();
    }
    lab.v6 = v6;
    lab.policy = ABI_POLICY_RANDOM;
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
    forget_loads();
    set_service(mode, ABI_ALL_DOWN_REFUSE);
    set_rows();
    for (uint32_t i = 0; i < BACKENDS; i++)
        set_backend(i, ABI_ADMIN_ACTIVE, ABI_UP, 1);
}

static inline uint64_t counted(size_t offset)
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

static inline int run_bytes(const struct device *d, const uint8_t *bytes, size_t count, uint32_t gso_bytes,
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

static inline struct answer run(const struct device *d, struct packet p)
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
static inline void expect(const struct device *d, struct packet in, int verdict, const struct packet *out)
{
    uint8_t wanted[PACKET_MAX];
    struct answer a = run(d, in);
    assert_int_equal(a.verdict, verdict);
    if (!out)
        return;
    struct packet o = *out;
    bool answer = memcmp(&o.target, &in.source, 16) == 0 && memcmp(&o.source, &in.target, 16) == 0;
    memcpy(answer ? o.from_mac : o.to_mac, d->mac, 6);
    memset(answer ? o.to_mac : o.from_mac, 0x42, 6);
    size_t count = packet_write(&o, wanted);
    assert_int_equal(a.bytes, count);
    assert_memory_equal(a.data, wanted, count);
}

static inline struct packet from_client(uint16_t port, uint8_t flags)
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

static inline struct abi_flow_key key_of(const struct packet *p)
{
    return (struct abi_flow_key){p->source, p->target, htons(p->source_port), htons(p->target_port)};
}

static inline bool find(const struct bpf_map *map, const struct packet *p, struct abi_flow *f)
{
    struct abi_flow_key key = key_of(p);
    return bpf_map_lookup_elem(bpf_map__fd(map), &key, f) == 0;
}

static inline bool established(const struct packet *p, struct abi_flow *f)
{
    return find(lab.edge->maps.flows, p, f);
}

static inline bool half_open(const struct packet *p, struct abi_flow *f)
{
    return find(lab.edge->maps.half_open, p, f);
}

/* What the client's packet becomes. */
static inline struct packet towards_backend(struct packet p, const struct abi_flow *f)
{
    p.ttl = (uint8_t)((p.ttl ? p.ttl : 64) - 1);
    p.source = f->source;
    p.target = f->target;
    p.source_port = ntohs(f->source_port);
    p.target_port = ntohs(f->target_port);
    return p;
}

/* What the backend answers to it. */
static inline struct packet from_backend(const struct packet *p, uint8_t flags)
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
static inline struct packet towards_client(struct packet p, uint16_t port)
{
    p.ttl = (uint8_t)((p.ttl ? p.ttl : 64) - 1);
    p.source = lab.address;
    p.target = lab.host;
    p.source_port = 80;
    p.target_port = port;
    return p;
}

/* A handshake; `f` is then the client's element, in flows. */
static inline void open_flow(uint16_t port, struct abi_flow *f)
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

static const uint8_t modes[] = {ABI_EDGE_NAT, ABI_EDGE_FULL_NAT, ABI_EDGE_DSR};

/* Runs a test for each mode and family. */
static inline void each(void (*test)(uint8_t mode))
{
    for (size_t i = 0; i < sizeof(modes); i++) {
        for (int v6 = 0; v6 < 2; v6++) {
            fresh(modes[i], v6);
            test(modes[i]);
        }
    }
}

static inline uint8_t icmp_kind(void)
{
    return lab.v6 ? KIND_ICMP6 : KIND_ICMP;
}

/* An error about `about` from a router, with so much of it inside. */
static inline struct packet error_about(const struct packet *about, const char *v4, const char *v6,
                                        uint16_t bytes)
{
    return (struct packet){.source = address(lab.v6 ? v6 : v4),
                           .target = about->source,
                           .kind = icmp_kind(),
                           .icmp_type = lab.v6 ? 2 : 3,
                           .inside = about,
                           .inside_bytes = bytes,
                           .ttl = 60};
}

static inline struct packet reset_for(const struct packet *p)
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

#endif
