/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of the kernel's maps: those of IPv4 are mapped ones (RFC 4291, 2.5.5.2). */
#ifndef FL_CONTROL_ABI_ADDR_H
#define FL_CONTROL_ABI_ADDR_H

#include <arpa/inet.h>
#include <stdbool.h>

#include "abi.h"

static inline bool abi_addr_is_v4(const struct abi_addr *addr)
{
    return addr->word[0] == 0 && addr->word[1] == 0 && addr->word[2] == htonl(0xffff);
}

#endif
