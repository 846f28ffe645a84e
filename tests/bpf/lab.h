/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A laboratory for programs that work on sockets: a mount namespace with a bpffs of its own, a network
 * namespace with addresses on its loopback device, a cgroup that the test is in. All of it ends with the
 * test.
 */
#ifndef FL_TEST_LAB_H
#define FL_TEST_LAB_H

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <setjmp.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "abi.h"

enum { LAB_ROWS = 251, LAB_OBJECTS = 4, LAB_LINKS = 16, LAB_WAIT_MS = 5000 };

struct lab {
    struct bpf_object *object[LAB_OBJECTS];
    size_t objects;
    struct bpf_link *link[LAB_LINKS];
    size_t links;
    char cgroup[128], cgroup_above[96];
    int cgroup_fd;
    uint32_t next_row;
};

static inline void lab_run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline void lab_run(const char *format, ...)
{
    char command[512];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    if (system(command) != 0)
        fail_msg("%s", command);
}

static inline void lab_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        fail_msg("%s: %s", path, strerror(errno));
    close(fd);
}

static inline void lab_enter_cgroup(const char *folder)
{
    char path[160], pid[16];
    snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
    snprintf(pid, sizeof(pid), "%d", getpid());
    lab_write(path, pid);
}

/* Those of tests that were killed; one with processes in it stays. */
static inline void lab_sweep_cgroups(const char *above)
{
    char path[400];
    DIR *folder = opendir(above);
    assert_non_null(folder);
    for (struct dirent *e; (e = readdir(folder)) != NULL;) {
        snprintf(path, sizeof(path), "%s/%s", above, e->d_name);
        if (strncmp(e->d_name, "t-lab-", 6) == 0)
            rmdir(path);
    }
    closedir(folder);
}

