/* SPDX-License-Identifier: Apache-2.0 */
#include "control/listeners.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

void listeners_init(struct listeners *listeners, uint16_t per_address)
{
    CHECK(per_address >= 1 && per_address <= LISTENERS_PER_ADDRESS_MAX);
    memset(listeners, 0, sizeof(*listeners));
    for (int i = 0; i < LISTENERS_MAX; i++)
        listeners->fd[i] = -1;
    listeners->per_address = per_address;
}

void listeners_close(struct listeners *listeners)
{
    for (uint16_t i = 0; i < listeners->fd_count; i++) {
        if (listeners->fd[i] >= 0)
            close(listeners->fd[i]);
        listeners->fd[i] = -1;
    }
    listeners->fd_count = 0;
    listeners->group_count = 0;
}

enum { PROBE_WAIT_MS = 2000, PROBE_PAUSE_MS = 20 };

static int set_option(int fd, int level, int name)
{
    int on = 1;
    return setsockopt(fd, level, name, &on, sizeof(on)) ? -errno : 0;
}

/* A bound socket, or -errno. */
static int open_bound(const struct config_address *address, bool reuse_port)
{
    int family = address->addr.ss_family;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int err = set_option(fd, SOL_SOCKET, SO_REUSEADDR);
    if (!err && reuse_port)
        err = set_option(fd, SOL_SOCKET, SO_REUSEPORT);
    if (!err && family == AF_INET6)
        err = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    if (!err && address->service == SERVICE_PROXY) /* it need not be on an interface */
        err = family == AF_INET6 ? set_option(fd, IPPROTO_IPV6, IPV6_FREEBIND)
                                 : set_option(fd, IPPROTO_IP, IP_FREEBIND);
    if (!err && bind(fd, (const struct sockaddr *)&address->addr, address->addr_len))
        err = -errno;
    if (err)
        close(fd);
    return err ? err : fd;
}

/*
 * Whether somebody else listens there. SO_REUSEPORT alone would share the address with him in silence. A data
 * plane that was killed a moment ago may still hold it: the kernel takes its rings apart after its end, in
 * the background.
 */
static int probe_free(const struct config_address *address, int wait_ms)
{
    const struct timespec pause = {0, PROBE_PAUSE_MS * 1000000L};
    int fd = open_bound(address, false);
    for (int waited_ms = 0; fd == -EADDRINUSE && waited_ms < wait_ms; waited_ms += PROBE_PAUSE_MS) {
        nanosleep(&pause, NULL);
        fd = open_bound(address, false);
    }
    if (fd < 0)
        return fd;
    close(fd);
    return 0;
}

/* The first of `count` free slots in a row, or -ENOSPC. */
static int find_slots(const struct listeners *listeners, uint16_t count)
{
    int run = 0;
    for (int i = 0; i < LISTENERS_MAX; i++) {
        run = listeners->fd[i] < 0 ? run + 1 : 0;
        if (run == count)
            return i + 1 - count;
    }
    return -ENOSPC;
}

static void add_group(struct listeners *listeners, const struct config_address *address, uint16_t first,
                      uint16_t count)
{
    listeners->group[listeners->group_count++] =
        (struct listener_group){.address = *address, .first = first, .count = count};
    if (listeners->fd_count < first + count)
        listeners->fd_count = (uint16_t)(first + count);
}

static int open_group(struct listeners *listeners, const struct config_address *address)
{
    int first = find_slots(listeners, listeners->per_address);
    if (first < 0)
        return first;
    for (int i = 0; i < listeners->per_address; i++) {
        int fd = open_bound(address, true);
        if (fd >= 0 && listen(fd, LISTENER_BACKLOG)) {
            int err = -errno;
            close(fd);
            fd = err;
        }
        if (fd < 0) {
            while (i-- > 0) {
                close(listeners->fd[first + i]);
                listeners->fd[first + i] = -1;
            }
            return fd;
        }
        listeners->fd[first + i] = fd;
    }
    add_group(listeners, address, (uint16_t)first, listeners->per_address);
    return 0;
}

