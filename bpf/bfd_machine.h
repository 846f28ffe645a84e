/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The state machine of a BFD session, RFC 5880, 6.8, asynchronous mode. Calls no helper, so that it runs
 * under the session's spin lock; the caller sends, arms the timer and tells the backends.
 *
 *            no answer yet         sees us             agrees
 *   Down ---- hears Down ----> Init ---- hears Init, Up ----> Up
 *    |  ------ hears Init ------------------------------->    |
 *    <------- silence, hears Down or AdminDown ---------------'      AdminDown: while abi_peer.draining
 */
#ifndef FL_BPF_BFD_MACHINE_H
#define FL_BPF_BFD_MACHINE_H

#include "bfd_packet.h"

enum {
    BFD_SLOW_US = 1000000, /* not below, while the session is not up (6.8.3) */
    BFD_DETECT_MIN_NS = 1000000,
};

/* 4.1 */
enum bfd_diagnostic {
    BFD_DIAG_NONE = 0,
    BFD_DIAG_EXPIRED = 1,
    BFD_DIAG_NEIGHBOUR = 3,
    BFD_DIAG_ADMIN = 7,
};

enum bfd_event {
    BFD_EVENT_NONE = 0,
    BFD_EVENT_UP,
    BFD_EVENT_SILENT, /* was up; nothing was heard for a detection time */
    BFD_EVENT_TOLD,   /* was up; the peer says that it is not */
    BFD_EVENT_BEGUN,  /* it is another session than the one before */
};

INLINE __u32 bfd_max(__u32 a, __u32 b)
{
    return a > b ? a : b;
}

INLINE void bfd_move(struct abi_peer_state *s, __u32 state, __u32 diagnostic, __u64 now)
{
    if (s->state == ABI_BFD_UP && state != ABI_BFD_UP) {
        s->downs++;
        s->ended_ns = now;
    }
    s->ups += s->state != ABI_BFD_UP && state == ABI_BFD_UP;
    s->state = state;
    s->diagnostic = diagnostic;
    s->changed_ns = now;
    s->next_tx_ns = 0;
}

INLINE void bfd_begin(const struct abi_peer *p, struct abi_peer_state *s, __u64 now)
{
    s->generation = p->generation | ABI_PEER_BEGUN;
    s->state = ABI_BFD_DOWN;
    s->remote_state = ABI_BFD_DOWN;
    s->diagnostic = BFD_DIAG_NONE;
    s->remote_discriminator = 0;
    s->remote_min_rx_us = 1;
    s->remote_min_tx_us = 0;
    s->remote_multiplier = 0;
    s->desired_tx_us = s->sending_us = bfd_max(BFD_SLOW_US, p->tx_us);
    s->required_rx_us = s->listening_us = p->rx_us;
    s->poll = s->final = s->demand = s->spared = 0;
    s->received_ns = s->sent_ns = s->next_tx_ns = s->detect_ns = s->ended_ns = 0;
    s->changed_ns = now;
}

/* The peer is no more in the configuration: nobody may take the session for one that is up. */
INLINE void bfd_forget(struct abi_peer_state *s)
{
    s->generation = 0;
    s->state = ABI_BFD_DOWN;
}

INLINE void bfd_detection_time(struct abi_peer_state *s)
{
    __u64 ns = bfd_max(s->listening_us, s->remote_min_tx_us) * 1000ull * s->remote_multiplier;
    s->detect_ns = ns < BFD_DETECT_MIN_NS ? BFD_DETECT_MIN_NS : ns;
}

/* What was announced comes into force. */
INLINE void bfd_poll_ends(struct abi_peer_state *s)
{
    s->poll = 0;
    s->sending_us = s->desired_tx_us;
    s->listening_us = s->required_rx_us;
}

/* Brings the intervals to what the configuration and the state ask for (6.8.3). `clock_us`: packets cannot be
 * sent at shorter intervals. */
