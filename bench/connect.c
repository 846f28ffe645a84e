/* SPDX-License-Identifier: Apache-2.0 */
/*
 * connect FOLDER none|steer|watch|nftables SERVICES SAMPLES
 *
 * How long connect() takes to one of SERVICES addresses, blocking, over the loopback device of a network
 * namespace of its own: straight to the backend (none), steered (by the objects in FOLDER; watch: watched as
 * well), or by DNAT of nftables with one map of all services. Prints JSON: nanoseconds, median and 99th
 * percentile. Each service has backends of its own; which one is asked for changes with each sample.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "abi.h"

enum {
    BACKENDS_EACH = 4,
    ROWS_EACH = 401,
    SERVICE_PORT = 80,
    BACKEND_PORT = 8000,
    WARM_UP = 2000,
    STEP = 2654435761u % 4093, /* from one service to the next, so that each is cold */
};

struct bench {
    const char *folder, *mode;
    uint32_t services, samples;
    char cgroup[128], above[64];
    int listener;
};

__attribute__((noreturn)) static void fail(const char *what)
{
    fprintf(stderr, "connect: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void shell(const char *command)
{
    if (system(command) != 0) {
        errno = EINVAL;
        fail(command);
    }
}

/* The address of a service, host byte order: 10.96.0.0/16 from 1 on. */
static uint32_t service_address(uint32_t i)
{
    return 0x0a600000u + i + 1;
}

static struct abi_endpoint endpoint(uint32_t address, uint16_t port)
{
    return (struct abi_endpoint){.addr = {{0, 0, htonl(0xffff), htonl(address)}}, .port = htons(port)};
}

/* --- the place --------------------------------------------------------------------------------------------
 */

static void enter_cgroup(const char *folder)
{
    char path[192], pid[16];
    snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
    int len = snprintf(pid, sizeof(pid), "%d", getpid());
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, pid, (size_t)len) != len)
        fail(path);
    close(fd);
}

static void make_place(struct bench *b)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    if (sched_setaffinity(0, sizeof(one), &one) || unshare(CLONE_NEWNS | CLONE_NEWNET))
        fail("namespaces");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL))
        fail("/sys/fs/bpf");
    shell("ip link set lo up && ip addr add 10.77.0.1/32 dev lo && ip route add 10.96.0.0/16 dev lo");
    bool hybrid = access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0;
    snprintf(b->above, sizeof(b->above), "%s", hybrid ? "/sys/fs/cgroup/unified" : "/sys/fs/cgroup");
    snprintf(b->cgroup, sizeof(b->cgroup), "%s/bench-connect-%d", b->above, getpid());
    if (mkdir(b->cgroup, 0755))
        fail(b->cgroup);
    enter_cgroup(b->cgroup);
}

static void leave_place(struct bench *b)
{
    enter_cgroup(b->above);
    rmdir(b->cgroup);
}

static void start_listening(struct bench *b)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(BACKEND_PORT)};
    b->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(b->listener, (struct sockaddr *)&name, sizeof(name)) || listen(b->listener, 128))
        fail("listen");
}

/* --- steer ------------------------------------------------------------------------------------------------
 */

static void set(struct bpf_object *object, const char *map, const void *key, const void *value)
{
    if (bpf_map_update_elem(bpf_object__find_map_fd_by_name(object, map), key, value, BPF_ANY))
        fail(map);
}

/* Backends that are up, all of them one server, and rows that deal them in turn. */
static void set_service(struct bpf_object *object, uint32_t i)
{
    uint32_t first = i * BACKENDS_EACH;
    struct abi_service s = {.id = i + 1, .first_row = i * ROWS_EACH, .rows = ROWS_EACH};
    s.policy = ABI_POLICY_RANDOM;
    s.flags = ABI_SERVICE_STEER;
    s.backend_count = BACKENDS_EACH;
    struct abi_endpoint key = endpoint(service_address(i), SERVICE_PORT);
    struct abi_endpoint server = endpoint(0x0a4d0001, BACKEND_PORT);
    s.few_count = BACKENDS_EACH;
    for (uint32_t k = 0; k < BACKENDS_EACH; k++)
        s.few[k] = (struct abi_few){first + k, server.addr.word[3], server.port, 1};
    for (uint32_t id = first; id < first + BACKENDS_EACH; id++) {
        struct abi_backend b = {.addr = server.addr, .port = server.port, .generation = 1, .weight = 1};
        uint64_t verdict = ABI_VERDICT(ABI_UP, ABI_PROBE_OK, 1, 1);
        b.admin = ABI_ADMIN_ACTIVE;
        b.service = s.id;
        b.next_same = ABI_NO_BACKEND;
        set(object, "backends", &id, &b);
        set(object, "verdicts", &id, &verdict);
    }
    for (uint32_t r = 0; r < ROWS_EACH; r++) {
        uint32_t index = s.first_row + r;
        struct abi_row row;
        for (uint32_t c = 0; c < ABI_CANDIDATES; c++)
            row.backend[c] = first + (r + c) % BACKENDS_EACH;
        set(object, "rows", &index, &row);
    }
    set(object, "services", &key, &s);
}

