/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the BPF programs and user space agree on: the layouts of the pinned maps. Included by bpf/ (after
 * vmlinux.h) and by control/.
 *
 * Who writes what: control alone writes the configuration maps (node, services, rows, endpoints, backends,
 * checks, probe_plan, probe_order, peers, peer_members, addresses); BPF alone writes verdicts and every
 * *_state, *_stats, history and flow map; the data plane fills evidence, and has nothing else to write to.
 * User space never writes a map that holds a bpf_timer.
 *
 * Pins: /sys/fs/bpf/fairlead-INSTANCE/vABI_VERSION/, one file a map, programs' links under links/. A change
 * of any layout or meaning here changes ABI_VERSION; the loader then makes a new set beside the old one,
 * takes over the verdicts and, from sets since ABI_VERSION_SHARED, maps of BPF's that kept their shape.
 *
 * Units: times are CLOCK_MONOTONIC in nanoseconds (_ns) or microseconds (_us). Addresses and ports are in
 * network byte order. An IPv4 address is written as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2) in every map.
 */
#ifndef FL_ABI_H
#define FL_ABI_H

#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

enum abi_limits {
    ABI_VERSION = 3,
    ABI_VERSION_SHARED = 2, /* what kept its shape since then kept its meaning, or says so where it is read */
    ABI_BACKENDS_MAX = 131072, /* a host; the maps' real size is chosen at load */
    ABI_SERVICES_MAX = 4096,   /* ids of services, 0 is none */
    ABI_SERVICE_BACKENDS_MAX = 4096,
    ABI_CANDIDATES = 4, /* backends a row names, best first */
    ABI_FEW = 6,        /* backends that a service names itself */
    ABI_ROW_SCANS = 16, /* rows looked at before "all are down" is believed */
    ABI_PEERS_MAX = 1024,
    ABI_ADDRESS_MANAGERS_MAX = 8,
    ABI_REQUEST_MAX = 256, /* bytes of an HTTP check's request */
    ABI_PROBE_CLASSES = 8,
    ABI_PROBES_PER_TICK_MAX = 1024,
    ABI_PROBE_SHOTS = 4,      /* TCP probes of a backend under way, a power of two */
    ABI_HISTORY = 8192,       /* changes kept, a power of two */
    ABI_HANDSHAKE_SLOTS = 64, /* results of handshakes between two ticks, a power of two */
    ABI_HANDSHAKE_LIFE_S = 3, /* one that is older says nothing */
    ABI_EVIDENCE_SLOTS = 64,  /* words of evidence between two ticks, a power of two */
    ABI_MARK = 0x0fa17000,    /* skb mark of Fairlead's own packets (probes, heartbeats, resets); SO_MARK of
                                 exempt sockets */
    ABI_PROBE_PORT_FIRST = 61000,  /* source ports of probes, reserved by net.ipv4.ip_local_reserved_ports */
    ABI_PROBE_PORTS = 512,         /* a power of two */
    ABI_CANARY_PORT_FIRST = 61512, /* source ports of canary connections, which also carry ABI_MARK: a FIN or
                                      RST towards one of them is evidence of its own (reason canary) */
    ABI_CANARY_PORTS = 512,
    ABI_TC_HANDLE = 0xfa1,
};

/* Priorities of the tc filters, in the order in which a packet meets them. */
enum abi_tc_priority {
    ABI_TC_RX = 0xfa10,        /* ingress: answers to probes, evidence */
    ABI_TC_HEARTBEAT = 0xfa11, /* ingress: BFD */
    ABI_TC_TAKEOVER = 0xfa12,  /* ingress: ARP, neighbour discovery */
    ABI_TC_EDGE = 0xfa13,      /* ingress: packets to service addresses, and their way back */
    ABI_TC_CUT = 0xfa14,       /* egress: segments to a backend that is down */
};

struct abi_addr {
    __u32 word[4];
};

