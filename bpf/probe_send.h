/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sending probes: which are due, and the SYN. Source ports go round, so that no two probes to one address
 * that are under way at a time share theirs; where each tick begins is random; sequence numbers: probe_own.h.
 */
#ifndef FL_BPF_PROBE_SEND_H
#define FL_BPF_PROBE_SEND_H

#include "common.h"
#include "probe_judge.h"
#include "probe_own.h"
#include "probe_packet.h"

enum { UNPROBED_SUSPICION_MS = 5000 };

/* The next source port, host byte order. */
INLINE __u16 next_port(struct abi_tick_state *clock)
{
    __u32 port = __sync_fetch_and_add(&clock->port, 1);
    return ABI_PROBE_PORT_FIRST + (port & (ABI_PROBE_PORTS - 1));
}

/* What the backend's probe comes from; in `inner` when the backend is on this host. */
INLINE void probe_source(const struct abi_node *n, const struct abi_backend *b, struct abi_addr *out)
{
    if (!(b->flags & ABI_BACKEND_LOCAL))
        *out = b->source;
    else if (addr_is_v4(&b->addr))
        *out = n->inner;
    else
        *out = n->inner6;
}

/* Begins a probe: its SYN is in *s. */
INLINE void shot_begin(struct checkup *p, struct abi_probe_shot *shot, const struct abi_node *n,
                       struct segment *s)
{
    __u16 port = next_port(p->clock);
    __builtin_memset(s, 0, sizeof(*s));
    probe_source(n, p->backend, &s->source);
    s->target = p->backend->addr;
    s->v4 = addr_is_v4(&s->target);
    s->source_port = bpf_htons(port);
    s->target_port = p->backend->port;
    s->sequence = own_sequence(bpf_get_prandom_u32(), &s->target, s->target_port, s->source_port);
    s->flags = TCP_SYN;
    shot->sent_ns = 0;
    shot->sequence = s->sequence;
    shot->source_port = port;
    shot->accepted = 0;
    shot->used = ABI_SHOT_ONE;
    barrier();
    shot->sent_ns = bpf_ktime_get_ns();
}

/* Where the next TCP probe goes; NULL while as many as there can be are under way. */
INLINE struct abi_probe_shot *next_shot(struct abi_probe_state *s)
{
    struct abi_probe_shot *shot = &s->tcp[s->next & (ABI_PROBE_SHOTS - 1)];
    if (shot->sent_ns)
        return NULL;
    s->next++;
    return shot;
}

/* An HTTP check is due in its interval; with every probe while it is open what the verdict will be.
 * `slack_ns` is what the clock may be early. */
INLINE bool http_due(const struct checkup *p, __u64 slack_ns)
{
    const struct abi_probe_state *s = p->state;
    if (p->check->kind != ABI_CHECK_HTTP || s->http.sent_ns)
        return false;
    if (s->wanted == ABI_WANTED_HTTP)
        return true;
    __u32 verdict = probe_verdict(p);
    if ((verdict == ABI_UP && !s->http_misses) || (verdict == ABI_DOWN && s->http_failed))
        return p->now + slack_ns >= s->http_sent_ns + (__u64)p->check->http_interval_us * NS_PER_US;
    return true;
}

/* What no probe can clear. */
INLINE bool suspicion_is_over(const struct checkup *p, __u32 verdict)
{
    __u64 until_ns = p->state->suspected_ns + UNPROBED_SUSPICION_MS * 1000000ull;
    return verdict == ABI_SUSPECT && p->now > until_ns;
}

/* What is not checked is up until something speaks against it, and probed from then on. `fed`: there is a
 * manager to go by. */
INLINE bool probe_due(struct checkup *p, bool fed)
{
    __u32 verdict = probe_verdict(p);
    if (p->check->kind != ABI_CHECK_NONE && !(p->backend->flags & ABI_BACKEND_UNCHECKED))
        return !fed || p->state->wanted || feed_leaves_it_to_us(p->id, p->backend, verdict);
    bool unprobed = p->backend->flags & ABI_BACKEND_UNPROBED;
    if (verdict == ABI_UNKNOWN || (unprobed && suspicion_is_over(p, verdict)))
        verdict_set(p->id, p->backend, ABI_UP, ABI_UNCHECKED, 0);
    if (unprobed)
        return false;
    return verdict == ABI_SUSPECT || verdict == ABI_DOWN || p->state->wanted;
}

#endif