static struct bpf_object *load(const struct bench *b, const char *name)
{
    static const char *const by_backend[] = {"backends",      "verdicts",  "probe_state",
                                             "backend_stats", "endpoints", "suspicions"};
    char path[512];
    LIBBPF_OPTS(bpf_object_open_opts, opts, .pin_root_path = "/sys/fs/bpf");
    snprintf(path, sizeof(path), "%s/%s.bpf.o", b->folder, name);
    struct bpf_object *object = bpf_object__open_file(path, &opts);
    if (!object)
        fail(path);
    struct bpf_map *map;
    bpf_object__for_each_map(map, object)
    {
        for (size_t i = 0; i < sizeof(by_backend) / sizeof(by_backend[0]); i++)
            if (strcmp(bpf_map__name(map), by_backend[i]) == 0)
                bpf_map__set_max_entries(map, ABI_SERVICES_MAX * BACKENDS_EACH);
        if (strcmp(bpf_map__name(map), "rows") == 0)
            bpf_map__set_max_entries(map, ABI_SERVICES_MAX * ROWS_EACH);
    }
    if (bpf_object__load(object))
        fail(path);
    int cgroup = open(b->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct bpf_program *program;
    bpf_object__for_each_program(program, object)
    {
        if (!bpf_program__attach_cgroup(program, cgroup)) /* until this process ends */
            fail(bpf_program__name(program));
    }
    close(cgroup);
    return object;
}

static void start_steer(const struct bench *b)
{
    struct bpf_object *object = load(b, "steer");
    for (uint32_t i = 0; i < b->services; i++)
        set_service(object, i);
    if (strcmp(b->mode, "watch") == 0) {
        struct abi_endpoint server = endpoint(0x0a4d0001, BACKEND_PORT);
        struct abi_endpoint_backends first = {0};
        set(load(b, "watch"), "endpoints", &server, &first);
    }
}

/* --- nftables ---------------------------------------------------------------------------------------------
 */

static void start_nftables(const struct bench *b)
{
    FILE *nft = popen("nft -f -", "w");
    if (!nft)
        fail("nft");
    fprintf(nft,
            "table ip bench {\n map services {\n  type ipv4_addr . inet_service : ipv4_addr . inet_service\n"
            "  elements = {\n");
    for (uint32_t i = 0; i < b->services; i++) {
        struct in_addr address = {.s_addr = htonl(service_address(i))};
        fprintf(nft, "   %s . %d : 10.77.0.1 . %d,\n", inet_ntoa(address), SERVICE_PORT, BACKEND_PORT);
    }
    fprintf(nft, "  }\n }\n chain out {\n  type nat hook output priority -100;\n"
                 "  dnat to ip daddr . tcp dport map @services\n }\n}\n");
    if (pclose(nft) != 0) {
        errno = EINVAL;
        fail("nft");
    }
}

/* --- measuring --------------------------------------------------------------------------------------------
 */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* One connection, taken and reset outside of the time. */
static uint64_t sample(const struct bench *b, uint32_t number)
{
    bool straight = strcmp(b->mode, "none") == 0;
    uint32_t service = (uint32_t)((uint64_t)number * STEP % b->services);
    struct sockaddr_in to = {.sin_family = AF_INET};
    to.sin_addr.s_addr = htonl(straight ? 0x0a4d0001 : service_address(service));
    to.sin_port = htons(straight ? BACKEND_PORT : SERVICE_PORT);
    struct linger reset = {.l_onoff = 1};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint64_t before_ns = now_ns();
    int result = connect(fd, (struct sockaddr *)&to, sizeof(to));
    uint64_t taken_ns = now_ns() - before_ns;
    if (result)
        fail("connect");
    int accepted = accept(b->listener, NULL, NULL);
    if (accepted < 0)
        fail("accept");
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(fd);
    close(accepted);
    return taken_ns;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void measure(const struct bench *b)
{
    uint64_t *ns = calloc(b->samples, sizeof(*ns));
    if (!ns)
        fail("memory");
    for (uint32_t i = 0; i < WARM_UP; i++)
        sample(b, i);
    for (uint32_t i = 0; i < b->samples; i++)
        ns[i] = sample(b, i);
    qsort(ns, b->samples, sizeof(*ns), by_value);
    printf("{\"ns\": %llu, \"p99_ns\": %llu}\n", (unsigned long long)ns[b->samples / 2],
           (unsigned long long)ns[(uint64_t)b->samples * 99 / 100]);
    free(ns);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "connect FOLDER none|steer|watch|nftables SERVICES SAMPLES\n");
        return 2;
    }
    struct bench b = {.folder = argv[1],
                      .mode = argv[2],
                      .services = (uint32_t)strtoul(argv[3], NULL, 10),
                      .samples = (uint32_t)strtoul(argv[4], NULL, 10)};
    if (b.services == 0 || b.services > ABI_SERVICES_MAX - 1 || b.samples == 0) {
        fprintf(stderr, "connect: 1 to %d services, at least one sample\n", ABI_SERVICES_MAX - 1);
        return 2;
    }
    make_place(&b);
    start_listening(&b);
    if (strcmp(b.mode, "nftables") == 0)
        start_nftables(&b);
    else if (strcmp(b.mode, "none") != 0)
        start_steer(&b);
    measure(&b);
    leave_place(&b);
    return 0;
}
