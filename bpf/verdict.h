/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The one writer of verdicts. A change is a compare-and-swap of the word, a slot of the history and a
 * wake-up.
 */
#ifndef FL_BPF_VERDICT_H
#define FL_BPF_VERDICT_H

#include "common.h"
#include "maps.h"

/* The state of a backend as of its present generation; ABI_UNKNOWN for a verdict of an older one. */
INLINE __u32 verdict_state(__u64 verdict, const struct abi_backend *b)
{
    return ABI_VERDICT_STATE_OF(verdict, b->generation, b->peer);
}

/* Whether new connections may go there. Unknown counts as up: a backend is tried until something speaks
 * against it. A suspect is avoided while another is up: `suspect_too` says that there is none. */
INLINE bool verdict_usable(__u64 verdict, const struct abi_backend *b, bool suspect_too)
{
    __u32 state = verdict_state(verdict, b);
    if (b->admin != ABI_ADMIN_ACTIVE)
        return false;
    return state == ABI_UP || state == ABI_UNKNOWN || (suspect_too && state == ABI_SUSPECT);
}

INLINE void verdict_note(__u32 id, __u64 before, __u64 after, __u32 rtt_us)
{
    __u32 zero = 0;
    __u64 *head = bpf_map_lookup_elem(&history_head, &zero);
    if (!head)
        return;
    __u64 number = __sync_fetch_and_add(head, 1);
    __u32 slot = number & (ABI_HISTORY - 1);
    struct abi_change *c = bpf_map_lookup_elem(&history, &slot);
    if (!c)
        return;
    c->number = ~0ull;
    barrier();
    c->time_ns = bpf_ktime_get_ns();
    c->before = before;
    c->after = after;
    c->backend = id;
    c->rtt_us = rtt_us;
    barrier();
    c->number = number;
    struct abi_wake *w = bpf_ringbuf_reserve(&wake, sizeof(*w), 0);
    if (!w)
        return; /* control reads the history anyway */
    w->number = number;
    bpf_ringbuf_submit(w, 0);
}

/* Makes `state` the verdict on backend `id`; a suspicion does not weaken a down, and the same state again
 * changes nothing. Returns whether it changed. */
INLINE bool verdict_set(__u32 id, const struct abi_backend *b, __u32 state, __u32 reason, __u32 rtt_us)
{
    __u64 *word = bpf_map_lookup_elem(&verdicts, &id);
    if (!word)
        return false;
    for (int i = 0; i < 4; i++) {
        __u64 before = *(volatile __u64 *)word;
        __u32 now = verdict_state(before, b);
        if (now == state || (state == ABI_SUSPECT && now == ABI_DOWN))
            return false;
        __u64 after = ABI_VERDICT(state, reason, b->generation, ABI_VERDICT_SEQUENCE(before) + 1);
        if (__sync_val_compare_and_swap(word, before, after) == before) {
            verdict_note(id, before, after, rtt_us);
            return true;
        }
    }
    return false;
}

#endif