/* Wherever cgroup2 is mounted. */
static inline void lab_make_cgroup(struct lab *lab)
{
    const char *above = access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0 ? "/sys/fs/cgroup/unified"
                                                                                 : "/sys/fs/cgroup";
    snprintf(lab->cgroup_above, sizeof(lab->cgroup_above), "%s", above);
    snprintf(lab->cgroup, sizeof(lab->cgroup), "%s/t-lab-%d", above, getpid());
    lab_sweep_cgroups(above);
    assert_int_equal(mkdir(lab->cgroup, 0755), 0);
    lab->cgroup_fd = open(lab->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(lab->cgroup_fd >= 0);
    lab_enter_cgroup(lab->cgroup);
}

static inline void lab_open(struct lab *lab)
{
    memset(lab, 0, sizeof(*lab));
    if (geteuid() != 0) {
        print_message("it needs root\n");
        skip();
    }
    assert_int_equal(unshare(CLONE_NEWNS | CLONE_NEWNET), 0);
    assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    assert_int_equal(mount("bpf", "/sys/fs/bpf", "bpf", 0, NULL), 0);
    lab_make_cgroup(lab);
    lab_run("ip link set lo up && for i in 1 2 3 4 5; do ip addr add 10.77.0.$i/32 dev lo && "
            "ip -6 addr add fd77::$i/128 dev lo nodad; done");
}

static inline void lab_close(struct lab *lab)
{
    lab_enter_cgroup(lab->cgroup_above);
    for (size_t i = 0; i < lab->links; i++)
        bpf_link__destroy(lab->link[i]);
    for (size_t i = 0; i < lab->objects; i++)
        bpf_object__close(lab->object[i]);
    close(lab->cgroup_fd);
    for (int i = 0; rmdir(lab->cgroup) && i < 100; i++)
        usleep(10000);
}

/* Takes over an opened object: loads it, on the maps that earlier ones have pinned. */
static inline void lab_load(struct lab *lab, struct bpf_object *object)
{
    assert_non_null(object);
    lab->object[lab->objects++] = object;
    assert_int_equal(bpf_object__load(object), 0);
}

static inline void lab_attach_cgroup(struct lab *lab, struct bpf_program *program)
{
    struct bpf_link *link = bpf_program__attach_cgroup(program, lab->cgroup_fd);
    assert_non_null(link);
    lab->link[lab->links++] = link;
}

static inline int lab_map(const struct lab *lab, const char *name)
{
    for (size_t i = 0; i < lab->objects; i++) {
        int fd = bpf_object__find_map_fd_by_name(lab->object[i], name);
        if (fd >= 0)
            return fd;
    }
    fail_msg("no map %s", name);
    return -1;
}

static inline void lab_set(const struct lab *lab, const char *map, const void *key, const void *value)
{
    assert_int_equal(bpf_map_update_elem(lab_map(lab, map), key, value, BPF_ANY), 0);
}

static inline void lab_get(const struct lab *lab, const char *map, uint32_t key, void *value)
{
    assert_int_equal(bpf_map_lookup_elem(lab_map(lab, map), &key, value), 0);
}

/* --- services and backends ----------------------------------------------------------------------------- */

static inline struct abi_addr lab_addr(const char *text)
{
    struct abi_addr a = {{0}};
    if (strchr(text, ':')) {
        assert_int_equal(inet_pton(AF_INET6, text, &a), 1);
    } else {
        a.word[2] = htonl(0xffff);
        assert_int_equal(inet_pton(AF_INET, text, &a.word[3]), 1);
    }
    return a;
}

static inline struct abi_backend lab_backend(const char *addr, uint16_t port)
{
    return (struct abi_backend){.addr = lab_addr(addr),
                                .port = htons(port),
                                .generation = 1,
                                .weight = 1,
                                .admin = ABI_ADMIN_ACTIVE,
                                .service = 1,
                                .next_same = ABI_NO_BACKEND};
}

/* Writes the backend and where it is found by its address; its verdict is `state`, and nothing else is known.
 */
static inline void lab_set_backend(const struct lab *lab, uint32_t id, const struct abi_backend *b,
                                   enum abi_state state)
{
    struct abi_endpoint at = {.addr = b->addr, .port = b->port};
    struct abi_endpoint_backends first = {.first = id};
    uint64_t verdict = ABI_VERDICT(state, ABI_PROBE_OK, b->generation, 1);
    struct abi_backend_stats stats = {0};
    struct abi_probe_state probe = {0};
    lab_set(lab, "backends", &id, b);
    lab_set(lab, "endpoints", &at, &first);
    lab_set(lab, "verdicts", &id, &verdict);
    lab_set(lab, "backend_stats", &id, &stats);
    lab_set(lab, "probe_state", &id, &probe);
}

static inline void lab_set_state(const struct lab *lab, uint32_t id, enum abi_state state)
{
    struct abi_backend b;
    uint64_t verdict;
    lab_get(lab, "backends", id, &b);
    lab_get(lab, "verdicts", id, &verdict);
    verdict = ABI_VERDICT(state, ABI_PROBE_OK, b.generation, ABI_VERDICT_SEQUENCE(verdict) + 1);
    lab_set(lab, "verdicts", &id, &verdict);
}

static inline uint64_t lab_verdict(const struct lab *lab, uint32_t id)
{
    uint64_t verdict;
    lab_get(lab, "verdicts", id, &verdict);
    return verdict;
}

static inline struct abi_backend_stats lab_stats(const struct lab *lab, uint32_t id)
{
    struct abi_backend_stats stats;
    lab_get(lab, "backend_stats", id, &stats);
    return stats;
}

/* Connections that are counted as open. */
static inline uint32_t lab_active(const struct lab *lab, uint32_t id)
{
    return ABI_ACTIVE_COUNT(lab_stats(lab, id).active);
}

/* One of the ids that are not in the row yet, by weight. */
static inline uint32_t lab_deal(const uint32_t *ids, const uint32_t *weights, size_t count,
                                const struct abi_row *row, size_t dealt)
{
    for (;;) {
        uint32_t total = 0, at = 0;
        size_t i = 0;
        for (size_t n = 0; n < count; n++)
            total += weights[n];
        at = (uint32_t)rand() % total;
        while (at >= weights[i])
            at -= weights[i++];
        bool taken = false;
        for (size_t d = 0; d < dealt; d++)
            taken = taken || row->backend[d] == ids[i];
        if (!taken)
            return ids[i];
    }
}

static inline struct abi_few lab_few(const struct lab *lab, uint32_t id)
{
    struct abi_backend b;
    lab_get(lab, "backends", id, &b);
    bool v4 = b.addr.word[0] == 0 && b.addr.word[1] == 0 && b.addr.word[2] == htonl(0xffff);
    return (struct abi_few){id, v4 ? b.addr.word[3] : 0, b.port, b.generation};
}

/* A service with these backends; its rows are dealt at random, by weight (NULL: equal). */
static inline void lab_set_service(struct lab *lab, const char *addr, uint16_t port, struct abi_service s,
                                   const uint32_t *ids, const uint32_t *weights, size_t count)
{
    uint32_t equal[64];
    struct abi_endpoint at = {.addr = lab_addr(addr), .port = htons(port)};
    for (size_t i = 0; i < 64; i++)
        equal[i] = 1;
    s.id = 1;
    s.first_row = lab->next_row;
    s.rows = count ? LAB_ROWS : 0;
    s.backend_count = (uint32_t)count;
    s.few_count = !weights && count <= ABI_FEW ? (uint32_t)count : 0;
    for (uint32_t i = 0; i < s.few_count; i++)
        s.few[i] = lab_few(lab, ids[i]);
    for (uint32_t r = 0; r < s.rows; r++) {
        uint32_t index = s.first_row + r;
        struct abi_row row;
        for (size_t c = 0; c < ABI_CANDIDATES; c++)
            row.backend[c] =
                c < count ? lab_deal(ids, weights ? weights : equal, count, &row, c) : ABI_NO_BACKEND;
        lab_set(lab, "rows", &index, &row);
    }
    lab->next_row += s.rows;
    lab_set(lab, "services", &at, &s);
}

/* --- sockets -------------------------------------------------------------------------------------------- */

struct lab_name {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } u;
    socklen_t len;
};

