/* SPDX-License-Identifier: Apache-2.0 */
/* Ports that connections of this network namespace shall not be given by themselves
 * (net.ipv4.ip_local_reserved_ports; it counts for IPv6 too). */
#ifndef FL_CONTROL_KERNEL_PORTS_H
#define FL_CONTROL_KERNEL_PORTS_H

#include <stdbool.h>
#include <stdint.h>

struct kernel_ports {
    uint16_t first;
    uint16_t count;
};

/* Reserves them beside what is reserved already, or gives them back. 0 or -errno. */
int kernel_ports_reserve(const struct kernel_ports *ports, bool reserved);

/* Whether all of them are reserved now. */
bool kernel_ports_are_reserved(const struct kernel_ports *ports);

/* For tests: the same on texts. The list in `text` (as the kernel writes it) becomes the new one in `out`. 0,
 * -EINVAL: it is no list, -ENOBUFS: it does not fit. */
int kernel_ports_change(const char *text, const struct kernel_ports *ports, bool reserved, char *out,
                        uint32_t cap);

#endif
