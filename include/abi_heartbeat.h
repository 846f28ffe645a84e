/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Part of abi.h: heartbeats. */
#ifndef FL_ABI_HEARTBEAT_H
#define FL_ABI_HEARTBEAT_H

#ifndef FL_ABI_H
#error "include abi.h"
#endif

/* --- heartbeat: asynchronous BFD (RFC 5880, 5881, 5883)
 * -------------------------------------------------------- */

enum abi_peer_flag {
    ABI_PEER_USED = 1 << 0,
    ABI_PEER_MULTIHOP = 1 << 1, /* port 4784 and no TTL check (RFC 5883) */
    ABI_PEER_SELF = 1 << 2,     /* this node */
};

/* `peers`, written by control. Backends are told of a session that was up and ends: down when it fell silent,
 * suspect when the peer itself said that it does not hear this node; an administrative end is neither. A new
 * generation begins the session anew; intervals may change under the same one (a poll sequence follows). */
struct abi_peer {
    struct abi_addr addr;
    struct abi_addr source;
    __u64 node_id;
    __u32 discriminator; /* ours for this session, not 0: index + 1 in the low 16 bits */
    __u32 flags;         /* enum abi_peer_flag */
    __u32 tx_us; /* desired min TX interval when the session is up (slow start: 1 s, RFC 5880, 6.8.3) */
    __u32 rx_us; /* required min RX interval */
    __u8 multiplier;
    __u8 draining; /* AdminDown is sent */
    __u16 generation;
    __u32 members_first; /* its backends on it: peer_members[first, first + count) */
    __u32 members_count;
    __u16 source_port; /* 49152..65535, fixed for the session (RFC 5881, 4) */
    __u16 pad[3];
};

enum abi_bfd_state { ABI_BFD_ADMIN_DOWN = 0, ABI_BFD_DOWN = 1, ABI_BFD_INIT = 2, ABI_BFD_UP = 3 };

/* `peer_state`: a session, with the names of RFC 5880, 6.8.1. Its timer is in a map of its own. */
struct abi_peer_state {
    __u64 received_ns;
    __u64 sent_ns;
    __u64 changed_ns; /* of state */
    __u64 ended_ns;   /* when it last was up no more */
    __u64 detect_ns;  /* the detection time in force */
    __u64 next_tx_ns; /* jitter chose it; 0: with the next tick */
    __u32 remote_discriminator;
    __u32 remote_min_rx_us;
    __u32 remote_min_tx_us;
    __u32 generation;    /* of the configuration it was begun with, ABI_PEER_BEGUN set */
    __u32 desired_tx_us; /* as announced */
    __u32 required_rx_us;
    __u32 sending_us; /* in use: lags behind what was announced until a poll sequence ends */
    __u32 listening_us;
    __u8 state; /* enum abi_bfd_state */
    __u8 remote_state;
    __u8 diagnostic; /* RFC 5880, 4.1 */
    __u8 remote_multiplier;
    __u8 poll;   /* a poll sequence is under way */
    __u8 final;  /* the next packet carries F */
    __u8 demand; /* the peer asked for silence while all is well */
    __u8 spared; /* a timer that fired late was forgiven once */
    __u64 received, sent, dropped, ups, downs;
};
#define ABI_PEER_BEGUN 0x10000u

#endif
