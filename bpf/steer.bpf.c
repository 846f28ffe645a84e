/* SPDX-License-Identifier: GPL-2.0 */
/*
 * connect() to a service's address reaches a backend, and getpeername() shows the service's address. Attached
 * to the instance's cgroup. Once connected, nothing of this is on the packets' way.
 */
#include "common.h"
#include "maps.h"
#include "choose.h"
#include "context.h"
#include "sockets.h"

char LICENSE[] SEC("license") = "GPL";

enum { SOCK_STREAM_TYPE = 1, ECONNREFUSED = 111 };

enum steer_result { STEER_NOT = 0, STEER_TO = 1, STEER_REFUSE = 2 };

/* The same for all connections of a cgroup on a host: ABI_POLICY_MAGLEV keeps them together. */
INLINE __u32 client_hash(const struct abi_service *s)
{
    const struct abi_node *n = node_get(&node);
    __u64 h = bpf_get_current_cgroup_id() ^ ((__u64)s->seed << 32 | s->seed);
    if (n)
        h ^= n->node_id * 0x9e3779b97f4a7c15ull;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93ull;
    return h ^ h >> 32;
}

INLINE bool is_tcp(const struct bpf_sock_addr *ctx)
{
    return ctx->type == SOCK_STREAM_TYPE && ctx->protocol == IPPROTO_TCP;
}

/* A socket keeps its note for its life, but this connection is none of ours. */
INLINE enum steer_result leave_alone(struct bpf_sock *sk)
{
    bpf_sk_storage_delete(&sockets, sk);
    return STEER_NOT;
}

INLINE void note_connect(struct bpf_sock *sk, const struct abi_endpoint *front, __u32 id)
{
    struct socket_note *note = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (note) {
        note->front = *front;
        note->backend = id;
        note->counted = 0;
        note->canary = 0;
        note->late = 0;
    }
}

INLINE enum steer_result steer_by_rows(struct bpf_sock *sk, const struct abi_service *s,
                                       struct abi_endpoint *target, __u32 families)
{
    __u32 hash = s->policy == ABI_POLICY_MAGLEV ? client_hash(s) : bpf_get_prandom_u32();
    __u32 id = choose(s, hash, families);
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    if (id == ABI_NO_BACKEND || !b) {
        leave_alone(sk);
        return STEER_REFUSE;
    }
    note_connect(sk, target, id);
    target->addr = b->addr;
    target->port = b->port;
    return STEER_TO;
}

/* `target` is the address asked for, and becomes the backend's with STEER_TO. */
INLINE enum steer_result steer(struct bpf_sock *sk, struct abi_endpoint *target, __u32 families)
{
    if (sk->mark == ABI_MARK)
        return leave_alone(sk);
    const struct abi_service *s = bpf_map_lookup_elem(&services, target);
    if (!s || !(s->flags & ABI_SERVICE_STEER))
        return leave_alone(sk);
    if (s->policy == ABI_POLICY_RANDOM && families & CHOOSE_V4) {
        const struct abi_few *few = choose_few(s, bpf_get_prandom_u32());
        if (few && few->addr4) {
            note_connect(sk, target, few->backend);
            addr_set_v4(&target->addr, few->addr4);
            target->port = few->port;
            return STEER_TO;
        }
    }
    return steer_by_rows(sk, s, target, families);
}

INLINE int refuse(void)
{
    bpf_set_retval(-ECONNREFUSED);
    return 0;
}

SEC("cgroup/connect4")
int steer_connect4(struct bpf_sock_addr *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    if (!is_tcp(ctx) || !sk)
        return 1;
    struct abi_endpoint target = {.port = ctx->user_port};
    addr_set_v4(&target.addr, ctx->user_ip4);
    enum steer_result result = steer(sk, &target, CHOOSE_V4);
    if (result == STEER_REFUSE)
        return refuse();
    if (result == STEER_TO) {
        ctx->user_ip4 = target.addr.word[3];
        ctx->user_port = target.port;
    }
    return 1;
}

/* An IPv6 socket speaks IPv4 unless it was told not to, or is bound to an address of the other family. */
INLINE __u32 families_of(struct bpf_sock *sk)
{
    struct abi_addr bound;
    context_read_addr(&bound, sk, struct bpf_sock, src_ip6);
    if (addr_is_v4(&bound))
        return CHOOSE_V4;
    if (bound.word[0] | bound.word[1] | bound.word[2] | bound.word[3])
        return CHOOSE_V6;
    struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
    if (tcp && BPF_CORE_READ_BITFIELD(&tcp->inet_conn.icsk_inet.sk.__sk_common, skc_ipv6only))
        return CHOOSE_V6;
    return CHOOSE_ANY;
}

SEC("cgroup/connect6")
int steer_connect6(struct bpf_sock_addr *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    if (!is_tcp(ctx) || !sk)
        return 1;
    struct abi_endpoint target = {.port = ctx->user_port};
    context_read_addr(&target.addr, ctx, struct bpf_sock_addr, user_ip6);
    enum steer_result result = steer(sk, &target, families_of(sk));
    if (result == STEER_REFUSE)
        return refuse();
    if (result == STEER_TO) {
        context_write_addr(&target.addr, ctx, struct bpf_sock_addr, user_ip6);
        ctx->user_port = target.port;
    }
    return 1;
}

/* What the socket's application connected to; null if that is where it is. */
INLINE const struct abi_endpoint *front_of(struct bpf_sock *sk)
{
    if (!sk)
        return 0;
    struct socket_note *note = bpf_sk_storage_get(&sockets, sk, 0, 0);
    return note && note->front.port ? &note->front : 0;
}

SEC("cgroup/getpeername4")
int steer_getpeername4(struct bpf_sock_addr *ctx)
{
    const struct abi_endpoint *front = front_of(ctx->sk);
    if (front) {
        ctx->user_ip4 = front->addr.word[3];
        ctx->user_port = front->port;
    }
    return 1;
}

SEC("cgroup/getpeername6")
int steer_getpeername6(struct bpf_sock_addr *ctx)
{
    const struct abi_endpoint *front = front_of(ctx->sk);
    if (front) {
        context_write_addr(&front->addr, ctx, struct bpf_sock_addr, user_ip6);
        ctx->user_port = front->port;
    }
    return 1;
}
