/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that compile the kernel's entries share. */
#ifndef FL_CONTROL_KERNEL_INTERNAL_H
#define FL_CONTROL_KERNEL_INTERNAL_H

#include "control/compile/kernel_compile.h"

/* Zeroed room for count elements; never NULL. */
void *kernel_room(size_t count, size_t size);

void kernel_addr_set(struct abi_addr *out, const struct svc_address *a);
bool kernel_addr_equal(const struct abi_addr *a, const struct abi_addr *b);
/* Whether the address is on a network that the device is connected to. */
bool kernel_addr_is_on(const struct kernel_facts *facts, uint32_t ifindex, const struct abi_addr *a);
bool kernel_addr_is_local(const struct kernel_facts *facts, const struct abi_addr *a);

/* kernel_rows.c: fills row, rows_key, value.rows and value.few of e's services (those of in->services with
 * path: direct, in its order), whose values have their ids and seeds already. */
void kernel_rows(const struct kernel_input *in, const struct kernel_entries *before,
                 struct kernel_entries *e);
void kernel_rows_free(struct kernel_service *service, uint32_t count);

/* kernel_probes.c: plan, order and probes_per_s. */
void kernel_probes(const struct kernel_input *in, struct kernel_entries *e);

/* kernel_peers.c: peers with their members (sets abi_backend.peer), and the addresses to take over. */
void kernel_peers(const struct kernel_input *in, struct kernel_entries *e);
void kernel_addresses(const struct kernel_input *in, struct kernel_entries *e);

#endif
