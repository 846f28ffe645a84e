/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read leases: pure, numbers in, numbers out.
 *
 * A follower asks for a lease with RENEW, says how far it has applied, and gives back the newest stamp that
 * the leader sent it; the leader answers with GRANT. Each counts on its own clock and only with its own
 * stamps, so that clocks need to run at about the same speed and nothing else: the follower counts its lease
 * from when it asked, the leader from when it answered, which is later.
 *
 * By a GRANT a voter promises the leader not to vote, and not to stand, for lease_ms. A leader has the
 * promises of a majority for lease_ms from the stamp that a majority has given back; leases that it grants
 * end before that. So a leader that was elected without its predecessor's help begins when all leases of
 * before have run out. One that was (a transfer) waits for as long as they may last before it says that
 * something is applied wherever it may be read.
 */
#ifndef FL_RAFT_LEASE_H
#define FL_RAFT_LEASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LEASE_VERSION = 1, LEASE_FRAME_BYTES = 64, LEASE_PROMISE_MS_MAX = 10000 };

/* What the leader knows of a follower. */
struct lease_peer {
    uint64_t id;
    uint64_t expires_ms; /* of its lease */
    uint64_t floor;      /* it reads only with so much applied */
    uint64_t applied;
    uint64_t echoed_ms; /* the newest of our stamps that it gave back */
};

struct lease {
    /* As leader. */
    uint64_t begin_index;      /* with so much agreed upon, the commit index says everything */
    uint64_t answered;         /* the newest index that was said to be applied everywhere */
    uint64_t wait_until_ms;    /* a predecessor's leases may last so long */
    uint64_t awaited_since_ms; /* the oldest answer that waits; 0: none */
    bool handed;               /* this node stands for election because it was told to */
    /* As follower. */
    uint64_t term;          /* of the leader that all of it is from */
    uint64_t held_until_ms; /* 0: no lease */
    uint64_t floor;
    uint64_t echo_ms; /* the leader's newest stamp */
    uint64_t promised_until_ms;
};

struct lease_renew {
    uint64_t term, stamp_ms, echo_ms, applied;
};

struct lease_grant {
    uint64_t term;
    uint64_t stamp_ms; /* of the RENEW that it answers */
    uint64_t own_ms;   /* the leader's */
    uint64_t floor;
    uint32_t valid_ms; /* from the RENEW's stamp on; 0: no lease */
    uint32_t promise_ms;
};

/* The newest time at which a majority was known to listen: echoed has what each of the other voters gave back
 * (is sorted), self says that this node votes as well. */
uint64_t lease_quorum_ms(uint64_t *echoed, size_t others, bool self, uint64_t now_ms);

/* For how long a lease may be granted now. */
uint32_t lease_valid_ms(uint64_t quorum_ms, uint32_t lease_ms, uint64_t now_ms);

/* Room for LEASE_FRAME_BYTES; return the length. */
size_t lease_renew_encode(const struct lease_renew *renew, uint8_t *out);
size_t lease_grant_encode(const struct lease_grant *grant, uint8_t *out);
/* 0, -EPROTO for another version, -EBADMSG. */
int lease_renew_decode(const void *data, size_t len, struct lease_renew *renew);
int lease_grant_decode(const void *data, size_t len, struct lease_grant *grant);

#endif