static bool bound_to(int fd, const struct config_address *address)
{
    struct sockaddr_storage own = {0};
    socklen_t len = sizeof(own);
    return fd >= 0 && getsockname(fd, (struct sockaddr *)&own, &len) == 0 && len == address->addr_len &&
           memcmp(&own, &address->addr, len) == 0;
}

static struct listener_group *find_group(struct listeners *listeners, const struct config_address *address)
{
    for (uint16_t i = 0; i < listeners->group_count; i++)
        if (strcmp(listeners->group[i].address.text, address->text) == 0)
            return &listeners->group[i];
    return NULL;
}

/*
 * Drops what asks for a connection (SYN without ACK; the filter sees the TCP header and what follows), and
 * lets handshakes that have begun come to their end. Accepted connections inherit it, and never get such a
 * segment. It is the socket's, so it holds in the data plane's copy too.
 */
static int refuse_quietly(int fd)
{
    enum { FLAGS_AT = 13, SYN = 0x02, ACK = 0x10 };
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FLAGS_AT),   BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1), BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    const struct sock_fprog program = {.len = ARRAY_SIZE(code), .filter = code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ? -errno : 0;
}

int listeners_leave(struct listeners *listeners, uint16_t group, uint64_t now_ms)
{
    struct listener_group *g = &listeners->group[group];
    int err = 0;
    g->leaving = true;
    g->leaving_ms = now_ms;
    for (unsigned i = 0; i < g->count && !err; i++)
        err = refuse_quietly(listeners->fd[g->first + i]);
    return err;
}

/* Connects that were dropped meanwhile come again by themselves. */
static void stay(struct listeners *listeners, struct listener_group *g)
{
    int none = 0;
    g->leaving = false;
    for (unsigned i = 0; i < g->count; i++) /* there may be no filter */
        (void)setsockopt(listeners->fd[g->first + i], SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none));
}

/* Of a listening socket, the kernel says in this field how many connections wait. */
bool listeners_waited_for(const struct listeners *listeners, uint16_t group)
{
    const struct listener_group *g = &listeners->group[group];
    for (unsigned i = 0; i < g->count; i++) {
        struct tcp_info info = {0};
        socklen_t len = sizeof(info);
        if (getsockopt(listeners->fd[g->first + i], IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
            info.tcpi_unacked)
            return true;
    }
    return false;
}

void listeners_remove(struct listeners *listeners, uint16_t group)
{
    struct listener_group *g = &listeners->group[group];
    for (unsigned i = 0; i < g->count; i++) {
        close(listeners->fd[g->first + i]);
        listeners->fd[g->first + i] = -1;
    }
    listeners->group_count--;
    memmove(g, g + 1, (listeners->group_count - group) * sizeof(*g));
}

/* Takes the sockets of that address, which are in a row. */
static struct listener_group *adopt_group(struct listeners *listeners, const struct config_address *address,
                                          int fd[LISTENERS_MAX])
{
    uint16_t first = 0, end;
    while (first < LISTENERS_MAX && !bound_to(fd[first], address))
        first++;
    for (end = first; end < LISTENERS_MAX && bound_to(fd[end], address); end++) {
        listeners->fd[end] = fd[end];
        fd[end] = -1;
    }
    if (end == first)
        return NULL;
    add_group(listeners, address, first, (uint16_t)(end - first));
    return &listeners->group[listeners->group_count - 1];
}

/* `wanted`: groups that are needed anyway. */
static bool has_room(const struct listeners *listeners, size_t wanted)
{
    return wanted < PLAN_LISTENERS_MAX && (wanted + 1) * listeners->per_address <= LISTENERS_MAX;
}

static void adopt_others(struct listeners *listeners, size_t configured, int fd[LISTENERS_MAX])
{
    size_t wanted = configured;
    for (int i = 0; i < LISTENERS_MAX && has_room(listeners, wanted); i++) {
        struct config_address address;
        if (fd[i] < 0 || config_address_of_socket(fd[i], &address))
            continue;
        (void)adopt_group(listeners, &address, fd);
        wanted++;
    }
}

void listeners_adopt(struct listeners *listeners, const struct config_address *addresses, size_t count,
                     int fd[LISTENERS_MAX])
{
    for (size_t i = 0; i < count; i++) {
        struct listener_group *g = adopt_group(listeners, &addresses[i], fd);
        if (g)
            stay(listeners, g); /* it may have been leaving when the control before ended */
    }
    adopt_others(listeners, count, fd);
}

static uint16_t port_of(const struct config_address *address)
{
    const struct sockaddr *sa = (const struct sockaddr *)&address->addr;
    return sa->sa_family == AF_INET6 ? ((const struct sockaddr_in6 *)sa)->sin6_port
                                     : ((const struct sockaddr_in *)sa)->sin_port;
}

static bool is_wildcard(const struct config_address *address)
{
    const struct sockaddr *sa = (const struct sockaddr *)&address->addr;
    if (sa->sa_family == AF_INET6)
        return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)sa)->sin6_addr);
    return ((const struct sockaddr_in *)sa)->sin_addr.s_addr == htonl(INADDR_ANY);
}