/* Key of services and endpoints. `zero` is 0: keys are compared bytewise. */
struct abi_endpoint {
    struct abi_addr addr;
    __u16 port;
    __u16 zero;
};

/* --- node: one element, written by control ------------------------------------------------------------ */

struct abi_node {
    __u32 abi_version;
    __u32 flags; /* enum abi_node_flag */
    __u64 node_id;
    __u32 tick_ifindex; /* this side of the clock's pair: `tick` is on its ingress */
    __u32 out_ifindex;  /* where `tick` clones its packets to */
    __u32 fan_ifindex;  /* the other end of it: `fan` is on its ingress */
    __u32 pace_ifindex; /* what is cloned to it comes to another `fan` some time later; 0: there is none */
    __u32 pad;
    __u32 backends;        /* ids in use are below this */
    __u64 tick_ns;         /* period of the clock */
    __u64 stale_ns;        /* a clock that stood still this long freezes verdicts */
    struct abi_addr inner; /* source of probes of this host's own addresses, on the fan's pair */
    struct abi_addr inner6;
};

enum abi_node_flag {
    ABI_NODE_PROBES = 1 << 0,   /* this node probes (managers and replicas do) */
    ABI_NODE_DRAINING = 1 << 1, /* gives its addresses away */
    ABI_NODE_TOKEN = 1 << 2, /* the clock has a token bucket (kernel_clock.h), its neighbour only guards it */
    ABI_NODE_FED = 1 << 3,   /* a manager tells it verdicts (feed): while it does, only doubts are probed */
};

/* The clock's own network has these addresses (host byte order): its device's, and its neighbour's, which
 * nobody has. */
enum abi_clock_address { ABI_CLOCK_ADDRESS = 0xa9fe4d01, ABI_CLOCK_NEIGHBOUR = 0xa9fe4d02 };

/* Low bits of the mark of packets that are sent to node.out_ifindex: what `fan` does with them. */
enum abi_fan_order {
    ABI_FAN_SEND = 0,    /* on their way as they are */
    ABI_FAN_PROBE = 1,   /* a packet that came from a backend: probe that backend at once */
    ABI_FAN_RESET = 2,   /* a backend's answer to a probe: end its connection */
    ABI_FAN_REQUEST = 3, /* a backend's SYN-ACK: answer it with the HTTP check's request */
    ABI_FAN_MORE = 4,    /* the tick goes on with its probes */
    ABI_FAN_SERIES = 5,  /* a probe that was sent before: one more of the same backend */
};

/* --- services ------------------------------------------------------------------------------------------ */

enum abi_policy {
    ABI_POLICY_RANDOM = 1, /* a random row, dealt by weight (edge: that of the client's address and port) */
    ABI_POLICY_MAGLEV = 2, /* the row of the client's address (steer: of the host and its cgroup) */
    ABI_POLICY_LEAST = 3,  /* of two random rows the one with fewer connections of this host per weight */
};

enum abi_edge_mode {
    ABI_EDGE_OFF = 0,
    ABI_EDGE_NAT = 1,      /* DNAT; answers come back through this host */
    ABI_EDGE_FULL_NAT = 2, /* DNAT and SNAT to an address of this host: backends need no route back */
    ABI_EDGE_DSR = 3, /* forwarded unchanged to the backend's link address; it answers the client itself */
};

enum abi_all_down {
    ABI_ALL_DOWN_REFUSE = 0, /* ECONNREFUSED under steer, a reset at the edge */
    ABI_ALL_DOWN_OPEN = 1,   /* choose as if all were up */
};

enum abi_service_flag {
    ABI_SERVICE_CUT = 1 << 0,      /* connections to a backend that is down are reset */
    ABI_SERVICE_STEER = 1 << 1,    /* connect() is steered */
    ABI_SERVICE_TAKEOVER = 1 << 2, /* the address is answered on the LAN */
};

