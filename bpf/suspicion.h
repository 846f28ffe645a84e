/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From evidence in connections to a suspicion: whatever is seen makes a backend suspect at most and asks for
 * a probe, which decides.
 */
#ifndef FL_BPF_SUSPICION_H
#define FL_BPF_SUSPICION_H

#include "common.h"
#include "maps.h"
#include "verdict.h"

enum {
    /* Suspicions of a backend that a probe did not confirm: so many at once, then one in each period. */
    SUSPICION_TOKENS = 8,
    SUSPICION_REFILL_MS = 250,
    /* Soft evidence (a timeout of retransmission, a reset): one lost packet says nothing, so many do, and on
     * a busy backend more. */
    SOFT_WINDOW_MS = 3000,
    SOFT_POINTS = 2,
    SOFT_CONNECTIONS_PER_POINT = 32,
    SAME_ENDPOINT_WALK = ABI_SERVICES_MAX, /* each service may have a backend at one address */
};

struct suspicion {
    __u64 refilled_ns;
    __u64 window_ns; /* when the first of the points was given */
    __u32 tokens_used;
    __u32 points;
};

FL_MAP(suspicions, BPF_MAP_TYPE_ARRAY, 8192, __u32, struct suspicion, 0);

/* Races between processors make it a little more or less: it bounds work, it decides nothing. */
INLINE bool suspicion_allowed(__u32 id, __u64 now)
{
    struct suspicion *s = bpf_map_lookup_elem(&suspicions, &id);
    if (!s)
        return false;
    __u64 refills = (now - s->refilled_ns) / (SUSPICION_REFILL_MS * 1000000ull);
    if (refills > 0) {
        s->refilled_ns = now;
        s->tokens_used = refills >= s->tokens_used ? 0 : s->tokens_used - (__u32)refills;
    }
    if (s->tokens_used >= SUSPICION_TOKENS)
        return false;
    s->tokens_used++;
    return true;
}

/* Backends to be probed with the next tick, whatever their interval is. */
struct {
    __uint(type, BPF_MAP_TYPE_QUEUE);
    __uint(max_entries, 1024);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
    __type(value, __u32);
} wanted SEC(".maps");

/* Full: it waits for its turn. */
INLINE void probe_soon(__u32 id, const struct abi_backend *b, __u64 now)
{
    __u32 service = b->service;
    struct abi_probe_state *p = bpf_map_lookup_elem(&probe_state, &id);
    const struct abi_check *c = bpf_map_lookup_elem(&checks, &service);
    if (!p)
        return;
    p->suspected_ns = now;
    bool queued = p->wanted;
    p->wanted = c && c->kind == ABI_CHECK_HTTP ? ABI_WANTED_HTTP : ABI_WANTED_PROBE;
    if (!queued)
        bpf_map_push_elem(&wanted, &id, 0);
}

INLINE void suspect_one(__u32 id, __u32 reason, __u64 now)
{
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    const __u64 *verdict = bpf_map_lookup_elem(&verdicts, &id);
    if (!b || !verdict || b->admin == ABI_ADMIN_NONE)
        return;
    __u32 state = verdict_state(*(const volatile __u64 *)verdict, b);
    if (state == ABI_DOWN || state == ABI_SUSPECT || !suspicion_allowed(id, now))
        return;
    probe_soon(id, b, now);
    verdict_set(id, b, ABI_SUSPECT, reason, 0);
}

/* The first backend of an address in traffic, or ABI_NO_BACKEND. */
INLINE __u32 backend_at(const struct abi_endpoint *at)
{
    const struct abi_endpoint_backends *found = bpf_map_lookup_elem(&endpoints, at);
    return found ? found->first : ABI_NO_BACKEND;
}

struct suspect_walk {
    __u64 now;
    __u32 id; /* of this step */
    __u32 reason;
};

static long suspect_step(__u32 i, struct suspect_walk *w)
{
    __u32 id = w->id;
    suspect_one(id, w->reason, w->now);
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    w->id = b ? b->next_same : ABI_NO_BACKEND;
    return w->id == ABI_NO_BACKEND;
}

/* Hard evidence against backend `id`, and so against what other services have at the same address. */
INLINE void suspect(__u32 id, __u32 reason)
{
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    if (!b)
        return;
    struct abi_endpoint at = {.addr = b->addr, .port = b->port};
    struct suspect_walk w = {.now = bpf_ktime_get_ns(), .id = backend_at(&at), .reason = reason};
    if (w.id == ABI_NO_BACKEND)
        w.id = id;
    bpf_loop(SAME_ENDPOINT_WALK, suspect_step, &w, 0);
}

/* Soft evidence: enough of it within the window, with no sign of life between, is hard. */
INLINE void suspect_softly(__u32 id, __u32 reason)
{
    struct suspicion *s = bpf_map_lookup_elem(&suspicions, &id);
    const struct abi_backend_stats *stats = bpf_map_lookup_elem(&backend_stats, &id);
    if (!s || !stats)
        return;
    __u64 now = bpf_ktime_get_ns();
    if (now - s->window_ns > SOFT_WINDOW_MS * 1000000ull) {
        s->window_ns = now;
        s->points = 0;
    }
    __u32 points = __sync_fetch_and_add(&s->points, 1) + 1;
    __u32 active = ABI_ACTIVE_COUNT(stats->active);
    if (points < SOFT_POINTS + active / SOFT_CONNECTIONS_PER_POINT)
        return;
    s->points = 0;
    suspect(id, reason);
}

/* Something came from it. */
INLINE void sign_of_life(__u32 id)
{
    struct suspicion *s = bpf_map_lookup_elem(&suspicions, &id);
    if (s && s->points)
        s->points = 0;
}

#endif