static bool overlap(const struct config_address *a, const struct config_address *b)
{
    return a->addr.ss_family == b->addr.ss_family && port_of(a) == port_of(b) &&
           (is_wildcard(a) || is_wildcard(b));
}

/* Then the address is our own; the connects that the old group drops come again, to the new one. */
static bool leaves_room_for(const struct listeners *listeners, const struct config_address *address)
{
    for (uint16_t i = 0; i < listeners->group_count; i++) {
        const struct listener_group *g = &listeners->group[i];
        if (g->leaving && overlap(&g->address, address))
            return true;
    }
    return false;
}

static void explain(const char *address, int err, char *out, size_t out_len)
{
    const char *hint = "write another address";
    if (err == -EADDRINUSE)
        hint = "another process listens there: stop it (ss -ltnp shows it), or write another port";
    else if (err == -EADDRNOTAVAIL)
        hint = "no interface of this machine has it: write one that `ip address` shows";
    else if (err == -EACCES)
        hint = "ports below 1024 are for root: write a higher one";
    else if (err == -EAFNOSUPPORT)
        hint = "IPv6 is switched off here: write an IPv4 address";
    snprintf(out, out_len, "cannot listen on %s: %s; %s", address, strerror(-err), hint);
}

static bool has_place(const struct listeners *listeners, const char *address, char *err, size_t err_len)
{
    if (listeners->group_count < PLAN_LISTENERS_MAX && find_slots(listeners, listeners->per_address) >= 0)
        return true;
    snprintf(
        err, err_len,
        "cannot listen on %s: each address has %u sockets, and there are at most %d on %d addresses; remove "
        "some",
        address, listeners->per_address, LISTENERS_MAX, PLAN_LISTENERS_MAX);
    return false;
}

int listeners_try(const struct listeners *listeners, const struct config_address *address, char *err,
                  size_t err_len)
{
    for (uint16_t i = 0; i < listeners->group_count; i++) {
        const struct config_address *there = &listeners->group[i].address;
        if (strcmp(there->text, address->text) == 0 && there->service != SERVICE_PROXY) {
            snprintf(err, err_len, "%s is an address of this node itself, in the configuration's listen",
                     address->text);
            return -EADDRINUSE;
        }
        if (strcmp(there->text, address->text) == 0)
            return 0;
    }
    if (!has_place(listeners, address->text, err, err_len))
        return -ENOSPC;
    int result = probe_free(address, 0);
    if (result)
        explain(address->text, result, err, err_len);
    return result;
}

int listeners_add(struct listeners *listeners, const struct config_address *address, bool shared, char *err,
                  size_t err_len)
{
    struct listener_group *there = find_group(listeners, address);
    if (there && (there->leaving || there->address.service == 0)) /* a filter of the control before, too */
        stay(listeners, there);
    if (there) {
        there->address = *address;
        return 0;
    }
    if (!has_place(listeners, address->text, err, err_len))
        return -ENOSPC;
    int wait_ms = address->service == SERVICE_PROXY ? 0 : PROBE_WAIT_MS; /* those are tried again */
    int result = shared || leaves_room_for(listeners, address) ? 0 : probe_free(address, wait_ms);
    if (!result)
        result = open_group(listeners, address);
    if (result) {
        explain(address->text, result, err, err_len);
        return result;
    }
    return 0;
}
