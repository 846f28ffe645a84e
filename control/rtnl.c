/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rtnl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { BUFFER_BYTES = 8192, BUCKET_LIMIT_BYTES = 10000 };

struct rtnl {
    struct mnl_socket *socket;
    uint32_t sequence;
    char buffer[BUFFER_BYTES];
};

int rtnl_open(struct rtnl **out)
{
    struct rtnl *rtnl = calloc(1, sizeof(*rtnl));
    int result;
    CHECK(rtnl);
    rtnl->socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (!rtnl->socket)
        goto err_socket;
    if (mnl_socket_bind(rtnl->socket, 0, MNL_SOCKET_AUTOPID))
        goto err_bind;
    *out = rtnl;
    return 0;
err_bind:
    result = -errno;
    mnl_socket_close(rtnl->socket);
    free(rtnl);
    return result;
err_socket:
    result = -errno;
    free(rtnl);
    return result;
}

void rtnl_close(struct rtnl *rtnl)
{
    mnl_socket_close(rtnl->socket);
    free(rtnl);
}

static struct nlmsghdr *begin(struct rtnl *rtnl, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *head = mnl_nlmsg_put_header(rtnl->buffer);
    head->nlmsg_type = type;
    head->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    head->nlmsg_seq = ++rtnl->sequence;
    return head;
}

static int finish(struct rtnl *rtnl, struct nlmsghdr *head)
{
    uint32_t sequence = head->nlmsg_seq;
    unsigned port = mnl_socket_get_portid(rtnl->socket);
    if (mnl_socket_sendto(rtnl->socket, head, head->nlmsg_len) < 0)
        return -errno;
    ssize_t len = mnl_socket_recvfrom(rtnl->socket, rtnl->buffer, sizeof(rtnl->buffer));
    if (len < 0)
        return -errno;
    return mnl_cb_run(rtnl->buffer, (size_t)len, sequence, port, NULL, NULL) < 0 ? -errno : 0;
}

int rtnl_veth(struct rtnl *rtnl, const char *name, const char *peer, int peer_ns)
{
    struct nlmsghdr *head = begin(rtnl, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    mnl_nlmsg_put_extra_header(head, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(head, IFLA_IFNAME, name);
    struct nlattr *info = mnl_attr_nest_start(head, IFLA_LINKINFO);
    mnl_attr_put_strz(head, IFLA_INFO_KIND, "veth");
    struct nlattr *data = mnl_attr_nest_start(head, IFLA_INFO_DATA);
    struct nlattr *other = mnl_attr_nest_start(head, VETH_INFO_PEER);
    mnl_nlmsg_put_extra_header(head, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(head, IFLA_IFNAME, peer);
    if (peer_ns >= 0)
        mnl_attr_put_u32(head, IFLA_NET_NS_FD, (uint32_t)peer_ns);
    mnl_attr_nest_end(head, other);
    mnl_attr_nest_end(head, data);
    mnl_attr_nest_end(head, info);
    return finish(rtnl, head);
}

int rtnl_delete(struct rtnl *rtnl, const char *name)
{
    struct nlmsghdr *head = begin(rtnl, RTM_DELLINK, 0);
    mnl_nlmsg_put_extra_header(head, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(head, IFLA_IFNAME, name);
    int result = finish(rtnl, head);
    return result == -ENODEV ? 0 : result;
}

int rtnl_up(struct rtnl *rtnl, uint32_t ifindex, bool silent, uint32_t mtu_bytes)
{
    struct nlmsghdr *head = begin(rtnl, RTM_NEWLINK, 0);
    struct ifinfomsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->ifi_index = (int)ifindex;
    info->ifi_flags = IFF_UP | (silent ? IFF_NOARP : 0);
    info->ifi_change = info->ifi_flags;
    if (mtu_bytes)
        mnl_attr_put_u32(head, IFLA_MTU, mtu_bytes);
    return finish(rtnl, head);
}

int rtnl_address(struct rtnl *rtnl, uint32_t ifindex, const struct abi_addr *addr, uint8_t prefix_bits)
{
    bool v4 = addr->word[0] == 0 && addr->word[1] == 0 && addr->word[2] == htonl(0xffff);
    const void *bytes = v4 ? &addr->word[3] : &addr->word[0];
    size_t len = v4 ? 4 : 16;
    struct nlmsghdr *head = begin(rtnl, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
    struct ifaddrmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->ifa_family = v4 ? AF_INET : AF_INET6;
    info->ifa_prefixlen = prefix_bits;
    info->ifa_flags = v4 ? 0 : IFA_F_NODAD;
    info->ifa_index = ifindex;
    mnl_attr_put(head, IFA_LOCAL, len, bytes);
    mnl_attr_put(head, IFA_ADDRESS, len, bytes);
    int result = finish(rtnl, head);
    return result == -EEXIST ? 0 : result;
}

int rtnl_managed_neighbour(struct rtnl *rtnl, uint32_t ifindex, uint32_t addr)
{
    struct nlmsghdr *head = begin(rtnl, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
    struct ndmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->ndm_family = AF_INET;
    info->ndm_ifindex = (int)ifindex;
    info->ndm_state = NUD_NONE;
    mnl_attr_put(head, NDA_DST, sizeof(addr), &addr);
    mnl_attr_put_u32(head, NDA_FLAGS_EXT, NTF_EXT_MANAGED);
    return finish(rtnl, head);
}

int rtnl_token_bucket(struct rtnl *rtnl, uint32_t ifindex, uint32_t bytes_per_second, uint32_t burst_bytes)
{
    struct tc_tbf_qopt options = {
        .rate = {.linklayer = TC_LINKLAYER_ETHERNET, .rate = bytes_per_second},
        .limit = BUCKET_LIMIT_BYTES,
    };
    struct nlmsghdr *head = begin(rtnl, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE);
    struct tcmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->tcm_family = AF_UNSPEC;
    info->tcm_ifindex = (int)ifindex;
    info->tcm_parent = TC_H_ROOT;
    mnl_attr_put_strz(head, TCA_KIND, "tbf");
    struct nlattr *nest = mnl_attr_nest_start(head, TCA_OPTIONS);
    mnl_attr_put(head, TCA_TBF_PARMS, sizeof(options), &options);
    mnl_attr_put_u32(head, TCA_TBF_BURST, burst_bytes);
    mnl_attr_nest_end(head, nest);
    return finish(rtnl, head);
}
