/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Claims to an address: what a manager says when it announces itself, and which of two claims stands.
 *
 * A claim is {support, term, position}. Support is the smallest number of candidates that its owner saw up,
 * itself among them, since it took the address: one who lost sight of the others gives way to one who did
 * not. Term grows with each taking over: of two with the same support the later one stands, so that an owner
 * who was cut off does not take the address back. Position decides the rest. Every node compares the same
 * three numbers, so exactly one stands. Support 0: the owner wants to be relieved.
 *
 * It travels in fields that receivers ignore: the target link address of a gratuitous ARP packet (RFC 5227,
 * 3; the first byte makes it a locally administered one), an experimental option of an unsolicited neighbour
 * advertisement (RFC 4727, 5.3).
 */
#ifndef FL_BPF_TAKEOVER_CLAIM_H
#define FL_BPF_TAKEOVER_CLAIM_H

#include "common.h"

enum {
    CLAIM_LOCAL = 0x02, /* bytes 0 and 1 of an ARP mark */
    CLAIM_MAGIC = 0xfa,
    CLAIM_OPTION = 254,
    CLAIM_TERM_MAX = 0xffffff,
    CLAIM_SUPPORT_MAX = 15,
    CLAIM_POSITION_MASK = ABI_ADDRESS_MANAGERS_MAX - 1,
};

/* As it travels. */
struct claim_mark {
    __u8 local;
    __u8 magic;
    __u8 support_position; /* four bits each */
    __u8 term[3];          /* most significant byte first */
};

/* The larger one stands. */
INLINE __u64 claim_make(__u32 support, __u32 term, __u32 position)
{
    return (__u64)support << 40 | (__u64)term << 8 | (0xff - position);
}

INLINE __u32 claim_support(__u64 claim)
{
    return claim >> 40;
}

INLINE __u32 claim_term(__u64 claim)
{
    return claim >> 8 & CLAIM_TERM_MAX;
}

INLINE __u32 claim_position(__u64 claim)
{
    return 0xff - (claim & 0xff);
}

INLINE __u32 claim_next_term(__u64 claim)
{
    __u32 term = claim_term(claim);
    return term < CLAIM_TERM_MAX ? term + 1 : term;
}

INLINE void claim_write(__u64 claim, struct claim_mark *m)
{
    __u32 term = claim_term(claim);
    m->local = CLAIM_LOCAL;
    m->magic = CLAIM_MAGIC;
    m->support_position = claim_support(claim) << 4 | (claim_position(claim) & 0xf);
    m->term[0] = term >> 16;
    m->term[1] = term >> 8;
    m->term[2] = term;
}

/* False: not a claim. */
INLINE bool claim_read(const struct claim_mark *m, __u64 *claim)
{
    if (m->local != CLAIM_LOCAL || m->magic != CLAIM_MAGIC)
        return false;
    __u32 position = m->support_position & 0xf;
    if (position >= ABI_ADDRESS_MANAGERS_MAX)
        return false;
    *claim = claim_make(m->support_position >> 4, m->term[0] << 16 | m->term[1] << 8 | m->term[2], position);
    return true;
}

#endif
