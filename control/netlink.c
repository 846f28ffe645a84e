/* SPDX-License-Identifier: Apache-2.0 */
#include "control/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/abi_addr.h"
#include "control/netlink_private.h"

enum { BUFFER_BYTES = 32 << 10 };

struct netlink {
    struct mnl_socket *socket;
    uint32_t sequence;
    char buffer[BUFFER_BYTES];
};

static struct mnl_socket *open_socket(unsigned groups, int flags)
{
    struct mnl_socket *socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | flags);
    if (!socket)
        return NULL;
    if (mnl_socket_bind(socket, groups, MNL_SOCKET_AUTOPID) == 0)
        return socket;
    int error = errno;
    mnl_socket_close(socket);
    errno = error;
    return NULL;
}

int netlink_open(struct netlink **out)
{
    struct netlink *netlink = calloc(1, sizeof(*netlink));
    CHECK(netlink);
    netlink->socket = open_socket(0, 0);
    if (!netlink->socket) {
        int result = -errno;
        free(netlink);
        return result;
    }
    *out = netlink;
    return 0;
}

void netlink_close(struct netlink *netlink)
{
    mnl_socket_close(netlink->socket);
    free(netlink);
}

struct nlmsghdr *netlink_request(struct netlink *netlink, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *head = mnl_nlmsg_put_header(netlink->buffer);
    head->nlmsg_type = type;
    head->nlmsg_flags = NLM_F_REQUEST | flags;
    head->nlmsg_seq = ++netlink->sequence;
    return head;
}

