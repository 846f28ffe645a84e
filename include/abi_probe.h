/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Part of abi.h: checks, probes and the clock. */
#ifndef FL_ABI_PROBE_H
#define FL_ABI_PROBE_H

#ifndef FL_ABI_H
#error "include abi.h"
#endif

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

#endif
