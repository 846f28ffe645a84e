/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who owns an address on a segment, as this node sees it.
 *
 *   listening --- a claim is heard ------------> another's --- it falls silent, its session ends,
 *       |                                         ^     |      or it wants to be relieved
 *       | nobody claims                better     |     v
 *       '-----------------> own --- claim heard --'   vacant --- our turn ---> own
 *
 * Claims are repeated while the address is owned, so every wrong belief ends by itself. Writers of one state
 * (the clock, packets on several processors) may overtake each other: what that can spoil, the next claim
 * mends.
 */
#ifndef FL_BPF_TAKEOVER_MACHINE_H
#define FL_BPF_TAKEOVER_MACHINE_H

#include "common.h"
#include "takeover_claim.h"

#define MILLISECOND_NS 1000000ull

enum {
    TAKEOVER_LISTEN_MS = 3000,  /* three claims of a present owner, and sessions come up meanwhile */
    TAKEOVER_CLAIM_MS = 1000,   /* an owner repeats its claim */
    TAKEOVER_SILENT_MS = 3500,  /* an owner not heard for this long is none */
    TAKEOVER_TURN_MS = 250,     /* each candidate leaves the one before it this much time */
    TAKEOVER_BURST = 4,         /* announcements after a change */
    TAKEOVER_BURST_MS = 100,    /* between them */
    TAKEOVER_CALM_MS = 10000,   /* without dispute: support is counted anew */
    TAKEOVER_DEFEND_MS = 10000, /* RFC 5227, 2.4 (b) */
};

/* The other candidates, as their sessions say. */
struct takeover_view {
    __u64 now;
    __u64 stale_ns;   /* of the clock */
    __u64 newest_ns;  /* when the last of those that are up came up */
    __u32 up;         /* how many, without this node */
    __u32 before;     /* how many that are up come before this node, without the last owner */
    bool owner_ended; /* the owner's session went down after its last claim */
    bool draining;
};

INLINE bool takeover_after(__u64 now, __u64 since, __u64 milliseconds)
{
    return now - since >= milliseconds * MILLISECOND_NS;
}

INLINE void takeover_own(struct abi_address_state *s, __u64 node_id, __u32 position, __u64 claim, __u64 now)
{
    s->owner_node = node_id;
    s->owner = position;
    s->claim = claim;
    s->since_ns = now;
    s->listening = 0;
    s->last_owner_node = 0;
}

INLINE void takeover_vacate(struct abi_address_state *s, __u64 now)
{
    s->last_owner_node = s->owner_node;
    s->owner = ABI_NO_OWNER;
    s->owner_node = 0;
    s->since_ns = now;
    s->announce = 0;
}

/* Where the owner's node stands in the configuration of today, if it does. */
INLINE void takeover_follow(struct abi_address_state *s, __u32 position, __u64 now)
{
    if (position == s->owner)
        return;
    if (position == ABI_NO_OWNER) {
        takeover_vacate(s, now);
        return;
    }
    s->owner = position;
    s->claim = claim_make(claim_support(s->claim), claim_term(s->claim), position);
}

/* Claims; from the next tick on it is announced. */
INLINE void takeover_take(const struct abi_address *a, struct abi_address_state *s,
                          const struct takeover_view *v)
{
    __u64 claim = claim_make(v->up + 1, claim_next_term(s->claim), a->self);
    takeover_own(s, a->node_id[a->self & CLAIM_POSITION_MASK], a->self, claim, v->now);
    s->announce = TAKEOVER_BURST;
    s->claimed_ns = 0;
    s->unrest_ns = v->now;
    s->takeovers++;
}

INLINE __u32 takeover_support(const struct abi_address_state *s, const struct takeover_view *v)
{
    __u32 support = claim_support(s->claim), seen = v->up + 1;
    __u64 unrest = s->unrest_ns > v->newest_ns ? s->unrest_ns : v->newest_ns;
    if (seen < support)
        return seen;
    return seen > support && takeover_after(v->now, unrest, TAKEOVER_CALM_MS) ? seen : support;
}