/* A backend as its service knows it, for connects: with thousands of services, rows and backends are in
 * nobody's cache. Its verdict has to be up, of this generation. */
struct abi_few {
    __u32 backend;
    __u32 addr4; /* IPv4; 0: it has another address, which is in backends */
    __u16 port;
    __u16 generation;
};

/* Value of `services`; the key is the service's endpoint. The element is replaced as a whole, so that a
 * reader sees the old table or the new one. Rows of the old table stay untouched for a grace period. A
 * service of few backends that weigh the same names them itself as well: a random one is found without its
 * rows, which with thousands of services are in nobody's cache. */
struct abi_service {
    __u8 policy;                 /* enum abi_policy */
    __u8 edge;                   /* enum abi_edge_mode */
    __u8 all_down;               /* enum abi_all_down */
    __u8 flags;                  /* enum abi_service_flag */
    __u32 few_count;             /* of few; 0: only rows name them */
    struct abi_few few[ABI_FEW]; /* those that are active, where they weigh the same and are no more */
    __u32 id;
    __u32 first_row; /* in rows */
    __u32 rows;      /* a prime, or 0: no backends */
    __u32 seed;      /* of hashes; the same on every node */
    __u32 backend_count;
    struct abi_addr edge_source; /* ABI_EDGE_FULL_NAT: the host's address towards the backends; 0: none */
};

/* One row of a Maglev table: its owner, then who would own it without the ones before (0xffffffff: none). The
 * same on every node, so that a flow keeps its backend when another node takes the packets over. */
struct abi_row {
    __u32 backend[ABI_CANDIDATES];
};
#define ABI_NO_BACKEND 0xffffffffu

/* --- backends ------------------------------------------------------------------------------------------ */

enum abi_admin {
    ABI_ADMIN_NONE = 0, /* id not in use */
    ABI_ADMIN_ACTIVE = 1,
    ABI_ADMIN_DRAIN = 2, /* takes no new connections, keeps what it has */
};

enum abi_backend_flag {
    ABI_BACKEND_LOCAL = 1 << 0,     /* its address is one of this host's: probed over the inner pair */
    ABI_BACKEND_UNCHECKED = 1 << 1, /* check none: up unless its peer is down or evidence says otherwise */
    ABI_BACKEND_UNPROBED = 1 << 3, /* with UNCHECKED: its answers come in where no program sees them, so it is
                                      never probed, and a suspicion ends by a connection or by time */
    ABI_BACKEND_CUT = 1 << 2,      /* its service has ABI_SERVICE_CUT: what a program that has only the
                                      backend goes by */
};

struct abi_backend {
    struct abi_addr addr;
    struct abi_addr source; /* of probes; control keeps it true when addresses change */
    __u16 port;
    __u16 generation; /* a verdict of another generation is unknown */
    __u16 weight;     /* 1..256 */
    __u8 admin;       /* enum abi_admin */
    __u8 flags;       /* enum abi_backend_flag */
    __u32 service;    /* id; also the index into checks */
    __u32 peer;       /* index into peers + 1: the node it runs on; 0: not known */
    __u32 next_same;  /* next id with the same endpoint (another service), ABI_NO_BACKEND: the last */
    __u32 pad;
};

/* Value of `endpoints`: from an address in traffic to the first backend of that address. */
struct abi_endpoint_backends {
    __u32 first;
};

/* --- verdicts: one u64 a backend, an mmapable array
 * --------------------------------------------------------------- bits 0-7 state, 8-15 reason, 16-31
 * generation, 32-63 sequence (+1 with each change). Written with compare-and-swap. */

enum abi_state { ABI_UNKNOWN = 0, ABI_UP = 1, ABI_SUSPECT = 2, ABI_DOWN = 3 };

