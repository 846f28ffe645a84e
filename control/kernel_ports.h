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

/* Those of them that are not reserved now, as ranges of `out`: what whoever reserves them all may give back
 * one day. Their number, or -errno; -ENOBUFS: there are more than max. */
int kernel_ports_missing(const struct kernel_ports *ports, struct kernel_ports *out, uint32_t max);

/* The ranges of a list, as above. */
int kernel_ports_ranges(const char *text, struct kernel_ports *out, uint32_t max);

/* The same on texts. The list in `text` (as the kernel writes it) becomes the new one in `out`. 0,
 * -EINVAL: it is no list, -ENOBUFS: it does not fit. */
int kernel_ports_change(const char *text, const struct kernel_ports *ports, bool reserved, char *out,
                        uint32_t cap);
int kernel_ports_lacking(const char *text, const struct kernel_ports *ports, struct kernel_ports *out,
                         uint32_t max);

#endif