/* A clock that stood still made the others miss this node. */
INLINE void takeover_weaken(const struct abi_address *a, struct abi_address_state *s, __u64 stale_ns,
                            __u64 now)
{
    if (s->owner != a->self || !s->looked_ns || now - s->looked_ns <= stale_ns)
        return;
    s->claim = claim_make(1, claim_term(s->claim), a->self);
    s->unrest_ns = now;
}

/* The owner's part: its support follows what it sees; who comes into sight is told at once. */
INLINE void takeover_keep(const struct abi_address *a, struct abi_address_state *s,
                          const struct takeover_view *v)
{
    __u32 before = claim_support(s->claim);
    takeover_weaken(a, s, v->stale_ns, v->now);
    __u32 support = takeover_support(s, v);
    if (support < before)
        s->unrest_ns = v->now;
    s->claim = claim_make(support, claim_term(s->claim), a->self);
    if (v->newest_ns > s->claimed_ns && !s->announce)
        s->announce = TAKEOVER_BURST;
}

/* A node that drains relieves only an owner that is silent. */
INLINE bool takeover_gone(const struct abi_address_state *s, const struct takeover_view *v)
{
    if (takeover_after(v->now, s->heard_ns, TAKEOVER_SILENT_MS))
        return true;
    return !v->draining && (v->owner_ended || !claim_support(s->claim));
}

/* Nobody owns it: this node's turn comes after those before it, who had time to speak. */
INLINE void takeover_wait(const struct abi_address *a, struct abi_address_state *s,
                          const struct takeover_view *v)
{
    __u64 wait_ms = v->before * TAKEOVER_TURN_MS + (s->listening ? TAKEOVER_LISTEN_MS : 0);
    if (v->draining && v->up)
        return;
    if (takeover_after(v->now, s->since_ns, wait_ms))
        takeover_take(a, s, v);
}

/* A look at the state, with each tick and before each answer. */
INLINE void takeover_look(const struct abi_address *a, struct abi_address_state *s,
                          const struct takeover_view *v)
{
    bool own = s->owner == a->self;
    if (own && a->managers > 1 && s->looked_ns && takeover_after(v->now, s->looked_ns, TAKEOVER_SILENT_MS)) {
        takeover_vacate(s, v->now); /* too long away to know anything */
        s->listening = 1;
    } else if (own) {
        takeover_keep(a, s, v);
    } else if (s->owner != ABI_NO_OWNER && takeover_gone(s, v)) {
        takeover_vacate(s, v->now);
    }
    if (s->owner == ABI_NO_OWNER)
        takeover_wait(a, s, v);
}

/* Our claim as it is said now. */
INLINE __u64 takeover_claim(const struct abi_address_state *s, bool draining)
{
    return draining ? claim_make(0, claim_term(s->claim), claim_position(s->claim)) : s->claim;
}

/* Another candidate's claim was heard. */
INLINE void takeover_hear(const struct abi_address *a, struct abi_address_state *s, __u64 claim,
                          bool draining, __u64 now)
{
    __u32 position = claim_position(claim) & CLAIM_POSITION_MASK;
    if (s->owner == a->self) {
        s->conflicts++;
        s->unrest_ns = now;
        if (claim < takeover_claim(s, draining)) {
            s->announce = s->announce ? s->announce : TAKEOVER_BURST;
            return;
        }
        s->announce = 0;
    } else if (s->owner != position && s->owner != ABI_NO_OWNER && claim < s->claim &&
               !takeover_after(now, s->heard_ns, 2 * TAKEOVER_CLAIM_MS)) {
        return; /* those two settle it */
    } else if (s->owner == ABI_NO_OWNER && !claim_support(claim) && !s->listening) {
        return; /* it wants to be relieved, and that is under way */
    }
    s->heard_ns = now;
    if (s->owner != position)
        takeover_own(s, a->node_id[position], position, claim, now);
    s->claim = claim;
}

/* Whether an announcement is to be sent with this tick. */
INLINE bool takeover_speaks(struct abi_address_state *s, __u64 now)
{
    if (!takeover_after(now, s->claimed_ns, s->announce ? TAKEOVER_BURST_MS : TAKEOVER_CLAIM_MS))
        return false;
    s->claimed_ns = now;
    if (s->announce)
        s->announce--;
    return true;
}

#endif