INLINE void bfd_intervals(const struct abi_peer *p, struct abi_peer_state *s, __u32 clock_us)
{
    __u32 tx = bfd_max(p->tx_us, s->state == ABI_BFD_UP ? clock_us : BFD_SLOW_US);
    if (tx == s->desired_tx_us && p->rx_us == s->required_rx_us)
        return;
    s->desired_tx_us = tx;
    s->required_rx_us = p->rx_us;
    if (s->state != ABI_BFD_UP) {
        bfd_poll_ends(s);
    } else {
        s->poll = 1;
        s->next_tx_ns = 0;
        s->sending_us = tx < s->sending_us ? tx : s->sending_us;
        s->listening_us = bfd_max(p->rx_us, s->listening_us);
    }
    if (s->remote_multiplier)
        bfd_detection_time(s);
}

/* Whether the configuration asks for another session than this one: bfd_configure will begin it. */
INLINE bool bfd_is_other(const struct abi_peer *p, const struct abi_peer_state *s)
{
    return s->generation != (p->generation | ABI_PEER_BEGUN);
}

/* Follows abi_peer.generation and .draining; before each of the steps below. */
INLINE void bfd_configure(const struct abi_peer *p, struct abi_peer_state *s, __u32 clock_us, __u64 now)
{
    if (bfd_is_other(p, s))
        bfd_begin(p, s, now);
    if (p->draining && s->state != ABI_BFD_ADMIN_DOWN)
        bfd_move(s, ABI_BFD_ADMIN_DOWN, BFD_DIAG_ADMIN, now);
    else if (!p->draining && s->state == ABI_BFD_ADMIN_DOWN)
        bfd_move(s, ABI_BFD_DOWN, BFD_DIAG_NONE, now);
    bfd_intervals(p, s, clock_us);
}

INLINE void bfd_take_values(struct abi_peer_state *s, const struct bfd_packet *k, __u64 now)
{
    s->received++;
    s->received_ns = now;
    s->spared = 0;
    s->remote_discriminator = bpf_ntohl(k->my_discriminator);
    s->remote_state = bfd_packet_state(k);
    s->demand = !!(k->flags & BFD_DEMAND);
    s->remote_min_rx_us = bpf_ntohl(k->min_rx_us);
    s->remote_min_tx_us = bpf_ntohl(k->min_tx_us);
    s->remote_multiplier = k->multiplier;
    if (s->poll && (k->flags & BFD_FINAL))
        bfd_poll_ends(s);
    if (k->flags & BFD_POLL)
        s->final = 1;
    bfd_detection_time(s);
}

INLINE enum bfd_event bfd_hear_down(struct abi_peer_state *s, __u64 now)
{
    if (s->state == ABI_BFD_DOWN)
        bfd_move(s, ABI_BFD_INIT, s->diagnostic, now);
    if (s->state != ABI_BFD_UP)
        return BFD_EVENT_NONE;
    bfd_move(s, ABI_BFD_DOWN, BFD_DIAG_NEIGHBOUR, now);
    return BFD_EVENT_TOLD;
}

INLINE enum bfd_event bfd_hear_alive(struct abi_peer_state *s, __u32 heard, __u64 now)
{
    bool agreed = (s->state == ABI_BFD_DOWN && heard == ABI_BFD_INIT) || s->state == ABI_BFD_INIT;
    if (!agreed)
        return BFD_EVENT_NONE;
    bfd_move(s, ABI_BFD_UP, BFD_DIAG_NONE, now);
    return BFD_EVENT_UP;
}

/* A valid packet of this session (6.8.6, from "Set bfd.RemoteDiscr" on). */
INLINE enum bfd_event bfd_hear(struct abi_peer_state *s, const struct bfd_packet *k, __u64 now)
{
    __u32 heard = bfd_packet_state(k);
    bfd_take_values(s, k, now);
    if (s->state == ABI_BFD_ADMIN_DOWN)
        return BFD_EVENT_NONE;
    if (heard == ABI_BFD_ADMIN_DOWN) {
        if (s->state != ABI_BFD_DOWN)
            bfd_move(s, ABI_BFD_DOWN, BFD_DIAG_NEIGHBOUR, now);
        return BFD_EVENT_NONE; /* on purpose: no failure */
    }
    return heard == ABI_BFD_DOWN ? bfd_hear_down(s, now) : bfd_hear_alive(s, heard, now);
}