/* An address for a socket of the family: an IPv4 one for an IPv6 socket is mapped. */
static inline struct lab_name lab_name(int family, const char *addr, uint16_t port)
{
    struct lab_name n = {0};
    struct abi_addr a = lab_addr(addr);
    if (family == AF_INET) {
        n.u.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
        memcpy(&n.u.in.sin_addr, &a.word[3], 4);
        n.len = sizeof(n.u.in);
    } else {
        n.u.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port)};
        memcpy(&n.u.in6.sin6_addr, &a, 16);
        n.len = sizeof(n.u.in6);
    }
    return n;
}

static inline bool lab_same_name(const struct lab_name *a, const struct lab_name *b)
{
    if (a->len != b->len || a->u.any.sa_family != b->u.any.sa_family)
        return false;
    if (a->u.any.sa_family == AF_INET)
        return a->u.in.sin_port == b->u.in.sin_port && a->u.in.sin_addr.s_addr == b->u.in.sin_addr.s_addr;
    return a->u.in6.sin6_port == b->u.in6.sin6_port &&
           memcmp(&a->u.in6.sin6_addr, &b->u.in6.sin6_addr, 16) == 0;
}

static inline int lab_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    return fd;
}

static inline int lab_listen(const char *addr, uint16_t port, int backlog)
{
    struct lab_name n = lab_name(strchr(addr, ':') ? AF_INET6 : AF_INET, addr, port);
    int fd = lab_socket(n.u.any.sa_family), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, &n.u.any, n.len) || listen(fd, backlog))
        fail_msg("%s %u: %s", addr, port, strerror(errno));
    return fd;
}

/* 0 or -errno. */
static inline int lab_connect(int fd, int family, const char *addr, uint16_t port)
{
    struct lab_name n = lab_name(family, addr, port);
    return connect(fd, &n.u.any, n.len) ? -errno : 0;
}

/* A connected socket. */
static inline int lab_connected(int family, const char *addr, uint16_t port)
{
    int fd = lab_socket(family), result = lab_connect(fd, family, addr, port);
    if (result)
        fail_msg("connect %s %u: %s", addr, port, strerror(-result));
    return fd;
}

/* 0 or -errno of one attempt. */
static inline int lab_try(int family, const char *addr, uint16_t port)
{
    int fd = lab_socket(family), result = lab_connect(fd, family, addr, port);
    close(fd);
    return result;
}

/* The next connection of the listener, or -1 if none comes soon. */
static inline int lab_accept(int listener)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};
    return poll(&p, 1, LAB_WAIT_MS) == 1 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
}

static inline void lab_reset(int fd)
{
    struct linger off = {.l_onoff = 1};
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off)), 0);
    close(fd);
}

static inline uint64_t lab_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Waits until the backend is in the state; false if it does not come to it. */
static inline bool lab_await_state(const struct lab *lab, uint32_t id, enum abi_state state)
{
    uint64_t until = lab_now_ns() + LAB_WAIT_MS * 1000000ull;
    while (ABI_VERDICT_STATE(lab_verdict(lab, id)) != state) {
        if (lab_now_ns() > until)
            return false;
        usleep(500);
    }
    return true;
}

/* Waits until no connection is counted. */
static inline bool lab_await_active(const struct lab *lab, uint32_t id, uint32_t active)
{
    uint64_t until = lab_now_ns() + LAB_WAIT_MS * 1000000ull;
    while (lab_active(lab, id) != active) {
        if (lab_now_ns() > until)
            return false;
        usleep(1000);
    }
    return true;
}

#endif
