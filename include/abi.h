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

/* --- probe --------------------------------------------------------------------------------------------- */

/* TLS: the kernel probes as with TCP, and control says how handshakes end. */
enum abi_check_kind { ABI_CHECK_NONE = 0, ABI_CHECK_TCP = 1, ABI_CHECK_HTTP = 2, ABI_CHECK_TLS = 3 };

/* `checks`, by service id. */
struct abi_check {
    __u8 kind; /* enum abi_check_kind */
    __u8 rise; /* answers in a row that make up */
    __u8 fall; /* misses in a row that make down */
    __u8 pad;
    __u16 request_bytes; /* at most ABI_REQUEST_MAX; request is zero behind them */
    __u16 pad1;
    __u32 interval_us;      /* of TCP probes */
    __u32 http_interval_us; /* of HTTP probes; a probe between them is TCP */
    __u32 timeout_us;       /* a probe whose SYN is not answered by then is missed */
    __u32 http_timeout_us;  /* an HTTP check not answered by then, from its SYN on, is missed */
    __u64 statuses[8];      /* bit status - 100 */
    char request[ABI_REQUEST_MAX];
};

/* Backends that share an interval: each tick takes the next count / divisor of them, fractions add up. Those
 * that are not checked are among them: they are probed while something speaks against them. */
struct abi_probe_class {
    __u32 first; /* in probe_order */
    __u32 count;
    __u32 divisor; /* ticks to an interval */
    __u32 pad;
};

struct abi_probe_plan {
    __u32 classes;
    __u32 pad;
    struct abi_probe_class class[ABI_PROBE_CLASSES];
};

/* One probe under way, or the last one there was; a series's is not missed when no answer comes. */
enum abi_shot { ABI_SHOT_NONE = 0, ABI_SHOT_ONE = 1, ABI_SHOT_SERIES = 2 };
struct abi_probe_shot {
    __u64 sent_ns;     /* 0: answered, or given up */
    __u32 sequence;    /* of its SYN, host byte order: random */
    __u16 source_port; /* host byte order */
    __u8 used;         /* enum abi_shot; there was one: a late answer is one too */
    __u8 accepted;     /* its SYN was answered (HTTP) */
};

/* `probe_state`, by backend id. */
struct abi_probe_state {
    struct abi_probe_shot tcp[ABI_PROBE_SHOTS];
    struct abi_probe_shot http;
    __u64 answered_ns;     /* last good answer */
    __u64 http_sent_ns;    /* last HTTP check begun; with TLS: when the last handshake was told */
    __u64 urgent_ns;       /* last probe sent at once */
    __u64 suspected_ns;    /* an answer to a probe from before does not clear a suspicion */
    __u32 http_sequence;   /* what the HTTP answer begins with: the sequence number after the SYN's */
    __u32 next;            /* number of the next TCP probe */
    __u32 generation;      /* of the backend this is about */
    __u8 misses;           /* TCP probes in a row */
    __u8 http_misses;      /* HTTP checks or handshakes in a row, failures included */
    __u8 rises;            /* good answers in a row while it is down */
    __u8 http_failed;      /* the last HTTP check or handshake failed: a SYN-ACK does not clear it */
    __u8 wanted;           /* to be probed at once (abi_wanted) */
    __u8 http_fail_reason; /* (abi_reason) */
    __u16 status;          /* of the last HTTP answer, 0: it was none */
    __u32 rtt_us;          /* SYN to SYN-ACK, smoothed by 1/8 */
    __u32 http_rtt_us;     /* SYN to status */
    __u32 series;          /* probes that still follow the one at once, faster than the clock */
    __u64 probes, answers, refusals, timeouts, http_probes, http_answers, http_failures;
};

enum abi_wanted { ABI_WANTED_NOT = 0, ABI_WANTED_PROBE = 1, ABI_WANTED_HTTP = 2 };

/* `tick_state`, one element: the clock as the programs see it. */
struct abi_tick_state {
    __u64 ticks;
    __u64 last_ns;
    __u64 max_gap_ns;
    __u64 stale;       /* times the clock had stood still */
    __u64 storms;      /* ticks dropped because they came too fast */
    __u64 errors;      /* packets that could not be sent */
    __u64 over_budget; /* probes put off to a later tick */
    __u64 restarts;    /* kicks by traffic, lost tokens made anew */
    __u64 resumed_ns;  /* end of the last gap: probes from before it count as not sent */
    __u64 fan_ns;      /* when a packet last came to `fan`: what was sent after that did not leave */
    __u64 kick_ns;     /* last kick */
    __u32 fast;        /* ticks in a row that came too soon */
    __u32 port;        /* of the last probe, less ABI_PROBE_PORT_FIRST */
};

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
