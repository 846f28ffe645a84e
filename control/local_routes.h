/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes the addresses of services with path: proxy this host's own without an interface: a route of type
 * `local` for each, in the table local. They carry a protocol number of their own and, as metric, a number
 * made from the instance's name, so that leftovers are found, and only one's own. They stay when fairleadd
 * ends: the data plane serves on.
 */
#ifndef FL_CONTROL_LOCAL_ROUTES_H
#define FL_CONTROL_LOCAL_ROUTES_H

#include <stdbool.h>
#include <stddef.h>

#include "abi.h"

enum { LOCAL_ROUTES_PROTOCOL = 102 }; /* rtm_protocol; `ip route show table local proto 102` */

/*
 * Adds what is missing and removes what is not among `wanted` any more. 0, or the first error as -errno (the
 * rest was tried). delivered, NULL or one for each: whether packets to the address come to this host's own
 * sockets now, by whatever route. lingering: gets how many routes are kept for connections that go on: call
 * again; NULL: these are removed, too.
 */
int local_routes_sync(const char *instance, const struct abi_addr *wanted, size_t count, bool *delivered,
                      size_t *lingering);

#endif
