/* SPDX-License-Identifier: Apache-2.0 */
/* Whether this host's own addresses are in use by TCP connections (sock_diag). */
#ifndef FL_CONTROL_SOCKETS_AT_H
#define FL_CONTROL_SOCKETS_AT_H

#include <stdbool.h>
#include <stddef.h>

#include "abi.h"

/* used: one for each address; connections in TIME-WAIT and listening sockets do not count. 0 or -errno. */
int sockets_at(const struct abi_addr *addr, size_t count, bool *used);

#endif
