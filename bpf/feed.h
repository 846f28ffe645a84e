/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Verdicts of a manager, on a node that lives on them (abi.h, the feed). They say where this node has to look
 * itself, and call nobody down:
 *
 * - up: it is not probed while it is up here, too;
 * - down: it is suspect, and probed at once; answers do not clear it as long as the manager says so. Once its
 * own probes have it down, it is not probed until the manager says something else;
 * - unknown: it is probed as anywhere.
 */
#ifndef FL_BPF_FEED_H
#define FL_BPF_FEED_H

#include "common.h"
#include "maps.h"
#include "suspicion.h"
#include "verdict.h"

/* What was said last of each backend: bits 0-7 state, 16-31 generation. */
FL_MAP(fed, BPF_MAP_TYPE_ARRAY, 8192, __u32, __u32, 0);
FL_MAP(feed_state, BPF_MAP_TYPE_ARRAY, 1, __u32, struct abi_feed_state, 0);

/* Whether there is a manager to go by. */
INLINE bool feed_counts(const struct abi_node *n, __u64 now)
{
    __u32 zero = 0;
    const struct abi_feed_state *f = bpf_map_lookup_elem(&feed_state, &zero);
    return n->flags & ABI_NODE_FED && f && f->heard_ns && now < f->heard_ns + ABI_FEED_LIFE_MS * 1000000ull;
}

/* What it says of a backend; ABI_UNKNOWN: nothing. */
INLINE __u32 feed_says(__u32 id, const struct abi_backend *b)
{
    const __u32 *word = bpf_map_lookup_elem(&fed, &id);
    __u32 said = word ? *(const volatile __u32 *)word : 0;
    return said >> 16 == b->generation ? said & 0xff : ABI_UNKNOWN;
}

/* Whether a backend is to be probed, given that there is a manager to go by. */
INLINE bool feed_leaves_it_to_us(__u32 id, const struct abi_backend *b, __u32 verdict)
{
    __u32 said = feed_says(id, b);
    if (said == ABI_UNKNOWN)
        return true;
    return said == ABI_DOWN ? verdict != ABI_DOWN : verdict != ABI_UP;
}

/* Whether answers are not to be trusted: the manager has a reason. */
INLINE bool feed_objects(__u32 id, const struct abi_backend *b, __u64 now)
{
    const struct abi_node *n = node_get(&node);
    return n && feed_counts(n, now) && feed_says(id, b) == ABI_DOWN;
}

struct feed_walk {
    struct __sk_buff *skb;
    __u64 now;
    __u32 doubts;
};

static long feed_step(__u32 i, struct feed_walk *w)
{
    __u64 word;
    if (bpf_skb_load_bytes(w->skb, ETH_HLEN + i * sizeof(word), &word, sizeof(word)))
        return 1;
    __u32 id = word >> 32, state = word & 0xff;
    __u32 *said = bpf_map_lookup_elem(&fed, &id);
    const struct abi_backend *b = bpf_map_lookup_elem(&backends, &id);
    const __u64 *verdict = bpf_map_lookup_elem(&verdicts, &id);
    if (!said || !b || !verdict || state > ABI_DOWN)
        return 0;
    *(volatile __u32 *)said = (__u32)word & 0xffff00ff;
    if (b->admin == ABI_ADMIN_NONE || b->generation != ((__u32)word >> 16))
        return 0; /* it was told early: it counts when the backend is there */
    __u32 now = verdict_state(*(const volatile __u64 *)verdict, b);
    if (state == ABI_UP && now == ABI_UNKNOWN) {
        verdict_set(id, b, ABI_UP, ABI_TOLD, 0);
    } else if (state == ABI_DOWN && (now == ABI_UP || now == ABI_UNKNOWN)) {
        w->doubts++;
        suspect_one(id, ABI_TOLD, w->now);
    }
    return 0;
}

INLINE void feed_take(struct __sk_buff *skb)
{
    __u32 zero = 0;
    const struct abi_node *n = node_get(&node);
    struct abi_feed_state *f = bpf_map_lookup_elem(&feed_state, &zero);
    struct feed_walk w = {.skb = skb, .now = bpf_ktime_get_ns()};
    if (!n || !f || !(n->flags & ABI_NODE_FED))
        return;
    __u32 count = skb->len > ETH_HLEN ? (skb->len - ETH_HLEN) / sizeof(__u64) : 0;
    bpf_loop(count < ABI_FEED_WORDS ? count : ABI_FEED_WORDS, feed_step, &w, 0);
    f->words += count;
    f->doubts += w.doubts;
    f->heard_ns = w.now;
}

#endif
