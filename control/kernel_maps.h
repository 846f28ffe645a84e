/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared maps as control sees them: writes the entries that were compiled, reads verdicts, states and
 * history. What the kernel holds is read before it is written, so only what differs is written, and a new
 * process finds out by itself what an earlier one left.
 *
 * Order of a change: what is referred to before what refers to it, a service's element as a whole, and what
 * nothing refers to any more at last. Rows that a service has given up are used again only after
 * KERNEL_ROWS_GRACE_MS.
 */
#ifndef FL_CONTROL_KERNEL_MAPS_H
#define FL_CONTROL_KERNEL_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "control/bpf_load.h"
#include "control/compile/kernel_compile.h"

enum { KERNEL_ROWS_GRACE_MS = 200 };

struct kernel_maps;

/* Borrows load. 0 or -errno. */
int kernel_maps_open(const struct bpf_load *load, struct kernel_maps **out);
void kernel_maps_close(struct kernel_maps *maps);

/* Makes the maps say what the entries and the node say. 0; -EAGAIN when there is no room for rows until the
 * grace period is over: call again; -ENOSPC when there is none at all (what fits is written); -errno. */
int kernel_maps_apply(struct kernel_maps *maps, const struct abi_node *node,
                      const struct kernel_entries *entries, uint64_t now_ms);

/* Writes since the open: for tests and status. */
uint64_t kernel_maps_writes(const struct kernel_maps *maps);

/* Elements of the maps by backend, and of rows. */
uint32_t kernel_maps_backends_max(const struct kernel_maps *maps);
uint32_t kernel_maps_rows_max(const struct kernel_maps *maps);

/* Reads into out. 0 or -errno. */
int kernel_maps_node(const struct kernel_maps *maps, struct abi_node *out);
int kernel_maps_tick(const struct kernel_maps *maps, struct abi_tick_state *out);
int kernel_maps_backend(const struct kernel_maps *maps, uint32_t id, struct abi_backend *out);
int kernel_maps_probe(const struct kernel_maps *maps, uint32_t id, struct abi_probe_state *out);
int kernel_maps_stats(const struct kernel_maps *maps, uint32_t id, struct abi_backend_stats *out);
int kernel_maps_peer(const struct kernel_maps *maps, uint32_t index, struct abi_peer *out);
int kernel_maps_peer_state(const struct kernel_maps *maps, uint32_t index, struct abi_peer_state *out);
int kernel_maps_address_state(const struct kernel_maps *maps, const struct abi_address_key *key,
                              struct abi_address_state *out);

/* The verdict on a backend: by memory map, no system call. 0 for an id beyond the map. */
uint64_t kernel_maps_verdict(const struct kernel_maps *maps, uint32_t id);

/* Tells the kernel how a handshake with a backend ended (abi.h). False: there is no room, its clock stands
 * still. */
bool kernel_maps_handshake(const struct kernel_maps *maps, uint32_t id, uint16_t generation, uint32_t reason);

/* All elements of peers: ABI_PEERS_MAX of them. */
int kernel_maps_peers(const struct kernel_maps *maps, struct abi_peer *out);

/* Calls for each change since the last call (of any process: the place is kept in the kernel), oldest first.
 * Returns how many were overwritten before they could be read. */
uint64_t kernel_maps_changes(struct kernel_maps *maps,
                             void (*each)(void *arg, const struct abi_change *change), void *arg);

#endif