/* The timer fired. *again_ns: when it shall fire next, 0: no more. A timer that fires much later than it was
 * set for says that this processor stood still, and packets may wait behind it: one more interval, once. */
INLINE enum bfd_event bfd_expire(struct abi_peer_state *s, __u64 now, __u64 *again_ns)
{
    __u64 deadline = s->received_ns + s->detect_ns;
    *again_ns = 0;
    if (!s->received_ns || !s->remote_multiplier)
        return BFD_EVENT_NONE;
    if (now < deadline) {
        *again_ns = deadline - now;
        return BFD_EVENT_NONE;
    }
    if (!s->spared && now - deadline > s->detect_ns / 4) {
        s->spared = 1;
        *again_ns = s->detect_ns / s->remote_multiplier;
        return BFD_EVENT_NONE;
    }
    bool was_up = s->state == ABI_BFD_UP;
    s->remote_discriminator = 0;
    s->remote_min_rx_us = 1;
    s->demand = 0;
    if (was_up || s->state == ABI_BFD_INIT)
        bfd_move(s, ABI_BFD_DOWN, BFD_DIAG_EXPIRED, now);
    return was_up ? BFD_EVENT_SILENT : BFD_EVENT_NONE;
}

/* Whether a periodic packet is to be sent: early rather than late, as `clock_us` pass until the next chance
 * (6.8.7). With a multiplier of 1 a packet may not take more than 90 % of the interval. */
INLINE bool bfd_due(const struct abi_peer *p, const struct abi_peer_state *s, __u32 clock_us, __u64 now)
{
    __u64 interval = bfd_max(s->sending_us, s->remote_min_rx_us) * 1000ull;
    if (!s->remote_min_rx_us)
        return false;
    if (s->demand && s->state == ABI_BFD_UP && s->remote_state == ABI_BFD_UP && !s->poll)
        return false;
    if (p->multiplier == 1)
        interval = interval / 10 * 9;
    return now >= s->next_tx_ns || now + clock_us * 1000ull > s->sent_ns + interval;
}

/* When to send next at the latest: 75 to 100 % of the interval from now (with a multiplier of 1: to 90 %). */
INLINE __u64 bfd_jittered(const struct abi_peer *p, const struct abi_peer_state *s, __u32 random, __u64 now)
{
    __u64 interval = bfd_max(s->sending_us, s->remote_min_rx_us) * 1000ull;
    __u64 span = p->multiplier == 1 ? interval / 20 * 3 : interval / 4;
    return now + interval / 4 * 3 + (span * (random >> 16) >> 16);
}

INLINE void bfd_fill(const struct abi_peer *p, const struct abi_peer_state *s, struct bfd_packet *k)
{
    k->version = BFD_VERSION << 5 | (s->diagnostic & 0x1f);
    k->flags = s->state << 6 | BFD_INDEPENDENT;
    if (s->final)
        k->flags |= BFD_FINAL; /* never with P (6.5) */
    else if (s->poll)
        k->flags |= BFD_POLL;
    k->multiplier = p->multiplier ? p->multiplier : 1;
    k->length = BFD_BYTES;
    k->my_discriminator = bpf_htonl(p->discriminator);
    k->your_discriminator = bpf_htonl(s->remote_discriminator);
    k->min_tx_us = bpf_htonl(s->desired_tx_us);
    k->min_rx_us = bpf_htonl(s->required_rx_us);
    k->min_echo_rx_us = 0;
}

/* One chance to send; true with the packet filled in when there is something to say. */
INLINE bool bfd_speak(const struct abi_peer *p, struct abi_peer_state *s, __u32 clock_us, __u32 random,
                      __u64 now, struct bfd_packet *k)
{
    bool due = bfd_due(p, s, clock_us, now);
    if (!due && !s->final)
        return false;
    bfd_fill(p, s, k);
    s->final = 0;
    s->sent++;
    if (due) {
        s->sent_ns = now;
        s->next_tx_ns = bfd_jittered(p, s, random, now);
    }
    return true;
}

#endif
