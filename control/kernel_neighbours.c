/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_neighbours.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { BUFFER_BYTES = 32 << 10, MAC_BYTES = 6 };

struct kernel_neighbours {
    struct mnl_socket *socket;
    const struct kernel_entries *entries; /* NULL: none yet */
    void (*changed)(void *arg);
    void *arg;
    uv_poll_t poll;
    uv_timer_t timer;
    uint64_t changed_ms,
        settle_ms; /* when it was told last (0: never), and how long it waits before it tells */
    unsigned open_handles;
    char buffer[BUFFER_BYTES];
};

static bool is_candidate(const struct kernel_entries *entries, uint32_t peer, const struct abi_addr *addr)
{
    return peer > 0 && peer <= entries->peer_count &&
           memcmp(&entries->peer[peer - 1].addr, addr, sizeof(*addr)) == 0;
}

bool kernel_neighbours_is_news(const struct kernel_entries *entries, uint32_t ifindex,
                               const struct abi_addr *addr, const uint8_t mac[6])
{
    for (uint32_t i = 0; i < entries->address_count; i++) {
        const struct kernel_address *a = &entries->address[i];
        for (uint32_t at = 0; a->key.ifindex == ifindex && at < a->value.managers; at++)
            if (at != a->value.self && is_candidate(entries, a->value.peer[at], addr) &&
                memcmp(a->value.mac[at], mac, MAC_BYTES) != 0)
                return true;
    }
    return false;
}

/* Messages. */

struct told {
    const struct nlattr *addr, *mac;
};

static int take_attribute(const struct nlattr *attribute, void *arg)
{
    struct told *told = arg;
    if (mnl_attr_get_type(attribute) == NDA_DST)
        told->addr = attribute;
    if (mnl_attr_get_type(attribute) == NDA_LLADDR)
        told->mac = attribute;
    return MNL_CB_OK;
}

static bool read_addr(const struct nlattr *attribute, struct abi_addr *out)
{
    *out = (struct abi_addr){{0, 0, htonl(0xffff), 0}};
    if (attribute && mnl_attr_get_payload_len(attribute) == 4)
        memcpy(&out->word[3], mnl_attr_get_payload(attribute), 4);
    else if (attribute && mnl_attr_get_payload_len(attribute) == sizeof(out->word))
        memcpy(out->word, mnl_attr_get_payload(attribute), sizeof(out->word));
    else
        return false;
    return true;
}

static void settle(struct kernel_neighbours *n);

static int read_message(const struct nlmsghdr *head, void *arg)
{
    struct kernel_neighbours *n = arg;
    struct told told = {NULL, NULL};
    struct abi_addr addr;
    if (head->nlmsg_type != RTM_NEWNEIGH || !n->entries)
        return MNL_CB_OK;
    const struct ndmsg *info = mnl_nlmsg_get_payload(head);
    mnl_attr_parse(head, sizeof(*info), take_attribute, &told);
    if (info->ndm_state & (NUD_INCOMPLETE | NUD_FAILED) || !read_addr(told.addr, &addr) || !told.mac ||
        mnl_attr_get_payload_len(told.mac) != MAC_BYTES)
        return MNL_CB_OK;
    if (kernel_neighbours_is_news(n->entries, (uint32_t)info->ndm_ifindex, &addr,
                                  mnl_attr_get_payload(told.mac)))
        settle(n);
    return MNL_CB_OK;
}

/* The watch. */

static void on_settled(uv_timer_t *timer)
{
    struct kernel_neighbours *n = timer->data;
    n->changed_ms = uv_now(timer->loop);
    n->changed(n->arg);
}

/* Two hosts that both say that they have an address go on for as long as they are there: ever more rarely. */
static void settle(struct kernel_neighbours *n)
{
    uint64_t quiet_ms = uv_now(n->timer.loop) - n->changed_ms;
    if (uv_is_active((uv_handle_t *)&n->timer))
        return;
    if (!n->changed_ms || quiet_ms > KERNEL_NEIGHBOURS_QUIET_MS)
        n->settle_ms = KERNEL_NEIGHBOURS_SETTLE_MS;
    else if (n->settle_ms < KERNEL_NEIGHBOURS_SETTLE_MS_MAX)
        n->settle_ms *= 2;
    uv_timer_start(&n->timer, on_settled, n->settle_ms, 0);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct kernel_neighbours *n = poll->data;
    ssize_t len;
    (void)status;
    (void)events;
    while ((len = mnl_socket_recvfrom(n->socket, n->buffer, sizeof(n->buffer))) > 0)
        mnl_cb_run(n->buffer, (size_t)len, 0, 0, read_message, n);
    if (len < 0 && errno == ENOBUFS)
        settle(n);
}

static struct mnl_socket *open_socket(void)
{
    struct mnl_socket *socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (!socket || mnl_socket_bind(socket, RTMGRP_NEIGH, MNL_SOCKET_AUTOPID) == 0)
        return socket;
    int error = errno;
    mnl_socket_close(socket);
    errno = error;
    return NULL;
}

int kernel_neighbours_open(uv_loop_t *loop, void (*changed)(void *arg), void *arg,
                           struct kernel_neighbours **out)
{
    struct kernel_neighbours *n = calloc(1, sizeof(*n));
    CHECK(n);
    n->socket = open_socket();
    if (!n->socket) {
        int result = -errno;
        free(n);
        return result;
    }
    n->changed = changed;
    n->arg = arg;
    n->poll.data = n;
    n->timer.data = n;
    CHECK(uv_poll_init(loop, &n->poll, mnl_socket_get_fd(n->socket)) == 0);
    CHECK(uv_timer_init(loop, &n->timer) == 0);
    n->open_handles = 2;
    CHECK(uv_poll_start(&n->poll, UV_READABLE, on_readable) == 0);
    *out = n;
    return 0;
}

void kernel_neighbours_set(struct kernel_neighbours *neighbours, const struct kernel_entries *entries)
{
    neighbours->entries = entries;
}

static void on_closed(uv_handle_t *handle)
{
    struct kernel_neighbours *n = handle->data;
    if (--n->open_handles)
        return;
    mnl_socket_close(n->socket);
    free(n);
}

void kernel_neighbours_close(struct kernel_neighbours *neighbours)
{
    uv_close((uv_handle_t *)&neighbours->poll, on_closed);
    uv_close((uv_handle_t *)&neighbours->timer, on_closed);
}
