/* SPDX-License-Identifier: Apache-2.0 */
#include "control/listeners.h"

#include <errno.h>
#include <netinet/in.h>
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
static int probe_free(const struct config_address *address)
{
    const struct timespec pause = {0, PROBE_PAUSE_MS * 1000000L};
    int fd = open_bound(address, false);
    for (int waited_ms = 0; fd == -EADDRINUSE && waited_ms < PROBE_WAIT_MS; waited_ms += PROBE_PAUSE_MS) {
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

static bool has_group(const struct listeners *listeners, const struct config_address *address)
{
    for (uint16_t i = 0; i < listeners->group_count; i++)
        if (strcmp(listeners->group[i].address.text, address->text) == 0)
            return true;
    return false;
}

void listeners_adopt(struct listeners *listeners, const struct config_address *addresses, size_t count,
                     int fd[LISTENERS_MAX])
{
    for (size_t i = 0; i < count; i++) {
        uint16_t first = 0, end;
        while (first < LISTENERS_MAX && !bound_to(fd[first], &addresses[i]))
            first++;
        for (end = first; end < LISTENERS_MAX && bound_to(fd[end], &addresses[i]); end++) {
            listeners->fd[end] = fd[end];
            fd[end] = -1;
        }
        if (end > first)
            add_group(listeners, &addresses[i], first, (uint16_t)(end - first));
    }
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

int listeners_add(struct listeners *listeners, const struct config_address *address, bool shared, char *err,
                  size_t err_len)
{
    if (has_group(listeners, address))
        return 0;
    if (listeners->group_count == PLAN_LISTENERS_MAX || find_slots(listeners, listeners->per_address) < 0) {
        snprintf(err, err_len,
                 "cannot listen on %s: no more than %d listening sockets; write fewer addresses",
                 address->text, LISTENERS_MAX);
        return -ENOSPC;
    }
    int result = shared ? 0 : probe_free(address);
    if (!result)
        result = open_group(listeners, address);
    if (result) {
        explain(address->text, result, err, err_len);
        return result;
    }
    return 0;
}
