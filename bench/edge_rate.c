/* SPDX-License-Identifier: Apache-2.0 */
/*
 * edge_rate 4|6 nat|full-nat|direct SERVICES BACKENDS FLOWS_LOG2: packets a second and processor of the
 * edge's tc program by BPF_PROG_RUN, in a network namespace of its own. SERVICES with BACKENDS each;
 * 2^FLOWS_LOG2 flows in no order. Prints JSON: nanoseconds a packet for each row, without what making the
 * packet costs.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "abi.h"
#include "bench/edge_rate.skel.h"
#include "bpf/edge.skel.h"

enum { ROWS = 1021, PHASE_FILL = 0, PHASE_HIT, PHASE_BACK, PHASE_MISS, PHASE_FLOOD, ROUND = 1 << 20 };

struct rate {
    struct edge_bpf *edge;
    struct edge_rate_bpf *driver;
    bool v4;
    uint8_t mode;
    uint32_t services, backends, flows;
    uint32_t client_ifindex, backend_ifindex;
    uint8_t client_mac[6], backend_mac[6];
};

static void die(const char *what)
{
    fprintf(stderr, "edge_rate: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- the surroundings ---------------------------------------------------------------------------------- */

static uint32_t device(const char *name, uint8_t *mac)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &request) != 0)
        die(name);
    memcpy(mac, request.ifr_hwaddr.sa_data, 6);
    close(fd);
    return if_nametoindex(name);
}

static void make_namespace(struct rate *r)
{
    if (unshare(CLONE_NEWNET) != 0)
        die("network namespace");
    if (system("ip link add e0 type veth peer name e1 && ip link add e2 type veth peer name e3 && "
               "for d in e0 e1 e2 e3; do ip link set $d up; done && ip addr add 10.128.0.1/9 dev e0 && "
               "ip addr add 10.64.0.1/10 dev e2 && ip addr add fd01::1/32 dev e0 nodad && "
               "ip addr add fd02::1/32 dev e2 nodad && "
               "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1") != 0)
        die("devices");
    r->client_ifindex = device("e0", r->client_mac);
    r->backend_ifindex = device("e2", r->backend_mac);
}

static void unpin(struct bpf_object *object)
{
    struct bpf_map *map;
    bpf_object__for_each_map(map, object) bpf_map__set_pin_path(map, NULL);
}

static void load(struct rate *r)
{
    r->edge = edge_bpf__open();
    r->driver = edge_rate_bpf__open();
    if (!r->edge || !r->driver)
        die("open");
    unpin(r->edge->obj);
    unpin(r->driver->obj);
    bpf_map__set_max_entries(r->edge->maps.flows, r->flows * 5 / 2);
    bpf_map__set_max_entries(r->edge->maps.backends, r->services * r->backends);
    bpf_map__set_max_entries(r->edge->maps.verdicts, r->services * r->backends);
    bpf_map__set_max_entries(r->edge->maps.edge_backends, r->services * r->backends);
    bpf_map__set_max_entries(r->edge->maps.edge_loads, r->services * r->backends);
    bpf_map__set_max_entries(r->edge->maps.rows, r->services * ROWS);
    if (edge_bpf__load(r->edge) != 0)
        die("load the edge");
    struct bpf_map *map;
    bpf_object__for_each_map(map, r->driver->obj)
    {
        struct bpf_map *shared = bpf_object__find_map_by_name(r->edge->obj, bpf_map__name(map));
        if (shared && !bpf_map__is_internal(map) && bpf_map__reuse_fd(map, bpf_map__fd(shared)) != 0)
            die("share a map");
    }
    if (edge_rate_bpf__load(r->driver) != 0)
        die("load the driver");
    int programs[] = {bpf_program__fd(r->edge->progs.edge), bpf_program__fd(r->driver->progs.nothing)};
    for (uint32_t i = 0; i < 2; i++)
        if (bpf_map_update_elem(bpf_map__fd(r->driver->maps.programs), &i, &programs[i], BPF_ANY) != 0)
            die("programs");
    r->driver->bss->direct = r->mode == ABI_EDGE_DSR;
    r->driver->bss->service_count = r->services;
    r->driver->bss->flows_mask = r->flows - 1;
}

static struct abi_addr make_address(const struct rate *r, uint32_t network4, uint32_t network6, uint32_t last)
{
    struct abi_addr a = {{0}};
    a.word[r->v4 ? 2 : 0] = htonl(r->v4 ? 0xffff : network6);
    a.word[3] = htonl(network4 + last);
    return a;
}

static void put(const struct bpf_map *map, const void *key, const void *value)
{
    if (bpf_map_update_elem(bpf_map__fd(map), key, value, BPF_ANY) != 0)
        die(bpf_map__name(map));
}