int netlink_ask(struct netlink *netlink, struct nlmsghdr *head, mnl_cb_t each, void *arg)
{
    unsigned port = mnl_socket_get_portid(netlink->socket);
    uint32_t sequence = head->nlmsg_seq;
    bool dump = (head->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
    if (mnl_socket_sendto(netlink->socket, head, head->nlmsg_len) < 0)
        return -errno;
    for (;;) {
        ssize_t len = mnl_socket_recvfrom(netlink->socket, netlink->buffer, sizeof(netlink->buffer));
        if (len < 0)
            return -errno;
        int more = mnl_cb_run(netlink->buffer, (size_t)len, sequence, port, each, arg);
        if (more < 0)
            return -errno;
        if (more == MNL_CB_STOP || !dump)
            return 0;
    }
}

/* Attributes into a table by their type. */
struct attributes {
    const struct nlattr **table;
    uint16_t max;
};

static int take_attribute(const struct nlattr *attribute, void *arg)
{
    const struct attributes *to = arg;
    uint16_t type = mnl_attr_get_type(attribute);
    if (type <= to->max)
        to->table[type] = attribute;
    return MNL_CB_OK;
}

/* What a dump brought, told only when it is whole: whoever is told may ask again. */
struct list {
    size_t size, count, cap; /* bytes of an item; items */
    char *item;
};

static void list_add(struct list *list, const void *item)
{
    if (list->count == list->cap) {
        list->cap = list->cap * 2 + 16;
        list->item = reallocarray(list->item, list->cap, list->size);
        CHECK(list->item);
    }
    memcpy(list->item + list->count++ * list->size, item, list->size);
}

/* Devices. */

static void read_kind(const struct nlattr *info, struct netlink_device *device)
{
    const struct nlattr *table[IFLA_INFO_MAX + 1] = {NULL};
    struct attributes to = {table, IFLA_INFO_MAX};
    mnl_attr_parse_nested(info, take_attribute, &to);
    if (table[IFLA_INFO_KIND])
        snprintf(device->kind, sizeof(device->kind), "%s", mnl_attr_get_str(table[IFLA_INFO_KIND]));
}

static int read_device(const struct nlmsghdr *head, void *arg)
{
    const struct ifinfomsg *info = mnl_nlmsg_get_payload(head);
    const struct nlattr *table[IFLA_MAX + 1] = {NULL};
    struct attributes to = {table, IFLA_MAX};
    struct netlink_device device = {.ifindex = (uint32_t)info->ifi_index,
                                    .loopback = (info->ifi_flags & IFF_LOOPBACK) != 0,
                                    .up = (info->ifi_flags & IFF_UP) != 0,
                                    .ethernet = info->ifi_type == ARPHRD_ETHER};
    if (head->nlmsg_type != RTM_NEWLINK)
        return MNL_CB_OK;
    mnl_attr_parse(head, sizeof(*info), take_attribute, &to);
    if (table[IFLA_IFNAME])
        snprintf(device.name, sizeof(device.name), "%s", mnl_attr_get_str(table[IFLA_IFNAME]));
    if (table[IFLA_MASTER])
        device.master = mnl_attr_get_u32(table[IFLA_MASTER]);
    if (table[IFLA_LINKINFO])
        read_kind(table[IFLA_LINKINFO], &device);
    if (table[IFLA_ADDRESS] && mnl_attr_get_payload_len(table[IFLA_ADDRESS]) <= sizeof(device.mac))
        memcpy(device.mac, mnl_attr_get_payload(table[IFLA_ADDRESS]),
               mnl_attr_get_payload_len(table[IFLA_ADDRESS]));
    list_add(arg, &device);
    return MNL_CB_OK;
}

int netlink_devices(struct netlink *netlink, void (*each)(void *arg, const struct netlink_device *device),
                    void *arg)
{
    struct nlmsghdr *head = netlink_request(netlink, RTM_GETLINK, NLM_F_DUMP);
    struct list list = {.size = sizeof(struct netlink_device)};
    struct ifinfomsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->ifi_family = AF_UNSPEC;
    int result = netlink_ask(netlink, head, read_device, &list);
    for (size_t i = 0; i < list.count; i++)
        each(arg, (const struct netlink_device *)(list.item + i * list.size));
    free(list.item);
    return result;
}

struct alias_wanted {
    char *out;
    size_t cap;
};

static int read_alias(const struct nlmsghdr *head, void *arg)
{
    const struct alias_wanted *wanted = arg;
    const struct nlattr *table[IFLA_MAX + 1] = {NULL};
    struct attributes to = {table, IFLA_MAX};
    if (head->nlmsg_type != RTM_NEWLINK)
        return MNL_CB_OK;
    mnl_attr_parse(head, sizeof(struct ifinfomsg), take_attribute, &to);
    if (table[IFLA_IFALIAS])
        snprintf(wanted->out, wanted->cap, "%s", mnl_attr_get_str(table[IFLA_IFALIAS]));
    return MNL_CB_OK;
}

int netlink_alias(struct netlink *netlink, const char *name, char *out, size_t cap)
{
    struct alias_wanted wanted = {out, cap};
    struct nlmsghdr *head = netlink_request(netlink, RTM_GETLINK, 0);
    mnl_nlmsg_put_extra_header(head, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(head, IFLA_IFNAME, name);
    out[0] = '\0';
    return netlink_ask(netlink, head, read_alias, &wanted);
}

/* Addresses. */

static bool take_address(const struct nlattr *attribute, struct abi_addr *out)
{
    size_t len = attribute ? mnl_attr_get_payload_len(attribute) : 0;
    *out = (struct abi_addr){{0}};
    if (len == 4) {
        out->word[2] = htonl(0xffff);
        memcpy(&out->word[3], mnl_attr_get_payload(attribute), len);
    } else if (len == 16) {
        memcpy(out->word, mnl_attr_get_payload(attribute), len);
    }
    return len == 4 || len == 16;
}

/* A group that was joined for good (IFA_F_MCAUTOJOIN) is listed among the addresses. */
static bool is_group(const struct abi_addr *addr)
{
    return ntohl(addr->word[0]) >> 24 == 0xff;
}

static int read_address(const struct nlmsghdr *head, void *arg)
{
    const struct ifaddrmsg *info = mnl_nlmsg_get_payload(head);
    const struct nlattr *table[IFA_MAX + 1] = {NULL};
    struct attributes to = {table, IFA_MAX};
    struct netlink_address address = {.ifindex = info->ifa_index, .prefix_bits = info->ifa_prefixlen};
    if (head->nlmsg_type != RTM_NEWADDR)
        return MNL_CB_OK;
    mnl_attr_parse(head, sizeof(*info), take_attribute, &to);
    if (take_address(table[IFA_LOCAL] ? table[IFA_LOCAL] : table[IFA_ADDRESS], &address.addr) &&
        !is_group(&address.addr))
        list_add(arg, &address);
    return MNL_CB_OK;
}

int netlink_addresses(struct netlink *netlink, void (*each)(void *arg, const struct netlink_address *address),
                      void *arg)
{
    struct nlmsghdr *head = netlink_request(netlink, RTM_GETADDR, NLM_F_DUMP);
    struct list list = {.size = sizeof(struct netlink_address)};
    struct ifaddrmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->ifa_family = AF_UNSPEC;
    int result = netlink_ask(netlink, head, read_address, &list);
    for (size_t i = 0; i < list.count; i++)
        each(arg, (const struct netlink_address *)(list.item + i * list.size));
    free(list.item);
    return result;
}

/* Routes. */

static int read_route(const struct nlmsghdr *head, void *arg)
{
    struct netlink_route *out = arg;
    const struct rtmsg *info = mnl_nlmsg_get_payload(head);
    const struct nlattr *table[RTA_MAX + 1] = {NULL};
    struct attributes to = {table, RTA_MAX};
    if (head->nlmsg_type != RTM_NEWROUTE)
        return MNL_CB_OK;
    mnl_attr_parse(head, sizeof(*info), take_attribute, &to);
    out->local = info->rtm_type == RTN_LOCAL;
    if (table[RTA_OIF])
        out->ifindex = mnl_attr_get_u32(table[RTA_OIF]);
    take_address(table[RTA_PREFSRC], &out->source);
    return MNL_CB_OK;
}

int netlink_route(struct netlink *netlink, const struct abi_addr *to, struct netlink_route *out)
{
    bool v4 = abi_addr_is_v4(to);
    struct nlmsghdr *head = netlink_request(netlink, RTM_GETROUTE, 0);
    struct rtmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    *out = (struct netlink_route){0};
    info->rtm_family = v4 ? AF_INET : AF_INET6;
    info->rtm_dst_len = v4 ? 32 : 128;
    if (v4)
        mnl_attr_put_u32(head, RTA_DST, to->word[3]);
    else
        mnl_attr_put(head, RTA_DST, sizeof(to->word), to->word);
    return netlink_ask(netlink, head, read_route, out);
}

struct local_routes_walk {
    uint8_t protocol;
    uint32_t metric;
    void (*each)(void *arg, const struct abi_addr *addr);
    void *arg;
};

static int read_local_route(const struct nlmsghdr *head, void *arg)
{
    const struct local_routes_walk *walk = arg;
    const struct rtmsg *info = mnl_nlmsg_get_payload(head);
    const struct nlattr *table[RTA_MAX + 1] = {NULL};
    struct attributes to = {table, RTA_MAX};
    struct abi_addr addr = {{0}};
    if (head->nlmsg_type != RTM_NEWROUTE || info->rtm_type != RTN_LOCAL ||
        info->rtm_protocol != walk->protocol)
        return MNL_CB_OK;
    mnl_attr_parse(head, sizeof(*info), take_attribute, &to);
    if (!table[RTA_DST] || !table[RTA_PRIORITY] || mnl_attr_get_u32(table[RTA_PRIORITY]) != walk->metric)
        return MNL_CB_OK;
    take_address(table[RTA_DST], &addr);
    walk->each(walk->arg, &addr);
    return MNL_CB_OK;
}

int netlink_local_routes(struct netlink *netlink, uint8_t protocol, uint32_t metric,
                         void (*each)(void *arg, const struct abi_addr *addr), void *arg)
{
    static const uint8_t families[] = {AF_INET, AF_INET6};
    struct local_routes_walk walk = {protocol, metric, each, arg};
    int result = 0, on = 1, off = 0;
    /* The kernel looks only through that table then: others may have a million routes. */
    (void)mnl_socket_setsockopt(netlink->socket, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
    for (size_t i = 0; i < ARRAY_SIZE(families) && !result; i++) {
        struct nlmsghdr *head = netlink_request(netlink, RTM_GETROUTE, NLM_F_DUMP);
        struct rtmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
        info->rtm_family = families[i];
        info->rtm_table = RT_TABLE_LOCAL;
        info->rtm_protocol = protocol;
        info->rtm_type = RTN_LOCAL;
        result = netlink_ask(netlink, head, read_local_route, &walk);
        if (families[i] == AF_INET6 && (result == -ENOENT || result == -EOPNOTSUPP)) /* it is switched off */
            result = 0;
    }
    (void)mnl_socket_setsockopt(netlink->socket, NETLINK_GET_STRICT_CHK, &off, sizeof(off));
    return result;
}

/* Neighbours. */

static int read_neighbour(const struct nlmsghdr *head, void *arg)
{
    uint8_t *mac = arg;
    const struct ndmsg *info = mnl_nlmsg_get_payload(head);
    const struct nlattr *table[NDA_MAX + 1] = {NULL};
    struct attributes to = {table, NDA_MAX};
    if (head->nlmsg_type != RTM_NEWNEIGH)
        return MNL_CB_OK;
    mnl_attr_parse(head, sizeof(*info), take_attribute, &to);
    if (!(info->ndm_state & (NUD_INCOMPLETE | NUD_FAILED)) && table[NDA_LLADDR] &&
        mnl_attr_get_payload_len(table[NDA_LLADDR]) == 6)
        memcpy(mac, mnl_attr_get_payload(table[NDA_LLADDR]), 6);
    return MNL_CB_OK;
}

int netlink_neighbour(struct netlink *netlink, uint32_t ifindex, const struct abi_addr *addr, uint8_t mac[6])
{
    static const uint8_t none[6];
    bool v4 = abi_addr_is_v4(addr);
    struct nlmsghdr *head = netlink_request(netlink, RTM_GETNEIGH, 0);
    struct ndmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    memset(mac, 0, sizeof(none));
    info->ndm_family = v4 ? AF_INET : AF_INET6;
    info->ndm_ifindex = (int)ifindex;
    if (v4)
        mnl_attr_put_u32(head, NDA_DST, addr->word[3]);
    else
        mnl_attr_put(head, NDA_DST, sizeof(addr->word), addr->word);
    int result = netlink_ask(netlink, head, read_neighbour, mac);
    return result ? result : memcmp(mac, none, sizeof(none)) == 0 ? -ENOENT : 0;
}

/* Filters. */

/* A filter's message without options belongs to its chain or priority, not to a filter. */
static int count_filter(const struct nlmsghdr *head, void *arg)
{
    int *count = arg;
    const struct tcmsg *info = mnl_nlmsg_get_payload(head);
    *count += head->nlmsg_type == RTM_NEWTFILTER && info->tcm_handle != 0;
    return MNL_CB_OK;
}

int netlink_filter_count(struct netlink *netlink, uint32_t ifindex, uint32_t parent)
{
    int count = 0;
    struct nlmsghdr *head = netlink_request(netlink, RTM_GETTFILTER, NLM_F_DUMP);
    struct tcmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->tcm_family = AF_UNSPEC;
    info->tcm_ifindex = (int)ifindex;
    info->tcm_parent = parent;
    int result = netlink_ask(netlink, head, count_filter, &count);
    return result ? result : count;
}

/* The watch. */

struct netlink_watch {
    struct mnl_socket *socket;
    void (*changed)(void *arg);
    void *arg;
    uv_poll_t poll;
    uv_timer_t timer;
    unsigned open_handles;
    char buffer[BUFFER_BYTES];
};

static void on_settled(uv_timer_t *timer)
{
    struct netlink_watch *watch = timer->data;
    watch->changed(watch->arg);
}

/* What exactly has changed is asked for afterwards; a full buffer (ENOBUFS) says that too. */
static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct netlink_watch *watch = poll->data;
    (void)status;
    (void)events;
    while (mnl_socket_recvfrom(watch->socket, watch->buffer, sizeof(watch->buffer)) > 0)
        continue;
    if (!uv_is_active((uv_handle_t *)&watch->timer))
        uv_timer_start(&watch->timer, on_settled, NETLINK_SETTLE_MS, 0);
}

int netlink_watch_open(uv_loop_t *loop, void (*changed)(void *arg), void *arg, struct netlink_watch **out)
{
    const unsigned groups =
        RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
    struct netlink_watch *watch = calloc(1, sizeof(*watch));
    CHECK(watch);
    watch->socket = open_socket(groups, SOCK_NONBLOCK);
    if (!watch->socket) {
        int result = -errno;
        free(watch);
        return result;
    }
    watch->changed = changed;
    watch->arg = arg;
    watch->poll.data = watch;
    watch->timer.data = watch;
    CHECK(uv_poll_init(loop, &watch->poll, mnl_socket_get_fd(watch->socket)) == 0);
    CHECK(uv_timer_init(loop, &watch->timer) == 0);
    watch->open_handles = 2;
    CHECK(uv_poll_start(&watch->poll, UV_READABLE, on_readable) == 0);
    *out = watch;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct netlink_watch *watch = handle->data;
    if (--watch->open_handles)
        return;
    mnl_socket_close(watch->socket);
    free(watch);
}

void netlink_watch_close(struct netlink_watch *watch)
{
    uv_close((uv_handle_t *)&watch->poll, on_closed);
    uv_close((uv_handle_t *)&watch->timer, on_closed);
}
