/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What every program starts with: kernel types, helpers, constants that BTF does not carry, small functions.
 */
#ifndef FL_BPF_COMMON_H
#define FL_BPF_COMMON_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#include "abi.h"

#define INLINE static __always_inline

enum {
    TC_ACT_UNSPEC = -1, /* on to the next filter */
    TC_ACT_OK = 0,
    TC_ACT_SHOT = 2,
    ETH_P_IP = 0x0800,
    ETH_P_ARP = 0x0806,
    ETH_P_IPV6 = 0x86dd,
    ETH_HLEN = 14,
    AF_INET = 2,
    AF_INET6 = 10,
};

INLINE bool addr_is_v4(const struct abi_addr *a)
{
    return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == bpf_htonl(0xffff);
}

INLINE void addr_set_v4(struct abi_addr *a, __u32 ip)
{
    a->word[0] = 0;
    a->word[1] = 0;
    a->word[2] = bpf_htonl(0xffff);
    a->word[3] = ip;
}

INLINE bool addr_equal(const struct abi_addr *a, const struct abi_addr *b)
{
    return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
           a->word[3] == b->word[3];
}

INLINE struct abi_node *node_get(void *map)
{
    __u32 zero = 0;
    return bpf_map_lookup_elem(map, &zero);
}

#endif
