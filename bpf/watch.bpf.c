/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Evidence from the host's own connections to backends: counts them, and suspects a backend that refuses,
 * does not answer, does not acknowledge, or closes its canary. Attached to the instance's cgroup as sock_ops.
 */
#include "common.h"
#include "maps.h"
#include "context.h"
#include "sockets.h"
#include "suspicion.h"

char LICENSE[] SEC("license") = "GPL";

enum {
    EPIPE = 32,
    ECONNRESET = 104,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTUNREACH = 113,
    /* Timeouts in a row on one connection that are more than bad luck. */
    HARD_RETRANSMITS = 2,
    RTT_SHIFT = 3, /* srtt_us is 8 times the time */
    SOL_TCP = 6,
    TCP_USER_TIMEOUT = 18,
    AT_ONCE_MS = 1,
};

INLINE struct abi_endpoint remote_of(struct bpf_sock_ops *ctx)
{
    struct abi_endpoint remote = {.port = bpf_htons((__u16)bpf_ntohl(ctx->remote_port))};
    if (ctx->family == AF_INET6)
        context_read_addr(&remote.addr, ctx, struct bpf_sock_ops, remote_ip6);
    else
        addr_set_v4(&remote.addr, ctx->remote_ip4);
    return remote;
}

INLINE bool is_canary(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
    __u32 port = ctx->local_port;
    return sk->mark == ABI_MARK && port >= ABI_CANARY_PORT_FIRST &&
           port < ABI_CANARY_PORT_FIRST + ABI_CANARY_PORTS;
}

/* The note of a socket that is about to connect; null if it goes to no backend. One that was not steered gets
 * its note here. */
INLINE struct socket_note *note_at_connect(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
    struct socket_note *note = bpf_sk_storage_get(&sockets, sk, 0, 0);
    if (note && note->front.port)
        return note;
    struct abi_endpoint remote = remote_of(ctx);
    __u32 id = backend_at(&remote);
    if (id == ABI_NO_BACKEND)
        return 0;
    note = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (note) {
        note->backend = id;
        note->counted = 0;
        note->canary = is_canary(ctx, sk);
        note->late = 0;
    }
    return note;
}

INLINE __u64 tag_get(void)
{
    __u32 zero = 0;
    __u64 *tag = bpf_map_lookup_elem(&socket_tag, &zero);
    if (!tag)
        return 0;
    __u64 now = *(volatile __u64 *)tag;
    if (now)
        return now;
    __u64 made = (bpf_get_prandom_u32() & 0xffff) | 0x10000;
    now = __sync_val_compare_and_swap(tag, 0, made);
    return now ? now : made;
}

/* Another generation's count, or one of sockets that nobody knows any more, begins anew; who still counts
 * there does it under the old upper half. */
INLINE void count_in(struct abi_backend_stats *stats, struct socket_note *note)
{
    __u32 id = note->backend;
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    __u64 tag = tag_get(), now = *(volatile __u64 *)&stats->active;
    if (!b || !tag)
        return;
    __u32 who = (__u32)b->generation << 16 | (tag & 0xffff) | 1;
    if (now >> 32 != who)
        __sync_val_compare_and_swap(&stats->active, now, ABI_ACTIVE(who, 0));
    note->who = __sync_fetch_and_add(&stats->active, 1) >> 32;
    note->counted = 1;
}

INLINE void count_out(struct abi_backend_stats *stats, struct socket_note *note)
{
    note->counted = 0;
    if (*(volatile __u64 *)&stats->active >> 32 != note->who)
        return;
    if (__sync_fetch_and_add(&stats->active, -1) >> 32 != note->who)
        __sync_fetch_and_add(&stats->active, 1); /* it began anew in between */
}

INLINE void connecting(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
    struct socket_note *note = note_at_connect(ctx, sk);
    if (!note || note->counted)
        return;
    if (bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG))
        return;
    __u32 id = note->backend;
    struct abi_backend_stats *stats = bpf_map_lookup_elem(&backend_stats, &id);
    if (stats && !note->canary)
        count_in(stats, note);
    /* Here and not in `steer`: with thousands of services a backend's counts are in nobody's cache, and are
     * looked up once. */
    if (stats && note->front.port)
        __sync_fetch_and_add(&stats->connects, 1);
}

INLINE void note_rtt(struct abi_backend_stats *stats, __u32 srtt_us)
{
    __u64 rtt_us = srtt_us >> RTT_SHIFT, before = stats->rtt_us;
    if (rtt_us)
        stats->rtt_us = before ? before - before / 8 + rtt_us / 8 : rtt_us;
}

/* Where this host does not probe, or cannot, a connection is the best there is against a suspicion. One that
 * is made with a backend that is down (the service fails open, or it was not steered) is not stuck there. */
INLINE void weigh_verdict(struct socket_note *note)
{
    __u32 id = note->backend;
    const struct abi_node *n = node_get(&node);
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    const __u64 *verdict = bpf_map_lookup_elem(&verdicts, &id);
    if (!n || !b || !verdict)
        return;
    __u64 now = *(const volatile __u64 *)verdict;
    __u32 state = verdict_state(now, b);
    if (state == ABI_DOWN)
        note->late = ABI_VERDICT_SEQUENCE(now);
    if (state == ABI_SUSPECT && (!(n->flags & ABI_NODE_PROBES) || b->flags & ABI_BACKEND_UNPROBED))
        verdict_set(id, b, ABI_UP, ABI_CONNECTED, 0);
}