static void configure_service(struct rate *r, uint32_t number)
{
    struct abi_endpoint key = {.addr = make_address(r, 0xc6120000, 0xfd050000, number), .port = htons(80)};
    struct abi_service s = {.id = number + 1,
                            .first_row = number * ROWS,
                            .rows = ROWS,
                            .policy = ABI_POLICY_RANDOM,
                            .edge = r->mode,
                            .seed = 7,
                            .backend_count = r->backends};
    s.edge_source = make_address(r, 0x0a400001, 0xfd020000, 0);
    if (!r->v4)
        s.edge_source.word[3] = htonl(1);
    for (uint32_t i = 0; i < r->backends; i++) {
        uint32_t id = number * r->backends + i;
        struct abi_backend b = {.addr = make_address(r, 0x0a410000, 0xfd020000, id),
                                .port = htons(8080),
                                .generation = 1,
                                .weight = 1,
                                .admin = ABI_ADMIN_ACTIVE,
                                .service = s.id,
                                .next_same = ABI_NO_BACKEND};
        uint64_t verdict = ABI_VERDICT(ABI_UP, ABI_PROBE_OK, 1, 1);
        put(r->edge->maps.backends, &id, &b);
        put(r->edge->maps.verdicts, &id, &verdict);
    }
    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t at = s.first_row + i;
        struct abi_row row;
        for (uint32_t c = 0; c < ABI_CANDIDATES; c++)
            row.backend[c] = number * r->backends + (i * 7 + c) % r->backends;
        put(r->edge->maps.rows, &at, &row);
    }
    put(r->edge->maps.services, &key, &s);
}

/* --- running ------------------------------------------------------------------------------------------- */

static size_t write_packet(const struct rate *r, bool back, uint8_t *out)
{
    size_t l4 = 14 + (r->v4 ? 20 : 40), bytes = l4 + 20;
    memset(out, 0, 128);
    memcpy(out, back ? r->backend_mac : r->client_mac, 6);
    out[12] = r->v4 ? 0x08 : 0x86;
    out[13] = r->v4 ? 0x00 : 0xdd;
    out[14] = r->v4 ? 0x45 : 0x60;
    out[r->v4 ? 17 : 19] = (uint8_t)(r->v4 ? 40 : 20);
    out[r->v4 ? 23 : 20] = 6;
    out[l4 + 12] = 5 << 4;
    return bytes;
}

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Nanoseconds a packet. */
static double run(struct rate *r, uint32_t phase, uint32_t first, uint32_t packets, uint32_t target)
{
    uint8_t in[128], out[256];
    struct __sk_buff context = {.ifindex = phase == PHASE_BACK ? r->backend_ifindex : r->client_ifindex};
    size_t bytes = write_packet(r, phase == PHASE_BACK, in);
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = in, .data_size_in = (uint32_t)bytes, .data_out = out,
                .data_size_out = sizeof(out), .repeat = (int)packets, .ctx_in = &context,
                .ctx_size_in = sizeof(context));
    r->driver->bss->phase = phase;
    r->driver->bss->number = first;
    r->driver->bss->target = target;
    double begun = cpu_s();
    struct bpf_program *program = r->v4 ? r->driver->progs.rate4 : r->driver->progs.rate6;
    if (bpf_prog_test_run_opts(bpf_program__fd(program), &options) != 0)
        die("run");
    return (cpu_s() - begun) * 1e9 / packets;
}

static uint64_t counted(const struct bpf_map *map, uint32_t count, size_t value_bytes, size_t offset)
{
    int cpus = libbpf_num_possible_cpus();
    uint8_t *values = calloc((size_t)cpus, value_bytes);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (bpf_map_lookup_elem(bpf_map__fd(map), &i, values) != 0)
            die(bpf_map__name(map));
        for (int cpu = 0; cpu < cpus; cpu++)
            sum += *(uint64_t *)(values + (size_t)cpu * value_bytes + offset);
    }
    free(values);
    return sum;
}

static uint64_t begun(const struct rate *r)
{
    return counted(r->edge->maps.edge_stats, r->services + 1, sizeof(struct abi_edge_stats),
                   offsetof(struct abi_edge_stats, flows));
}

/* One row: a round that is not counted unless each flow may come once only, then one that is. */
static void row(struct rate *r, const char *name, uint32_t phase, bool again)
{
    uint32_t packets = r->flows < ROUND ? ROUND : r->flows;
    double making = run(r, phase, 0, packets, 1);
    if (again)
        run(r, phase, 0, packets, 0);
    double whole = run(r, phase, 0, packets, 0);
    printf(", \"%s\": %.1f, \"%s_making\": %.1f", name, whole - making, name, making);
}

/* How many of the flows are still found: a packet of each begins no new one. */
static uint32_t kept(struct rate *r)
{
    uint64_t before = begun(r);
    run(r, PHASE_HIT, 0, r->flows, 0);
    return r->flows - (uint32_t)(begun(r) - before);
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: edge_rate 4|6 nat|full-nat|direct SERVICES BACKENDS FLOWS_LOG2\n");
        return 2;
    }
    struct rate r = {.v4 = argv[1][0] == '4',
                     .services = (uint32_t)atoi(argv[3]),
                     .backends = (uint32_t)atoi(argv[4]),
                     .flows = 1u << atoi(argv[5])};
    r.mode = argv[2][0] == 'n' ? ABI_EDGE_NAT : argv[2][0] == 'f' ? ABI_EDGE_FULL_NAT : ABI_EDGE_DSR;
    make_namespace(&r);
    load(&r);
    for (uint32_t i = 0; i < r.services; i++)
        configure_service(&r, i);
    run(&r, PHASE_FILL, 0, r.flows * 3, 0);
    printf("{\"flows\": %u, \"established\": %u", r.flows, kept(&r));
    row(&r, "hit", PHASE_HIT, true);
    if (r.mode != ABI_EDGE_DSR)
        row(&r, "back", PHASE_BACK, true);
    row(&r, "miss", PHASE_MISS, false);
    row(&r, "flood", PHASE_FLOOD, true);
    printf(", \"kept\": %u}\n", kept(&r));
    edge_rate_bpf__destroy(r.driver);
    edge_bpf__destroy(r.edge);
    return 0;
}