/* ABI_REASON(symbol, name, text) */
#define ABI_REASONS(ABI_REASON)                                                                              \
    ABI_REASON(NONE, "none", "not checked yet")                                                              \
    ABI_REASON(PROBE_OK, "probe-ok", "probes are answered")                                                  \
    ABI_REASON(PROBE_REFUSED, "probe-refused", "a probe was answered by a reset")                            \
    ABI_REASON(PROBE_TIMEOUT, "probe-timeout", "probes are not answered")                                    \
    ABI_REASON(HTTP_STATUS, "http-status", "the HTTP check was answered by another status")                  \
    ABI_REASON(HTTP_TIMEOUT, "http-timeout", "connections are taken, but the HTTP check is not answered")    \
    ABI_REASON(HTTP_INVALID, "http-invalid", "the HTTP check was answered by something else than HTTP")      \
    ABI_REASON(HEARTBEAT, "heartbeat", "the heartbeats of its node stopped")                                 \
    ABI_REASON(CANARY, "canary", "the canary connection was closed")                                         \
    ABI_REASON(REFUSED, "refused", "a connection was refused")                                               \
    ABI_REASON(RESET, "reset", "a connection was reset")                                                     \
    ABI_REASON(CONNECT_TIMEOUT, "connect-timeout", "a connection attempt was not answered")                  \
    ABI_REASON(RETRANSMITS, "retransmits", "data is not acknowledged")                                       \
    ABI_REASON(EVIDENCE, "evidence", "the data plane saw it fail")                                           \
    ABI_REASON(UNCHECKED, "unchecked", "no check is configured")                                             \
    ABI_REASON(CONNECTED, "connected", "a connection was accepted")                                          \
    ABI_REASON(TLS_TIMEOUT, "tls-timeout", "connections are taken, but no TLS handshake is answered")        \
    ABI_REASON(TLS_FAILED, "tls-failed", "connections are taken, but a TLS handshake fails")                 \
    ABI_REASON(TLS_CERTIFICATE, "tls-certificate", "its certificate is not one that the service takes")      \
    ABI_REASON(TOLD, "told", "a manager that probes it says so")

enum abi_reason {
#define ABI_REASON_ENUM(symbol, name, text) ABI_##symbol,
    ABI_REASONS(ABI_REASON_ENUM)
#undef ABI_REASON_ENUM
        ABI_REASON_COUNT
};

#define ABI_VERDICT(state, reason, generation, sequence)                                                     \
    ((__u64)(state) | (__u64)(reason) << 8 | (__u64)(generation) << 16 | (__u64)(sequence) << 32)
#define ABI_VERDICT_STATE(v)      ((__u32)((v)&0xff))
#define ABI_VERDICT_REASON(v)     ((__u32)((v) >> 8 & 0xff))
#define ABI_VERDICT_GENERATION(v) ((__u32)((v) >> 16 & 0xffff))
#define ABI_VERDICT_SEQUENCE(v)   ((__u32)((v) >> 32))

/* The state that a verdict stands for, of a backend as it is configured now. One of another generation says
 * nothing, and so does one of heartbeats about a backend that hangs on no peer any more: nobody would ever
 * take it back where nothing is probed. */
#define ABI_VERDICT_STATE_OF(v, its_generation, its_peer)                                                    \
    (ABI_VERDICT_GENERATION(v) != (__u32)(its_generation) ||                                                 \
             (ABI_VERDICT_REASON(v) == ABI_HEARTBEAT && !(its_peer))                                         \
         ? (__u32)ABI_UNKNOWN                                                                                \
         : ABI_VERDICT_STATE(v))

/* Evidence: what the data plane saw of backends, an mmapable array that it alone fills and each tick empties.
 * A word is put where 0 is (compare-and-swap), best at its id modulo the slots; there is no room: it is lost.
 * It makes a backend suspect and probed at once, no more, and as often as suspicions are allowed. Bits 0-31
 * id, 32-47 generation, 48-55 kind. */