INLINE void established(struct bpf_sock_ops *ctx, struct socket_note *note)
{
    __u32 id = note->backend;
    struct abi_backend_stats *stats = bpf_map_lookup_elem(&backend_stats, &id);
    if (!stats)
        return;
    if (!note->canary)
        __sync_fetch_and_add(&stats->established, 1);
    note_rtt(stats, ctx->srtt_us);
    sign_of_life(id);
    weigh_verdict(note);
}

INLINE int error_of(struct bpf_sock *sk)
{
    struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
    return tcp ? tcp->inet_conn.icsk_inet.sk.sk_err : 0;
}

/* The connection was never made; closed by the application itself, it says nothing. */
INLINE void connect_failed(struct abi_backend_stats *stats, const struct socket_note *note, int error)
{
    bool refused = error == ECONNREFUSED;
    if (!refused && error != ETIMEDOUT && error != EHOSTUNREACH)
        return;
    if (!note->canary)
        __sync_fetch_and_add(refused ? &stats->refused : &stats->timeouts, 1);
    suspect(note->backend, refused ? ABI_REFUSED : ABI_CONNECT_TIMEOUT);
}

/* Data was in flight when it ended: servers do reset connections, now and then. */
INLINE void broken(struct abi_backend_stats *stats, __u32 id, int error)
{
    if (error == ECONNRESET || error == EPIPE) {
        __sync_fetch_and_add(&stats->resets, 1);
        suspect_softly(id, ABI_RESET);
    } else if (error == ETIMEDOUT) {
        suspect(id, ABI_RETRANSMITS);
    }
}

INLINE void closed(struct bpf_sock_ops *ctx, struct bpf_sock *sk, struct socket_note *note, __u32 before)
{
    __u32 id = note->backend;
    struct abi_backend_stats *stats = bpf_map_lookup_elem(&backend_stats, &id);
    if (!stats)
        return;
    if (note->counted)
        count_out(stats, note);
    int error = error_of(sk);
    if (before == BPF_TCP_SYN_SENT)
        connect_failed(stats, note, error);
    else if (!note->canary)
        broken(stats, id, error);
    else if (before == BPF_TCP_ESTABLISHED && error == ECONNRESET)
        suspect(id, ABI_CANARY);
}

INLINE void state_changed(struct bpf_sock_ops *ctx, struct bpf_sock *sk, struct socket_note *note)
{
    __u32 before = ctx->args[0], after = ctx->args[1];
    if (after == BPF_TCP_CLOSE)
        closed(ctx, sk, note, before);
    else if (after == BPF_TCP_CLOSE_WAIT && note->canary)
        suspect(note->backend, ABI_CANARY);
}

/*
 * A connection of a container: its segments are only forwarded where `cut` sees them, so nobody answers them
 * with a reset. While its backend is down the next retransmission is its last one; it follows at once, as the
 * kernel fits timers to this limit. One that was made when the backend was down already, by the same verdict,
 * is not stuck. Here the backend of the connection's note counts alone: that which it was steered to, or the
 * first at its address. `cut` means to ask for more: a packet does not say for which of several at an address
 * it is, so all of them have to be down.
 */
INLINE void end_if_stuck(struct bpf_sock_ops *ctx, const struct socket_note *note)
{
    __u32 id = note->backend;
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    const __u64 *verdict = bpf_map_lookup_elem(&verdicts, &id);
    if (!b || !verdict || !(b->flags & ABI_BACKEND_CUT) || note->canary || ctx->state == BPF_TCP_SYN_SENT)
        return;
    __u64 now = *(const volatile __u64 *)verdict;
    int limit_ms = AT_ONCE_MS;
    if (verdict_state(now, b) == ABI_DOWN && ABI_VERDICT_SEQUENCE(now) != note->late)
        bpf_setsockopt(ctx, SOL_TCP, TCP_USER_TIMEOUT, &limit_ms, sizeof(limit_ms));
}

INLINE void timed_out(struct bpf_sock_ops *ctx, const struct socket_note *note)
{
    __u32 id = note->backend;
    struct abi_backend_stats *stats = bpf_map_lookup_elem(&backend_stats, &id);
    __u32 reason = ctx->state == BPF_TCP_SYN_SENT ? ABI_CONNECT_TIMEOUT : ABI_RETRANSMITS;
    if (stats)
        __sync_fetch_and_add(&stats->retransmits, 1);
    if (ctx->args[0] >= HARD_RETRANSMITS)
        suspect(id, reason);
    else
        suspect_softly(id, reason);
    end_if_stuck(ctx, note);
}

INLINE void watch_op(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
    __u32 op = ctx->op;
    if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
        connecting(ctx, sk);
        return;
    }
    if (op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && op != BPF_SOCK_OPS_STATE_CB && op != BPF_SOCK_OPS_RTO_CB)
        return;
    struct socket_note *note = bpf_sk_storage_get(&sockets, sk, 0, 0);
    if (!note)
        return;
    if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
        established(ctx, note);
    else if (op == BPF_SOCK_OPS_STATE_CB)
        state_changed(ctx, sk, note);
    else
        timed_out(ctx, note);
}

SEC("sockops")
int watch_sockets(struct bpf_sock_ops *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    if (sk)
        watch_op(ctx, sk);
    ctx->reply = -1; /* no wish of ours; it takes the place of the arguments, so it comes last */
    return 1;
}
