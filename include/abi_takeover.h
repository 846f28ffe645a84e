/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Part of abi.h: addresses that one node of a segment answers for. */
#ifndef FL_ABI_TAKEOVER_H
#define FL_ABI_TAKEOVER_H

#ifndef FL_ABI_H
#error "include abi.h"
#endif

/* --- takeover: who answers for an address on a segment ---------------------------------------------------
 *
 * Control sees to it that the device takes in what is sent to the address's solicited-node group (IPv6), and
 * that switches which look at MLD send it there (control/kernel_groups.h). */

struct abi_address_key {
    struct abi_addr addr;
    __u32 ifindex;
};

/* `addresses`: candidates in the order of preference, the same on every node, as peers' indices + 1; this
 * node is among them. managers 0: nobody answers for it here, neither the programs nor the host's own stack,
 * which would for each address in its table local. */
struct abi_address {
    __u32 managers;
    __u32 self; /* position of this node */
    __u32 peer[ABI_ADDRESS_MANAGERS_MAX];
    __u64 node_id[ABI_ADDRESS_MANAGERS_MAX]; /* not 0 */
    __u8 mac[ABI_ADDRESS_MANAGERS_MAX][8]; /* link address of each on this segment, as far as known; 0: not */
    __u8 own_mac[8];
};

#define ABI_NO_OWNER 0xffffffffu

struct abi_address_state {
    __u64 owner_node;      /* 0: none */
    __u32 owner;           /* its position, ABI_NO_OWNER: none */
    __u32 announce;        /* of a burst, still to send */
    __u64 since_ns;        /* of this owner, or of having none */
    __u64 heard_ns;        /* another's last claim */
    __u64 claimed_ns;      /* own last claim */
    __u64 unrest_ns;       /* own claim was disputed, or candidates were missed */
    __u64 looked_ns;       /* the clock's last look */
    __u64 claim;           /* the owner's, as compared: support, term, position */
    __u64 last_owner_node; /* who is gone, while there is none */
    __u32 listening;       /* nothing is known of this segment yet */
    __u32 pad;
    __u64 answers;
    __u64 conflicts; /* with another candidate */
    __u64 foreign;   /* somebody else uses the address */
    __u64 takeovers;
};

#endif
