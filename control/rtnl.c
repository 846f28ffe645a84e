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

#include "control/abi_addr.h"
#include "control/netlink_private.h"

enum { BUCKET_LIMIT_BYTES = 10000 };

static struct nlmsghdr *begin(struct netlink *netlink, uint16_t type, uint16_t flags)
{
    return netlink_request(netlink, type, NLM_F_ACK | flags);
}

static int finish(struct netlink *netlink, struct nlmsghdr *head)
{
    return netlink_ask(netlink, head, NULL, NULL);
}

int rtnl_veth(struct netlink *netlink, const char *name, const char *peer, int peer_ns)
{
    struct nlmsghdr *head = begin(netlink, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
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
    return finish(netlink, head);
}

int rtnl_delete(struct netlink *netlink, const char *name)
{
    struct nlmsghdr *head = begin(netlink, RTM_DELLINK, 0);
    mnl_nlmsg_put_extra_header(head, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(head, IFLA_IFNAME, name);
    int result = finish(netlink, head);
    return result == -ENODEV ? 0 : result;
}

int rtnl_up(struct netlink *netlink, uint32_t ifindex, bool silent, uint32_t mtu_bytes)
{
    struct nlmsghdr *head = begin(netlink, RTM_NEWLINK, 0);
    struct ifinfomsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->ifi_index = (int)ifindex;
    info->ifi_flags = IFF_UP | (silent ? IFF_NOARP : 0);
    info->ifi_change = info->ifi_flags;
    if (mtu_bytes)
        mnl_attr_put_u32(head, IFLA_MTU, mtu_bytes);
    return finish(netlink, head);
}

int rtnl_address(struct netlink *netlink, uint32_t ifindex, const struct abi_addr *addr, uint8_t prefix_bits)
{
    bool v4 = abi_addr_is_v4(addr);
    const void *bytes = v4 ? &addr->word[3] : &addr->word[0];
    size_t len = v4 ? 4 : 16;
    struct nlmsghdr *head = begin(netlink, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
    struct ifaddrmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->ifa_family = v4 ? AF_INET : AF_INET6;
    info->ifa_prefixlen = prefix_bits;
    info->ifa_flags = v4 ? 0 : IFA_F_NODAD;
    info->ifa_index = ifindex;
    mnl_attr_put(head, IFA_LOCAL, len, bytes);
    mnl_attr_put(head, IFA_ADDRESS, len, bytes);
    int result = finish(netlink, head);
    return result == -EEXIST ? 0 : result;
}

int rtnl_alias(struct netlink *netlink, const char *name, const char *alias)
{
    struct nlmsghdr *head = begin(netlink, RTM_NEWLINK, 0);
    mnl_nlmsg_put_extra_header(head, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(head, IFLA_IFNAME, name);
    mnl_attr_put_strz(head, IFLA_IFALIAS, alias);
    return finish(netlink, head);
}

int rtnl_managed_neighbour(struct netlink *netlink, uint32_t ifindex, uint32_t addr)
{
    struct nlmsghdr *head = begin(netlink, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
    struct ndmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->ndm_family = AF_INET;
    info->ndm_ifindex = (int)ifindex;
    info->ndm_state = NUD_NONE;
    mnl_attr_put(head, NDA_DST, sizeof(addr), &addr);
    mnl_attr_put_u32(head, NDA_FLAGS_EXT, NTF_EXT_MANAGED);
    return finish(netlink, head);
}

int rtnl_local_route(struct netlink *netlink, const struct abi_addr *addr, uint8_t protocol, uint32_t metric,
                     bool add)
{
    bool v4 = abi_addr_is_v4(addr);
    struct nlmsghdr *head =
        begin(netlink, add ? RTM_NEWROUTE : RTM_DELROUTE, add ? NLM_F_CREATE | NLM_F_EXCL : 0);
    struct rtmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->rtm_family = v4 ? AF_INET : AF_INET6;
    info->rtm_dst_len = v4 ? 32 : 128;
    info->rtm_table = RT_TABLE_LOCAL;
    info->rtm_protocol = protocol;
    info->rtm_scope = v4 ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
    info->rtm_type = RTN_LOCAL;
    mnl_attr_put(head, RTA_DST, v4 ? 4 : 16, v4 ? &addr->word[3] : &addr->word[0]);
    mnl_attr_put_u32(head, RTA_OIF, if_nametoindex("lo"));
    mnl_attr_put_u32(head, RTA_PRIORITY, metric);
    int result = finish(netlink, head);
    return result == (add ? -EEXIST : -ESRCH) ? 0 : result;
}

int rtnl_token_bucket(struct netlink *netlink, uint32_t ifindex, uint32_t bytes_per_second,
                      uint32_t burst_bytes)
{
    struct tc_tbf_qopt options = {
        .rate = {.linklayer = TC_LINKLAYER_ETHERNET, .rate = bytes_per_second},
        .limit = BUCKET_LIMIT_BYTES,
    };
    struct nlmsghdr *head = begin(netlink, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE);
    struct tcmsg *info = mnl_nlmsg_put_extra_header(head, sizeof(*info));
    info->tcm_family = AF_UNSPEC;
    info->tcm_ifindex = (int)ifindex;
    info->tcm_parent = TC_H_ROOT;
    mnl_attr_put_strz(head, TCA_KIND, "tbf");
    struct nlattr *nest = mnl_attr_nest_start(head, TCA_OPTIONS);
    mnl_attr_put(head, TCA_TBF_PARMS, sizeof(options), &options);
    mnl_attr_put_u32(head, TCA_TBF_BURST, burst_bytes);
    mnl_attr_nest_end(head, nest);
    return finish(netlink, head);
}