enum abi_evidence_kind {
    ABI_EVIDENCE_SOFT = 1, /* a reset, a time-out, a bad answer: one says nothing, several do */
    ABI_EVIDENCE_HARD = 2, /* no connection could be made */
};
#define ABI_EVIDENCE_WORD(id, generation, kind)                                                              \
    ((__u64)(id) | (__u64)(generation) << 32 | (__u64)(kind) << 48)

/* Handshakes: of backends that are checked by TLS, which the kernel does not speak, an mmapable array that
 * control alone fills and each tick empties, as evidence. Bits 0-31 id, 32-47 generation, 48-55 reason
 * (ABI_PROBE_OK: it was answered), 56-63 second of CLOCK_MONOTONIC modulo 256. */
#define ABI_HANDSHAKE_WORD(id, generation, reason, second)                                                   \
    ((__u64)(id) | (__u64)(generation) << 32 | (__u64)(reason) << 48 | (__u64)(second) << 56)

/*
 * The feed: verdicts of a manager on a node with ABI_NODE_FED. Control runs the program `feed` on an Ethernet
 * header (its bytes mean nothing) and 1 to ABI_FEED_WORDS words: bits 0-7 state, 16-31 generation, 32-63 id.
 * State is ABI_UP, ABI_DOWN, or ABI_UNKNOWN where the manager does not know it. Each run says that the
 * manager is heard; ABI_FEED_LIFE_MS later nothing it said counts any more, and everything is probed here.
 */
enum abi_feed { ABI_FEED_WORDS = 256, ABI_FEED_LIFE_MS = 3000 };
#define ABI_FEED_WORD(id, generation, state) ((__u64)(state) | (__u64)(generation) << 16 | (__u64)(id) << 32)

/* `feed_state`, one element. */
struct abi_feed_state {
    __u64 heard_ns; /* 0: never */
    __u64 words;
    __u64 doubts; /* backends that were up here when the manager said that they are down */
};

/* History: an mmapable ring of changes; slot = number & (ABI_HISTORY - 1), number from history_head (one u64,
 * the number of the next change). A slot is whole when its `number` is the one looked for, before and after
 * reading. */
struct abi_change {
    __u64 number;
    __u64 time_ns;
    __u64 before; /* verdicts */
    __u64 after;
    __u32 backend;
    __u32 rtt_us;
};

/* What control's wake-up (a BPF ring buffer) carries; a lost one costs nothing but time. */
struct abi_wake {
    __u64 number; /* of the change */
};

#include "abi_probe.h"

/* --- watch --------------------------------------------------------------------------------------------- */

/*
 * Connections open now are counted in one word: who counts them in the upper half (of a backend's generation
 * and a random number of the map that knows the sockets), in the lower half how many, on top of
 * ABI_ACTIVE_ZERO. A connection remembers the upper half that it was counted under, and its end counts only
 * there: neither another backend with the same id, nor maps made anew, nor a time without programs leaves
 * anything in the count.
 */
#define ABI_ACTIVE_ZERO        0x40000000u
#define ABI_ACTIVE(who, count) ((__u64)(who) << 32 | (ABI_ACTIVE_ZERO + (__u32)(count)))
#define ABI_ACTIVE_COUNT(word)                                                                               \
    ((word) >> 32 && (__u32)(word) > ABI_ACTIVE_ZERO ? (__u32)(word)-ABI_ACTIVE_ZERO : 0u)

/* `backend_stats`, by backend id; counted by steer and watch on this host. */
struct abi_backend_stats {
    __u64 connects;
    __u64 established;
    __u64 active; /* ABI_ACTIVE_COUNT */
    __u64 refused;
    __u64 timeouts;
    __u64 resets;
    __u64 retransmits; /* timeouts of it: not every segment sent again */
    __u64 rtt_us;      /* of connections, smoothed by 1/8 */
    __u64 cuts;
};

#include "abi_heartbeat.h"

#include "abi_takeover.h"

#include "abi_edge.h"

#endif
