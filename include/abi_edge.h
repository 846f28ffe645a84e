/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Part of abi.h: flows that this host forwards. */
#ifndef FL_ABI_EDGE_H
#define FL_ABI_EDGE_H

#ifndef FL_ABI_H
#error "include abi.h"
#endif

/* --- edge ---------------------------------------------------------------------------------------------- */

enum abi_edge_limits {
    /* Source ports of ABI_EDGE_FULL_NAT: 40960..57343, kept from the host's own connections by
     * net.ipv4.ip_local_reserved_ports. As many flows at a time can go to one backend. */
    ABI_EDGE_PORT_FIRST = 40960,
    ABI_EDGE_PORTS = 16384,     /* a power of two */
    ABI_EDGE_PORT_TRIES = 16,   /* ports looked at; then as many more, whose holders give way more easily */
    ABI_EDGE_HALF_OPEN = 65536, /* elements of half_open, for each flow two */
    ABI_EDGE_FLOWS = 262144,    /* elements of flows, unless the loader chooses another size */
    ABI_EDGE_FRAGMENTS = 8192,
};

/* Key of flows and half_open: addresses and ports of a packet as it arrives. A flow has an element for each
 * direction (with ABI_EDGE_DSR only the one from the client). */
struct abi_flow_key {
    struct abi_addr source;
    struct abi_addr target;
    __u16 source_port;
    __u16 target_port;
};

enum abi_flow_flag {
    ABI_FLOW_BACK = 1 << 0,     /* from the backend to the client */
    ABI_FLOW_LOCAL = 1 << 1,    /* what this direction leads to is this host */
    ABI_FLOW_ANSWERED = 1 << 2, /* half open: the backend answered, `expected` is set */
    ABI_FLOW_ESTABLISHED = 1 << 3,
};

enum abi_flow_closing { ABI_FLOW_FIN = 1 << 0, ABI_FLOW_FIN_BACK = 1 << 1, ABI_FLOW_RESET = 1 << 2 };

/* What becomes of a packet. An element of the kernel's hash table (48 bytes, the key, this) is three cache
 * lines, of which a packet of IPv4 needs the first two. That is what the order and the sizes of members are
 * for. */
struct abi_flow {
    __u32 backend;
    __u16 source_port; /* new ones */
    __u16 target_port;
    __u16 path_time; /* when the path was looked up, in 256 jiffies; 0: never */
    __u16 mtu_bytes; /* of the path */
    __u32 ifindex;   /* of the path */
    __u32 hop4;      /* IPv4: the same as below */
    __u32 source4;
    __u32 target4;
    __u32 addr_diff; /* what the new addresses add to a checksum; 0: nothing changes */
    __u32 bytes;     /* since they were added to the backend's */
    __u16 packets;
    __u8 mode;  /* enum abi_edge_mode */
    __u8 flags; /* enum abi_flow_flag */
    /* 40 bytes up to here. */
    struct abi_addr hop; /* the neighbour on the path */
    struct abi_addr source;
    struct abi_addr target;
    __u32 service;
    __u32 expected;   /* half open: first acknowledgement of the client; way back: when heard last, 0: now */
    __u16 generation; /* of the backend */
    __u8 closing;     /* enum abi_flow_closing */
    __u8 heard;       /* half open: packets from the client so far, at most 255 */
    __u32 pad;
};

/* Key of `fragments`: its first fragment told where the others go. */
struct abi_fragment_key {
    struct abi_addr source;
    struct abi_addr target;
    __u32 id;
    __u32 zero;
};

/* `edge_links`, by ifindex, written by control: the devices that `edge_xdp` is on or may send to. */
struct abi_edge_link {
    __u8 mac[6];
    __u8 sends; /* its driver takes frames from XDP programs */
    __u8 pad;
};

/* `edge_stats`, by service id, per processor. */
struct abi_edge_stats {
    __u64 flows;      /* begun */
    __u64 no_backend; /* begun, but all backends are down */
    __u64 moved;      /* new connections on known ports that went to another backend than the one before */
    __u64 resets;     /* sent to clients */
    __u64 icmp;       /* errors forwarded */
    __u64 fragments;  /* forwarded, the first ones not counted */
    __u64 malformed;  /* dropped */
    __u64 expired;    /* dropped: time to live */
    __u64 too_big;    /* dropped: MTU of the way out */
    __u64 no_route;   /* dropped: no way to the backend or the client */
    __u64 no_port;    /* dropped: no free port to the backend */
    __u64 told;       /* of those that were too big: their sender was told */
};

/* `edge_backends`, by backend id, per processor; a service's traffic is the sum of its backends'. A flow adds
 * its packets when it ends, and every few seconds while it goes on. */
struct abi_edge_backend {
    __u64 flows;   /* established */
    __u64 packets; /* from clients */
    __u64 bytes;
    __u64 back_packets;
    __u64 back_bytes;
};

#endif
